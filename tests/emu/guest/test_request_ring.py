"""The ring that all drivers with requests use: slots, completions, errors, and another process."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from emu.guest.config import GuestConfig
from emu.guest.control_page import OVERDUE, RESCAN
from emu.guest.layout import BLK_SLOTS
from emu.guest.request_ring import BROKEN, DUPLICATED, RequestRing
from tests.emu.guest.small_machine import small_spec
from vhost_user.memory import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.emu.guest.conftest import Guest, MakeGuest
    from vhost_user.virtqueue import DeviceQueue


class Rig(NamedTuple):
    """A ring that belongs to no driver, and its device."""

    guest: Guest
    ring: RequestRing
    device: DeviceQueue

    def add(self, slot: int) -> None:
        """Add a request of two buffers."""
        data = self.guest.program.layout.units["blk"][0].data
        self.ring.add(slot, [(data, 16)], [(data + 64 * slot, 64)])

    def complete(self, count: int = 1) -> None:
        """Have the device complete requests, in their order."""
        for _ in range(count):
            chain = self.device.pop()
            assert chain is not None
            self.device.push(chain.head, 5)
        self.device.publish()

    def run(self) -> list[tuple[int, int]]:
        """Handle completions; returns them."""
        seen: list[tuple[int, int]] = []
        self.ring.handle_completions(lambda slot, written: seen.append((slot, written)))
        return seen


def _on(guest: Guest) -> Rig:
    context, place = guest.program._context, guest.program.layout.units["blk"][0]
    ring = RequestRing(context, place, BLK_SLOTS, event_idx=guest.program.config.event_idx)
    return Rig(guest, ring, guest.devices.queues[0, 0])


@pytest.fixture(params=[True, False], ids=["event-idx", "flags"])
def rig(request: pytest.FixtureRequest, make_guest: MakeGuest) -> Rig:
    made = _on(make_guest(small_spec(net=""), GuestConfig(event_idx=request.param)))
    made.ring.boot()
    return made


def test_a_slot_is_busy_until_its_request_is_completed(rig: Rig) -> None:
    assert rig.ring.free_slots() == [0, 1, 2, 3]
    for slot in (2, 0):
        rig.add(slot)
    rig.ring.kick()
    assert rig.ring.free_slots() == [1, 3]
    assert rig.ring.busy_slots() == [0, 2]
    assert rig.ring.outstanding() == 2
    rig.complete(2)
    assert rig.run() == [(2, 5), (0, 5)]
    assert rig.ring.free_slots() == [0, 1, 2, 3]
    assert rig.ring.request_log()[:3] == (2, 2, 0)


def test_what_a_completion_adds_is_made_available_and_notified(rig: Rig) -> None:
    rig.add(0)
    rig.ring.kick()
    rig.complete()
    rig.device.arm()
    rig.guest.machine.notified.clear()
    rig.ring.handle_completions(lambda slot, _written: rig.add(slot))
    assert list(rig.guest.machine.notified) == [(0, 0)]
    rig.complete()
    assert rig.run() == [(0, 5)]


@pytest.mark.parametrize("head", [1, 40], ids=["inside of a chain", "not added"])
def test_a_completion_of_no_request_is_a_duplicate(rig: Rig, head: int) -> None:
    rig.add(0)
    rig.ring.kick()
    rig.device.push(head, 5)
    rig.device.publish()
    assert rig.run() == []
    assert rig.ring.counters[DUPLICATED] == 1
    assert rig.ring.outstanding() == 1


def test_a_broken_ring_has_no_free_slot_and_is_left_alone(rig: Rig) -> None:
    rig.add(0)
    rig.ring.kick()
    rig.device.push(40, 5)
    rig.device.publish()
    rig.run()
    assert rig.ring.counters[BROKEN] == 1
    assert rig.ring.free_slots() == []
    rig.complete()
    assert rig.run() == []


def test_a_pause_leaves_the_rest_to_the_next_tick(rig: Rig) -> None:
    context = rig.guest.program._context
    for slot in range(3):
        rig.add(slot)
    rig.ring.kick()
    rig.complete(3)
    rig.guest.machine.paused = True
    assert len(rig.run()) == 1
    assert context.pulse[RESCAN] == 1
    rig.guest.machine.paused = False
    assert len(rig.run()) == 2


def test_another_process_knows_which_slots_are_busy(rig: Rig) -> None:
    for slot in (3, 1):
        rig.add(slot)
    rig.ring.kick()
    other = _on(rig.guest.move())
    assert other.ring.busy_slots() == [1, 3]
    other.complete(2)
    assert other.run() == [(3, 5), (1, 5)]


def test_memory_that_is_written_behind_its_back_is_read_again_after_attach(rig: Rig) -> None:
    """As in the destination of a migration, whose guest is made before memory arrives."""
    other = _on(rig.guest.move())
    other.run()
    rig.add(2)
    rig.ring.kick()
    for gpa, length in rig.guest.machine.ram.extents():
        other.guest.machine.ram.view(gpa, length)[:] = rig.guest.machine.ram.view(gpa, length)
    other.guest.program.attach()
    other.complete()
    assert other.run() == [(2, 5)]


@pytest.mark.parametrize("change", [RequestRing.boot, RequestRing.kick, RequestRing.mark])
def test_each_change_marks_the_rings_page(rig: Rig, change: Callable[[RequestRing], None]) -> None:
    ram = rig.guest.machine.ram
    rig.add(0)
    ram.harvest()
    change(rig.ring)
    page = rig.guest.program.layout.units["blk"][0].rings[0].start >> PAGE_SHIFT
    assert ram.harvest() == {page}


def test_completions_mark_the_rings_page(rig: Rig) -> None:
    ram = rig.guest.machine.ram
    rig.add(0)
    rig.ring.kick()
    rig.complete()
    ram.harvest()
    assert rig.run() == [(0, 5)]
    assert ram.harvest() == {rig.guest.program.layout.units["blk"][0].rings[0].start >> PAGE_SHIFT}


def test_what_is_outstanding_when_overdue_is_lost(rig: Rig) -> None:
    rig.add(0)
    rig.ring.kick()
    assert rig.ring.request_log().lost == 0
    rig.guest.program._context.set(OVERDUE, 1)
    assert rig.ring.request_log().lost == 1


def _restart(rig: Rig) -> tuple[int, list[int]]:
    """Restart the ring with the requests of `Rig.add`; returns the count, and what it completed."""
    data = rig.guest.program.layout.units["blk"][0].data
    seen: list[int] = []
    again = rig.ring.restart(
        lambda slot, _written: seen.append(slot),
        lambda slot: ([(data, 16)], [(data + 64 * slot, 64)], None),
    )
    return again, seen


@pytest.mark.parametrize("order", [(0, 1), (3, 1), (2,), (), (3, 2, 1, 0)], ids=str)
def test_a_restart_submits_what_is_in_flight_again(rig: Rig, order: tuple[int, ...]) -> None:
    """Whatever the order of the completions, and although the vCPUs are to pause."""
    for slot in range(4):
        rig.add(slot)
    rig.ring.kick()
    chains = [rig.device.pop() for _ in range(4)]
    for slot in order:
        chain = chains[slot]
        assert chain is not None
        rig.device.push(chain.head, 5)
    rig.device.publish()
    rig.guest.machine.paused = True
    assert _restart(rig) == (4 - len(order), list(order))
    rig.guest.machine.paused = False
    assert rig.ring.busy_slots() == sorted({0, 1, 2, 3} - set(order))
    fresh = _on(rig.guest.anew())._replace(ring=rig.ring)
    fresh.complete(4 - len(order))
    assert fresh.device.pop() is None
    assert [slot for slot, _ in fresh.run()] == sorted({0, 1, 2, 3} - set(order))
    assert rig.ring.request_log().intact
    assert rig.ring.outstanding() == 0


def test_a_restart_makes_a_broken_ring_usable_and_keeps_the_count(rig: Rig) -> None:
    rig.add(0)
    rig.ring.kick()
    rig.device.push(40, 5)
    rig.device.publish()
    assert _restart(rig) == (1, [])
    assert rig.ring.counters[DUPLICATED] == 1
    assert rig.ring.free_slots() == [1, 2, 3]
