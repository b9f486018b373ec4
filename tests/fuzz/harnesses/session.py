"""The back-end's session, given any messages.

Invariant: whatever a front-end sends, the back-end's session raises nothing but `FrontendError`,
each request that it returns is one of the table and can be refused as `can_refuse` says, no ring
leaves the states of the table, and no descriptor stays open that no request was returned with.
In runs the requests, errors and states are the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.fuzz.reader import Reader
from vhost_user.backend_session import BackendSession
from vhost_user.codec import NEED_REPLY, VERSION, close_all, encode
from vhost_user.errors import FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payload_layout import SHAPES
from vhost_user.payloads import U64
from vhost_user.states import ALL_STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vhost_user.messages import RequestRun

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
    session, in_runs = _session(), _session()
    try:
        for message in _NEGOTIATION[: reader.number(1) % 5]:
            session.feed(message)
            in_runs.feed(message)
        while reader.left:
            _send(session, in_runs, reader)
    except FrontendError:
        pass
    session.abandon()
    in_runs.abandon()
    after = os.dup(_NULL)
    os.close(after)
    assert after == before, "a descriptor stays open"


def _session() -> BackendSession:
    return BackendSession(
        "fuzz",
        features=1 << 26 | 1 << 30 | 1 << 32 | 1 << 33,
        protocol_features=_PROTOCOL,
        num_queues=_RINGS,
    )


def _send(session: BackendSession, in_runs: BackendSession, reader: Reader) -> None:
    row = FRONTEND_MESSAGES[_IDS[reader.number(1) % len(_IDS)]]
    how = reader.number(1)
    flags = VERSION | (NEED_REPLY if how & 1 else 0)
    size = SHAPES[row.payload[0]].smallest if row.payload else 0
    if how & 2:
        size = reader.number(2)
    body = reader.take(size).ljust(size, b"\0")
    header = row.id.to_bytes(4, "little") + flags.to_bytes(4, "little")
    wire = header + size.to_bytes(4, "little") + body
    count = (how >> 2) % 8
    if how & 32 and not count:
        wire *= 2 + how // 64
    expected, error = _feed(in_runs.feed_runs, wire, count)
    requests, failed = _feed(session.feed, wire, count)
    assert (requests, failed) == (expected, error), "other requests, or another error, in runs"
    if failed:
        raise FrontendError(failed)
    for request in requests:
        assert request.id in FRONTEND_MESSAGES
        if request.need_reply and session.can_refuse(request):
            session.ack(request, 1)
    for ring, twin in zip(session.rings, in_runs.rings, strict=True):
        assert ring.state in ALL_STATES
        assert ring.state is twin.state


def _feed(
    feed: Callable[[bytes, tuple[int, ...]], Sequence[Request | RequestRun]],
    wire: bytes,
    fds: int,
) -> tuple[list[Request], str]:
    """The requests, without their descriptors, and the error."""
    requests: list[Request] = []
    try:
        for item in feed(wire, tuple(os.dup(_NULL) for _ in range(fds))):
            requests += [item] if isinstance(item, Request) else item.requests()
    except FrontendError as error:
        return [], str(error)
    for request in requests:
        close_all(request.fds)
    return [request._replace(fds=()) for request in requests], ""
