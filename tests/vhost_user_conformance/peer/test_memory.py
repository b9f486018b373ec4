"""The addresses of the suite's rings."""

from __future__ import annotations

import os

import pytest

from vhost_user_conformance.peer.memory import (
    MIB,
    USER_OFFSET,
    Memory,
    TestRing,
)


@pytest.mark.parametrize("size", [2, 64, 1024])
@pytest.mark.parametrize("event_idx", [False, True])
def test_a_ring_at_the_end_of_its_region(size: int, *, event_idx: bool) -> None:
    """Its parts are aligned and disjoint, and the last one ends with the region."""
    memory = Memory((MIB, MIB))
    ring = TestRing(memory, 0, size, start=7, event_idx=event_idx, region=1, at_end=True)
    region, event = memory.regions[1], 2 * event_idx
    assert ring.avail + 4 + 2 * size + event == region.gpa + region.size
    assert ring.used + 4 + 8 * size + event <= ring.avail
    assert ring.desc + 16 * size <= ring.used
    assert (ring.desc % 16, ring.used % 4, ring.avail % 2) == (0, 0, 0)
    assert (ring.avail_index, ring.used_index) == (7, 7)
    assert ring.user_offset == USER_OFFSET
    ring.close()
    memory.close()


def test_no_call_is_left_after_the_last_one() -> None:
    """All that have come are read."""
    memory = Memory((MIB,))
    ring = TestRing(memory, 0)
    os.eventfd_write(ring.call_fd, 2)
    ring.await_last_call(0.01)
    assert not ring.calls()
    ring.close()
    memory.close()


def test_descriptors_that_the_peer_has_made_blocking_block_nothing() -> None:
    """They are the same open file descriptions: its fcntl(2) is for both."""
    memory = Memory((MIB,))
    ring = TestRing(memory, 0)
    for fd in (ring.kick_fd, ring.call_fd):
        os.set_blocking(fd, True)
    assert ring.calls() == 0
    ring.unkick()
    ring.kick()
    ring.unkick()
    assert not ring.await_call(0)
    ring.close()
    memory.close()
