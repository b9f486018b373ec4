"""The back-end channel, at the back-end: it sends requests there, and the front-end answers.

Nothing here blocks. QEMU does not read this channel while it waits for a reply on the connection,
so a back-end that waited for an answer here before it sent that reply would wait for ever.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from vhost_user.channel import READ_SIZE, Channel
from vhost_user.codec import (
    NEED_REPLY,
    REPLY_FLAGS,
    VERSION,
    Decoder,
    Frame,
    close_all,
    encode,
    reply_forms,
)
from vhost_user.errors import FrontendError, UsageError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BACKEND_MESSAGES, BackendRequest

if TYPE_CHECKING:
    from vhost_user.backend_session import BackendSession
    from vhost_user.payload_layout import Payload
    from vhost_user.payloads import U64

_FORMS = reply_forms(BACKEND_MESSAGES)


class Answer(NamedTuple):
    """A front-end's answer to a request on the channel: 0 is success."""

    id: BackendRequest
    code: int


class BackendChannel:
    """The channel that SET_BACKEND_REQ_FD sets up.

    Args:
        sock: a connected unix stream socket; owned by the channel from now on.
        session: that of the connection that it belongs to: what was negotiated there applies.
    """

    def __init__(self, sock: socket.socket, session: BackendSession) -> None:
        self._session = session
        self._channel = Channel(sock, session.name, FrontendError)
        self._decoder = Decoder(_FORMS, REPLY_FLAGS, FrontendError, session.name)
        self._asked: deque[BackendRequest] = deque()

    @classmethod
    def from_fd(cls, fd: int, session: BackendSession, own_address: str = "") -> Self:
        """The channel of a descriptor that came with SET_BACKEND_REQ_FD; owns and closes it.

        Args:
            fd: the descriptor.
            session: as for the class.
            own_address: of the listening socket that the front-end has connected to. A channel to
                that address would be the connection itself, which could then never end.

        Raises:
            FrontendError: it is not a unix stream socket that is connected.
        """
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            os.close(fd)
            raise FrontendError(f"the channel is not a socket: {error.strerror}") from error
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            sock.close()
            raise FrontendError("the channel is not a unix stream socket")
        try:
            peer = sock.getpeername()
        except OSError as error:  # it listens, or was never connected
            sock.close()
            raise FrontendError(f"the channel is not connected: {error.strerror}") from error
        if peer and peer == own_address:
            sock.close()
            raise FrontendError("the channel is a connection to this device")
        return cls(sock, session)

    @property
    def outstanding(self) -> int:
        """Answers that are due and have not arrived."""
        return len(self._asked)

    @property
    def wants_write(self) -> bool:
        """Whether `flush` has bytes left to send."""
        return self._channel.wants_write

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._channel.fileno()

    def send(self, number: BackendRequest, payload: Payload | None = None) -> None:
        """Queue a request; `flush` sends it. With REPLY_ACK it asks for an answer.

        Raises:
            UsageError: what was negotiated does not allow it.
        """
        row = BACKEND_MESSAGES[number]
        why = self._session.why_not_allowed(row)
        if why:
            raise UsageError(why, device=self._session.name, message=row.name)
        flags = VERSION
        if ProtocolFeature.REPLY_ACK in self._session.protocol_features:
            flags |= NEED_REPLY
            self._asked.append(number)
        self._channel.queue(encode(number, flags, payload))

    def flush(self) -> bool:
        """Send as much as is possible without blocking; True when nothing is left to send.

        Raises:
            Disconnected: the front-end has closed the channel.
        """
        return self._channel.flush()

    def receive(self) -> list[Answer]:
        """The answers that have arrived; never blocks.

        Raises:
            FrontendError: the front-end broke the protocol.
            Disconnected: it has closed the channel.
        """
        answers: list[Answer] = []
        while (read := self._channel.read_now()) is not None:
            frames = self._decoder.feed(read.data, read.fds)
            for frame in frames:
                close_all(frame.fds)
            answers += map(self._answer, frames)
            if len(read.data) < READ_SIZE:
                break
        return answers

    def _answer(self, frame: Frame) -> Answer:
        name = BACKEND_MESSAGES[frame.id].name
        if not self._asked:
            raise FrontendError(
                "answered without a request", device=self._session.name, message=name
            )
        asked = self._asked.popleft()
        if frame.id != asked:
            raise FrontendError(
                f"answered where the answer to {asked.name} is due",
                device=self._session.name,
                message=name,
            )
        return Answer(asked, cast("U64", frame.payload).value)

    def close(self) -> None:
        """Close the channel; outstanding answers are lost."""
        self._asked.clear()
        self._decoder.abandon()
        self._channel.close()
