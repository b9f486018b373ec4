"""A worker of the strategy ``processes``: talks in lock-step on sockets that it was handed.

It runs as a process of its own and imports as little as it can, so that a pool is up quickly. What
it knows of vhost-user is a message's header: 12 bytes, of which the last four are the size of what
follows. Everything else stays with the coordinator, whose session gets the replies as they came.

A job and its result are one packet each, on a unix socket (SOCK_SEQPACKET). All numbers are little
endian.

    job     key u32, timeout u32 (ms), descriptors of the socket u8 (0 or 1), messages u16; then
            for each message: length u32, descriptors u8, whether a reply is due u8; then all bytes.
            Descriptors: the device's socket, if the worker does not have it under that key, and
            those of the messages, in order.
    result  outcome u8, messages that were done u16, error number u32; then for each of these: start
            and end u64 (CLOCK_MONOTONIC, ns), length of the reply u32; then all replies.
            Descriptors: those that came with replies.
"""

from __future__ import annotations

import array
import errno
import select
import socket
import struct
import sys
import time

JOB = struct.Struct("<IIBH")
MESSAGE = struct.Struct("<IBB")
RESULT = struct.Struct("<BHI")
DONE = struct.Struct("<QQI")
#: The first packet of a worker.
UP = b"up"
#: Outcomes.
FINISHED, TOO_LATE, GONE = range(3)
#: The largest packet: a unix socket's buffers take no more by default.
PACKET = 160 << 10
#: Descriptors that one packet carries at most (SCM_MAX_FD of Linux).
MAX_FDS = 253
_HEADER = struct.Struct("<III")
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)


class Gone(Exception):
    """The back-end has gone."""


class TooLate(Exception):
    """The back-end did not answer in time."""


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a packet."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def rights(fds: list[int]) -> list[tuple[int, int, array.array[int]]]:
    """Ancillary data that carries descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _wait(sock: socket.socket, event: int, end: float) -> None:
    poll = select.poll()
    poll.register(sock, event)
    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        raise TooLate


def _send(sock: socket.socket, data: bytes, fds: list[int], end: float) -> None:
    while data:
        try:
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            sent = sock.sendmsg([data], rights(fds), flags)
        except BlockingIOError:
            _wait(sock, select.POLLOUT, end)
        except OSError as error:
            raise Gone from error
        else:
            data, fds = data[sent:], []


def _receive(sock: socket.socket, end: float) -> tuple[bytes, list[int]]:
    """One reply, whole, and what came with it."""
    data, fds = b"", []
    wanted = _HEADER.size
    while len(data) < wanted:
        _wait(sock, select.POLLIN, end)
        try:
            part, ancillary, _, _ = sock.recvmsg(
                wanted - len(data), _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            continue
        except OSError as error:
            raise Gone from error
        if not part:
            raise Gone
        data += part
        fds += descriptors(ancillary)
        if len(data) == _HEADER.size:
            # A size that cannot be is the coordinator's to see: it gets what there is.
            wanted += min(_HEADER.unpack(data)[2], PACKET // 2)
    return data, fds


class Worker:
    """Serves jobs until the coordinator hangs up."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sockets: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Say that it is up, and then do one job after the other."""
        self._channel.send(UP)
        while True:
            packet, ancillary, _, _ = self._channel.recvmsg(
                PACKET, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
            if not packet:
                return
            self._work(packet, descriptors(ancillary))

    def _work(self, packet: bytes, fds: list[int]) -> None:
        key, milliseconds, brings, count = JOB.unpack_from(packet)
        if brings:
            old = self._sockets.pop(key, None)
            if old is not None:
                old.close()
            self._sockets[key] = socket.socket(fileno=fds.pop(0))
        at = JOB.size + count * MESSAGE.size
        outcome, number = FINISHED, 0
        times: list[bytes] = []
        replies: list[bytes] = []
        came: list[int] = []
        sent = list(fds)
        try:
            for index in range(count):
                length, carried, due = MESSAGE.unpack_from(packet, JOB.size + index * MESSAGE.size)
                mine, fds = fds[:carried], fds[carried:]
                start = time.monotonic_ns()
                end = time.monotonic() + milliseconds / 1000
                sock = self._sockets[key]
                _send(sock, packet[at : at + length], mine, end)
                at += length
                reply, brought = _receive(sock, end) if due else (b"", [])
                times.append(DONE.pack(start, time.monotonic_ns(), len(reply)))
                replies.append(reply)
                came += brought
        except TooLate:
            outcome = TOO_LATE
        except Gone as error:
            outcome = GONE
            cause = error.__cause__
            number = cause.errno or 0 if isinstance(cause, OSError) else errno.ECONNRESET
        head = RESULT.pack(outcome, len(times), number)
        self._channel.sendmsg([b"".join((head, *times, *replies))], rights(came))
        for fd in (*sent, *came):
            socket.close(fd)


def main() -> None:
    """Serve the channel whose descriptor is the only argument."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        Worker(channel).serve()


if __name__ == "__main__":
    main()
