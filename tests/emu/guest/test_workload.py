"""The tick of vCPU 0: it begins a load in batches, and services units after a pause."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from emu.guest.control_page import EPOCH, RESCAN, GuestContext, Unit
from emu.guest.layout import GuestLayout
from emu.guest.workload import PRIME_BATCH, Workload
from tests.emu.guest.small_machine import SmallMachine, small_spec

if TYPE_CHECKING:
    from emu.guest.driver import Driver

COUNT = PRIME_BATCH + 8


class Counted:
    """A unit, and a driver, that counts its calls; one of them may pause the machine."""

    def __init__(self, machine: SmallMachine, *, pauses: bool = False) -> None:
        self.primed = self.serviced = 0
        self.ticks: list[int] = []
        self._machine = machine
        self._pauses = pauses

    def prime(self) -> None:
        self.primed += 1
        self._machine.paused |= self._pauses

    def service(self) -> None:
        self.serviced += 1
        self._machine.paused |= self._pauses

    def tick(self, now_ns: int) -> None:
        self.ticks.append(now_ns)


class Rig:
    """A workload on units of which the sixth may pause the machine."""

    def __init__(self, *, pauses: bool = False) -> None:
        spec = small_spec()
        self.machine = SmallMachine(spec)
        self.context = GuestContext(self.machine, GuestLayout(spec, self.machine.ram.free_regions))
        self.units = [Counted(self.machine, pauses=pauses and n == 5) for n in range(COUNT)]
        self.driver = Counted(self.machine)
        self.workload = Workload(
            self.context, cast("list[Unit]", self.units), (cast("Driver", self.driver),)
        )

    def begin(self) -> None:
        """As `GuestProgram.start_load` does."""
        self.context.set(EPOCH, self.context.control[EPOCH] + 1)

    @property
    def primed(self) -> list[int]:
        return [unit.primed for unit in self.units]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_load_begins_in_batches(rig: Rig) -> None:
    """A tick must not delay the heartbeat; each unit is filled once."""
    rig.workload.tick(1)
    assert sum(rig.primed) == 0
    rig.begin()
    rig.workload.tick(2)
    assert rig.primed == [1] * PRIME_BATCH + [0] * (COUNT - PRIME_BATCH)
    for now in (3, 4, 5):
        rig.workload.tick(now)
    assert rig.primed == [1] * COUNT
    assert rig.driver.ticks == [1, 2, 3, 4, 5]


def test_another_load_begins_with_the_first_unit_again(rig: Rig) -> None:
    rig.begin()
    rig.workload.tick(1)
    rig.begin()
    rig.workload.tick(2)
    rig.workload.tick(3)
    assert rig.primed == [2] * PRIME_BATCH + [1] * (COUNT - PRIME_BATCH)


def test_a_pause_ends_a_batch_and_the_next_tick_goes_on() -> None:
    rig = Rig(pauses=True)
    rig.begin()
    rig.workload.tick(1)
    assert rig.primed == [1] * 6 + [0] * (COUNT - 6)
    rig.machine.paused = False
    rig.workload.tick(2)
    assert sum(rig.primed) == 6 + PRIME_BATCH


def test_units_are_serviced_once_after_a_pause(rig: Rig) -> None:
    """A driver that the pause interrupted has not armed its interrupt."""
    rig.context.rescan()
    rig.workload.tick(1)
    rig.workload.tick(2)
    assert [unit.serviced for unit in rig.units] == [1] * COUNT


def test_a_pause_during_the_service_has_it_done_again() -> None:
    rig = Rig(pauses=True)
    rig.context.rescan()
    rig.workload.tick(1)
    assert [unit.serviced for unit in rig.units] == [1] * 6 + [0] * (COUNT - 6)
    assert rig.context.pulse[RESCAN]


def test_the_pulse_page_is_marked_in_each_tick(rig: Rig) -> None:
    while rig.machine.ram.harvest():
        pass
    rig.workload.tick(1)
    assert rig.context.layout.pulse >> 12 in rig.machine.ram.harvest()
