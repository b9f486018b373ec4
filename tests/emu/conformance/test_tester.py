"""What a case is told of a ring that is to rest."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest

from emu.conformance.back_end.tester import BackEnd
from emu.conformance.memory import MIB, Memory, TestRing
from emu.conformance.verdict import Failed
from emu.conformance.wire import Wire
from vhost_user.features import SPEC

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ring(TestRing):
    """One whose device does ``at_once`` requests while it is kicked."""

    at_once = 0

    def kick(self) -> None:
        """See `TestRing.kick`."""
        super().kick()
        self.memory.write(self.used + 2, struct.pack("<H", self.used_index + self.at_once))


@pytest.fixture
def be() -> Iterator[BackEnd]:
    """A disk that says nothing."""
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


def test_a_ring_that_rests(be: BackEnd, ring: Ring) -> None:
    """Nothing to say."""
    be.idle(ring)
    be.ignored(ring)
    assert ring.avail_index == 1


def test_what_is_done_at_once_is_seen(be: BackEnd, ring: Ring) -> None:
    """A device that polls has served a request before anybody can look."""
    ring.at_once = 1
    with pytest.raises(Failed, match="became 1"):
        be.ignored(ring)


def test_an_index_that_jumps_is_seen(be: BackEnd, ring: Ring) -> None:
    """Many requests may be completed by one step."""
    ring.at_once = 24
    ring.kick()
    with pytest.raises(Failed, match="became 24"):
        be.idle(ring, index=0)
