"""What every guest driver has by default, and what it calls of its queues."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from emu.guest.config import GuestConfig
from emu.guest.control_page import MODE, Mode
from emu.guest.driver import Driver
from tests.emu.guest.small_machine import SmallMachine, small_spec

if TYPE_CHECKING:
    from emu.guest.control_page import GuestContext
    from emu.guest.layout import UnitPlace
    from tests.emu.guest.conftest import MakeGuest


class Paced(Driver):
    """Counts the ticks of its light load."""

    lights = 0

    def light(self) -> None:
        self.lights += 1


def make(kind: type[Driver], make_guest: MakeGuest) -> tuple[Driver, GuestContext]:
    guest = make_guest(small_spec(net="", blk="2x2"))
    context = guest.program._context
    places: list[UnitPlace] = list(guest.program.layout.units["blk"])
    made = kind(context, places, 0, GuestConfig())
    made.queues = guest.program.disks.queues
    return made, context


def test_each_ring_of_a_queue_has_its_handler(make_guest: MakeGuest) -> None:
    driver, _ = make(Driver, make_guest)
    handlers = list(driver.handlers())
    assert [(device, ring) for device, ring, _ in handlers] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [handler for *_, handler in handlers] == [queue.interrupt for queue in driver.queues]


def test_a_device_is_booted_alone(make_guest: MakeGuest) -> None:
    """By its index on the bus."""
    driver, _ = make(Driver, make_guest)
    booted: list[int] = []

    class Queue:
        def __init__(self, device: int) -> None:
            self.place = driver.queues[2 * device].place
            self.device = device
            self.lock = threading.Lock()

        def boot(self) -> None:
            booted.append(self.device)

    driver.queues = [Queue(0), Queue(1), Queue(1)]  # type: ignore[list-item]
    driver.boot_device(1)
    assert booted == [1, 1]


@pytest.mark.parametrize(
    ("mode", "paused", "lights"),
    [(Mode.LIGHT, False, 1), (Mode.LIGHT, True, 0), (Mode.HEAVY, False, 0), (Mode.QUIET, False, 0)],
)
def test_a_tick_makes_the_light_load_only(
    make_guest: MakeGuest, mode: Mode, paused: bool, lights: int
) -> None:
    driver, context = make(Paced, make_guest)
    assert isinstance(driver, Paced)
    context.set(MODE, mode)
    assert isinstance(context.platform, SmallMachine)
    context.platform.paused = paused
    driver.tick(0)
    assert driver.lights == lights


def test_a_driver_that_counts_nothing_has_nothing_in_flight(make_guest: MakeGuest) -> None:
    driver, _ = make(Driver, make_guest)
    assert (driver.requests_in_flight(), driver.packets_in_flight()) == (0, 0)
    assert (driver.stats(), driver.verified(), driver.begin_verify()) == ({}, (0, 0), ())
    assert driver.units is driver.queues
    driver.close()
    assert list(driver.handlers()) == []
