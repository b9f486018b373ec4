"""What compiled code forwards, and what it leaves."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
from itertools import accumulate
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

SMALL = 40

pytestmark = pytest.mark.skipif(not native.available, reason="the extension was not built")


def message(size: int) -> bytes:
    """A message with so many bytes of payload."""
    return HEADER.pack(FrontendRequest.SET_MEM_TABLE, VERSION, size) + bytes(size)


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
    send_with(way.sender, message(8), 3)
    (piece,) = way.path.run()
    assert piece == (way.source.fileno(), piece.time, message(8), 3, 20, ())
    assert open_fds() == before
    assert everything(way.receiver) == [(b"one", 0), (message(8), 3)]


def test_a_descriptor_that_is_not_routed_is_left(way: Way) -> None:
    way.path.route(way.source.fileno(), None)
    way.sender.send(b"one")
    assert way.path.run() == []
    assert way.source.recv(10) == b"one"


def test_the_end_is_left(way: Way) -> None:
    way.sender.close()
    assert way.path.run() == []
    assert way.source.recv(10) == b""


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(FrontendRequest.SET_BACKEND_REQ_FD, VERSION, 0),  # its descriptor is replaced
        message(8)[:10],
        message(8)[:-1],
        message(8) + message(0),
    ],
)
def test_descriptors_with_anything_but_one_message_are_left(way: Way, data: bytes) -> None:
    """Without descriptors the same bytes are forwarded."""
    way.sender.send(data)
    assert [piece.data for piece in way.path.run()] == [data]
    send_with(way.sender, data, 1)
    assert way.path.run() == []
    assert everything(way.source) == [(data, 1)]


def test_descriptors_that_come_with_a_payload(way: Way) -> None:
    """The first byte is forwarded alone: which one has the descriptors is not known before."""
    data = message(8)
    way.sender.send(data[: HEADER.size])
    send_with(way.sender, data[HEADER.size :], 1)
    assert [(piece.data, piece.sent) for piece in way.path.run()] == [(data[:1], 1)]
    assert positions(everything(way.source))[0] == data[1:]


def test_descriptors_that_come_later_in_a_read_are_left(way: Way) -> None:
    """And what is before them, in one piece: only who knows where messages begin can divide it."""
    way.sender.send(b"abcde")
    send_with(way.sender, b"fghij", 2)
    assert way.path.run() == []
    assert everything(way.source) == [(b"abcde", 0), (b"fghij", 2)]


@pytest.mark.parametrize("count", [0, 2])
def test_what_a_sink_does_not_take_is_returned(way: Way, count: int) -> None:
    """With its descriptors; and it is the last piece."""
    way.sink.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while way.sink.send(bytes(1 << 16)):
            pass
    if count:
        send_with(way.sender, message(8), count)
    else:
        way.sender.send(message(8))
    (piece,) = way.path.run()
    assert (piece.data, piece.fd_count, piece.sent) == (message(8), count, 0)
    assert len(piece.fds) == count
    assert all(os.eventfd_read(fd) == number for number, fd in enumerate(piece.fds, 1))
    close_all(piece.fds)


def test_descriptors_without_room_are_reported(way: Way, owned: ExitStack) -> None:
    """None of those that came is left open, and nothing is sent."""
    send_with(way.sender, message(8), 3)
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


def test_what_was_read_first_is_inspected_first(owned: ExitStack) -> None:
    """Also when a side reads, and the other one sends more, before all pieces were taken."""
    rig = Rig()
    owned.callback(rig.close)
    seen: list[int] = []
    for inspector in (rig.requests, rig.replies):
        setattr(inspector, "inspect", lambda _data, _fds, time: seen.append(time))  # noqa: B010
    rig.relay._back.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # the least there is
    rig.front.send(bytes(8000))
    rig.back.send(b"reply")
    pieces = rig.fast_path.run()
    assert [piece.sent == len(piece.data) for piece in pieces] == [False, True]
    rig.front.send(b"more")
    came = len(rig.back.recv(1 << 16))
    for piece in pieces:
        rig.relay.take(piece)
    while came < 8004:
        rig.settle()
        came += len(rig.back.recv(1 << 16))
    assert len(seen) == 3
    assert seen == sorted(seen)


def are_whole(pieces: list[tuple[bytes, int]], sent: list[tuple[bytes, int]]) -> bool:
    """Whether all pieces begin where something begins that was sent, large ones left out."""
    begins, at = set(), 0
    for data, _ in sent:
        begins |= {at} if len(data) <= SMALL else set(range(at, at + len(data)))
        at += len(data)
    return set(accumulate((len(data) for data, _ in pieces), initial=0)) <= begins | {at}


writes = st.lists(
    st.tuples(
        st.sampled_from(["front", "back"]),
        st.one_of(
            st.binary(min_size=1, max_size=SMALL),
            st.builds(message, st.integers(0, 20)),
            st.just(bytes(70_000)),
        ),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("fast_path")
@given(writes=writes)
def test_whatever_is_sent_arrives(writes: list[tuple[str, bytes, int, bool]]) -> None:
    """In both directions, with the descriptors at their byte, and nothing in more pieces than sent.

    A back-end may take a part of a header for an error. After some writes the relay has its turn;
    what it has read is what its inspectors see.
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
            if pause or len(data) > SMALL:  # a socket has room for some
                settle()
        settle()
        seen = {"front": rig.requests.pieces, "back": rig.replies.pieces}
        for name in peers:
            for pieces in (came[name], seen[name]):
                assert positions(pieces) == positions(sent[name])
            assert are_whole(seen[name], sent[name])
