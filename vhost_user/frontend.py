"""A front-end's connection to a back-end: a session and a channel.

There are two ways to use it, which must not be mixed while replies are outstanding. `call` is
lock-step: one request and its reply. `submit`, `flush` and `receive` never block, so that one
thread can have requests to all devices in flight. `prepare` encodes messages ahead of time;
`exchange` and `post` send them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self, cast

from vhost_user.channel import connect
from vhost_user.codec import close_all
from vhost_user.connection import Connection
from vhost_user.errors import BackendError, DeadlineError, Disconnected, Refused, UsageError
from vhost_user.features import (
    SPEC,
    VHOST_USER_F_PROTOCOL_FEATURES,
    Dialect,
    ProtocolFeature,
    missing_dependencies,
)
from vhost_user.frontend_session import FrontendSession
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import U64
from vhost_user.prepared import Batch

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from vhost_user.prepared import Message
    from vhost_user.session import SessionState

_PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES


class FrontendConnection(Connection):
    """One device's connection.

    Args:
        sock: a connected unix stream socket; owned by the connection from now on.
        name: name of the device, for errors and tables.
        dialect: the numbers of features and messages where implementations differ.

    Attributes:
        name: name of the device.
        session: what is negotiated, and the rings' states.
        offered_features: feature bits that the back-end offers (after `negotiate`).
        features: those of them that both ends can use.
    """

    def __init__(self, sock: socket.socket, *, name: str, dialect: Dialect = SPEC) -> None:
        super().__init__(sock, name, BackendError)
        self.session = FrontendSession(name, dialect=dialect)
        self.offered_features = 0
        self.features = 0
        self._broken_reason: str | None = None

    @classmethod
    def connect(cls, path: str, *, name: str, timeout: float = 10.0) -> Self:
        """Connect to a back-end's socket, trying again until it listens.

        Raises:
            UsageError: the path cannot be used.
            DeadlineError: no process accepted within ``timeout`` seconds.
        """
        return cls(connect(path, name, timeout), name=name)

    @classmethod
    def restore(cls, sock: socket.socket, *, name: str, features: int, state: SessionState) -> Self:
        """A connection that another process has negotiated, and does not use any more.

        Nothing is sent: the back-end does not notice.

        Args:
            sock: the connected socket; owned by the connection from now on.
            name: name of the device.
            features: `FrontendConnection.features` of the other process.
            state: `FrontendConnection.session_state` of the other process.

        Raises:
            UsageError: ``state`` has more rings than a connection.
        """
        connection = cls(sock, name=name)
        connection.session.restore(state)
        connection.offered_features = state.offered_features or 0
        connection.features = features
        return connection

    @property
    def session_state(self) -> SessionState:
        """What another process needs to `restore` the connection.

        Raises:
            UsageError: it is broken, or messages are in flight, which that process would miss.
        """
        if self.broken:
            raise UsageError(f"its connection is broken: {self._broken_reason}", device=self.name)
        if self.outstanding or self.wants_write or self.session.partial:
            raise UsageError("messages are in flight on its connection", device=self.name)
        return self.session.state

    @property
    def broken(self) -> bool:
        """The back-end has disconnected, broke the protocol, or did not answer in time.

        What it sends cannot be trusted from then on: the connection can only be closed.
        """
        return self._broken_reason is not None

    @property
    def broken_reason(self) -> str | None:
        """The reason of the first `mark_broken`, or None."""
        return self._broken_reason

    def mark_broken(self, reason: str) -> None:
        """The connection cannot be used any more; only the first reason is kept."""
        self._broken_reason = self._broken_reason or reason

    @property
    def protocol_features(self) -> ProtocolFeature:
        """The protocol features that were negotiated."""
        return self.session.protocol_features

    @property
    def outstanding(self) -> int:
        """Replies that are due and have not arrived."""
        return self.session.outstanding

    def negotiate(
        self, *, features: int, protocol_features: ProtocolFeature, timeout: float = 5.0
    ) -> None:
        """GET_FEATURES, the protocol features if the back-end has some, SET_OWNER.

        The device sends SET_FEATURES when it starts.

        Args:
            features: feature bits that the device can use. Bit 30 is added.
            protocol_features: protocol features that it can use; one that needs others which the
                back-end does not offer is left out.
            timeout: seconds for each round trip.

        Raises:
            BackendError, DeadlineError, Disconnected: as `call`.
        """
        self.offered_features = self._ask(FrontendRequest.GET_FEATURES, timeout)
        self.features = (features | _PROTOCOL_BIT) & self.offered_features
        if self.offered_features & _PROTOCOL_BIT:
            offered = ProtocolFeature(self._ask(FrontendRequest.GET_PROTOCOL_FEATURES, timeout))
            agreed = _usable(offered & protocol_features)
            self.call(
                Request(FrontendRequest.SET_PROTOCOL_FEATURES, U64(int(agreed))), timeout=timeout
            )
        self.call(Request(FrontendRequest.SET_OWNER), timeout=timeout)

    def prepare(self, requests: Iterable[Request]) -> Batch:
        """Encode requests, for `post` or `exchange`.

        What is negotiated must not change until they are sent.

        Raises:
            UsageError: the session does not allow one of them.
        """
        return Batch(map(self.session.prepare, requests))

    def call(self, request: Request, timeout: float = 5.0) -> Reply | None:
        """`prepare` and `exchange` of one request."""
        return self.exchange(self.session.prepare(request), timeout)

    def exchange(self, message: Message, timeout: float = 5.0) -> Reply | None:
        """Send one request, and wait for its reply if one is due.

        Args:
            message: the request.
            timeout: seconds for the whole exchange.

        Returns:
            The reply, or None when none is due. The descriptors of a reply are the caller's.

        Raises:
            UsageError: replies of `post` are outstanding.
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged with an error.
            DeadlineError: it did not answer in time. As its reply may still arrive, the connection
                can only be closed.
            Disconnected: it has closed the connection.
        """
        session, channel = self.session, self._channel
        request, data, allowed, answered = message
        name = allowed.name
        if session.outstanding or channel.wants_write:
            raise UsageError(
                f"{session.outstanding} replies are outstanding: receive them first",
                device=self.name,
                message=name,
            )
        session.begin_one(message)
        try:
            if not answered:
                channel.send(data, request.fds, timeout, name)
                return None
            started = time.monotonic()
            channel.send(data, request.fds, timeout, name)
            replies = session.feed(*channel.read(timeout, name))
            while not replies:
                # A partial reply: wait for the rest of the timeout, which must not become 0.
                waited = time.monotonic() - started
                left = max(timeout - waited, 1e-6)
                replies = session.feed(*channel.read(left, name, waited))
        except Refused:
            raise
        except (BackendError, DeadlineError, Disconnected) as error:
            self.mark_broken(error.text)
            raise
        return replies[0]

    def submit(self, requests: Iterable[Request]) -> int:
        """`prepare` and `post`."""
        return self.post(self.prepare(requests))

    def post(self, messages: Iterable[Message]) -> int:
        """Queue messages and send as many as is possible without blocking.

        The descriptors of requests must stay open until `flush` has returned True.

        Returns:
            How many replies are outstanding now.

        Raises:
            Disconnected: the back-end has closed the connection.
        """
        for data, fds in self.session.begin(messages):
            self._channel.queue(data, fds)
        self.flush()
        return self.session.outstanding

    def mark_sent(self, messages: Iterable[Message]) -> None:
        """Record that another process sends these messages; `feed` takes the replies."""
        self.session.begin(messages)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Reply]:
        """The replies in what another process has read, with the descriptors that came with it.

        Raises:
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged with an error.
        """
        try:
            return self.session.feed(data, fds)
        except Refused:
            raise
        except BackendError as error:
            self.mark_broken(error.text)
            raise

    def flush(self) -> bool:
        """Send as much as is possible without blocking; True when nothing is left to send.

        Raises:
            Disconnected: the back-end has closed the connection.
        """
        try:
            return super().flush()
        except Disconnected as error:
            self.mark_broken(error.text)
            raise

    def receive(self) -> list[Reply]:
        """All replies that have arrived, in the order of the requests; never blocks.

        Raises:
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged with an error.
            Disconnected: it has closed the connection, and no reply is left to return.
        """
        replies: list[Reply] = []
        try:
            for read in self.reads():
                replies += self.session.feed(read.data, read.fds)
        except Disconnected as error:
            # The next read raises it again, when the replies before it have been returned.
            if not replies:
                self.mark_broken(error.text)
                raise
        except BackendError as error:
            if not isinstance(error, Refused):
                self.mark_broken(error.text)
            for reply in replies:
                close_all(reply.fds)
            raise
        return replies

    def close(self) -> None:
        """Close the connection. Outstanding replies are lost."""
        self.session.abandon()
        self._channel.close()

    def _ask(self, number: FrontendRequest, timeout: float) -> int:
        reply = cast("Reply", self.call(Request(number), timeout=timeout))
        return cast("U64", reply.payload).value


def _usable(features: ProtocolFeature) -> ProtocolFeature:
    """The features without those that need others which are missing."""
    while missing := missing_dependencies(features):
        for feature in missing:
            features &= ~feature
    return features
