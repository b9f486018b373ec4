"""Both directions of a connection, and its ends."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from emu.tap.fast_path import FastPath
from emu.tap.relay import Relay
from tests.emu.tap.test_forwarding import Unchanged, send_with
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("fast_path")


class Rig:
    """A relay, the sockets that its peers have, and the reasons for its end."""

    def __init__(self) -> None:
        self.front, ours = socket.socketpair()
        self.back, other = socket.socketpair()
        for sock in (self.front, self.back):
            sock.settimeout(TIMEOUT)
        self.epoll = select.epoll()
        self.fast_path = FastPath(self.epoll)
        self.reasons: list[str] = []
        self.requests = Unchanged()
        self.replies = Unchanged()
        self.relay = Relay(
            *(ours, other, self.requests, self.replies),
            *(self.epoll, self.fast_path, lambda _, why: self._ended(why)),
        )

    def _ended(self, reason: str) -> None:
        self.reasons.append(reason)

    def turn(self) -> int:
        """Handle what is ready now; returns how much that was."""
        pieces = self.fast_path.run()
        for piece in pieces:
            self.relay.take(piece)
        ready = self.epoll.poll(0)
        for fd, events in ready:
            if not self.relay.closed:
                self.relay.handle(fd, events)
        return len(pieces) + len(ready)

    def settle(self) -> None:
        """Handle everything; fails if the relay would never rest."""
        for _ in range(1000):
            if not self.turn():
                return
        raise AssertionError("it is always ready")

    def close(self) -> None:
        """Close everything."""
        self.relay.close("")
        for sock in (self.front, self.back):
            sock.close()
        self.epoll.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_both_directions(rig: Rig) -> None:
    rig.front.send(b"ask")
    send_with(rig.back, b"answer", 1)
    rig.settle()
    assert rig.back.recv(10) == b"ask"
    data, fds, _, _ = socket.recv_fds(rig.front, 10, 4)
    assert data == b"answer"
    assert len(fds) == 1
    socket.close(fds[0])


@pytest.mark.parametrize("gone", ["front", "back"])
def test_the_end_of_one_side_is_that_of_the_other(rig: Rig, gone: str) -> None:
    """What it had sent before arrives."""
    leaving, staying = (rig.front, rig.back) if gone == "front" else (rig.back, rig.front)
    leaving.send(b"last")
    leaving.close()
    rig.settle()
    assert staying.recv(10) == b"last"
    assert staying.recv(10) == b""
    assert rig.relay.closed
    assert rig.reasons == [""]
    assert rig.relay.front_has_gone == (gone == "front")


def test_a_half_close_leaves_the_other_direction(rig: Rig) -> None:
    rig.front.shutdown(socket.SHUT_WR)
    rig.settle()
    assert rig.back.recv(10) == b""
    rig.back.send(b"still")
    rig.settle()
    assert rig.front.recv(10) == b"still"
    assert not rig.relay.closed


@pytest.mark.parametrize("peer_leaves", [False, True])
def test_a_side_that_does_not_read_costs_no_time(rig: Rig, peer_leaves: bool) -> None:
    """The relay rests until it reads again, also when the other side has gone meanwhile."""
    rig.front.setblocking(False)
    sent = 0
    while True:
        try:
            sent += rig.front.send(bytes(1 << 16))
        except BlockingIOError:
            if not rig.turn():
                break
    if peer_leaves:
        rig.front.close()
    rig.settle()
    assert not rig.relay.closed
    came = 0
    while came < sent:
        came += len(rig.back.recv(1 << 16))
        rig.settle()
    assert came == sent
    assert rig.relay.closed == peer_leaves


def test_a_receiver_that_leaves_ends_it(rig: Rig) -> None:
    """Although there is more to send to it, and the sender is still there."""
    rig.front.send(b"x" * 100)
    rig.back.close()
    rig.settle()
    assert rig.relay.closed
    assert rig.front.recv(10) == b""


def test_the_reason_of_a_close_is_reported_once(rig: Rig) -> None:
    rig.relay.close("because")
    rig.relay.close("again")
    assert rig.reasons == ["because"]
    assert rig.back.recv(10) == b""
