"""The back-end's session, given any messages.

Invariant: whatever a front-end sends, the back-end's session raises nothing but `FrontendError`,
each request that it returns is one of the table and can be refused as `can_refuse` says, no ring
leaves the states of the table, and no descriptor stays open that no request was returned with.
"""

from __future__ import annotations

import os

from tests.fuzz.reader import Reader
from vhost_user.backend_session import BackendSession
from vhost_user.codec import NEED_REPLY, VERSION, close_all, encode
from vhost_user.errors import FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest
from vhost_user.payload_layout import SHAPES
from vhost_user.payloads import U64
from vhost_user.states import ALL_STATES

_NULL = os.open(os.devnull, os.O_RDONLY)
_RINGS = 4
_IDS = sorted(FRONTEND_MESSAGES)
_PROTOCOL = ProtocolFeature(sum(ProtocolFeature))
_NEGOTIATION = (
    encode(FrontendRequest.GET_FEATURES, VERSION, None),
    encode(FrontendRequest.GET_PROTOCOL_FEATURES, VERSION, None),
    encode(FrontendRequest.SET_PROTOCOL_FEATURES, VERSION, U64(_PROTOCOL)),
    encode(FrontendRequest.SET_FEATURES, VERSION, U64(1 << 30 | 1 << 32)),
)


def one_input(data: bytes) -> None:
    """Byte 0 selects how much is negotiated first; then each message: its row, flags, payload."""
    reader = Reader(data)
    before = os.dup(_NULL)  # the lowest number that is free
    os.close(before)
    session = BackendSession(
        "fuzz",
        features=1 << 26 | 1 << 30 | 1 << 32 | 1 << 33,
        protocol_features=_PROTOCOL,
        num_queues=_RINGS,
    )
    try:
        for message in _NEGOTIATION[: reader.number(1) % 5]:
            session.feed(message)
        while reader.left:
            _send(session, reader)
    except FrontendError:
        pass
    session.abandon()
    after = os.dup(_NULL)
    os.close(after)
    assert after == before, "a descriptor stays open"


def _send(session: BackendSession, reader: Reader) -> None:
    row = FRONTEND_MESSAGES[_IDS[reader.number(1) % len(_IDS)]]
    how = reader.number(1)
    flags = VERSION | (NEED_REPLY if how & 1 else 0)
    size = SHAPES[row.payload[0]].smallest if row.payload else 0
    if how & 2:
        size = reader.number(2)
    body = reader.take(size).ljust(size, b"\0")
    header = row.id.to_bytes(4, "little") + flags.to_bytes(4, "little")
    fds = tuple(os.dup(_NULL) for _ in range((how >> 2) % 8))
    for request in session.feed(header + size.to_bytes(4, "little") + body, fds):
        close_all(request.fds)
        assert request.id in FRONTEND_MESSAGES
        if request.need_reply and session.can_refuse(request):
            session.ack(request, 1)
    for ring in session.rings:
        assert ring.state in ALL_STATES
