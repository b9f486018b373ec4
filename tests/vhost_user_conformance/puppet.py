"""A back-end with scripted answers, for cases about features that no program here offers."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from tests.timeouts import TIMEOUT
from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.features import SPEC
from vhost_user.messages import FrontendRequest as F
from vhost_user_conformance.back_end.connection import BackEnd
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.verdict import CaseEnd, Verdict
from vhost_user_conformance.peer.wire import HEADER, Wire, WireError
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from collections.abc import Callable

#: The answer to a message: payload and descriptors.
Answer = tuple[bytes, tuple[int, ...]]
#: Seconds for each answer that a case may wait for in vain.
PATIENCE = 2.0


class Puppet:
    """Answers messages as scripted, and acknowledges others that have need_reply.

    Args:
        features: that it offers.
        protocol_features: that it offers.
        answers: function for the answer to the payload, by id of the message.
        last: id of the message after which it closes the connection.
    """

    def __init__(
        self,
        features: int,
        protocol_features: int,
        answers: dict[int, Callable[[bytes], Answer]],
        *,
        last: int | None = None,
    ) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._last = last
        self._answers = {
            F.GET_FEATURES: lambda _: (features.to_bytes(8, "little"), ()),
            F.GET_PROTOCOL_FEATURES: lambda _: (protocol_features.to_bytes(8, "little"), ()),
            **answers,
        }
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._theirs as sock:
            while head := sock.recv(HEADER.size, socket.MSG_WAITALL):
                number, flags, size = HEADER.unpack(head)
                payload = sock.recv(size, socket.MSG_WAITALL) if size else b""
                answer = self._answers.get(number)
                if answer is not None:
                    self._reply(number, *answer(payload))
                elif flags & NEED_REPLY:
                    self._reply(number, bytes(8), ())
                if number == self._last:
                    return

    def _reply(self, number: int, payload: bytes, fds: tuple[int, ...]) -> None:
        data = HEADER.pack(number, VERSION | REPLY, len(payload)) + payload
        socket.send_fds(self._theirs, [data], fds)

    def back_end(self, device: str = "blk", patience: float = TIMEOUT) -> BackEnd:
        """It, as cases see it."""
        return BackEnd(Wire(self.ours, {}, patience), device, SPEC)

    def judge(self, number: int, device: str) -> tuple[Verdict, str]:
        """The verdict of the case with this number, and its evidence."""
        case = next(case for case in cases_of(BACK_END) if case.id == f"VU-B-{number:04}")
        be = self.back_end(device, PATIENCE)
        try:
            case.run(be)
        except CaseEnd as end:
            return end.verdict, str(end)
        except WireError as error:
            return Verdict.FAIL, str(error)
        finally:
            be.wire.close()
            self._thread.join(TIMEOUT)
        return Verdict.PASS, ""
