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

from vhost_user import unix_socket
from vhost_user.codec import VERSION
from vhost_user_conformance.peer.message_text import message_text
from vhost_user_conformance.peer.patience import Limit, Patience
from vhost_user_conformance.trace_events import MESSAGE

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
        patience: the time limit for each answer, in seconds, or one that follows the peer's speed.

    Attributes:
        transcript: a line for each message sent (``>``) and received (``<``).
        abandoned: the peer had closed the connection before the suite left it.
        answered: the last message on it was the peer's.
    """

    def __init__(
        self, sock: socket.socket, names: Mapping[int, str], patience: Patience | float
    ) -> None:
        sock.setblocking(False)  # noqa: FBT003  the name of the method says what it is
        self.transcript: list[str] = []
        self.abandoned = False
        self.answered = True
        self._patience = patience if isinstance(patience, Patience) else Patience(patience)
        self._pid = unix_socket.peer_pid(sock)
        self._sock = sock
        self._names = names
        self._came: list[int] = []

    @property
    def timeout(self) -> float:
        """Seconds for the next answer."""
        return self._patience.seconds

    def limit(self) -> Limit:
        """A wait for the peer that begins now."""
        return Limit(self.timeout, self._pid)

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
        self.answered = False
        data = HEADER.pack(number, flags, length) + payload
        if after_header is not None:
            self.send_bytes(data[: HEADER.size], fds)
            self._await_taken()
            after_header()
            data, fds = data[HEADER.size :], ()
        self.send_bytes(data, fds)

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes. Raises as `send`."""
        limit = self.limit()
        self.answered = False
        left = memoryview(data)
        while left:
            try:
                sent = socket.send_fds(self._sock, [left], fds) if fds else self._sock.send(left)
            except BlockingIOError:
                if not self._ready(select.POLLOUT, limit):
                    raise Silent(f"read no more bytes within {limit.seconds:.3g} s") from None
                continue
            except OSError as error:
                self.abandoned = True
                raise Closed(f"the connection is closed ({error.strerror})") from None
            left, fds = left[sent:], ()

    def send_pieces(self, data: bytes, size: int = 1) -> None:
        """Send ``size`` bytes at a time, when the peer has read those before. Raises as `send`."""
        for at in range(0, len(data), size):
            self.send_bytes(data[at : at + size])
            self._await_taken()

    def _await_taken(self) -> None:
        limit = self.limit()
        while self._unread and not limit.over:
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
        limit = self.limit() if timeout is None else Limit(timeout)
        begin = time.monotonic()
        number, flags, size = HEADER.unpack(self._exactly(HEADER.size, limit))
        fds = tuple(self._came)
        self._came.clear()
        if size > LARGEST:
            nonsense = f"a header of {size} bytes of payload: id {number}, flags {flags:#x}"
            self.transcript.append(f"< {nonsense}")
            raise Nonsense(nonsense)
        payload = self._exactly(size, limit) if size else b""
        self._patience.answered(time.monotonic() - begin)
        self.answered = True
        message = Message(number, flags, payload, (*fds, *self._came))
        self._came.clear()
        self._note("<", number, flags, payload, len(message.fds))
        return message

    def _exactly(self, count: int, limit: Limit) -> bytes:
        data = b""
        while len(data) < count:
            try:
                part, fds, _, _ = socket.recv_fds(
                    self._sock, count - len(data), _FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                if not self._ready(select.POLLIN, limit):
                    self.transcript.append(f"  nothing within {limit.seconds:.3g} s")
                    raise Silent(f"no message within {limit.seconds:.3g} s") from None
                continue
            except OSError as error:
                self.abandoned = True
                raise Closed(f"the connection is closed ({error.strerror})") from None
            self._came += fds
            if not part:
                self.abandoned = True
                self.transcript.append("< end of the connection")
                raise Closed("the peer closed the connection")
            data += part
        return data

    def _ready(self, events: int, limit: Limit) -> bool:
        poll = select.poll()
        poll.register(self._sock, events)
        while True:
            if poll.poll(limit.left * 1000):
                return True
            if limit.over:
                return False

    @property
    def waiting(self) -> bool:
        """Whether there are bytes that were not received yet."""
        return self._ready(select.POLLIN, Limit(0.0))

    def _note(self, arrow: str, number: int, flags: int, payload: bytes, fds: int) -> None:
        text = message_text(number, flags, payload, fds, self._names)
        self.transcript.append(f"{arrow} {text}")
        if MESSAGE.enabled:
            MESSAGE.emit(sender="suite" if arrow == ">" else "peer", message=text)

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
            self.abandoned = self.abandoned or self._hung_up
            before = self.abandoned, self.answered
            self._sock.shutdown(socket.SHUT_WR)
            self.hangs_up(timeout)
            self.abandoned, self.answered = before
        self.close()

    @property
    def _hung_up(self) -> bool:
        """Whether the peer, or the suite, has closed the connection already."""
        if self._sock.fileno() < 0:
            return self.abandoned
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the connection."""
        for fd in self._came:
            os.close(fd)
        self._came.clear()
        self._sock.close()
