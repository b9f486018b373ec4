"""Both sessions, against each other and against peers that break the protocol."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.payload_strategies import plain_requests
from vhost_user.codec import HEADER, NEED_REPLY, REPLY, VERSION, encode
from vhost_user.errors import BackendError, FrontendError, Refused, UsageError
from vhost_user.features import ProtocolFeature
from vhost_user.message_spec import MessageSpec, ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payloads import (
    U64,
    Config,
    LogArea,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringState,
)
from vhost_user.session import BackendSession, FrontendSession

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


def test_need_reply_without_negotiation_is_not_answered() -> None:
    """A front-end that sets it anyway is not answered: it would not wait."""
    _, back = pair(P.MQ)
    wire = encode(R.SET_VRING_NUM, VERSION | NEED_REPLY, VringState(0, 64))
    (request,) = back.feed(wire)
    assert not request.need_reply
    assert back.ack(request, 1) == b""


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


@pytest.mark.parametrize("payload", [None, U64(0), LogArea(0, 0)])
def test_all_answers_to_set_log_base_that_peers_give(payload: U64 | LogArea | None) -> None:
    """The specification does not define that reply: peers send 0, 8 or 16 bytes."""
    front, _ = pair()
    fd = os.memfd_create("log")
    front.encode(Request(R.SET_LOG_BASE, LogArea(4096, 0), (fd,)))
    os.close(fd)
    (reply,) = front.feed(encode(R.SET_LOG_BASE, ANSWER, payload))
    assert reply.payload == payload


def test_set_log_base_has_no_reply_without_log_shmfd() -> None:
    """Its own reply is part of that protocol feature."""
    front, _ = pair(P.MQ)
    log = Request(R.SET_LOG_BASE, LogArea(0, 0))
    assert not front.prepare(log).answered
    assert pair()[0].prepare(log).answered


def test_an_empty_reply_to_get_config_is_its_error() -> None:
    """It is returned as a reply without payload."""
    front, back = pair()
    (got,) = back.feed(front.encode(Request(R.GET_CONFIG, Config(0, 0, bytes(8)))))
    assert front.feed(back.answer(got))[0].payload is None


def test_a_refusal_names_ring_and_message_and_the_stream_goes_on() -> None:
    """A non-zero acknowledgement does not break the protocol."""
    front, back = pair()
    requests = [
        Request(R.SET_VRING_NUM, VringState(ring, 64), need_reply=True) for ring in range(3)
    ]
    got = back.feed(b"".join(map(front.encode, requests)))
    with pytest.raises(Refused, match="net0, ring 1, SET_VRING_NUM: refused with code 5") as caught:
        front.feed(b"".join(back.ack(request, 5 * (i == 1)) for i, request in enumerate(got)))
    assert caught.value.code == 5
    assert front.outstanding == 0
    exchange(front, back, Request(R.GET_QUEUE_NUM))


def test_a_refusal_can_be_taken_as_an_answer() -> None:
    """For a caller that inspects acknowledgements."""
    front = FrontendSession("net0", refusals_raise=False)
    front.offered_features = BIT_30
    front.encode(Request(R.SET_PROTOCOL_FEATURES, U64(int(P.REPLY_ACK))))
    front.encode(Request(R.SET_VRING_NUM, VringState(0, 3), need_reply=True))
    assert front.feed(encode(R.SET_VRING_NUM, ANSWER, U64(9)))[0].payload == U64(9)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (encode(R.GET_FEATURES, ANSWER, U64(0)), "the reply to GET_VRING_BASE is due"),
        (encode(R.GET_VRING_BASE, ANSWER, VringState(4, 0)), "answered for ring 4"),
        (encode(R.GET_VRING_BASE, VERSION, VringState(3, 0)), "flags 0x1"),
        (encode(R.GET_VRING_BASE, ANSWER | NEED_REPLY, VringState(3, 0)), "flags 0xd"),
        (encode(R.GET_VRING_BASE, ANSWER, None), "no payload of 0 bytes"),
        (encode(R.GET_VRING_BASE, ANSWER, LogArea(0, 0)), "16 bytes"),
        (encode(R.GET_VRING_BASE, ANSWER, VringState(3, 0)) * 2, "answered without a request"),
    ],
)
def test_a_back_end_that_answers_wrongly(answer: bytes, words: str) -> None:
    """Wrong id, ring, flags or size, or an answer without a request."""
    front, _ = pair()
    front.encode(Request(R.GET_VRING_BASE, VringState(3, 0)))
    with pytest.raises(BackendError, match=words):
        front.feed(answer)
    with pytest.raises(BackendError, match="sent more"):
        front.feed(b"x")


def test_descriptors_of_an_acknowledgement_are_closed() -> None:
    """The caller does not expect them, and would not close them."""
    front, _ = pair()
    front.encode(Request(R.SET_VRING_NUM, VringState(0, 1), need_reply=True))
    fd = os.dup(0)
    with pytest.raises(BackendError):
        front.feed(encode(R.SET_VRING_NUM, ANSWER, U64(0)), [fd])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(R.SET_VRING_NUM, U64(0)), "no U64 as its payload"),
        (Request(R.SET_VRING_NUM), "no NoneType"),
        (Request(R.GET_FEATURES, U64(0)), "no U64"),
        (Request(R.SET_VRING_NUM, VringState(64, 0)), "there are 64 rings"),
        (Request(R.SET_VRING_KICK, U64(200), (0,)), "there are 64 rings"),
        (Request(R.SET_VRING_NUM, VringState(0, 0), (0,)), "takes 0 descriptors, not 1"),
        (Request(R.SET_VRING_KICK, U64(0)), "not 0"),
        (Request(R.SET_VRING_NUM, VringState(0, -1)), "does not fit"),
        (Request(99), "no message with id 99"),  # type: ignore[arg-type]
    ],
)
def test_invalid_requests_of_the_caller(request_: Request, words: str) -> None:
    """The session raises, and no reply is due."""
    front, _ = pair()
    with pytest.raises(UsageError, match=words):
        front.encode(request_)
    assert front.outstanding == 0


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (encode(R.SET_VRING_NUM, VERSION, VringState(64, 0)), "ring 64.*there are 64 rings"),
        (encode(R.SET_VRING_ENABLE, VERSION, VringState(2**31, 0)), "there are 64 rings"),
        (encode(R.SET_FEATURES, VERSION, U64(1 << 5)), "0x20 were not offered"),
        (encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(1 << 17)), "0x20000 were not offered"),
        (encode(R.POSTCOPY_END, VERSION, None), "PAGEFAULT, not negotiated"),
        (encode(R.CLOSE_CRYPTO_SESSION, VERSION, U64(0)), "pointers"),
        (encode(R.SET_BACKEND_REQ_FD, VERSION, None), "without its 1 descriptor"),
        (encode(R.GET_SHMEM_CONFIG, VERSION, None), "SHMEM, not negotiated"),
    ],
)
def test_invalid_requests_of_a_front_end(wire: bytes, words: str) -> None:
    """Rings that do not exist, bits that were not offered, gates that are closed."""
    _, back = pair()
    with pytest.raises(FrontendError, match=words):
        back.feed(wire)


def test_descriptors_behind_a_closed_gate_are_closed() -> None:
    """A message may be well formed and not allowed: its descriptors are closed."""
    _, back = pair()
    fd = os.dup(0)
    with pytest.raises(FrontendError, match="BACKEND_REQ"):
        back.feed(encode(R.SET_BACKEND_REQ_FD, VERSION, None), [fd])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_protocol_feature_without_what_it_needs() -> None:
    """At the back-end it is the caller's error; in SET_PROTOCOL_FEATURES the front-end's fault."""
    wants = P.INBAND_NOTIFICATIONS | P.BACKEND_REQ | P.REPLY_ACK
    with pytest.raises(UsageError, match="INBAND"):
        BackendSession("d", features=0, protocol_features=P.INBAND_NOTIFICATIONS, num_queues=1)
    back = BackendSession("d", features=BIT_30, protocol_features=wants, num_queues=1)
    with pytest.raises(FrontendError, match="INBAND"):
        back.feed(encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(P.INBAND_NOTIFICATIONS))))


def test_rings_may_be_enabled_before_set_features() -> None:
    """QEMU's virtio-net does so: until SET_FEATURES arrives, offering bit 30 is enough."""
    back = BackendSession("d", features=BIT_30, protocol_features=P.MQ, num_queues=2)
    enable = encode(R.SET_VRING_ENABLE, VERSION, VringState(1, 1))
    back.feed(enable)
    assert back.rings[1].enabled
    back.feed(encode(R.SET_FEATURES, VERSION, U64(0)))
    with pytest.raises(FrontendError, match="bit 30 negotiated"):
        back.feed(enable)


def test_a_change_counts_for_the_messages_behind_it_in_the_same_read() -> None:
    """A message may arrive with the one that allows it."""
    back = BackendSession("d", features=BIT_30, protocol_features=P.MQ, num_queues=2)
    got = back.feed(
        encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(P.MQ)))
        + encode(R.GET_QUEUE_NUM, VERSION, None)
    )
    assert back.answer_from_state(got[1]) == U64(2)


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


def test_answers_that_do_not_fit() -> None:
    """The wrong payload, too many descriptors, an answer that is not due."""
    front, back = pair()
    (base,) = back.feed(front.encode(Request(R.GET_VRING_BASE, VringState(0, 0))))
    (num,) = back.feed(front.encode(Request(R.SET_VRING_NUM, VringState(0, 0))))
    with pytest.raises(UsageError, match="LogArea"):
        back.answer(base, LogArea(0, 0))
    with pytest.raises(UsageError, match="0 descriptors, not 1"):
        back.answer(base, VringState(0, 0), [0])
    with pytest.raises(UsageError, match="does not fit"):
        back.answer(base, VringState(0, 2**32))
    with pytest.raises(UsageError, match="no reply due"):
        back.answer(num, U64(0))


@pytest.mark.parametrize("row", FRONTEND_MESSAGES.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("agreed", [P.REPLY_ACK, P.REPLY_ACK | P.LOG_SHMFD])
def test_what_an_acknowledgement_can_refuse(agreed: ProtocolFeature, row: MessageSpec) -> None:
    """Everything without a reply of its own; the reply to SET_LOG_BASE depends on LOG_SHMFD."""
    back = BackendSession("net0", features=BIT_30, protocol_features=agreed, num_queues=1)
    back.feed(encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(agreed))))
    own = {ReplyRule.ALWAYS: True, ReplyRule.IF_LOG_SHMFD: P.LOG_SHMFD in agreed}
    request = Request(R(row.id), need_reply=True)
    assert back.can_refuse(request) != own.get(row.reply, False)


@given(st.sampled_from([R.SET_VRING_BASE, R.SET_VRING_NUM]), st.integers(0, 0xFFFF))
def test_a_message_with_another_number_is_the_one_that_was_asked_for(
    kind: FrontendRequest, num: int
) -> None:
    """Encoded early and changed late, it is the same as encoded late."""
    front, _ = pair()
    early = front.prepare(Request(kind, VringState(7, 0), need_reply=True))
    assert early.with_num(num) == front.prepare(Request(kind, VringState(7, num), need_reply=True))


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
