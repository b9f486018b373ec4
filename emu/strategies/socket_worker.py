"""A worker of the strategy ``processes``: exchanges messages in lock-step on sockets passed to it.

It runs as a process of its own and imports as little as possible, so that a pool starts quickly. It
parses only the header of a vhost-user message: 12 bytes, of which the last four are the size of the
payload. The coordinator's session parses the replies.

A job and its result are one packet each, on a unix socket (SOCK_SEQPACKET). All numbers are little
endian.

    job     key u32, timeout u32 (ms), descriptors of the socket u8 (0 or 1), messages u16; then
            for each message: length u32, descriptors u8, whether a reply is due u8; then all bytes.
            Descriptors: the device's socket, if the worker does not have it under that key, and
            those of the messages, in order.
    result  outcome u8, completed messages u16, error number u32; then for each of these: start and
            end u64 (CLOCK_MONOTONIC, ns), length of the reply u32; then all replies.
            Descriptors: those of the replies.
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
READY = b"ready"
#: Outcomes.
FINISHED, TIMED_OUT, DISCONNECTED = range(3)
#: The largest packet that fits into a unix socket's buffers by default.
PACKET = 160 << 10
#: The most descriptors in one packet (SCM_MAX_FD of Linux).
MAX_FDS = 253
_HEADER = struct.Struct("<III")
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)
# Plain integers: an operation of an enumeration takes as long as a small system call.
_SEND_NOW = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_READ_NOW = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)


class Disconnected(Exception):
    """The back-end has closed the connection."""


class TimedOut(Exception):
    """The back-end did not answer in time."""


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in a packet's ancillary data."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def rights(fds: list[int]) -> list[tuple[int, int, array.array[int]]]:
    """Ancillary data that carries descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _wait(sock: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimedOut


def _send(sock: socket.socket, data: bytes, fds: list[int], deadline: float) -> None:
    while data:
        try:
            sent = sock.sendmsg([data], rights(fds), _SEND_NOW)
        except BlockingIOError:
            _wait(sock, select.POLLOUT, deadline)
        except OSError as error:
            raise Disconnected from error
        else:
            data, fds = data[sent:], []


def _receive(sock: socket.socket, deadline: float) -> tuple[bytes, list[int]]:
    """One complete reply, and its descriptors."""
    data, fds = b"", []
    wanted = _HEADER.size
    while len(data) < wanted:
        _wait(sock, select.POLLIN, deadline)
        try:
            part, ancillary, _, _ = sock.recvmsg(wanted - len(data), _ANCILLARY, _READ_NOW)
        except BlockingIOError:
            continue
        except OSError as error:
            raise Disconnected from error
        if not part:
            raise Disconnected
        data += part
        fds += descriptors(ancillary)
        if len(data) == _HEADER.size:
            # The coordinator rejects an invalid size: this only limits the bytes that are read.
            wanted += min(_HEADER.unpack(data)[2], PACKET // 2)
    return data, fds


class Worker:
    """Executes jobs until the coordinator closes the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sockets: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Send READY, and then execute one job after the other."""
        self._channel.send(READY)
        while True:
            packet, ancillary, _, _ = self._channel.recvmsg(
                PACKET, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
            if not packet:
                return
            self._work(packet, descriptors(ancillary))

    def _work(self, packet: bytes, fds: list[int]) -> None:
        key, milliseconds, has_socket, count = JOB.unpack_from(packet)
        if has_socket:
            old = self._sockets.pop(key, None)
            if old is not None:
                old.close()
            self._sockets[key] = socket.socket(fileno=fds.pop(0))
        at = JOB.size + count * MESSAGE.size
        outcome, number = FINISHED, 0
        times: list[bytes] = []
        replies: list[bytes] = []
        received: list[int] = []
        sent = list(fds)
        try:
            for index in range(count):
                length, carried, due = MESSAGE.unpack_from(packet, JOB.size + index * MESSAGE.size)
                message_fds, fds = fds[:carried], fds[carried:]
                start = time.monotonic_ns()
                deadline = time.monotonic() + milliseconds / 1000
                sock = self._sockets[key]
                _send(sock, packet[at : at + length], message_fds, deadline)
                at += length
                reply, reply_fds = _receive(sock, deadline) if due else (b"", [])
                times.append(DONE.pack(start, time.monotonic_ns(), len(reply)))
                replies.append(reply)
                received += reply_fds
        except TimedOut:
            outcome = TIMED_OUT
        except Disconnected as error:
            outcome = DISCONNECTED
            cause = error.__cause__
            number = cause.errno or 0 if isinstance(cause, OSError) else errno.ECONNRESET
        head = RESULT.pack(outcome, len(times), number)
        self._channel.sendmsg([b"".join((head, *times, *replies))], rights(received))
        for fd in (*sent, *received):
            socket.close(fd)


def main() -> None:
    """Serve the channel whose descriptor is the only argument."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        Worker(channel).serve()


if __name__ == "__main__":
    main()
