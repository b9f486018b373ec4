"""Messages as bytes, valid and invalid, with a time limit for each wait.

The suite does not use `vhost_user.session`, which keeps the rules: the suite must be able to break
them.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import time
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.codec import VERSION
from vhost_user_conformance.peer.message_text import message_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HEADER = struct.Struct("=III")
#: A payload that is announced as larger than this is not read.
LARGEST = 1 << 20
_FDS = 64


class Message(NamedTuple):
    """A message as it was received; the receiver closes its descriptors."""

    id: int
    flags: int
    payload: bytes
    fds: tuple[int, ...] = ()

    @property
    def u64(self) -> int:
        """The payload as a number; it may be shorter than 8 bytes."""
        return int.from_bytes(self.payload[:8], "little")

    def close(self) -> None:
        """Close its descriptors."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


class WireError(Exception):
    """The connection cannot be used any more; the text has the reason."""


class Closed(WireError):
    """The peer closed the connection."""


class Silent(WireError):
    """No message arrived in time."""


class Nonsense(WireError):
    """The received bytes are not a message."""


class Wire:
    """One connection.

    Args:
        sock: connected; owned from now on.
        names: of the messages, for the transcript.
        timeout: seconds for each answer.

    Attributes:
        transcript: a line for each message sent (``>``) and received (``<``).
    """

    def __init__(self, sock: socket.socket, names: Mapping[int, str], timeout: float) -> None:
        sock.setblocking(False)  # noqa: FBT003  the name of the method says what it is
        self.timeout = timeout
        self.transcript: list[str] = []
        self._sock = sock
        self._names = names
        self._came: list[int] = []

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def send(
        self,
        number: int,
        payload: bytes = b"",
        *,
        flags: int = VERSION,
        fds: Sequence[int] = (),
        size: int | None = None,
        after_header: Callable[[], object] | None = None,
    ) -> None:
        """Send one message.

        Args:
            number: its id.
            payload: its bytes.
            flags: of the header.
            fds: descriptors that go with its first byte.
            size: the payload's size in the header, if it is to differ.
            after_header: called when the peer has read the header, before the payload is sent.

        Raises:
            Closed: the peer has closed the connection. Silent: it reads nothing.
        """
        length = len(payload) if size is None else size
        self._note(">", number, flags, payload, len(fds))
        data = HEADER.pack(number, flags, length) + payload
        if after_header is not None:
            self.send_bytes(data[: HEADER.size], fds)
            self._await_taken()
            after_header()
            data, fds = data[HEADER.size :], ()
        self.send_bytes(data, fds)

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes. Raises as `send`."""
        deadline = time.monotonic() + self.timeout
        left = memoryview(data)
        while left:
            try:
                sent = socket.send_fds(self._sock, [left], fds) if fds else self._sock.send(left)
            except BlockingIOError:
                if not self._ready(select.POLLOUT, deadline):
                    raise Silent(f"read no more bytes within {self.timeout:g} s") from None
                continue
            except OSError as error:
                raise Closed(f"the connection is closed ({error.strerror})") from None
            left, fds = left[sent:], ()

    def send_pieces(self, data: bytes, size: int = 1) -> None:
        """Send ``size`` bytes at a time, when the peer has read those before. Raises as `send`."""
        for at in range(0, len(data), size):
            self.send_bytes(data[at : at + size])
            self._await_taken()

    def _await_taken(self) -> None:
        deadline = time.monotonic() + self.timeout
        while self._unread and time.monotonic() < deadline:
            os.sched_yield()  # the kernel has the count of unread bytes, but no event for it

    @property
    def _unread(self) -> int:
        """Bytes that the peer has not read; 0 when it has closed the connection."""
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._sock, termios.TIOCOUTQ, count)
        except OSError:
            return 0
        return count[0]

    def receive(self, timeout: float | None = None) -> Message:
        """The next message.

        Raises:
            Closed, Silent, Nonsense: no message was received.
        """
        wait = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + wait
        number, flags, size = HEADER.unpack(self._exactly(HEADER.size, deadline, wait))
        fds = tuple(self._came)
        self._came.clear()
        if size > LARGEST:
            nonsense = f"a header of {size} bytes of payload: id {number}, flags {flags:#x}"
            self.transcript.append(f"< {nonsense}")
            raise Nonsense(nonsense)
        payload = self._exactly(size, deadline, wait) if size else b""
        message = Message(number, flags, payload, (*fds, *self._came))
        self._came.clear()
        self._note("<", number, flags, payload, len(message.fds))
        return message

    def _exactly(self, count: int, deadline: float, wait: float) -> bytes:
        data = b""
        while len(data) < count:
            try:
                part, fds, _, _ = socket.recv_fds(
                    self._sock, count - len(data), _FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                if not self._ready(select.POLLIN, deadline):
                    self.transcript.append(f"  nothing within {wait:g} s")
                    raise Silent(f"no message within {wait:g} s") from None
                continue
            except OSError as error:
                raise Closed(f"the connection is closed ({error.strerror})") from None
            self._came += fds
            if not part:
                self.transcript.append("< end of the connection")
                raise Closed("the peer closed the connection")
            data += part
        return data

    def _ready(self, events: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, events)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    @property
    def waiting(self) -> bool:
        """Whether there are bytes that were not received yet."""
        return self._ready(select.POLLIN, 0.0)

    def _note(self, arrow: str, number: int, flags: int, payload: bytes, fds: int) -> None:
        self.transcript.append(f"{arrow} {message_text(number, flags, payload, fds, self._names)}")

    def hangs_up(self, timeout: float | None = None) -> bool:
        """Whether the peer closes the connection in time; what it sends before is dropped."""
        try:
            while True:
                self.receive(timeout).close()
        except Silent:
            return False
        except WireError:
            return True

    def leave(self, timeout: float) -> None:
        """Shut down, and close the connection when the peer has closed it, or after a time.

        Without that a peer may accept the next front-end before it knows that this one has
        disconnected (seen with DPDK, whose port then sometimes stays down).
        """
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self.hangs_up(timeout)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        for fd in self._came:
            os.close(fd)
        self._came.clear()
        self._sock.close()
