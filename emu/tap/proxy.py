"""The loop of the tap: listens, connects, and forwards for all pairs, in one thread.

Forwarding comes first: what was read is handed to the observer when nothing else is ready, or when
too much of it waits.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.tap.connection import Arrived, Connection, Event
from emu.tap.fast_path import FastPath
from vhost_user import unix_socket
from vhost_user.channel import check_path
from vhost_user.codec import close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from emu.tap.relay import Relay

#: Bytes of events that may wait for the observer while there is something to forward: some 25,000
#: messages, more than a migration of 608 rings has.
BACKLOG = 16 << 20
#: Bytes of an event besides its payload.
_EVENT_BYTES = 600
#: Seconds without anything to forward until events are handed over: a front-end in lock-step sends
#: the next message sooner than that.
IDLE = 0.001
#: Events that are handed over until the loop looks again for something to forward.
SLICE = 8
#: Seconds between two attempts to connect: there is no event for a process that begins to listen.
RETRY = 0.01
#: Seconds without descriptors until the tap accepts again.
PAUSE = 0.2
#: Different lines about events that the observer could not take.
MAX_COMPLAINTS = 100

_EVENTS = 64


def _never() -> None:
    """No deadline."""


class TapError(EmuError):
    """The tap cannot listen or connect."""


class Pair(NamedTuple):
    """Two sockets that belong together.

    Attributes:
        name: for reports.
        listen: path where the tap listens.
        connect: path to which it connects for each connection that it accepts.
        reverse: the back-end connects to ``listen``, and the front-end listens at ``connect``.
    """

    name: str
    listen: str
    connect: str
    reverse: bool = False


class _Waiting(NamedTuple):
    """An accepted connection whose other side does not listen yet."""

    listener: _Listener
    sock: socket.socket
    deadline: float


class _Listener:
    """Where the tap listens for one pair."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.connections = 0
        self.paused_until = 0.0
        self.refused = False
        check_path(pair.connect, pair.name)
        check_path(pair.listen, pair.name)
        try:
            self.sock = unix_socket.bind(pair.listen)
        except OSError as error:
            raise TapError(f"{pair.listen}: {error.strerror}") from error
        self.sock.settimeout(0)
        self.sock.listen(socket.SOMAXCONN)


def _time_of(event: Event) -> int:
    return event.message.time if isinstance(event, Arrived) else event.time


def _bytes_of(event: Event) -> int:
    return _EVENT_BYTES + (len(event.message.payload) if isinstance(event, Arrived) else 0)


class Proxy:
    """A tap that forwards; use it as a context manager.

    Args:
        pairs: what it connects.
        observer: is called with each event, in order.
        notice: takes lines for the user.
        patience: seconds that an accepted connection waits for the other side to listen.

    Raises:
        TapError: a socket cannot be bound.
        UsageError: a path is too long.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        observer: Callable[[Event], None],
        notice: Callable[[str], None],
        patience: float,
    ) -> None:
        self._observer = observer
        self._notice = notice
        self._patience = patience
        self._epoll = select.epoll()
        self._fast_path = FastPath(self._epoll)
        self._listeners: dict[int, _Listener] = {}
        self._relays: dict[int, Relay] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._connections: list[Connection] = []
        self._events: deque[Event] = deque()
        self._waiting_bytes = 0
        self._complaints: set[str] = set()
        self._idle = IDLE
        try:
            for pair in pairs:
                listener = _Listener(pair)
                self._listeners[listener.sock.fileno()] = listener
                self._epoll.register(listener.sock.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def run(self, stop: Iterable[int], deadline: Callable[[], float | None] = _never) -> int:
        """Forward until one of the descriptors ``stop`` is readable, or until the deadline.

        What has happened before the deadline is handed over first; what happens meanwhile is not
        waited for, as it may never end.

        Args:
            stop: descriptors, such as that of a signal's pipe.
            deadline: returns it, on the clock of `time.monotonic`, or None. It is called again and
                again: what the observer takes may change it.

        Returns:
            Up to when everything was handed over: CLOCK_MONOTONIC, nanoseconds.
        """
        stops = set(stop)
        stopped = select.poll()
        passed: int | None = None
        for fd in stops:
            stopped.register(fd, select.POLLIN)
            self._epoll.register(fd, select.EPOLLIN)
        try:
            while self._make_room(stopped):
                due = deadline()
                if due is None or time.monotonic() < due:
                    passed = None
                else:
                    passed = passed or time.monotonic_ns()
                    until = self._handed_over()
                    if until > passed or not self._events:
                        return until
                    self._deliver(SLICE)
                ready = self._epoll.poll(self._timeout(due), _EVENTS)
                if ready:
                    self._idle = IDLE
                    if self._forward():
                        ready = self._epoll.poll(0, _EVENTS)
                else:
                    self._deliver(SLICE)
                    self._idle = 0.0
                # Whose events they are is looked up first: one of them may close a descriptor, and
                # another one open a new one of the same number.
                for owner, fd, events in [(self._owner(fd), fd, events) for fd, events in ready]:
                    if fd in stops or not self._make_room(stopped):
                        return self._handed_over()
                    self._handle(owner, fd, events)
                if self._waiting:
                    self._connect_waiting()
                self._resume_listeners()
            return self._handed_over()
        finally:
            for fd in stops:
                self._epoll.unregister(fd)

    def close(self) -> None:
        """Disconnect everything, remove the sockets' paths, and hand over the last events."""
        for listener in self._listeners.values():
            listener.sock.close()
        self._listeners.clear()
        for waiting in self._waiting.values():
            waiting.sock.close()
        self._waiting.clear()
        for connection in self._connections:
            connection.close("the tap has ended")
        self._connections.clear()
        if not self._epoll.closed:
            self._epoll.close()
        self._deliver(len(self._events))

    def _forward(self) -> bool:
        """Forward what needs nothing else; whether there was any."""
        pieces = self._fast_path.run()
        # As for the events of sockets: a piece may close one.
        for relay, piece in [(self._relays.get(piece.source), piece) for piece in pieces]:
            if relay is None or relay.closed:
                close_all(piece.fds)
            else:
                relay.take(piece)
        return bool(pieces)

    def _make_room(self, stopped: select.poll) -> bool:
        """Hand events over while too many of them wait; False if there is a stop meanwhile."""
        while self._waiting_bytes > BACKLOG:
            if stopped.poll(0):
                return False
            self._deliver(SLICE)
        return True

    def _timeout(self, deadline: float | None) -> float:
        """Seconds to wait at most, -1 for ever."""
        if self._events:
            return self._idle
        now = time.monotonic()
        ends = [] if deadline is None else [deadline]
        ends += [
            listener.paused_until for listener in self._listeners.values() if listener.paused_until
        ]
        if self._waiting:
            ends.append(now + RETRY)
        return max(0.0, min(ends) - now) if ends else -1.0

    def _handed_over(self) -> int:
        """When the first event happened that waits, or now."""
        return _time_of(self._events[0]) if self._events else time.monotonic_ns()

    def _owner(self, fd: int) -> Relay | _Listener | _Waiting | None:
        return self._relays.get(fd) or self._listeners.get(fd) or self._waiting.get(fd)

    def _handle(self, owner: Relay | _Listener | _Waiting | None, fd: int, events: int) -> None:
        if isinstance(owner, _Listener):
            self._accept(owner)
        elif isinstance(owner, _Waiting):
            if self._waiting.get(fd) is owner:
                self._give_up(fd)
        elif owner is not None and not owner.closed:
            owner.handle(fd, events)

    def _take(self, event: Event) -> None:
        self._events.append(event)
        self._waiting_bytes += _bytes_of(event)

    def _deliver(self, count: int) -> None:
        """Hand events to the observer; what that does with them cannot end the tap."""
        for _ in range(min(count, len(self._events))):
            event = self._events.popleft()
            self._waiting_bytes -= _bytes_of(event)
            try:
                self._observer(event)
            except Exception as error:  # noqa: BLE001  whatever a peer has made it do
                self._complain(f"cannot decode: {type(error).__name__}: {error}")

    def _complain(self, text: str) -> None:
        """Print a line the first time, and not without end."""
        if text not in self._complaints and len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.add(text)
            self._notice(text)

    # -- connecting

    def _accept(self, listener: _Listener) -> None:
        try:
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors left: the caller waits in the backlog
            if not listener.refused:  # it may be so for weeks
                self._notice(f"{listener.pair.name}: cannot accept: {error.strerror}")
            listener.refused = True
            listener.paused_until = time.monotonic() + PAUSE
            self._epoll.unregister(listener.sock.fileno())
            return
        listener.refused = False
        waiting = _Waiting(listener, sock, time.monotonic() + self._patience)
        if not self._connect(waiting):
            self._waiting[sock.fileno()] = waiting
            self._epoll.register(sock.fileno(), 0)  # for the hang-up

    def _resume_listeners(self) -> None:
        for fd, listener in self._listeners.items():
            if listener.paused_until and listener.paused_until <= time.monotonic():
                listener.paused_until = 0.0
                self._epoll.register(fd, select.EPOLLIN)

    def _connect(self, waiting: _Waiting) -> bool:
        """Connect to the other side; True when the accepted socket needs to wait no longer."""
        listener = waiting.listener
        pair = listener.pair
        other = None
        try:
            other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            other.connect(pair.connect)
        except OSError as error:
            if other is not None:
                other.close()
            if time.monotonic() < waiting.deadline:
                return False
            role = "front-end" if pair.reverse else "back-end"
            self._notice(f"{pair.name}: no {role} at {pair.connect}: {error.strerror}")
            waiting.sock.close()
            return True
        listener.connections += 1
        front, back = (other, waiting.sock) if pair.reverse else (waiting.sock, other)
        connection = Connection(
            pair.name,
            listener.connections,
            self._epoll,
            self._fast_path,
            self._relays,
            self._take,
        )
        self._connections = [each for each in self._connections if each.open]
        self._connections.append(connection)
        connection.start(front, back)
        return True

    def _connect_waiting(self) -> None:
        for fd, waiting in list(self._waiting.items()):
            self._epoll.unregister(fd)
            if self._connect(waiting):
                del self._waiting[fd]
            else:
                self._epoll.register(fd, 0)

    def _give_up(self, fd: int) -> None:
        """The connection that waits has been closed by its peer."""
        self._epoll.unregister(fd)
        with contextlib.suppress(OSError):
            self._waiting.pop(fd).sock.close()
