"""Two connected sockets, and the forwarding between them in both directions."""

from __future__ import annotations

import select
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.tap.forwarding import DescriptorsLostError, Pump

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from emu.tap.fast_path import FastPath, Forwarded
    from emu.tap.forwarding import Inspector

_IN, _OUT, _HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


class _End:
    """One socket: the pump that reads from it, and the one that writes to it."""

    __slots__ = ("hung_up", "reads", "sock", "watched", "writes")

    def __init__(self, sock: socket.socket, reads: Pump, writes: Pump) -> None:
        self.sock = sock
        self.reads = reads
        self.writes = writes
        self.hung_up = False
        self.watched: int | None = None

    @property
    def interest(self) -> int:
        """The events that would let a pump go on."""
        readable = not self.reads.finished and not self.reads.pending
        return (_IN if readable else 0) | (_OUT if self.writes.pending else 0)


def _has_gone(end: _End) -> bool:
    """Whether the peer of this end has closed its socket, or its direction of it."""
    return end.writes.sink_has_gone or (end.reads.finished and not end.reads.sink_has_gone)


class Relay:
    """Forwards between the sockets of a front-end and of a back-end, until one of them ends.

    Args:
        front: connected to the front-end; owned by the relay from now on.
        back: connected to the back-end; likewise.
        requests: sees what the front-end sends.
        replies: sees what the back-end sends.
        epoll: where the sockets are registered.
        fast_path: forwards between them as long as nothing unusual happens.
        ended: is called once, when both sockets are closed, with the reason, or "" when one side
            has disconnected.

    Attributes:
        closed: both sockets are closed.
        front_has_gone: of the two sides it was the front-end that ended first.
    """

    def __init__(
        self,
        front: socket.socket,
        back: socket.socket,
        requests: Inspector,
        replies: Inspector,
        epoll: select.epoll,
        fast_path: FastPath,
        ended: Callable[[Relay, str], None],
    ) -> None:
        forth, reverse = Pump(front, back, requests), Pump(back, front, replies)
        self._front = _End(front, forth, reverse)
        self._back = _End(back, reverse, forth)
        self._epoll = epoll
        self._fast_path = fast_path
        self._ended = ended
        self._ends = {end.sock.fileno(): end for end in (self._front, self._back)}
        self._first_gone: _End | None = None
        self._flowing = False
        self.closed = False
        self._watch()

    @property
    def front_has_gone(self) -> bool:
        """See the class."""
        return self._first_gone is self._front

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors of the two sockets."""
        return tuple(self._ends)

    def take(self, piece: Forwarded) -> None:
        """What the fast path has read from one of the sockets; what is left of it is sent later.

        Not at once: pieces that were read before the next one of this socket may be taken first.
        """
        reads = self._ends[piece.source].reads
        with self._closed_by_errors():
            reads.take(piece)
            if reads.pending:
                self._watch()

    def handle(self, fd: int, events: int) -> None:
        """Forward after these events of one of the sockets."""
        end = self._ends[fd]
        if events & _HUP:
            end.hung_up = True
        with self._closed_by_errors():
            if end.writes.pending:
                end.writes.run()
            end.reads.run()
        if self.closed:
            return
        if self._first_gone is None:
            self._first_gone = next(
                (each for each in (end, *self._ends.values()) if _has_gone(each)), None
            )
        if self._is_over():
            self.close("")
        else:
            self._watch()

    @contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        """Close both sockets when nothing more can be forwarded unchanged."""
        try:
            yield
        except DescriptorsLostError:
            self.close("there are no descriptors left (see ulimit -n)")
        except OSError as error:
            self.close(f"the kernel does not forward it: {error.strerror}")

    def _is_over(self) -> bool:
        """Both directions have ended; or one side is closed, and all that it sent is forwarded."""
        ends = (self._front, self._back)
        return all(end.reads.finished for end in ends) or any(
            end.hung_up and end.reads.finished for end in ends
        )

    def close(self, reason: str) -> None:
        """Close both sockets: for either side the other one has disconnected."""
        if self.closed:
            return
        self.closed = True
        for fd, end in self._ends.items():
            self._fast_path.route(fd, None)
            if end.watched is not None:
                self._epoll.unregister(fd)
            end.reads.close()
        for end in self._ends.values():
            end.sock.close()
        self._ended(self, reason)

    def _watch(self) -> None:
        flowing = self._front.reads.flowing and self._back.reads.flowing
        if flowing != self._flowing:
            self._flowing = flowing
            front, back = self._ends
            self._fast_path.route(front, back if flowing else None)
            self._fast_path.route(back, front if flowing else None)
        for fd, end in self._ends.items():
            # A hang-up is always reported: a socket with nothing else to wait for is left out.
            wanted = end.interest or (None if end.hung_up else 0)
            if wanted == end.watched:
                continue
            if wanted is None:
                self._epoll.unregister(fd)
            elif end.watched is None:
                self._epoll.register(fd, wanted)
            else:
                self._epoll.modify(fd, wanted)
            end.watched = wanted
