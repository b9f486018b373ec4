"""A front-end's connection to a back-end: a session and a channel.

Two ways to use it, which must not be mixed while replies are outstanding: `call` is lock-step,
one request and its reply; `submit`, `flush` and `receive` never block, so that one thread can
keep the requests of all devices in flight. Where the time counts, `prepare` puts messages
together beforehand, and `exchange` or `post` sends them.
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
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import U64
from vhost_user.session import FrontendSession

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from vhost_user.agreement import Agreed
    from vhost_user.session import Message

_PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES


class FrontendConnection(Connection):
    """One device's connection.

    Args:
        sock: a connected unix stream socket; owned by the connection from now on.
        name: name of the device, for errors and tables.
        dialect: who settles the numbers that are still moving.

    Attributes:
        name: name of the device.
        session: what is agreed on, and the rings' states.
        offered_features: feature bits that the back-end offers (after `negotiate`).
        features: those of them that are to be acknowledged with SET_FEATURES.
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
            DeadlineError: nobody accepted within ``timeout`` seconds.
        """
        return cls(connect(path, name, timeout), name=name)

    @classmethod
    def adopt(cls, sock: socket.socket, *, name: str, features: int, agreed: Agreed) -> Self:
        """Take over a connection that another process has negotiated, and does not use any more.

        Nothing is sent: the back-end does not learn of it.

        Args:
            sock: the connected socket; owned by the connection from now on.
            name: name of the device.
            features: `FrontendConnection.features` over there.
            agreed: what `agreed` said over there.

        Raises:
            UsageError: what was agreed on makes no sense.
        """
        connection = cls(sock, name=name)
        connection.session.take_up(agreed)
        connection.offered_features = agreed.offered_features or 0
        connection.features = features
        return connection

    @property
    def agreed(self) -> Agreed:
        """What another process needs to `adopt` the connection.

        Raises:
            UsageError: it is broken, or messages are under way, which that process would miss.
        """
        if self.broken:
            raise UsageError(f"its connection is broken: {self._broken_reason}", device=self.name)
        if self.outstanding or self.wants_write or self.session.partial:
            raise UsageError("messages are under way on its connection", device=self.name)
        return self.session.agreed

    @property
    def broken(self) -> bool:
        """The back-end has disconnected, broke the protocol, or did not answer in time.

        What it sends cannot be trusted from then on: the connection can only be closed.
        """
        return self._broken_reason is not None

    @property
    def broken_reason(self) -> str | None:
        """The first reason that `mark_broken` was given, or None."""
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
        """Replies that are due and have not come."""
        return self.session.outstanding

    def negotiate(
        self, *, features: int, protocol_features: ProtocolFeature, timeout: float = 5.0
    ) -> None:
        """GET_FEATURES, the protocol features where the back-end has some, SET_OWNER.

        SET_FEATURES is left to the device, which sends it when it starts.

        Args:
            features: feature bits that the device can use. Bit 30 is added by itself.
            protocol_features: protocol features that it can use; one that lacks what it depends
                on at the back-end is left out.
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

    def prepare(self, requests: Iterable[Request]) -> list[Message]:
        """Put requests together that are to be sent later, or now (`post`, `exchange`).

        What is negotiated must not change in between.

        Raises:
            UsageError: the session does not allow one of them.
        """
        prepare = self.session.prepare
        return [prepare(request) for request in requests]

    def call(self, request: Request, timeout: float = 5.0) -> Reply | None:
        """`exchange` of a request that is put together now."""
        return self.exchange(self.session.prepare(request), timeout)

    def exchange(self, message: Message, timeout: float = 5.0) -> Reply | None:
        """Send one request, and wait for its reply where one is due.

        Args:
            message: what to ask.
            timeout: seconds for the whole exchange.

        Returns:
            The reply, or None when none is due. The descriptors of a reply are the caller's.

        Raises:
            UsageError: replies of `post` are due.
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged with an error.
            DeadlineError: it did not answer in time. Its reply may still come: what is left for
                this connection is to be closed.
            Disconnected: it has gone.
        """
        session, channel = self.session, self._channel
        request, data, opened, answered = message
        name = opened.name
        if session.outstanding or channel.wants_write:
            raise UsageError(
                f"{session.outstanding} replies are outstanding: receive them first",
                device=self.name,
                message=name,
            )
        session.begin([message])
        try:
            if not answered:
                channel.send(data, request.fds, timeout, name)
                return None
            started = time.monotonic()
            channel.send(data, request.fds, timeout, name)
            replies = session.feed(*channel.read(timeout, name))
            while not replies:
                # A reply in pieces: what is left of the time, but never nothing.
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
        """`post` of requests that are put together now."""
        return self.post(self.prepare(requests))

    def post(self, messages: Iterable[Message]) -> int:
        """Queue messages and send as many as go without blocking.

        The descriptors of requests must stay open until `flush` has returned True.

        Returns:
            How many replies are outstanding now.

        Raises:
            Disconnected: the back-end has gone.
        """
        for data, fds in self.session.begin(messages):
            self._channel.queue(data, fds)
        self.flush()
        return self.session.outstanding

    def lend(self, messages: Iterable[Message]) -> None:
        """Somebody else sends these messages; `take_in` is to get what comes for them."""
        self.session.begin(messages)

    def take_in(self, data: bytes, fds: Sequence[int] = ()) -> list[Reply]:
        """Replies that somebody else has read, with the descriptors that came with them.

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
        """Send as much as goes without blocking; True when nothing is left to send.

        Raises:
            Disconnected: the back-end has gone.
        """
        try:
            return super().flush()
        except Disconnected as error:
            self.mark_broken(error.text)
            raise

    def receive(self) -> list[Reply]:
        """All replies that have come, in the order of the requests; never blocks.

        Raises:
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged with an error.
            Disconnected: it has gone, and no reply is left to be taken.
        """
        replies: list[Reply] = []
        try:
            for read in self.reads():
                replies += self.session.feed(read.data, read.fds)
        except Disconnected as error:
            # The next read raises it again, when the replies before it have been taken.
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
        """Close the connection. Replies that are due will not come."""
        self.session.abandon()
        self._channel.close()

    def _ask(self, number: FrontendRequest, timeout: float) -> int:
        reply = cast("Reply", self.call(Request(number), timeout=timeout))
        return cast("U64", reply.payload).value


def _usable(features: ProtocolFeature) -> ProtocolFeature:
    """The features that have all they depend on."""
    while missing := missing_dependencies(features):
        for feature in missing:
            features &= ~feature
    return features
