"""A unix stream socket that carries messages and descriptors, with a timeout for every wait.

The socket stays in blocking mode. A lock-step exchange is one ``sendmsg`` and one ``recvmsg``,
limited by the kernel's own timeouts (SO_SNDTIMEO, SO_RCVTIMEO), so it needs no poll(2). A caller
that has requests in flight on many connections makes each call non-blocking instead (MSG_DONTWAIT).
A timeout is set again only when it differs from the last one.
"""

from __future__ import annotations

import array
import math
import os
import socket
import stat
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from vhost_user.codec import close_all
from vhost_user.errors import DeadlineError, Disconnected, ProtocolError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes that one read takes at most: hundreds of messages.
READ_SIZE = 65536
#: Room for descriptors in a read: twice what a message may have.
READ_FDS = 32
#: Bytes of a unix socket's path without the terminating zero: sun_path has 108 (unix(7)).
MAX_SOCKET_PATH = 107

_FD_SIZE = array.array("i").itemsize
_ANCILLARY = socket.CMSG_SPACE(READ_FDS * _FD_SIZE)
# Plain integers: an operation of an enumeration takes as long as a small system call.
_READ_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_READ_NOW = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_SEND_FLAGS = int(socket.MSG_NOSIGNAL)
_SEND_NOW = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_TRUNCATED = int(socket.MSG_CTRUNC)
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)
_RETRY_CONNECT = (FileNotFoundError, ConnectionRefusedError, BlockingIOError)


class Read(NamedTuple):
    """The result of one read: bytes, and the descriptors that came with them."""

    data: bytes
    fds: Sequence[int]


class _Segment:
    """The contents of one ``sendmsg``: whole messages, of which only the first has descriptors."""

    __slots__ = ("fds", "parts")

    def __init__(self, data: bytes, fds: Sequence[int]) -> None:
        self.parts = [data]
        self.fds = fds


class Channel:
    """One end of a connection.

    Queued descriptors still belong to the caller, and must stay open until `flush` has returned
    True. Descriptors that are read belong to the caller.

    Args:
        sock: a connected unix stream socket; the channel owns it from now on.
        name: name of the device, for errors.
        peer_fault: the error to raise when the peer breaks the protocol.

    Attributes:
        name: name of the device.
    """

    def __init__(
        self, sock: socket.socket, name: str, peer_fault: type[ProtocolError] = ProtocolError
    ) -> None:
        sock.settimeout(None)
        self.name = name
        self._sock = sock
        self._fault = peer_fault
        self._queue: deque[_Segment] = deque()
        self._timeouts: dict[int, float] = {}

    def fileno(self) -> int:
        """The socket's descriptor, -1 once it is closed."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Messages are queued that have not been sent."""
        return bool(self._queue)

    def queue(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Append a message to those that wait for `flush`.

        Messages without descriptors join the last write; a message with descriptors begins a new
        one, because descriptors belong to the first byte of a write.
        """
        if self._queue and not fds:
            self._queue[-1].parts.append(data)
        else:
            self._queue.append(_Segment(data, fds))

    def flush(self) -> bool:
        """Send as much as is possible without blocking; True when nothing is left.

        Raises:
            Disconnected: the peer has closed the connection.
        """
        while self._queue:
            segment = self._queue[0]
            data = segment.parts[0] if len(segment.parts) == 1 else b"".join(segment.parts)
            try:
                sent = self._send(data, segment.fds, _SEND_NOW)
            except BlockingIOError:
                segment.parts = [data]
                return False
            if sent < len(data):
                # The descriptors were sent with the first byte.
                segment.parts, segment.fds = [data[sent:]], ()
                return False
            self._queue.popleft()
        return True

    def send(self, data: bytes, fds: Sequence[int], timeout: float, what: str) -> None:
        """Send one message; wait while the socket's buffer is full.

        Args:
            data: the message.
            fds: its descriptors.
            timeout: seconds.
            what: the message's name, for errors.

        Raises:
            DeadlineError: the peer did not read.
            Disconnected: the peer has closed the connection.
        """
        started = time.monotonic()
        remaining = timeout
        while True:
            self._set_timeout(socket.SO_SNDTIMEO, remaining)
            try:
                sent = self._send(data, fds, _SEND_FLAGS)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data, fds = data[sent:], () if sent else fds
            remaining = timeout - (time.monotonic() - started)
            if remaining <= 0:
                self._too_late("the peer to read", timeout - remaining, what)

    def read_now(self) -> Read | None:
        """What has arrived, or None.

        Raises:
            Disconnected: the peer has closed the connection.
        """
        try:
            return self._read(_READ_NOW)
        except BlockingIOError:
            return None

    def read(self, timeout: float, what: str, waited: float = 0.0) -> Read:
        """What arrives first, within ``timeout`` seconds.

        Args:
            timeout: seconds.
            what: the message's name, for errors.
            waited: seconds that the caller has waited for the same message already, for errors.

        Raises:
            DeadlineError: nothing arrived.
            Disconnected: the peer has closed the connection.
        """
        self._set_timeout(socket.SO_RCVTIMEO, timeout)
        try:
            return self._read(_READ_FLAGS)
        except BlockingIOError:
            self._too_late("a reply", waited + timeout, what)

    def close(self) -> None:
        """Close the socket; what is queued is dropped."""
        self._queue.clear()
        self._sock.close()

    def _send(self, data: bytes, fds: Sequence[int], flags: int) -> int:
        try:
            if not fds:
                return self._sock.send(data, flags)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            return self._sock.sendmsg([data], [rights], flags)
        except _GONE as error:
            raise Disconnected("the peer has closed the connection", device=self.name) from error

    def _read(self, flags: int) -> Read:
        try:
            data, ancillary, came, _ = self._sock.recvmsg(READ_SIZE, _ANCILLARY, flags)
        except _GONE as error:
            raise Disconnected("the connection was reset", device=self.name) from error
        fds = descriptors_in(ancillary) if ancillary else ()
        if came & _TRUNCATED:
            close_all(fds)
            raise self._fault(f"more than {READ_FDS} descriptors at once", device=self.name)
        if not data:
            close_all(fds)
            raise Disconnected("the peer has closed the connection", device=self.name)
        return Read(data, fds)

    def _set_timeout(self, option: int, seconds: float) -> None:
        if self._timeouts.get(option) == seconds:
            return
        # Zero would mean no timeout.
        whole, micros = divmod(max(1, math.ceil(seconds * 1e6)), 1_000_000)
        self._sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", whole, micros))
        self._timeouts[option] = seconds

    def _too_late(self, waiting_for: str, waited: float, what: str) -> NoReturn:
        raise DeadlineError(waiting_for, waited, device=self.name, message=what)


def descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a read, from what ``recvmsg`` returns."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _FD_SIZE
            fds.extend(array.array("i", data[:whole]))
    return fds


def check_path(path: str, name: str) -> None:
    """Raises `UsageError` when a socket cannot have that path."""
    size = len(os.fsencode(path))
    if not 1 <= size <= MAX_SOCKET_PATH:
        raise UsageError(
            f"{path}: a socket's path has {MAX_SOCKET_PATH} bytes at most, not {size}", device=name
        )


def _is_other_file(path: str) -> bool:
    """Whether the path exists and is not a socket."""
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116  a socket's name
    except OSError:
        return False


def connect(path: str, name: str, timeout: float) -> socket.socket:
    """Connect to a unix socket, trying again until a process listens there.

    Args:
        path: the socket's path.
        name: name of the device, for errors.
        timeout: seconds.

    Raises:
        UsageError: the path is too long, is not a socket, or may not be used.
        DeadlineError: no process accepted in time.
    """
    check_path(path, name)
    started = time.monotonic()
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(max(timeout, 0.001))
        try:
            sock.connect(path)
        except (*_RETRY_CONNECT, TimeoutError) as error:
            sock.close()
            if _is_other_file(path):
                raise UsageError(f"{path}: is not a socket", device=name) from error
            waited = time.monotonic() - started
            if waited >= timeout:
                raise DeadlineError(
                    f"a process to listen at {path}", waited, device=name
                ) from error
            # There is no event for a process that begins to listen.
            time.sleep(min(0.005, timeout - waited))
        except OSError as error:
            sock.close()
            raise UsageError(f"{path}: {error.strerror}", device=name) from error
        else:
            return sock
