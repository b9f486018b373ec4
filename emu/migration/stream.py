"""The migration stream: sections over a socket between source and destination.

A section is a header of 16 bytes (kind u32, count u32, length u64, little endian) and ``length``
bytes. A RAM section's bytes are a table of ``count`` entries (guest physical address u64, length
u64); the memory itself follows the table and is not counted in ``length``. It goes from the
source's memory into the kernel, and from there into the destination's, without passing through a
Python object.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from emu.errors import MAX_REASON, MigrationError, Operation
from emu.migration import tls
from vhost_user.codec import close_all
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.machine.ram import GuestRam

HEADER = struct.Struct("<IIQ")
_ENTRY = struct.Struct("<QQ")
_TIMEVAL = struct.Struct("@ll")
#: Runs in one RAM section: with the table, one sendmsg can send them (IOV_MAX is 1024).
RUNS_PER_SECTION = 1000
#: Bytes: runs of this length or more are sent by sendfile; one sendmsg for several shorter runs is
#: faster.
SENDFILE_BYTES = 1 << 20

#: Descriptors in one message (SCM_MAX_FD of the kernel).
DESCRIPTORS_PER_MESSAGE = 253

#: Seconds for a destination that fails to send the reason, and for the source to receive it.
FAILURE_TIMEOUT = 1.0
Buffer = bytes | memoryview
#: Guest physical address and length of a range of memory.
Run = tuple[int, int]


class Kind(IntEnum):
    """Kinds of sections; those from PREPARED on are sent by the destination."""

    HELLO = 1
    DEVICES = 2
    RAM = 3
    SWITCHOVER = 4
    GO = 5
    HANDOVER = 6
    #: The first section on every further multifd channel: which migration it belongs to.
    JOIN = 7
    #: The end of a round of memory, on every channel of a migration with multifd.
    BARRIER = 8
    #: A request for the other side's time (`emu.migration.clocks`).
    PING = 9
    #: From both sides, after the migration has completed (`emu.migration.completion`).
    COMPLETION = 10
    PREPARED = 16
    RUNNING = 17
    FAILED = 18
    READY = 19
    WELCOME = 20
    PONG = 21


#: Bytes of the largest payload that is accepted, not counting memory; JSON takes up to fifty times
#: as much memory when it is read. Kinds that are not named have none, or a few bytes.
_JSON, _FEW = 8 << 20, 64
MAX_PAYLOAD = {
    Kind.HELLO: _JSON,
    Kind.WELCOME: _FEW << 6,
    Kind.PREPARED: _JSON,
    Kind.COMPLETION: _JSON,
    Kind.HANDOVER: _JSON,
    Kind.FAILED: _FEW << 10,
    Kind.DEVICES: 64 << 20,
    Kind.SWITCHOVER: 64 << 20,
    Kind.RAM: RUNS_PER_SECTION * _ENTRY.size,
}


class RamSender(Protocol):
    """Sends memory: by one socket, or by several (`emu.migration.multifd`)."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of all sections so far."""

    def send_ram(self, ram: GuestRam, runs: Sequence[Run]) -> None:
        """Send memory.

        Raises:
            MigrationError: the other side has disconnected, or does not read.
        """

    def end_round(self) -> None:
        """End a round: pages of the next one must arrive after those of this one.

        Raises:
            MigrationError: the other side has disconnected, or does not read.
        """


class MigrationStream:
    """One end of the stream.

    Args:
        sock: a connected stream socket; the stream closes it.
        timeout: seconds for which one system call may wait for the peer.
    """

    def __init__(self, sock: socket.socket, *, timeout: float) -> None:
        self._sock = sock
        sock.setblocking(True)  # noqa: FBT003  the method's name describes it
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.set_timeout(timeout)
        self._bytes_sent = 0
        self._silent = False

    def set_timeout(self, seconds: float) -> None:
        """Set how long one system call may wait from now on, in seconds."""
        self._timeout = seconds
        if self.encrypted:
            self._sock.settimeout(seconds)
            return
        timeval = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    @property
    def bytes_sent(self) -> int:
        """See `RamSender.bytes_sent`."""
        return self._bytes_sent

    @property
    def encrypted(self) -> bool:
        """Whether it uses TLS."""
        return isinstance(self._sock, ssl.SSLSocket)

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a section.

        Raises:
            MigrationError: the other side has disconnected, or does not read any more.
        """
        self._send_all([HEADER.pack(kind, 0, len(payload)), payload])

    def send_ram(self, ram: GuestRam, runs: Sequence[Run]) -> None:
        """Send memory.

        Raises:
            MigrationError: the other side has disconnected, or does not read any more.
        """
        small = [run for run in runs if run[1] < SENDFILE_BYTES]
        for first in range(0, len(small), RUNS_PER_SECTION):
            batch = small[first : first + RUNS_PER_SECTION]
            head = HEADER.pack(Kind.RAM, len(batch), _ENTRY.size * len(batch))
            table = b"".join([_ENTRY.pack(*run) for run in batch])
            self._send_all([head + table, *[ram.view(*run) for run in batch]])
        for run in runs:
            if run[1] >= SENDFILE_BYTES:
                self._send_file(ram, run)

    def _send_file(self, ram: GuestRam, run: Run) -> None:
        fd, offset = ram.locate(*run)
        self._send_all([HEADER.pack(Kind.RAM, 1, _ENTRY.size) + _ENTRY.pack(*run)])
        if self.encrypted:  # sendfile would send plain bytes
            self._send_all([ram.view(*run)])
            return
        end = offset + run[1]
        while offset < end:
            try:
                sent = os.sendfile(self._sock.fileno(), fd, offset, end - offset)
            except OSError as error:
                raise self._broken(error) from error
            offset += sent
            self._bytes_sent += sent

    def _send_all(self, parts: Sequence[Buffer]) -> None:
        left = [part for part in parts if len(part)]
        while left:
            try:
                sent = self._sock.sendmsg(left)
            except OSError as error:
                raise self._broken(error) from error
            self._bytes_sent += sent
            _drop(left, sent)

    def receive(self) -> tuple[Kind, int, bytes]:
        """The next section: its kind, its count, its bytes (the table of a RAM section).

        Raises:
            MigrationError: the peer has disconnected, is silent, or sent an invalid section.
        """
        head = bytearray(HEADER.size)
        try:
            self._receive_into([memoryview(head)])
        except MigrationError:
            _refuse_tls(head)
            raise
        number, count, length = HEADER.unpack(head)
        try:
            kind = Kind(number)
        except ValueError:
            _refuse_tls(head)
            raise MigrationError(Operation.STREAM, f"a section of unknown kind {number}") from None
        if length > MAX_PAYLOAD.get(kind, _FEW):
            raise MigrationError(Operation.STREAM, f"a {kind.name} section of {length} bytes")
        payload = bytearray(length)
        self._receive_into([memoryview(payload)])
        return kind, count, bytes(payload)

    def receive_ram(self, ram: GuestRam, count: int, table: bytes) -> int:
        """Receive the memory of a RAM section into guest memory; return the number of bytes.

        Raises:
            MigrationError: a range lies outside of guest memory, or the peer has disconnected.
        """
        if len(table) != count * _ENTRY.size or count > RUNS_PER_SECTION:
            raise MigrationError(Operation.STREAM, "a RAM section whose table has the wrong length")
        try:
            views = [ram.view(gpa, length) for gpa, length in _ENTRY.iter_unpack(table)]
        except ValueError as error:
            raise MigrationError(
                Operation.STREAM, f"memory that this VM does not have: {error}"
            ) from error
        self._receive_into(views)
        return sum(len(view) for view in views)

    def _receive_into(self, views: Sequence[memoryview]) -> None:
        left = [view for view in views if len(view)]
        while left:
            try:
                # Wait in the kernel for as much as possible: it receives a quarter more a second.
                received, _, _, _ = self._sock.recvmsg_into(left, 0, socket.MSG_WAITALL)
            except OSError as error:
                raise self._broken(error) from error
            if not received:
                raise MigrationError(Operation.STREAM, "the other side closed the connection")
            _drop(left, received)

    def send_descriptors(self, fds: Sequence[int]) -> None:
        """Send descriptors, up to `DESCRIPTORS_PER_MESSAGE` with each byte; they stay open here.

        Raises:
            MigrationError: the other side has disconnected, or is on another host.
        """
        if self._sock.family != socket.AF_UNIX:
            raise MigrationError(Operation.HANDOVER, "descriptors need a unix socket: same host")
        for first in range(0, len(fds), DESCRIPTORS_PER_MESSAGE):
            try:
                socket.send_fds(self._sock, [b"\0"], fds[first : first + DESCRIPTORS_PER_MESSAGE])
            except OSError as error:
                raise self._broken(error) from error

    def receive_descriptors(self, count: int) -> list[int]:
        """The descriptors that `send_descriptors` sent; the caller closes them.

        Raises:
            MigrationError: some are missing: the other side has disconnected, or the limit of open
                files is too low.
        """
        fds: list[int] = []
        try:
            while len(fds) < count:
                wanted = min(DESCRIPTORS_PER_MESSAGE, count - len(fds))
                data, received, flags, _ = socket.recv_fds(
                    self._sock, 1, wanted, socket.MSG_CMSG_CLOEXEC
                )
                fds += received
                if not data:
                    raise MigrationError(Operation.STREAM, "the other side closed the connection")
                if flags & socket.MSG_CTRUNC or len(received) != wanted:
                    raise MigrationError(
                        Operation.HANDOVER,
                        f"received {len(fds)} of {count} descriptors only: see ulimit -n",
                    )
        except OSError as error:
            close_all(fds)
            raise self._broken(error) from error
        except MigrationError:
            close_all(fds)
            raise
        return fds

    def _broken(self, error: OSError) -> MigrationError:
        if isinstance(error, BlockingIOError | TimeoutError):
            self._silent = True
            return MigrationError(
                Operation.STREAM, f"the other side has been silent for {self._timeout:g} s"
            )
        if isinstance(error, ssl.SSLError):
            return MigrationError(Operation.TLS, tls.explain(error))
        return MigrationError(Operation.STREAM, f"the connection broke: {error.strerror}")

    def send_failure(self, reason: str) -> None:
        """At the destination: send FAILED, and discard what the source still sends."""
        self.set_timeout(FAILURE_TIMEOUT)
        try:
            self.send(Kind.FAILED, one_line(reason, MAX_REASON).encode(errors="backslashreplace"))
            self._sock.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + FAILURE_TIMEOUT
            while time.monotonic() < deadline and self._sock.recv(1 << 20):
                pass
        except (MigrationError, OSError):
            return  # the source has disconnected, or does not read

    def receive_failure(self) -> str:
        """At the source, after an error of the stream: the reason in FAILED, or ''."""
        if self._silent:
            return ""  # the destination had a whole timeout to send it
        self.set_timeout(FAILURE_TIMEOUT)
        try:
            kind, _, payload = self.receive()
        except MigrationError:
            return ""
        return payload.decode(errors="replace") if kind is Kind.FAILED else ""

    @property
    def hung_up(self) -> bool:
        """Whether the other side has closed its end. Unread sections may precede the end."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def end_round(self) -> None:
        """See `RamSender.end_round`: one socket keeps the order."""

    def await_section(self) -> None:
        """Return when there are bytes to receive; there is no timeout."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.poll()

    def interrupt_reading(self) -> None:
        """From another thread: make receives fail once all that has arrived has been read."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def interrupt(self) -> None:
        """From another thread: make each send and receive fail at once."""
        with contextlib.suppress(OSError):  # the other side has closed it
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _refuse_tls(head: bytes | bytearray) -> None:
    """Raise an error if these bytes begin a TLS record: an alert or a handshake."""
    if head[0] in (0x15, 0x16) and head[1] == 0x03:
        text = "the other side uses TLS: both sides need certificates, or neither"
        raise MigrationError(Operation.TLS, text) from None


def _drop(parts: list[Buffer] | list[memoryview], done: int) -> None:
    """Remove the first ``done`` bytes, which have been transferred; what costs time is only that.

    A list of all the rest, made anew for each record of TLS, would take longer than the transfer.
    """
    for index, part in enumerate(parts):
        size = len(part)
        if done < size:
            parts[: index + 1] = [memoryview(part)[done:]]
            return
        done -= size
    parts.clear()
