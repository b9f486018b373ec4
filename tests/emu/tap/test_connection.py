"""A connection reports its messages, and leads the back-end channel through the tap."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.tap.connection import Arrived, Closed, Opened, Sender, Unreadable
from tests.emu.tap.taps import Sides, Tap
from vhost_user.codec import NEED_REPLY, REPLY, VERSION, close_all, encode
from vhost_user.messages import BackendRequest, FrontendRequest
from vhost_user.payloads import U64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vhost_user.payload_layout import Payload

pytestmark = pytest.mark.usefixtures("fast_path")


@pytest.fixture
def tap(sides: Sides) -> Iterator[Tap]:
    with Tap([sides.pair]) as made:
        yield made


@pytest.fixture
def ends(sides: Sides, tap: Tap) -> Iterator[tuple[socket.socket, socket.socket]]:
    made = sides.connected()
    yield made
    for sock in made:
        sock.close()


Ends = tuple[socket.socket, socket.socket]


def ask(number: int, payload: Payload | None = None, flags: int = VERSION) -> bytes:
    return encode(number, flags, payload)


def test_messages_of_both_directions(tap: Tap, ends: Ends) -> None:
    front, back = ends
    front.send(ask(FrontendRequest.GET_FEATURES))
    assert back.recv(100) == ask(FrontendRequest.GET_FEATURES)
    back.send(ask(FrontendRequest.GET_FEATURES, U64(7), VERSION | REPLY))
    front.recv(100)
    asked, answered = tap.await_event(Arrived, 2)
    assert isinstance(asked, Arrived)
    assert isinstance(answered, Arrived)
    assert (asked.sender, asked.on_channel) == (Sender.FRONT_END, False)
    assert (answered.sender, answered.message.flags) == (Sender.BACK_END, VERSION | REPLY)
    assert answered.message.payload == U64(7).pack()
    assert asked.message.time <= answered.message.time


def test_what_is_no_message_is_forwarded_all_the_same(tap: Tap, ends: Ends) -> None:
    """It is reported once, and the other direction is still read."""
    front, back = ends
    for data in (b"\xff" * 12, b"more", bytes(5000)):
        front.send(data)
        came = b""
        while len(came) < len(data):
            came += back.recv(len(data) - len(came))
        assert came == data
    back.send(ask(FrontendRequest.GET_FEATURES, U64(7), VERSION | REPLY))
    front.recv(100)
    tap.await_event(Arrived)
    (lost,) = tap.await_event(Unreadable)
    assert isinstance(lost, Unreadable)
    assert lost.sender is Sender.FRONT_END
    assert lost.why.startswith("no header: request 4294967295")


def send_channel(front: socket.socket, back: socket.socket, fd: int) -> int:
    """The descriptor that arrives at the back-end for the one that the front-end sends."""
    message = ask(FrontendRequest.SET_BACKEND_REQ_FD)
    socket.send_fds(front, [message], [fd])
    data, fds, _, _ = socket.recv_fds(back, 100, 4)
    assert data == message
    (came,) = fds
    return came


def test_the_back_end_channel_is_read(tap: Tap, ends: Ends) -> None:
    """Its messages lead through the tap, with their descriptors."""
    front, back = ends
    ours, theirs = socket.socketpair()
    with ours, socket.socket(fileno=send_channel(front, back, theirs.fileno())) as channel:
        theirs.close()
        message = ask(BackendRequest.CONFIG_CHANGE_MSG, flags=VERSION | NEED_REPLY)
        socket.send_fds(channel, [message], [0])
        data, fds, _, _ = socket.recv_fds(ours, 100, 4)
        close_all(fds)
        assert (data, len(fds)) == (message, 1)
        ours.send(ask(BackendRequest.CONFIG_CHANGE_MSG, U64(0), VERSION | REPLY))
        assert channel.recv(100)
        events = [event for event in tap.await_event(Arrived, 3) if isinstance(event, Arrived)]
        on_channel = [(each.sender, each.message.id) for each in events if each.on_channel]
        assert on_channel == [(Sender.BACK_END, 2), (Sender.FRONT_END, 2)]


@pytest.mark.parametrize("leaves", ["front-end", "back-end"])
def test_either_side_ends_the_channel(tap: Tap, ends: Ends, leaves: str) -> None:
    front, back = ends
    ours, theirs = socket.socketpair()
    channel = socket.socket(fileno=send_channel(front, back, theirs.fileno()))
    theirs.close()
    with ours, channel:
        gone, other = (ours, channel) if leaves == "front-end" else (channel, ours)
        gone.close()
        assert other.recv(10) == b""
    front.send(ask(FrontendRequest.GET_FEATURES))
    assert back.recv(100)


def _listening() -> int:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock.detach()


def _datagrams() -> int:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].detach()


@pytest.mark.parametrize(
    "make", [lambda: os.eventfd(5), lambda: os.memfd_create("x"), _listening, _datagrams]
)
def test_what_is_no_channel_arrives_as_it_is(tap: Tap, ends: Ends, make: Callable[[], int]) -> None:
    """The back-end has to see the descriptor that the front-end has sent."""
    fd = make()
    came = send_channel(*ends, fd)
    try:
        assert os.fstat(came).st_ino == os.fstat(fd).st_ino
        links = [Path(f"/proc/self/fd/{each}").readlink() for each in (came, fd)]
        assert links[0] == links[1]
    finally:
        close_all((fd, came))


def test_the_end_says_who_left(sides: Sides, tap: Tap) -> None:
    for who, sender in (("front", Sender.FRONT_END), ("back", Sender.BACK_END)):
        front, back = sides.connected()
        (front if who == "front" else back).close()
        assert (back if who == "front" else front).recv(10) == b""
        front.close()
        back.close()
        closed = tap.await_event(Closed, 1 if who == "front" else 2)[-1]
        assert isinstance(closed, Closed)
        assert (closed.sender, closed.reason) == (sender, "")
    names = [event.connection.name for event in tap.await_event(Opened, 2)]
    assert names == ["dev", "dev#2"]
