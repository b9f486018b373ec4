"""The front-end's session, given any replies.

Invariant: whatever a back-end replies, the front-end's session raises nothing but `BackendError`,
each reply that it returns answers the request that was due, after an error that is no refusal none
is due any more, and no descriptor stays open that no reply was returned with.
"""

from __future__ import annotations

import os

from tests.fuzz.reader import Reader
from vhost_user.codec import REPLY, VERSION, close_all
from vhost_user.errors import BackendError, Refused, UsageError
from vhost_user.features import ProtocolFeature, missing_dependencies
from vhost_user.frontend_session import FrontendSession
from vhost_user.message_spec import FdRule
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payload_layout import SHAPES
from vhost_user.payloads import U64

_NULL = os.open(os.devnull, os.O_RDONLY)
_RINGS = 4
_IDS = sorted(FRONTEND_MESSAGES)
_ALL = ProtocolFeature(sum(ProtocolFeature))
_OFFERED = {
    FrontendRequest.GET_FEATURES: 1 << 26 | 1 << 30 | 1 << 32 | 1 << 33,
    FrontendRequest.GET_PROTOCOL_FEATURES: int(_ALL),
}
assert not missing_dependencies(_ALL)


def one_input(data: bytes) -> None:
    """Byte 0: how much is negotiated; then each step: a request, and how many replies come."""
    reader = Reader(data)
    before = os.dup(_NULL)  # the lowest number that is free
    os.close(before)
    how = reader.number(1)
    session = FrontendSession("fuzz", rings=_RINGS, refusals_raise=bool(how & 8))
    _negotiate(session, how % 5)
    try:
        while reader.left:
            _request(session, reader)
            for _ in range(reader.number(1) % 4):
                _reply(session, reader)
    except BackendError:
        assert not session.outstanding
    session.abandon()
    after = os.dup(_NULL)
    os.close(after)
    assert after == before, "a descriptor stays open"


def _negotiate(session: FrontendSession, steps: int) -> None:
    for number in list(_OFFERED)[:steps]:
        session.encode(Request(number))
        session.feed(_frame(number, VERSION | REPLY, U64(_OFFERED[number]).pack()))
    if steps > 2:
        session.encode(Request(FrontendRequest.SET_PROTOCOL_FEATURES, U64(int(_ALL))))
    if steps > 3:
        features = U64(_OFFERED[FrontendRequest.GET_FEATURES])
        session.encode(Request(FrontendRequest.SET_FEATURES, features))


def _request(session: FrontendSession, reader: Reader) -> None:
    """A request that the session permits: its row and how (1 byte each), its payload."""
    row = FRONTEND_MESSAGES[_IDS[reader.number(1) % len(_IDS)]]
    how = reader.number(1)
    payload = None
    if row.payload:
        kind = row.payload[how >> 1 & 1 if len(row.payload) > 1 else 0]
        size = SHAPES[kind].smallest
        try:
            payload = kind.unpack(reader.take(size).ljust(size, b"\0"))
        except ValueError:
            return
    fds = (_NULL,) * (0 if row.fds is FdRule.NONE else how >> 2 & 7)
    try:
        session.encode(Request(FrontendRequest(row.id), payload, fds, bool(how & 1)))
    except UsageError:
        return


def _reply(session: FrontendSession, reader: Reader) -> None:
    """How (1 byte), its number and flags unless they are right, its payload; in two pieces."""
    how = reader.number(1)
    due = session.awaited
    number = due.id if due and not how & 1 else reader.number(1)
    flags = reader.number(4) if how & 2 else VERSION | REPLY
    size = reader.number(2) if how & 4 else _usual_size(number)
    frame = _frame(number, flags, reader.take(size).ljust(size, b"\0"))
    fds = tuple(os.dup(_NULL) for _ in range(how >> 4 & 3))
    cut = reader.number(1) if how & 8 else len(frame)
    for piece, came in ((frame[:cut], fds), (frame[cut:], ())):
        owed = session.outstanding
        try:
            replies = session.feed(piece, came)
        except Refused:
            continue
        for reply in replies:
            close_all(reply.fds)
            assert reply.id == number
        assert session.outstanding == owed - len(replies)


def _usual_size(number: int) -> int:
    row = FRONTEND_MESSAGES.get(number)
    kinds = [] if row is None else [kind for kind in row.reply_payload if kind]
    return SHAPES[kinds[0]].smallest if kinds else 8


def _frame(number: int, flags: int, payload: bytes) -> bytes:
    return b"".join(part.to_bytes(4, "little") for part in (number, flags, len(payload))) + payload
