"""The front-end's session, also against back-ends that break the protocol."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.sessions import ANSWER, BIT_30, P, R, exchange, pair
from tests.vhost_user.streams import pieces
from vhost_user.codec import NEED_REPLY, VERSION, encode
from vhost_user.errors import BackendError, Refused, UsageError
from vhost_user.frontend_session import FrontendSession
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import U64, LogArea, VringState
from vhost_user.states import RingState


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
    """Wrong id, ring, flags or size, or an answer without a request: no reply is due any more."""
    front, _ = pair()
    front.encode(Request(R.GET_VRING_BASE, VringState(3, 0)))
    with pytest.raises(BackendError, match=words):
        front.feed(answer)
    assert front.outstanding == 0
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


@given(st.sampled_from([R.SET_VRING_BASE, R.SET_VRING_NUM]), st.integers(0, 0xFFFF))
def test_a_message_with_another_number_is_the_one_that_was_asked_for(
    kind: FrontendRequest, num: int
) -> None:
    """Encoded early and changed late, it is the same as encoded late."""
    front, _ = pair()
    early = front.prepare(Request(kind, VringState(7, 0), need_reply=True))
    assert early.with_num(num) == front.prepare(Request(kind, VringState(7, num), need_reply=True))


def _asked(rings: list[int], *, acked: int, runs: bool) -> FrontendSession:
    """A session that waits for the bases of these rings, and then for acknowledgements."""
    front, _ = pair()
    if not runs:
        front._decoder.feed_runs = front._decoder.feed  # type: ignore[assignment, method-assign]
    for ring in front.rings:
        ring.state = RingState.STARTED
    for index in rings:
        front.encode(Request(R.GET_VRING_BASE, VringState(index, 0)))
    for index in range(acked):
        front.encode(Request(R.SET_VRING_NUM, VringState(index, 64), need_reply=True))
    return front


@given(
    st.lists(st.integers(0, 3), max_size=8),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2**32 - 1)), max_size=2),
    st.lists(st.integers(0, 1), max_size=3),
    st.integers(0, 3),
    st.data(),
)
def test_replies_in_runs_are_the_same(
    asked: list[int],
    wrong: list[tuple[int, int]],
    codes: list[int],
    acked: int,
    data: st.DataObject,
) -> None:
    """The replies, the errors, and what is known of the rings, however the stream is cut.

    Some replies are for another ring, some are refusals, and some have not been asked for.
    """
    rings = list(asked)
    for at, ring in wrong:
        rings[at:at] = [ring]
    stream = b"".join(
        encode(R.GET_VRING_BASE, ANSWER, VringState(ring, at)) for at, ring in enumerate(rings)
    )
    stream += b"".join(encode(R.SET_VRING_NUM, ANSWER, U64(code)) for code in codes)
    cuts = pieces(data, stream)
    outcomes = []
    for runs in (False, True):
        front = _asked(asked, acked=acked, runs=runs)
        replies: list[object] = []
        for piece in cuts:
            try:
                replies += front.feed(piece)
            except BackendError as error:
                replies.append(str(error))
        outcomes.append((replies, front.outstanding, [ring.state for ring in front.rings[:4]]))
    assert outcomes[0] == outcomes[1]


def test_the_replies_of_a_run_have_their_payloads() -> None:
    """They are the same objects as those of single replies."""
    front = _asked([2, 0, 3], acked=0, runs=True)
    stream = b"".join(encode(R.GET_VRING_BASE, ANSWER, VringState(ring, 9)) for ring in (2, 0, 3))
    replies = front.feed(stream)
    assert [type(reply.payload) for reply in replies] == [VringState] * 3
    assert replies == [Reply(R.GET_VRING_BASE, VringState(ring, 9)) for ring in (2, 0, 3)]
    assert [ring.started for ring in front.rings[:4]] == [False, True, False, False]
