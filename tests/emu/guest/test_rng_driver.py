"""The guest's entropy driver: what it submits, what it checks, and that it migrates."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.guest.program import GuestProgram
from emu.guest.rng_driver import REQUEST_BYTES, SLOTS
from tests.emu.guest.small_machine import Devices, SmallMachine
from tests.timeouts import TIMEOUT

#: Fills a buffer as a device does; returns how many bytes the device reports.
Serve = Callable[[memoryview], int]


def _random(buffer: memoryview) -> int:
    buffer[:] = os.urandom(len(buffer))
    return len(buffer)


def _short(buffer: memoryview) -> int:
    buffer[:1] = b"x"
    return 1


class Guest(NamedTuple):
    """A machine with two entropy devices of two rings each, and its guest."""

    machine: SmallMachine
    program: GuestProgram
    devices: Devices

    def serve(self, serve: Serve = _random, most: int = 100, twice: int = 0) -> int:
        """Serve up to ``most`` requests of each ring, and raise the interrupts in the guest."""
        served = 0
        for (device, ring), queue in self.devices.queues.items():
            for _ in range(most):
                chain = queue.pop()
                if chain is None:
                    break
                queue.push(chain.head, serve(chain.writable[0]))
                for _ in range(twice):
                    queue.push(chain.head, REQUEST_BYTES)
                served += 1
            queue.arm()
            if queue.publish():
                self.program.interrupt(0, self.machine.vector(device, ring))
        return served

    def ticks(self, count: int) -> None:
        """Ticks of vCPU 0, one millisecond apart."""
        for n in range(count):
            self.program.tick(0, n * 1_000_000)


def _on(machine: SmallMachine, program: GuestProgram, bases: object = None) -> Guest:
    return Guest(machine, program, Devices(machine, program, {}, bases))  # type: ignore[arg-type]


@pytest.fixture
def guest() -> Guest:
    spec = VmSpec(vcpus=1, memory_bytes=64 << 20, groups=(DeviceGroup("rng", 4, 1),))
    machine = SmallMachine(spec)
    program = GuestProgram(spec, machine)
    program.boot()
    return _on(machine, program)


def test_a_heavy_load_keeps_every_slot_busy(guest: Guest) -> None:
    guest.program.start_load("heavy")
    guest.ticks(2)
    rings = len(guest.devices.queues)
    assert guest.program.requests_in_flight() == rings * SLOTS
    for _ in range(3):
        assert guest.serve(most=2) == 2 * rings
    log = guest.program.request_log()
    assert (log.requests, log.completed) == (rings * (SLOTS + 6), rings * 6)
    assert log.intact
    assert guest.program.stats()["rng"] == {"requests": rings * 6, "interrupts": rings * 3}


def test_a_light_load_submits_one_request_at_each_tick(guest: Guest) -> None:
    guest.program.start_load("light")
    guest.ticks(6)
    assert guest.program.requests_in_flight() == 6
    assert guest.serve() == 6


@pytest.mark.parametrize("serve", [_random, _short], ids=["all bytes", "one byte"])
def test_bytes_that_the_device_reports_are_right(guest: Guest, serve: Serve) -> None:
    guest.program.start_load("heavy")
    guest.ticks(2)
    guest.serve(serve)
    assert guest.program.request_log().intact


@pytest.mark.parametrize(
    "serve",
    [
        lambda _buffer: 0,
        lambda _buffer: REQUEST_BYTES,
        lambda buffer: _random(buffer) + 1,
        lambda buffer: _random(buffer) - 1,
    ],
    ids=["none", "none but all reported", "too many reported", "more than reported"],
)
def test_bytes_that_the_device_does_not_report_are_corrupted(guest: Guest, serve: Serve) -> None:
    guest.program.start_load("light")
    guest.ticks(1)
    assert guest.serve(serve) == 1
    assert guest.program.request_log().corrupted == 1


def test_a_second_completion_is_counted(guest: Guest) -> None:
    guest.program.start_load("light")
    guest.ticks(1)
    guest.serve(twice=1)
    assert guest.program.request_log().duplicated == 1


def test_a_request_that_does_not_complete_is_lost(guest: Guest) -> None:
    guest.program.start_load("light")
    guest.ticks(3)
    assert guest.program.quiesce(0.0) == 3
    assert guest.program.request_log().lost == 3


def test_a_quiesced_guest_submits_nothing(guest: Guest) -> None:
    guest.program.start_load("heavy")
    guest.ticks(2)
    guest.program.quiesce(0.0)
    guest.serve()
    guest.ticks(5)
    assert guest.program.requests_in_flight() == 0
    assert guest.program.verify(TIMEOUT).finished
    assert guest.program.request_log().requests == len(guest.devices.queues) * SLOTS


def test_another_process_continues_where_this_one_was_paused(guest: Guest) -> None:
    guest.program.start_load("heavy")
    guest.ticks(2)
    guest.serve(most=1)
    machine = guest.machine.copy()
    program = GuestProgram(guest.machine.spec, machine, guest.program.config)
    program.attach()
    moved = _on(machine, program, guest.devices.bases())
    assert program.requests_in_flight() == len(guest.devices.queues) * SLOTS
    moved.serve(most=3)
    program.quiesce(0.0)
    moved.serve()
    log = program.request_log()
    assert log.completed == log.requests
    assert (log.duplicated, log.corrupted) == (0, 0)


def test_a_reset_device_gets_the_requests_in_flight_again(guest: Guest) -> None:
    guest.program.start_load("heavy")
    guest.ticks(2)
    guest.serve(most=2)
    for device in range(len(guest.devices.queues)):
        assert guest.program.restart_device(device) == SLOTS
    after = _on(guest.machine, guest.program)
    assert after.serve(most=SLOTS) == SLOTS * len(after.devices.queues)
    assert guest.program.request_log().intact
