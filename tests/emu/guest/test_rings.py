"""A driver's view of one ring: where its parts and its own bytes are."""

from __future__ import annotations

import pytest

from emu.guest.layout import CONTROL_BYTES, GuestLayout
from emu.guest.rings import open_ring
from emu.machine.ram import GuestRam
from tests.emu.guest.small_machine import small_spec
from vhost_user.virtqueue.split_driver import STATE_SIZE


@pytest.mark.parametrize("event_idx", [False, True])
def test_nothing_is_written_before_the_queue_is_reset(*, event_idx: bool) -> None:
    """The state of the queue is in the first bytes beside the ring."""
    spec = small_spec()
    ram = GuestRam(spec.memory_bytes)
    place = GuestLayout(spec, ram.free_regions).units["blk"][0].rings[0]
    where = place.addresses
    queue, control = open_ring(ram, place, 3, event_idx=event_idx)
    assert len(control) == CONTROL_BYTES
    assert bytes(ram.view(place.start, place.length)) == bytes(place.length)
    control[:] = b"\xff" * CONTROL_BYTES
    queue.reset()
    queue.add([(0x1000, 16)], [(0x2000, 1)])
    queue.publish()
    assert bytes(ram.view(where.avail + 2, 2)) == b"\x01\0"
    assert bytes(ram.view(where.desc, 8)) == (0x1000).to_bytes(8, "little")
    assert bytes(ram.view(place.control, STATE_SIZE)) != b"\xff" * STATE_SIZE
    assert bytes(control[STATE_SIZE:]) == b"\xff" * (CONTROL_BYTES - STATE_SIZE)
    assert queue.in_flight == 1
