"""Requests to the back-end under test: sent, answered, acknowledged or refused.

This module does not depend on the meaning of a request; `back_end.connection` does.
"""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest
from vhost_user_conformance.model.verdict import Failed, check, observed
from vhost_user_conformance.peer.wire import Closed, Message, Silent, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vhost_user_conformance.peer.wire import Wire

F = FrontendRequest
#: Seconds without an event after which it is taken not to happen.
QUIET = 0.15
#: Milliseconds until a connection that was closed without an answer is tried again.
_AGAIN_MS = 10


def first_answer(open_wire: Callable[[], Wire], over: Callable[[], bool], timeout: float) -> Wire:
    """A new connection on which the back-end has answered.

    A connection that is closed before its first answer is tried again: a server that listens anew
    for each front-end drops those that came before it.

    Args:
        open_wire: connects.
        over: whether no further attempt makes sense, as the program has ended.
        timeout: seconds for further attempts.

    Raises:
        PeerError, WireError: it is not answered.
    """
    deadline = time.monotonic() + timeout
    while True:
        wire = open_wire()
        try:
            wire.send(F.GET_FEATURES)
            wire.receive().close()
        except Closed:
            wire.close()
            if over() or time.monotonic() > deadline:
                raise
            select.poll().poll(_AGAIN_MS)
        except WireError:
            wire.close()
            raise
        else:
            return wire


class Requests:
    """One connection to the back-end under test, and its requests and replies.

    Args:
        wire: connected.

    Attributes:
        acked: protocol features that were negotiated.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.acked = ProtocolFeature(0)
        self._owned = contextlib.ExitStack()

    def own(self, close: Callable[[], object]) -> None:
        """Call it when the case is over."""
        self._owned.callback(close)

    @property
    def timeout(self) -> float:
        """Seconds for each answer."""
        return self.wire.timeout

    def ask(
        self,
        number: int,
        payload: bytes = b"",
        *,
        fds: Sequence[int] = (),
        need_reply: bool = False,
    ) -> Message:
        """Send a request that has a reply, and return the reply.

        Raises:
            Failed: the message is not a reply to this request.
            WireError: no reply came.
        """
        flags = VERSION | (NEED_REPLY if need_reply else 0)
        self.wire.send(number, payload, flags=flags, fds=fds)
        return self.reply_to(number)

    def reply_to(self, number: int) -> Message:
        """The next message, which must be the reply to this request. Raises as `ask`."""
        name = F(number).name if number in F._value2member_map_ else f"id {number}"
        message = self.wire.receive()
        self._owned.callback(message.close)
        check(message.id == number, f"a reply with the id of {name}", f"id {message.id}")
        wanted = VERSION | REPLY
        check(
            message.flags == wanted,
            f"flags {wanted:#x} in the reply to {name}",
            f"flags {message.flags:#x}",
        )
        return message

    def ask_u64(self, number: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> int:
        """As `ask`, for a reply of one number."""
        message = self.ask(number, payload, fds=fds)
        name = F(number).name
        check(
            len(message.payload) == 8,
            f"8 bytes in the reply to {name}",
            f"{len(message.payload)} bytes",
        )
        return message.u64

    def send(self, number: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> None:
        """Send a request without asking for an acknowledgement."""
        self.wire.send(number, payload, fds=fds)

    def acked_with(self, number: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> int:
        """Ask for an acknowledgement, and return its code (REPLY_ACK has been negotiated)."""
        message = self.ask(number, payload, fds=fds, need_reply=True)
        name = F(number).name if number in F._value2member_map_ else f"id {number}"
        check(
            len(message.payload) == 8,
            f"8 bytes in the acknowledgement of {name}",
            f"{len(message.payload)} bytes",
        )
        check(not message.fds, f"no descriptor with the acknowledgement of {name}", "one came")
        return message.u64

    def accepted(self, number: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> None:
        """Send a valid request, which must be acknowledged with 0, or followed by a barrier.

        Raises:
            Failed: it is refused.
        """
        if ProtocolFeature.REPLY_ACK in self.acked:
            code = self.acked_with(number, payload, fds=fds)
            check(code == 0, f"{F(number).name} acknowledged with 0", f"acknowledged with {code}")
        else:
            self.send(number, payload, fds=fds)
            self.barrier()

    def refused(self, number: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> str:
        """Send an invalid request; how it was refused, by a code or by closing the connection.

        Without REPLY_ACK only closing is visible, and continuing is not forbidden.

        Raises:
            Failed: it is acknowledged with 0, or not answered.
        """
        name = F(number).name if number in F._value2member_map_ else f"id {number}"
        try:
            if ProtocolFeature.REPLY_ACK not in self.acked:
                self.send(number, payload, fds=fds)
                self.barrier()
                return "ignored"
            code = self.acked_with(number, payload, fds=fds)
        except Closed:
            return "closed"
        except Silent as error:
            raise Failed(
                f"{name} refused by a code, or the connection closed", str(error)
            ) from None
        check(
            code != 0,
            f"{name} refused by a non-zero code, or the connection closed",
            "acknowledged with 0",
        )
        try:
            self.barrier()
        except Closed:
            return "closed"  # after the answer, as rust-vmm's back-ends do
        return f"code {code}"

    def not_done(self, number: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> str:
        """As `refused`, for an error that a back-end may detect only after it has answered.

        libvhost-user acknowledges first, and closes the connection after it.

        Raises:
            Failed: it is acknowledged with 0, and the connection continues.
            Observed: it is acknowledged with 0, and the connection closed.
        """
        try:
            return self.refused(number, payload, fds=fds)
        except Failed:
            if self.wire.hangs_up(QUIET):
                observed("acknowledged with 0, and then the connection closed")
            raise

    def barrier(self) -> None:
        """Return when the back-end has handled all messages sent so far.

        Raises:
            WireError: it does not answer.
        """
        self.ask_u64(F.GET_FEATURES)

    def close(self) -> None:
        """Close the connection and release all that the case made, even where some of that fails.

        Raises:
            OSError: some of it was released already.
        """
        with self._owned:
            self.wire.leave(QUIET)
