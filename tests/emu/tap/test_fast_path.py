"""What compiled code forwards, and what it leaves."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import contextlib
import os
import resource
import select
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.tap.fast_path import FastPath, Forwarded
from tests.emu.tap.test_forwarding import everything, positions, send_with, sockets
from tests.emu.tap.test_relay import Rig
from tests.waiting import open_fds
from vhost_user import native
from vhost_user.codec import HEADER, VERSION, close_all
from vhost_user.messages import FrontendRequest

if TYPE_CHECKING:
    from contextlib import ExitStack

pytestmark = pytest.mark.skipif(not native.available, reason="the extension was not built")


class Way:
    """A fast path from the socket of a sender to that of a receiver."""

    def __init__(self, owned: ExitStack) -> None:
        self.sender, self.source = sockets(owned)
        self.sink, self.receiver = sockets(owned)
        epoll = select.epoll()
        owned.callback(epoll.close)
        epoll.register(self.source, select.EPOLLIN)
        self.path = FastPath(epoll)
        self.path.route(self.source.fileno(), self.sink.fileno())


@pytest.fixture
def way(owned: ExitStack) -> Way:
    return Way(owned)


def test_what_is_forwarded_is_recorded(way: Way) -> None:
    """With the number of descriptors; none of them is left open."""
    before = open_fds()
    way.sender.send(b"one")
    (piece,) = way.path.run()
    assert piece == (way.source.fileno(), piece.time, b"one", 0, 3, ())
    send_with(way.sender, b"three", 3)
    (piece,) = way.path.run()
    assert piece == (way.source.fileno(), piece.time, b"three", 3, 5, ())
    assert open_fds() == before
    assert everything(way.receiver) == [(b"one", 0), (b"three", 3)]


def test_a_descriptor_that_is_not_routed_is_left(way: Way) -> None:
    way.path.route(way.source.fileno(), None)
    way.sender.send(b"one")
    assert way.path.run() == []
    assert way.source.recv(10) == b"one"


def test_the_end_is_left(way: Way) -> None:
    way.sender.close()
    assert way.path.run() == []
    assert way.source.recv(10) == b""


@pytest.mark.parametrize("size", [1, HEADER.size, 3 * HEADER.size])
def test_what_may_open_a_channel_is_left(way: Way, size: int) -> None:
    """Its descriptor is to be replaced; without one the same bytes are forwarded."""
    header = HEADER.pack(FrontendRequest.SET_BACKEND_REQ_FD, VERSION, 0)
    data = (header + bytes(2 * HEADER.size))[:size]
    way.sender.send(data)
    assert [piece.data for piece in way.path.run()] == [data]
    send_with(way.sender, data, 1)
    assert way.path.run() == []
    assert everything(way.source) == [(data, 1)]


def test_descriptors_that_come_later_in_a_read_are_left(way: Way) -> None:
    """Only who knows where a message begins reads up to them."""
    way.sender.send(b"abc")
    send_with(way.sender, b"defg", 2)
    assert [(piece.data, piece.sent) for piece in way.path.run()] == [(b"a", 1)]
    assert everything(way.source) == [(b"bc", 0), (b"defg", 2)]


@pytest.mark.parametrize("count", [0, 2])
def test_what_a_sink_does_not_take_is_returned(way: Way, count: int) -> None:
    """With its descriptors; and it is the last piece."""
    way.sink.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while way.sink.send(bytes(1 << 16)):
            pass
    if count:
        send_with(way.sender, b"held", count)
    else:
        way.sender.send(b"held")
    (piece,) = way.path.run()
    assert (piece.data, piece.fd_count, piece.sent) == (b"held", count, 0)
    assert len(piece.fds) == count
    assert all(os.eventfd_read(fd) == number for number, fd in enumerate(piece.fds, 1))
    close_all(piece.fds)


def test_descriptors_without_room_are_reported(way: Way, owned: ExitStack) -> None:
    """None of those that came is left open, and nothing is sent."""
    send_with(way.sender, b"three", 3)
    used = max(int(fd) for fd in open_fds()) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    while (spare := os.dup(0)) < used:
        owned.callback(os.close, spare)
    owned.callback(os.close, spare)
    before = open_fds()
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 2, hard))
    try:
        (piece,) = way.path.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (piece.fd_count, piece.sent, piece.fds) == (-1, 0, ())
    assert open_fds() == before


def test_many_pieces_do_not_overrun_the_log(way: Way) -> None:
    """The loop has its turn when there is no room for a large one."""
    sent = b"".join(bytes([number]) * 60_000 for number in range(20))
    way.sender.setblocking(False)
    way.receiver.setblocking(False)
    came, at = b"", 0
    pieces: list[Forwarded] = []
    while len(came) < len(sent):
        with contextlib.suppress(BlockingIOError):
            at += way.sender.send(sent[at : at + 60_000])
        turn = way.path.run()
        assert all(piece.sent == len(piece.data) for piece in turn)
        pieces += turn
        with contextlib.suppress(BlockingIOError):
            came += way.receiver.recv(1 << 20)
    assert came == sent == b"".join(piece.data for piece in pieces)


writes = st.lists(
    st.tuples(
        st.sampled_from(["front", "back"]),
        st.one_of(st.binary(min_size=1, max_size=40), st.just(bytes(70_000))),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("fast_path")
@given(writes=writes)
def test_whatever_is_sent_arrives(writes: list[tuple[str, bytes, int, bool]]) -> None:
    """In both directions, with the descriptors at their byte, and as if it were read directly.

    After some writes the relay has its turn; what it has read is what its inspectors see.
    """
    with contextlib.ExitStack() as owned:
        rig = Rig()
        owned.callback(rig.close)
        rig.front.setblocking(False)
        rig.back.setblocking(False)
        peers = {"front": (rig.front, rig.back), "back": (rig.back, rig.front)}
        sent: dict[str, list[tuple[bytes, int]]] = {name: [] for name in peers}
        came: dict[str, list[tuple[bytes, int]]] = {name: [] for name in peers}

        def settle() -> None:
            rig.settle()
            for name, (_, receiver) in peers.items():
                while read := everything(receiver):
                    came[name] += read
                    rig.settle()

        for name, data, count, pause in writes:
            if count:
                send_with(peers[name][0], data, count)
            else:
                peers[name][0].send(data)
            sent[name].append((data, count))
            if pause or len(data) > 40:  # a socket has room for some
                settle()
        settle()
        seen = {"front": rig.requests.pieces, "back": rig.replies.pieces}
        for name in peers:
            for pieces in (came[name], seen[name]):
                assert positions(pieces) == positions(sent[name])
