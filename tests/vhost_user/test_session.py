"""What both sessions have in common, against each other."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.payload_strategies import plain_requests
from tests.vhost_user.sessions import ALL, ANSWER, BIT_30, P, R, exchange, pair
from vhost_user.backend_session import BackendSession
from vhost_user.codec import HEADER, RUN_PAYLOADS, VERSION, encode
from vhost_user.errors import BackendError, FrontendError, UsageError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, YC_LIBVHOST, ProtocolFeature
from vhost_user.frontend_session import FrontendSession
from vhost_user.message_spec import Effect, FdRule, MessageSpec, ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payloads import (
    MAX_RINGS,
    U64,
    Config,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)
from vhost_user.session import ring_of


@pytest.mark.parametrize(
    "row", [row for row in FRONTEND_MESSAGES.values() if row.gate.protocol or row.unsupported]
)
def test_a_gate_is_closed_at_first(row: MessageSpec) -> None:
    """Nothing that depends on a protocol feature can be sent before it is negotiated."""
    with pytest.raises(UsageError) as caught:
        FrontendSession("net0").encode(Request(FrontendRequest(row.id)))
    assert caught.value.message == row.name
    assert row.unsupported in caught.value.text


def test_features_open_and_close_gates() -> None:
    """SET_VRING_ENABLE needs bit 30 negotiated: offering it is not enough for a sender."""
    session = FrontendSession("net0")
    enable = Request(R.SET_VRING_ENABLE, VringState(0, 1))
    with pytest.raises(UsageError, match="feature bit 30 negotiated"):
        session.encode(enable)
    session.encode(Request(R.SET_FEATURES, U64(1 << VHOST_USER_F_PROTOCOL_FEATURES)))
    assert session.encode(enable)
    session.encode(Request(R.SET_FEATURES, U64(0)))
    with pytest.raises(UsageError):
        session.encode(enable)


def test_without_bit_30_all_rings_are_enabled_at_once() -> None:
    """With it, the bits do not change."""
    session = FrontendSession("net0", rings=4)
    session.encode(Request(R.SET_FEATURES, U64(1 << VHOST_USER_F_PROTOCOL_FEATURES)))
    assert not any(ring.enabled for ring in session.rings)
    session.encode(Request(R.SET_FEATURES, U64(0)))
    assert all(ring.enabled for ring in session.rings)


@pytest.mark.parametrize("rings", [0, MAX_RINGS + 1])
def test_rings_that_no_message_can_index(rings: int) -> None:
    """KICK and CALL have eight bits for a ring."""
    with pytest.raises(UsageError, match="rings"):
        BackendSession("net0", features=0, protocol_features=ProtocolFeature(0), num_queues=rings)


def test_a_dialect_changes_what_an_id_is() -> None:
    """Id 44 is another message in yc-libvhost-server."""
    with pytest.raises(UsageError) as caught:
        FrontendSession("net0", dialect=YC_LIBVHOST).encode(Request(R.GET_SHMEM_CONFIG))
    assert caught.value.message == "GET_VRING_BASE_SKIP_DRAIN"


def test_which_ring_a_message_is_about() -> None:
    """In a U64 it is the low eight bits, where the message is about a ring's eventfd."""
    assert ring_of(VringState(5, 0), FdRule.NONE) == 5
    assert ring_of(VringAddr(6, 0, 0, 0, 0, 0), FdRule.NONE) == 6
    assert ring_of(U64(0x107), FdRule.UNLESS_NO_FD) == 7
    assert ring_of(U64(0x107), FdRule.NONE) is None
    assert ring_of(MemTable(()), FdRule.PER_REGION) is None


def test_negotiation_is_known_at_both_ends() -> None:
    """Offered and acknowledged bits, on either side."""
    front, back = pair(P.MQ | P.REPLY_ACK)
    assert front.offered_features == back.offered_features == BIT_30 | 1 << 32
    assert front.features == back.features == BIT_30
    assert front.offered_protocol_features == ALL
    assert front.protocol_features == back.protocol_features == P.MQ | P.REPLY_ACK


@given(st.lists(plain_requests(), max_size=20))
def test_both_ends_agree_on_what_was_asked(requests: list[Request]) -> None:
    """Each request arrives as it was sent; replies due and ring states are the same at both."""
    front, back = pair()
    wire = b""
    for request in requests:
        try:
            wire += front.encode(request)
        except UsageError:
            continue
    try:
        got = back.feed(wire)
    except FrontendError as error:
        # A front-end may set feature bits that were not offered: that is all it can do wrong.
        assert error.message in ("SET_FEATURES", "SET_PROTOCOL_FEATURES")  # noqa: PT017
        return
    assert sum(request.need_reply for request in got) == front.outstanding
    bases = {r.payload.ring for r in got if isinstance(r.payload, VringState) if r.id == 11}
    for mine, theirs in zip(front.rings, back.rings, strict=True):
        assert mine.enabled == theirs.enabled
        assert mine.started == theirs.started or mine.index in bases


@given(st.binary(max_size=200))
def test_garbage_to_either_end(data: bytes) -> None:
    """Whole or byte by byte: a message, or an error with the right fault."""
    for chunks in ([data], [bytes([byte]) for byte in data]):
        front, back = pair()
        front.encode(Request(R.GET_VRING_BASE, VringState(0, 0)))
        for session, fault in ((front, BackendError), (back, FrontendError)):
            try:
                for chunk in chunks:
                    session.feed(chunk)
            except fault:
                pass


def test_need_reply_is_dropped_without_reply_ack() -> None:
    """The flag has no effect unless it was negotiated, and no reply is due."""
    front, back = pair(P.MQ)
    request = Request(R.SET_VRING_NUM, VringState(0, 64), need_reply=True)
    assert not front.prepare(request).answered
    data = front.encode(request)
    assert HEADER.unpack_from(data)[1] == VERSION
    assert front.outstanding == 0
    assert not back.feed(data)[0].need_reply


def test_an_acknowledgement_where_one_was_asked_for() -> None:
    """One U64 with the request's id and exactly the reply flag."""
    front, back = pair()
    request = Request(R.SET_VRING_NUM, VringState(0, 64), need_reply=True)
    assert front.prepare(request).answered
    (got,) = back.feed(front.encode(request))
    answer = back.ack(got)
    assert answer == encode(R.SET_VRING_NUM, ANSWER, U64(0))
    assert front.feed(answer) == [(R.SET_VRING_NUM, U64(0), ())]
    assert front.outstanding == 0


def test_a_message_with_a_reply_of_its_own_gets_that_one_alone() -> None:
    """need_reply changes nothing for it."""
    front, back = pair()
    request = Request(R.GET_VRING_BASE, VringState(3, 0), need_reply=True)
    data = front.encode(request)
    assert HEADER.unpack_from(data)[1] == VERSION
    assert front.outstanding == 1
    (got,) = back.feed(data)
    with pytest.raises(UsageError, match="not answered by a U64"):
        back.ack(got)
    assert front.feed(back.answer(got, VringState(3, 77)))[0].payload == VringState(3, 77)


def test_an_empty_reply_to_get_config_is_its_error() -> None:
    """It is returned as a reply without payload."""
    front, back = pair()
    (got,) = back.feed(front.encode(Request(R.GET_CONFIG, Config(0, 0, bytes(8)))))
    assert front.feed(back.answer(got))[0].payload is None


def started(session: FrontendSession | BackendSession) -> bool:
    """Whether ring 2 is started at that end."""
    return session.rings[2].started


def enabled(session: FrontendSession | BackendSession) -> bool:
    """Whether ring 2 is enabled at that end."""
    return session.rings[2].enabled


def test_ring_states_follow_kicks_and_messages() -> None:
    """Started by a kick, stopped by GET_VRING_BASE at both ends, enabled all the while."""
    front, back = pair()
    exchange(front, back, Request(R.SET_VRING_ENABLE, VringState(2, 1)))
    for session in (front, back):
        session.kicked(2)
        assert started(session)
        assert enabled(session)
    (got,) = back.feed(front.encode(Request(R.GET_VRING_BASE, VringState(2, 0))))
    assert not started(back)
    assert started(front), "until the reply has come it may be worked on"
    front.feed(back.answer(got, VringState(2, 9)))
    assert not started(front)
    assert enabled(front)


@pytest.mark.parametrize(
    "request_",
    [Request(R.RESET_DEVICE), Request(R.SET_STATUS, U64(0)), Request(R.RESET_OWNER)],
)
def test_resets_reach_all_rings(request_: Request) -> None:
    """RESET_OWNER only disables; a status other than 0 would reset nothing."""
    front, back = pair()
    exchange(front, back, Request(R.SET_VRING_ENABLE, VringState(2, 1)))
    back.kicked(2)
    exchange(front, back, Request(R.SET_STATUS, U64(0xF)))
    assert enabled(back)
    exchange(front, back, request_)
    assert not enabled(back)
    assert started(back) == (request_.id == R.RESET_OWNER)


TABLE = MemTable((MemoryRegion(0, 4096, 1 << 20, 0),))


@pytest.mark.parametrize("acks", [P(0), P.REPLY_ACK])
def test_memory_has_a_reply_of_its_own_in_postcopy(acks: ProtocolFeature) -> None:
    """Except the go-ahead; and none before and after postcopy."""
    front, back = pair(P.CONFIGURE_MEM_SLOTS | P.PAGEFAULT | acks, ALL | P.PAGEFAULT)
    fd = os.memfd_create("ram")
    slot = SingleRegion(TABLE.regions[0])
    due = []
    for request in (
        Request(R.SET_MEM_TABLE, TABLE, (fd,)),
        Request(R.POSTCOPY_LISTEN),
        Request(R.SET_MEM_TABLE, TABLE, (fd,)),
        Request(R.SET_MEM_TABLE, U64(0)),
        Request(R.ADD_MEM_REG, slot, (fd,)),
        Request(R.ADD_MEM_REG, U64(0)),
        Request(R.REM_MEM_REG, slot),
        Request(R.POSTCOPY_END),
        Request(R.ADD_MEM_REG, slot, (fd,)),
    ):
        expected = front.prepare(request).answered
        (got,) = back.feed(front.encode(request), [os.dup(each) for each in request.fds])
        assert got.need_reply == expected
        due.append(expected)
        if expected:
            own = request.payload if request.payload else U64(0)
            assert front.feed(back.answer(got, own))[0].payload == own
        for each in got.fds:
            os.close(each)
    os.close(fd)
    assert due == [False, True, True, False, True, False, False, True, False]


def test_a_go_ahead_is_acknowledged_where_that_is_asked_for() -> None:
    """It has no reply of its own, so REPLY_ACK applies."""
    front, back = pair(P.PAGEFAULT | P.REPLY_ACK, ALL | P.PAGEFAULT)
    (listen,) = back.feed(front.encode(Request(R.POSTCOPY_LISTEN)))
    front.feed(back.answer(listen, U64(0)))
    (word,) = back.feed(front.encode(Request(R.SET_MEM_TABLE, U64(0), need_reply=True)))
    assert word.need_reply
    assert front.feed(back.ack(word))[0].payload == U64(0)


@pytest.mark.parametrize(
    "row", [row for row in FRONTEND_MESSAGES.values() if set(row.payload) & set(RUN_PAYLOADS)]
)
def test_a_message_that_comes_in_runs_affects_its_ring_only(row: MessageSpec) -> None:
    """The session checks a run once; its effects on the rings are applied together."""
    affected = row.effect or row.reply_effect
    assert affected in {None, Effect.ENABLE_RING, Effect.KICK_RING, Effect.STOP_RING}
    assert len(row.payload) == 1
    assert row.reply in {ReplyRule.ACK, ReplyRule.ALWAYS}
