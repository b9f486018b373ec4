"""The back-end's session, also against front-ends that break the protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.sessions import ALL, BIT_30, P, R, pair
from tests.vhost_user.streams import pieces, streams
from vhost_user import tracing
from vhost_user.backend_session import BackendSession
from vhost_user.codec import NEED_REPLY, VERSION, encode
from vhost_user.errors import FrontendError, UsageError
from vhost_user.message_spec import MessageSpec, ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, Request, RequestRun
from vhost_user.payloads import U64, LogArea, VringState
from vhost_user.states import RingState
from vhost_user.trace_events import BACKEND_READ, RING_STATE

if TYPE_CHECKING:
    from vhost_user.features import ProtocolFeature
    from vhost_user.tracing import TraceEvent


def test_need_reply_without_negotiation_is_not_answered() -> None:
    """A front-end that sets it anyway is not answered: it would not wait."""
    _, back = pair(P.MQ)
    wire = encode(R.SET_VRING_NUM, VERSION | NEED_REPLY, VringState(0, 64))
    (request,) = back.feed(wire)
    assert not request.need_reply
    assert back.ack(request, 1) == b""


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


SKIP_DRAIN = P.GET_VRING_BASE_SKIP_DRAIN | P.GET_VRING_BASE_INFLIGHT


def _session() -> BackendSession:
    """One with few rings that allows all messages for rings."""
    back = BackendSession(
        "net0",
        features=BIT_30,
        protocol_features=ALL | P.BACKEND_REQ | P.INBAND_NOTIFICATIONS | SKIP_DRAIN,
        num_queues=4,
    )
    agreed = U64(int(back.offered_protocol_features))
    back.feed(encode(R.SET_PROTOCOL_FEATURES, VERSION, agreed))
    back.feed(encode(R.SET_FEATURES, VERSION, U64(BIT_30)))
    return back


@given(streams(4), st.data())
def test_runs_are_the_same_requests(stream: bytes, data: st.DataObject) -> None:
    """And have the same effects, however the stream is cut; with the same error at the end."""
    ones, others = _session(), _session()
    for piece in pieces(data, stream):
        expected: list[Request] = []
        error = ""
        try:
            expected = ones.feed(piece)
        except FrontendError as raised:
            error = str(raised)
        got: list[Request] = []
        try:
            for item in others.feed_runs(piece):
                got += [item] if isinstance(item, Request) else item.requests()
            failed = ""
        except FrontendError as raised:
            failed = str(raised)
        assert (got, failed) == (expected, error)
        assert [ring.state for ring in others.rings] == [ring.state for ring in ones.rings]
        if error:
            return


BASES = b"".join(encode(R.GET_VRING_BASE, VERSION, VringState(ring, 0)) for ring in (2, 0, 3))


def test_the_replies_to_a_run_are_those_to_its_requests() -> None:
    """One piece of bytes has all of them."""
    ones, others = _session(), _session()
    replies = [
        ones.answer(request, VringState(request.payload.ring, 7 + at))  # type: ignore[union-attr]
        for at, request in enumerate(ones.feed(BASES))
    ]
    (run,) = others.feed_runs(BASES)
    assert isinstance(run, RequestRun)
    assert others.answer_states(run, [7, 8, 9]) == b"".join(replies)


def test_a_run_without_such_a_reply_is_not_answered() -> None:
    """It is a mistake of the caller, as for a single request."""
    back = _session()
    nums = b"".join(encode(R.SET_VRING_NUM, VERSION, VringState(ring, 8)) for ring in range(3))
    (run,) = back.feed_runs(nums)
    assert isinstance(run, RequestRun)
    with pytest.raises(UsageError, match="no reply due"):
        back.answer_states(run, [0, 0, 0])
    with pytest.raises(UsageError, match="not answered by a VringState"):
        back.answer_states(run._replace(need_reply=True), [0, 0, 0])


@pytest.mark.parametrize("event", [BACKEND_READ, RING_STATE])
def test_there_are_no_runs_while_messages_are_traced(event: TraceEvent) -> None:
    """Each message, and each change of a state, is an event of its own."""
    back = _session()
    for ring in back.rings:
        ring.state = RingState.STARTED
    ours, theirs = os.pipe()
    tracing.enable(event.name, fd=theirs)
    try:
        assert [type(item) for item in back.feed_runs(BASES)] == [Request] * 3
        lines = os.read(ours, 4096).decode().splitlines()
    finally:
        tracing.enable("")
        os.close(ours)
        os.close(theirs)
    assert [f"ring={ring}" in line for ring, line in zip((2, 0, 3), lines, strict=True)] == [
        True
    ] * 3
