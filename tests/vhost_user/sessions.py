"""Two sessions against each other, for tests of either."""

from __future__ import annotations

from vhost_user.backend_session import BackendSession
from vhost_user.codec import REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.frontend_session import FrontendSession
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64

P = ProtocolFeature
R = FrontendRequest
BIT_30 = 1 << 30
ANSWER = VERSION | REPLY
ALL = (
    P.MQ | P.LOG_SHMFD | P.RARP | P.REPLY_ACK | P.NET_MTU | P.CONFIG | P.STATUS | P.RESET_DEVICE
    | P.CONFIGURE_MEM_SLOTS | P.INFLIGHT_SHMFD | P.DEVICE_STATE | P.CROSS_ENDIAN
)  # fmt: skip


def pair(
    agreed: ProtocolFeature = ALL, offered: ProtocolFeature = ALL
) -> tuple[FrontendSession, BackendSession]:
    """Two sessions that have negotiated."""
    back = BackendSession(
        "net0", features=BIT_30 | 1 << 32, protocol_features=offered, num_queues=64
    )
    front = FrontendSession("net0", rings=64)
    for request in (
        Request(R.GET_FEATURES),
        Request(R.GET_PROTOCOL_FEATURES),
        Request(R.SET_PROTOCOL_FEATURES, U64(int(agreed))),
        Request(R.SET_FEATURES, U64(BIT_30)),
    ):
        exchange(front, back, request)
    return front, back


def exchange(front: FrontendSession, back: BackendSession, request: Request) -> None:
    """Send, and answer if the session itself has the answer."""
    for got in back.feed(front.encode(request), request.fds):
        if got.need_reply:
            front.feed(back.answer(got, back.answer_from_state(got)))
