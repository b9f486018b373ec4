"""The back-end's connection against a front-end on a real socket."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.timeouts import TIMEOUT
from tests.waiting import open_fds
from vhost_user.backend import BackendConnection
from vhost_user.codec import HEADER, NEED_REPLY, REPLY, VERSION, encode
from vhost_user.errors import Disconnected, FrontendError, UsageError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest, Request, RequestRun
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from collections.abc import Iterator

P = ProtocolFeature
R = FrontendRequest
ASK = VERSION | NEED_REPLY
ANSWER = VERSION | REPLY
NUM = encode(R.SET_VRING_NUM, ASK, VringState(0, 128))


def connected() -> tuple[BackendConnection, socket.socket]:
    """A back-end's connection with REPLY_ACK, and the front-end's bare socket."""
    mine, theirs = socket.socketpair()
    back = BackendConnection(
        mine,
        name="net0",
        features=1 << 30,
        protocol_features=P.REPLY_ACK | P.MQ,
        num_queues=32,
    )
    theirs.sendall(encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(P.REPLY_ACK))))
    back.receive()
    theirs.settimeout(TIMEOUT)
    return back, theirs


@pytest.fixture
def ends() -> Iterator[tuple[BackendConnection, socket.socket]]:
    """As `connected`, closed afterwards."""
    back, theirs = connected()
    with back, theirs:
        yield back, theirs


def base(ring: int) -> bytes:
    """GET_VRING_BASE of a ring, on the wire."""
    return encode(R.GET_VRING_BASE, VERSION, VringState(ring, 0))


def answered(ring: int, num: int = 0) -> bytes:
    """Its reply, on the wire."""
    return encode(R.GET_VRING_BASE, ANSWER, VringState(ring, num))


def test_many_messages_in_one_read(ends: tuple[BackendConnection, socket.socket]) -> None:
    """It returns all that have arrived; a part of the next waits for the rest."""
    back, theirs = ends
    wire = b"".join(base(ring) for ring in range(32))
    theirs.sendall(wire[:-1])
    assert len(back.receive()) == 31
    assert back.receive() == []
    theirs.sendall(wire[-1:])
    assert back.receive() == [Request(R.GET_VRING_BASE, VringState(31, 0), (), True)]


def test_descriptors_stay_with_their_messages(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """KICK and CALL of many rings, pipelined with plain messages: each gets its own eventfd."""
    back, theirs = ends
    sent = []
    for ring in range(8):
        for request in (R.SET_VRING_KICK, R.SET_VRING_CALL):
            fd = os.eventfd(100 * ring + request)
            theirs.sendall(encode(R.SET_VRING_NUM, VERSION, VringState(ring, 128)))
            # Two messages in the write that carries the descriptor of the first.
            data = encode(request, VERSION, U64(ring)) + base(ring)
            socket.send_fds(theirs, [data], [fd])
            os.close(fd)
            sent.append((request, ring))
    got = [request for request in back.receive() if request.fds]
    assert [(r.id, r.payload.value) for r in got if isinstance(r.payload, U64)] == sent
    for told in got:
        assert isinstance(told.payload, U64)
        assert os.eventfd_read(told.fds[0]) == 100 * told.payload.value + told.id
        os.close(told.fds[0])


def test_a_deferred_reply_holds_back_those_behind_it(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """Replies are sent in the order of the requests, in whatever order they are given."""
    back, theirs = ends
    theirs.sendall(base(0) + NUM + base(1) + base(1))
    first, acked, second, again = back.receive()
    slot = back.slot(first)
    back.reply(again, VringState(1, 3))
    back.ack(acked)
    back.reply(second, VringState(1, 2))
    assert back.flush()
    theirs.settimeout(0.02)
    with pytest.raises(TimeoutError):
        theirs.recv(1)
    assert (slot.due, back.outstanding) == (True, 4)
    slot.reply(VringState(0, 1))
    assert (slot.due, back.outstanding) == (False, 0)
    assert back.flush()
    ack = encode(R.SET_VRING_NUM, ANSWER, U64(0))
    assert theirs.recv(1000) == answered(0, 1) + ack + answered(1, 2) + answered(1, 3)


@given(st.permutations(range(6)))
def test_any_order_of_answers_leaves_in_the_order_of_requests(order: list[int]) -> None:
    """Some requests are equal: a reply belongs to the object that it was given for."""
    back, theirs = connected()
    with back, theirs:
        theirs.sendall(base(4) * 6)
        requests = back.receive()
        for position in order:
            back.slot(requests[position]).reply(VringState(4, position))
            back.flush()
        wire = theirs.recv(1000)
    assert wire == b"".join(answered(4, position) for position in range(6))


def test_nothing_is_sent_where_no_answer_is_due(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """A handler may acknowledge whatever it has done."""
    back, theirs = ends
    theirs.sendall(encode(R.SET_VRING_NUM, VERSION, VringState(0, 128)))
    (request,) = back.receive()
    slot = back.slot(request)
    assert not slot.due
    slot.ack()
    back.reply(request, U64(0))
    assert not back.wants_write


def test_an_answer_is_given_once(ends: tuple[BackendConnection, socket.socket]) -> None:
    """A second one would be read as the reply to the next request: it raises."""
    back, theirs = ends
    theirs.sendall(base(0) + base(1))
    first, second = back.receive()
    for request in (second, first):
        back.reply(request, VringState(0, 0))
        with pytest.raises(UsageError, match="answered already"):
            back.reply(request, VringState(0, 0))


def test_an_early_answer_is_not_given_twice(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """Nor while it waits for an earlier reply."""
    back, theirs = ends
    theirs.sendall(base(0) + base(1))
    _, second = back.receive()
    back.reply(second, VringState(1, 0))
    with pytest.raises(UsageError, match="answered already"):
        back.reply(second, VringState(1, 0))


def test_a_front_end_that_does_not_read_does_not_block(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """What cannot be sent stays queued, and is sent later."""
    back, theirs = ends
    back._channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    expected = b""
    rounds = 0
    while back.flush():
        theirs.sendall(base(0) * 32)
        for request in back.receive():
            back.reply(request, VringState(0, rounds))
            expected += answered(0, rounds)
        rounds += 1
        assert rounds < 10_000
    assert back.wants_write
    got = b""
    while len(got) < len(expected):
        got += theirs.recv(1 << 20)
        back.flush()
    assert got == expected
    assert not back.wants_write


def test_a_front_end_that_goes(ends: tuple[BackendConnection, socket.socket]) -> None:
    """Its earlier requests are still returned; then `Disconnected` is raised."""
    back, theirs = ends
    theirs.sendall(NUM)
    theirs.close()
    assert len(back.receive()) == 1
    with pytest.raises(Disconnected, match="net0"):
        back.receive()


@pytest.mark.parametrize(
    "writes",
    [
        [(NUM, 1)],
        [(encode(R.SET_VRING_KICK, VERSION, U64(0)), 2)],
        # A good one before the bad one, in an earlier read of the same call.
        [(encode(R.SET_VRING_KICK, VERSION, U64(0)), 1), (HEADER.pack(77, 1, 0), 1)],
        # Descriptors that came with the beginning of a message that is never completed.
        [(encode(R.SET_VRING_KICK, VERSION, U64(0))[:14], 1)],
        [(encode(R.SET_VRING_KICK, VERSION, U64(99)), 1)],
        [(encode(R.SET_BACKEND_REQ_FD, VERSION, None), 1)],
    ],
)
def test_no_descriptor_leaks(
    ends: tuple[BackendConnection, socket.socket], writes: list[tuple[bytes, int]]
) -> None:
    """Whatever is wrong with a message, its descriptors and those before it are closed."""
    back, theirs = ends
    before = open_fds()
    for data, fds in writes:
        socket.send_fds(theirs, [data], [0] * fds)
    try:
        assert back.receive() == []
    except FrontendError:
        pass
    else:
        back.session.abandon()
    assert open_fds() <= before


def test_closing_drops_what_was_not_sent(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """An outstanding answer does not keep the connection open."""
    back, theirs = ends
    theirs.sendall(base(0) + base(1))
    back.reply(back.receive()[1], VringState(1, 0))
    back.close()
    assert back.fileno() == -1
    assert back.outstanding == 0
    assert theirs.recv(10) == b""


def test_a_run_is_one_item_with_one_answer(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """Its replies are those that its requests would have, in their order among the others."""
    back, theirs = ends
    theirs.sendall(base(2) + base(0) + NUM + base(1) + base(1))
    run, acked, last = back.receive_runs()
    assert isinstance(run, RequestRun)
    assert isinstance(acked, Request)
    assert isinstance(last, RequestRun)
    assert run.requests() == [Request(R.GET_VRING_BASE, VringState(r, 0), (), True) for r in (2, 0)]
    back.reply_run(last, [3, 4])
    back.ack(acked)
    assert (back.due(run), back.due(last), back.outstanding) == (True, False, 5)
    back.reply_run(run, [7, 8])
    with pytest.raises(UsageError, match="answered already"):
        back.reply_run(run, [7, 8])
    assert back.flush()
    ack = encode(R.SET_VRING_NUM, ANSWER, U64(0))
    assert theirs.recv(1000) == (
        answered(2, 7) + answered(0, 8) + ack + answered(1, 3) + answered(1, 4)
    )


def test_a_run_may_be_split(ends: tuple[BackendConnection, socket.socket]) -> None:
    """Its requests are answered one by one, in any order."""
    back, theirs = ends
    theirs.sendall(NUM + base(2) + base(0) + NUM)
    first, run, last = back.receive_runs()
    assert isinstance(first, Request)
    assert isinstance(run, RequestRun)
    assert isinstance(last, Request)
    second, third = back.split(run)
    back.ack(last)
    back.reply(third, VringState(0, 8))
    back.ack(first)
    back.reply(second, VringState(2, 7))
    assert back.flush()
    ack = encode(R.SET_VRING_NUM, ANSWER, U64(0))
    assert theirs.recv(1000) == ack + answered(2, 7) + answered(0, 8) + ack


def test_a_run_without_answers_is_split_as_well(
    ends: tuple[BackendConnection, socket.socket],
) -> None:
    """Nothing is sent for its requests."""
    back, theirs = ends
    theirs.sendall(encode(R.SET_VRING_NUM, VERSION, VringState(0, 128)) * 2)
    (run,) = back.receive_runs()
    assert isinstance(run, RequestRun)
    back.reply_run(run, [0, 0])
    assert [request.need_reply for request in back.split(run)] == [False, False]
    assert not back.wants_write
