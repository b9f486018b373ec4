"""A back-end's connection to a front-end: a session and a channel. It never blocks.

Replies are sent in the order of the requests, as the protocol requires. A device that cannot answer
yet keeps the request (or its `ReplySlot`) and answers later; replies to later requests wait for it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vhost_user.backend_session import BackendSession
from vhost_user.codec import close_all
from vhost_user.connection import Connection
from vhost_user.errors import Disconnected, FrontendError, UsageError
from vhost_user.features import SPEC, Dialect, ProtocolFeature
from vhost_user.messages import Request, RequestRun

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from vhost_user.payload_layout import Payload

#: What `BackendConnection.receive` and `BackendConnection.receive_runs` return.
T = TypeVar("T", Request, Request | RequestRun)


class _Answer(NamedTuple):
    data: bytes
    fds: Sequence[int]


class ReplySlot:
    """The position of one request's reply among the replies.

    Attributes:
        request: the request.
    """

    __slots__ = ("_connection", "request")

    def __init__(self, connection: BackendConnection, request: Request) -> None:
        self._connection = connection
        self.request = request

    @property
    def due(self) -> bool:
        """Whether a reply is due and has not been queued."""
        return self._connection.due(self.request)

    def reply(self, payload: Payload | None = None, fds: Sequence[int] = ()) -> None:
        """As `BackendConnection.reply`."""
        self._connection.reply(self.request, payload, fds)

    def ack(self, code: int = 0) -> None:
        """As `BackendConnection.ack`."""
        self._connection.ack(self.request, code)


class BackendConnection(Connection):
    """One front-end's connection to one device.

    Args:
        sock: a connected unix stream socket; owned by the connection from now on.
        name: name of the device, for errors.
        features: feature bits that the device offers.
        protocol_features: protocol features that it offers.
        num_queues: rings that it has.
        dialect: the numbers of features and messages where implementations differ.

    Attributes:
        name: name of the device.
        session: what is negotiated, and the rings' states.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        name: str,
        features: int,
        protocol_features: ProtocolFeature,
        num_queues: int,
        dialect: Dialect = SPEC,
    ) -> None:
        super().__init__(sock, name, FrontendError)
        self.session = BackendSession(
            name,
            features=features,
            protocol_features=protocol_features,
            num_queues=num_queues,
            dialect=dialect,
        )
        # Requests, and runs of them, without their answer, in order.
        self._due: deque[Request | RequestRun] = deque()
        self._early: dict[int, _Answer] = {}  # answers that wait for earlier ones, by id()

    @property
    def outstanding(self) -> int:
        """Answers that are due and have not been queued, early ones included."""
        due = self._due
        return sum(1 if isinstance(each, Request) else len(each.payloads) for each in due)

    def receive(self) -> list[Request]:
        """All requests that have arrived, in order; never blocks.

        Their descriptors are the caller's to close. An answer is due to those with ``need_reply``.
        The caller may answer in any order: `reply` and `ack` send in the order of the requests.

        Raises:
            FrontendError: the front-end broke the protocol.
            Disconnected: it has closed the connection, and no request is left to return.
        """
        return self._receive(self.session.feed)

    def receive_runs(self) -> list[Request | RequestRun]:
        """As `receive`, with runs of the same message for different rings as one item.

        The caller answers a run with `reply_run`, or calls `split` first.

        Raises:
            FrontendError, Disconnected: as `receive`.
        """
        return self._receive(self.session.feed_runs)

    def _receive(self, feed: Callable[[bytes, Sequence[int]], list[T]]) -> list[T]:
        requests: list[T] = []
        try:
            for read in self.reads():
                requests += feed(read.data, read.fds)
        except Disconnected:
            # The next read raises it again, when the requests before it have been returned.
            if not requests:
                raise
        except FrontendError:
            for request in requests:
                if isinstance(request, Request):
                    close_all(request.fds)
            raise
        self._due += [request for request in requests if request.need_reply]
        return requests

    def split(self, run: RequestRun) -> list[Request]:
        """The requests of a run, to which replies are due one by one from now on."""
        requests = run.requests()
        if run.need_reply:
            due = list(self._due)
            at = next(at for at, waiting in enumerate(due) if waiting is run)
            self._due = deque([*due[:at], *requests, *due[at + 1 :]])
        return requests

    def reply_run(self, run: RequestRun, numbers: Sequence[int]) -> None:
        """Answer each request of a run with a `VringState`: its ring, and the next number.

        Raises:
            UsageError: the message has no such reply, or it has been answered.
        """
        if run.need_reply:
            self._complete(run, self.session.answer_states(run, numbers), ())

    def slot(self, request: Request) -> ReplySlot:
        """The position of a request's reply, for a device that replies later."""
        return ReplySlot(self, request)

    def due(self, request: Request | RequestRun) -> bool:
        """Whether the reply to this request is due and has not been queued."""
        return (
            request.need_reply
            and id(request) not in self._early
            and any(waiting is request for waiting in self._due)
        )

    def reply(
        self, request: Request, payload: Payload | None = None, fds: Sequence[int] = ()
    ) -> None:
        """Answer a request with its own reply; `flush` sends it. Nothing where none is due.

        ``fds`` must stay open until `flush` has returned True.

        Raises:
            UsageError: the message has no such reply, or it has been answered.
        """
        if request.need_reply:
            self._complete(request, self.session.answer(request, payload, fds), fds)

    def ack(self, request: Request, code: int = 0) -> None:
        """Acknowledge a request, 0 for success; `flush` sends it. Nothing where none is due.

        Raises:
            UsageError: the message has a reply of its own, or it has been answered.
        """
        if request.need_reply:
            self._complete(request, self.session.ack(request, code), ())

    def close(self) -> None:
        """Close the connection. Answers that have not been sent are dropped."""
        self._due.clear()
        self._early.clear()
        self.session.abandon()
        self._channel.close()

    def _complete(self, request: Request | RequestRun, data: bytes, fds: Sequence[int]) -> None:
        due = self._due
        if due and due[0] is request:
            due.popleft()
            self._channel.queue(data, fds)
            if self._early:
                self._release()
        elif self.due(request):
            self._early[id(request)] = _Answer(data, fds)
        else:
            raise UsageError("was answered already", device=self.name, message=request.id.name)

    def _release(self) -> None:
        """Queue the answers that waited for the one that has just been queued."""
        due = self._due
        while due and (answer := self._early.pop(id(due[0]), None)) is not None:
            due.popleft()
            self._channel.queue(answer.data, answer.fds)
