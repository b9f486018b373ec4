"""Checks of a stopped ring, and of one that is stopped while it is kicked."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from vhost_user.codec import REPLY, VERSION
from vhost_user.features import SPEC
from vhost_user_conformance.back_end.connection import BackEnd, F, vring_state
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.memory import MIB, Memory, TestRing
from vhost_user_conformance.peer.wire import HEADER, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ring(TestRing):
    """A ring whose device serves ``at_once`` requests during a kick."""

    at_once = 0

    def kick(self) -> None:
        """See `TestRing.kick`."""
        super().kick()
        self.memory.write(self.used + 2, struct.pack("<H", self.used_index + self.at_once))


@pytest.fixture
def be() -> Iterator[BackEnd]:
    """A disk that sends nothing."""
    ours, theirs = socket.socketpair()
    with theirs:
        wire = Wire(ours, {}, 1.0)
        yield BackEnd(wire, "blk", SPEC)
        wire.close()


@pytest.fixture
def ring() -> Iterator[Ring]:
    """A ring, in memory of its own."""
    memory = Memory((MIB,))
    made = Ring(memory, 0)
    yield made
    made.close()
    memory.close()


def test_a_ring_that_is_not_served(be: BackEnd, ring: Ring) -> None:
    """It passes."""
    be.check_idle(ring)
    be.check_ignored(ring)
    assert ring.avail_index == 1


def test_what_is_done_at_once_is_seen(be: BackEnd, ring: Ring) -> None:
    """A polling device may serve a request before the case reads the index."""
    ring.at_once = 1
    with pytest.raises(Failed, match="became 1"):
        be.check_ignored(ring)


def test_an_index_that_jumps_is_seen(be: BackEnd, ring: Ring) -> None:
    """Many requests may be completed by one step."""
    ring.at_once = 24
    ring.kick()
    with pytest.raises(Failed, match="became 24"):
        be.check_idle(ring, index=0)


def test_a_stop_with_a_kick_in_its_midst(ring: Ring) -> None:
    """The kick is sent when the header has been read, and before the payload."""
    ours, theirs = socket.socketpair()
    order = []

    def serve() -> None:
        header = theirs.recv(64)
        order.append(len(header))
        os.eventfd_read(ring.kick_fd)
        order.append(len(theirs.recv(64)))
        payload = vring_state(ring.index, 7)
        theirs.sendall(HEADER.pack(F.GET_VRING_BASE, VERSION | REPLY, len(payload)) + payload)

    os.set_blocking(ring.kick_fd, True)
    peer = threading.Thread(target=serve, daemon=True)
    peer.start()
    be = BackEnd(Wire(ours, {}, 5.0), "blk", SPEC)

    def kick() -> None:
        ring.kick()
        order.append(ring.await_heard(5.0))

    with theirs:
        assert be.stop(ring, after_header=kick) == 7
        peer.join(TIMEOUT)
    be.wire.close()
    assert order == [HEADER.size, True, 8]
    assert be.wire.transcript[0] == f"> id {F.GET_VRING_BASE} 8 bytes 00000000 00000000"


def test_an_unread_kick(ring: Ring) -> None:
    """It stays pending until it is cancelled; cancelling again has no effect."""
    ring.kick()
    assert not ring.await_heard(0.01)
    ring.unkick()
    ring.unkick()
    assert ring.await_heard(0.0)
