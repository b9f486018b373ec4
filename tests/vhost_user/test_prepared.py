"""Requests that are encoded before they are sent, one by one and together."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.sessions import ANSWER, R, pair
from vhost_user import tracing
from vhost_user.codec import encode
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringAddr, VringState
from vhost_user.prepared import Batch
from vhost_user.trace_events import RING_STATE, WRITE

if TYPE_CHECKING:
    from vhost_user.frontend_session import FrontendSession
    from vhost_user.tracing import TraceEvent

RINGS = st.integers(0, 63)
REQUESTS = st.lists(
    st.one_of(
        st.builds(
            lambda ring, on, ack: Request(R.SET_VRING_ENABLE, VringState(ring, on), (), ack),
            *(RINGS, st.integers(0, 1), st.booleans()),
        ),
        st.builds(lambda ring: Request(R.GET_VRING_BASE, VringState(ring, 0)), RINGS),
        st.builds(lambda ring: Request(R.SET_VRING_ADDR, VringAddr(ring, 0, 0, 0, 0, 0)), RINGS),
        st.builds(lambda ring: Request(R.SET_VRING_KICK, U64(ring), (7,)), RINGS),
        st.sampled_from([Request(R.RESET_OWNER), Request(R.GET_FEATURES)]),
    ),
    max_size=12,
)


def _states(session: FrontendSession) -> list[object]:
    return [session.outstanding, session.awaited, [ring.state for ring in session.rings]]


@given(REQUESTS)
def test_a_batch_is_its_messages(requests: list[Request]) -> None:
    """The same bytes, the same effects on the session, and the same replies are due."""
    ones, together = pair()[0], pair()[0]
    writes: list[tuple[bytes, tuple[int, ...]]] = []
    for request in requests:
        data = ones.encode(request)
        if request.fds or not writes:
            writes.append((data, request.fds))
        else:
            writes[-1] = (writes[-1][0] + data, writes[-1][1])
    batch = Batch(map(together.prepare, requests))
    assert [message.request for message in batch] == requests
    assert (len(batch), list(batch), batch[2:]) == (
        len(requests),
        list(map(together.prepare, requests)),
        list(batch)[2:],
    )
    assert together.begin(batch) == writes
    assert _states(together) == _states(ones)


@given(REQUESTS)
def test_replies_have_the_positions_of_their_messages(requests: list[Request]) -> None:
    """None stands where no reply was due."""
    session, back = pair()
    batch = Batch(map(session.prepare, requests))
    session.begin(batch)
    replies = []
    for data, fds in batch.writes:
        for request in back.feed(data, [os.dup(0) for _ in fds]):
            for fd in request.fds:
                os.close(fd)
            if request.need_reply:
                answer = request.payload if request.id == R.GET_VRING_BASE else U64(0)
                replies += session.feed(back.answer(request, answer))
    placed = batch.in_order(replies)
    assert [reply is not None for reply in placed] == [message.answered for message in batch]
    assert [reply for reply in placed if reply is not None] == replies


@given(st.lists(st.integers(0, 2**32 - 1), max_size=5), st.booleans())
def test_numbers_that_are_known_late(nums: list[int], acked: bool) -> None:
    """The bytes are those of requests that had them from the start; the others stay."""
    session, _ = pair()
    bases = [Request(R.SET_VRING_BASE, VringState(ring, 0)) for ring in range(len(nums))]
    rest = [
        Request(R.SET_VRING_ENABLE, VringState(ring, 1), (), acked) for ring in range(len(nums) + 1)
    ]
    batch = Batch(map(session.prepare, bases + rest))
    batch.set_nums(nums)
    wanted = [
        request._replace(payload=VringState(ring, num))
        for ring, (request, num) in enumerate(zip(bases, nums, strict=True))
    ] + rest
    assert list(batch) == list(map(session.prepare, wanted))
    assert batch.writes == [(b"".join(message.data for message in batch), ())]


def test_a_number_of_more_than_32_bits() -> None:
    """It is not cut off."""
    session, _ = pair()
    message = session.prepare(Request(R.SET_VRING_BASE, VringState(0, 0)))
    with pytest.raises(struct.error):
        message.with_num(1 << 32)
    with pytest.raises(OverflowError):
        Batch([message]).set_nums([1 << 32])


@pytest.mark.parametrize("event", [WRITE, RING_STATE])
def test_each_message_of_a_batch_is_traced(event: TraceEvent) -> None:
    """And each change of a ring's state."""
    session, _ = pair()
    enable = [Request(R.SET_VRING_ENABLE, VringState(ring, 1)) for ring in (2, 0, 3)]
    batch = Batch(map(session.prepare, enable))
    ours, theirs = os.pipe()
    tracing.enable(event.name, fd=theirs)
    try:
        session.begin(batch)
        lines = os.read(ours, 4096).decode().splitlines()
    finally:
        tracing.enable("")
        os.close(ours)
        os.close(theirs)
    assert [f"ring={ring}" in line for ring, line in zip((2, 0, 3), lines, strict=True)] == [
        True,
        True,
        True,
    ]


def test_the_reply_to_a_batch_ends_it() -> None:
    """What is due is what the batch has made due."""
    session, _ = pair()
    session.begin(Batch([session.prepare(Request(R.GET_VRING_BASE, VringState(1, 0)))]))
    assert session.outstanding == 1
    session.feed(encode(R.GET_VRING_BASE, ANSWER, VringState(1, 5)))
    assert session.outstanding == 0
