"""A connection between a front-end and a back-end, with its back-end channel."""

from __future__ import annotations

import socket
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from emu.tap.forwarding import Piece
from emu.tap.framing import Framer, RawMessage
from emu.tap.relay import Relay
from vhost_user.codec import HEADER, REPLY
from vhost_user.messages import FrontendRequest
from vhost_user.unix_socket import peer_pid

if TYPE_CHECKING:
    import select
    from collections.abc import Callable, Iterable

    from emu.tap.fast_path import FastPath

#: Back-end channels of one connection that are decoded at the same time.
MAX_CHANNELS = 8


class Sender(Enum):
    """Who has sent a message."""

    FRONT_END = "front-end"
    BACK_END = "back-end"


class Opened(NamedTuple):
    """A front-end and a back-end are connected.

    Attributes:
        connection: which one.
        time: when.
        front_pid, back_pid: the processes at its ends; 0 if unknown. For a socket that listens it
            is the process that called ``listen``.
    """

    connection: Connection
    time: int
    front_pid: int = 0
    back_pid: int = 0


class Arrived(NamedTuple):
    """A message was read; it is forwarded without waiting for this event.

    Attributes:
        connection: which one.
        sender: who sent it.
        on_channel: on the back-end channel, where the back-end sends the requests.
        message: the message.
    """

    connection: Connection
    sender: Sender
    on_channel: bool
    message: RawMessage


class Unreadable(NamedTuple):
    """What a sender sends from now on is forwarded only."""

    connection: Connection
    sender: Sender
    on_channel: bool
    time: int
    why: str


class Closed(NamedTuple):
    """The connection has ended.

    Attributes:
        connection: which one.
        time: when.
        reason: empty when one of the sides has disconnected.
        sender: which one.
    """

    connection: Connection
    time: int
    reason: str
    sender: Sender


#: What a tap reports of its connections. Times are CLOCK_MONOTONIC, nanoseconds.
Event = Opened | Arrived | Unreadable | Closed


class _Stream:
    """Divides what one side sends into messages, and reports these."""

    __slots__ = ("_arrived", "_framer", "_unreadable")

    def __init__(
        self,
        arrived: Callable[[RawMessage], None],
        unreadable: Callable[[int, str], None],
    ) -> None:
        self._framer = Framer()
        self._arrived = arrived
        self._unreadable = unreadable

    @property
    def between_messages(self) -> bool:
        return self._framer.between_messages

    def split(self, data: bytes) -> Iterable[int]:
        return self._framer.split(data)

    def exchange(self, piece: Piece) -> Piece:
        return piece

    def inspect(self, data: bytes, fds: int, time: int) -> None:
        framer = self._framer
        if framer.lost:
            return
        for message in framer.feed(data, fds, time):
            self._arrived(message)
        if why := self._framer.lost:
            self._unreadable(time, why)


class _Requests(_Stream):
    """The front-end's messages; the channel of SET_BACKEND_REQ_FD leads through the tap."""

    __slots__ = ("_connection",)

    def __init__(
        self,
        arrived: Callable[[RawMessage], None],
        unreadable: Callable[[int, str], None],
        connection: Connection,
    ) -> None:
        super().__init__(arrived, unreadable)
        self._connection = connection

    def exchange(self, piece: Piece) -> Piece:
        opens = len(piece.fds) == 1 and self.between_messages and _opens_channel(piece.data)
        return self._connection.tap_channel(piece) if opens else piece


def _opens_channel(data: bytes) -> bool:
    if len(data) < HEADER.size:
        return False
    number, flags, _ = HEADER.unpack_from(data)
    return number == FrontendRequest.SET_BACKEND_REQ_FD and not flags & REPLY


class Connection:
    """One front-end and one back-end, from the connect to the disconnect.

    Args:
        pair: name of the pair of sockets that it belongs to.
        number: of the connections of the pair, from 1.
        epoll: where sockets are registered.
        fast_path: of the loop.
        relays: of the loop, by socket; the connection adds its own and removes them.
        report: takes the events.

    Attributes:
        pair: see the arguments.
        number: see the arguments.
    """

    def __init__(
        self,
        pair: str,
        number: int,
        epoll: select.epoll,
        fast_path: FastPath,
        relays: dict[int, Relay],
        report: Callable[[Event], None],
    ) -> None:
        self.pair = pair
        self.number = number
        self._epoll = epoll
        self._fast_path = fast_path
        self._relays = relays
        self._report = report
        self._main: Relay | None = None
        self._channels: list[Relay] = []

    @property
    def name(self) -> str:
        """The pair's name; with the number from the second connection on."""
        return self.pair if self.number == 1 else f"{self.pair}#{self.number}"

    @property
    def open(self) -> bool:
        """A socket of it is still open."""
        main = self._main
        return bool(self._channels) or (main is not None and not main.closed)

    def start(self, front: socket.socket, back: socket.socket) -> None:
        """Forward between two connected sockets, which the connection owns from now on."""
        self._report(Opened(self, time.monotonic_ns(), peer_pid(front), peer_pid(back)))
        requests = _Requests(
            *self._reports(Sender.FRONT_END, on_channel=False),
            self,
        )
        replies = _Stream(*self._reports(Sender.BACK_END, on_channel=False))
        self._main = Relay(
            front, back, requests, replies, self._epoll, self._fast_path, self._main_ended
        )
        self._add(self._main)

    def close(self, reason: str) -> None:
        """Disconnect both sides."""
        for relay in (self._main, *self._channels):
            if relay is not None:
                relay.close(reason)

    def tap_channel(self, piece: Piece) -> Piece:
        """Replace the back-end channel's socket by one end of a pair; else return the piece.

        A descriptor that is not a socket from a socketpair (or of another kind, or that listens)
        is passed as it is: the back-end has to see what it is.
        """
        (fd,) = piece.fds
        if len(self._channels) >= MAX_CHANNELS or not _is_channel(fd):
            return piece
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # no descriptors left: it works without being read
            return piece
        relay = Relay(
            socket.socket(fileno=fd),
            ours,
            _Stream(*self._reports(Sender.FRONT_END, on_channel=True)),
            _Stream(*self._reports(Sender.BACK_END, on_channel=True)),
            self._epoll,
            self._fast_path,
            self._channel_ended,
        )
        self._channels.append(relay)
        self._add(relay)
        return Piece(piece.data, (theirs.detach(),))

    def _reports(
        self, sender: Sender, *, on_channel: bool
    ) -> tuple[Callable[[RawMessage], None], Callable[[int, str], None]]:
        report = self._report

        def arrived(message: RawMessage) -> None:
            report(Arrived(self, sender, on_channel, message))

        def unreadable(now: int, why: str) -> None:
            report(Unreadable(self, sender, on_channel, now, why))

        return arrived, unreadable

    def _add(self, relay: Relay) -> None:
        for fd in relay.fds:
            self._relays[fd] = relay

    def _remove(self, relay: Relay) -> None:
        for fd in relay.fds:
            del self._relays[fd]

    def _channel_ended(self, relay: Relay, _reason: str) -> None:
        self._channels.remove(relay)
        self._remove(relay)

    def _main_ended(self, relay: Relay, reason: str) -> None:
        self._remove(relay)
        first = Sender.FRONT_END if relay.front_has_gone else Sender.BACK_END
        self._report(Closed(self, time.monotonic_ns(), reason, first))


def _is_channel(fd: int) -> bool:
    """Whether it is a connected stream socket of a socketpair."""
    sock = None
    try:
        sock = socket.socket(fileno=fd)
        return (
            sock.family == socket.AF_UNIX
            and sock.type == socket.SOCK_STREAM
            and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and not sock.getpeername()
            and not sock.getsockname()
        )
    except OSError:
        return False
    finally:
        if sock is not None:
            sock.detach()
