"""The slots of a transmit ring, with a device that the test drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.guest.transmit import SLOTS, TransmitRing
from tests.emu.guest.small_machine import small_spec

if TYPE_CHECKING:
    from tests.emu.guest.conftest import Guest, MakeGuest

#: The first NIC's first transmit ring.
RING = 1


def _open(guest: Guest) -> TransmitRing:
    place = guest.program.layout.rings[0][RING]
    made = TransmitRing(guest.machine.ram, place, RING, event_idx=True)
    made.refresh()
    return made


@pytest.fixture
def guest(make_guest: MakeGuest) -> Guest:
    """A guest without load: its transmit rings are empty."""
    return make_guest(small_spec(blk=""))


def test_all_slots_of_an_empty_ring_are_free(guest: Guest) -> None:
    """None is in flight."""
    ring = _open(guest)
    assert sorted(ring.free) == list(range(SLOTS))
    assert ring.empty()


def test_a_slot_is_free_again_once_the_device_has_completed_it(guest: Guest) -> None:
    """In the order of the completions."""
    ring, queue = _open(guest), guest.devices.queues[0, RING]
    slots = [ring.free.pop() for _ in range(SLOTS)]
    for slot in slots:
        ring.send(slot)
    ring.publish()
    assert not ring.await_slot()
    assert not ring.empty()
    chain = queue.pop()
    assert chain is not None
    queue.push(chain.head, 0)
    queue.publish()
    assert ring.await_slot()
    assert ring.free == slots[:1]


def test_another_process_derives_the_slots_from_memory(guest: Guest) -> None:
    """Those in flight are not free."""
    ring = _open(guest)
    slot = ring.free.pop()
    ring.send(slot)
    ring.publish()
    other = _open(guest)
    assert slot not in other.free
    assert len(other.free) == SLOTS - 1
    assert not other.empty()
