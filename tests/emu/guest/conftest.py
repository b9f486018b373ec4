"""Guests on small machines, ready to run."""
# ruff: noqa: D102 - the names are the documentation

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pytest

from emu.guest.layout import scratch_bytes
from emu.guest.program import GuestProgram
from tests.emu.guest.small_machine import Devices, SmallMachine, run, settle, small_spec

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec
    from emu.guest.config import GuestConfig

TICK_NS = 1_000_000


class Guest(NamedTuple):
    """A machine, its guest, and its devices."""

    machine: SmallMachine
    program: GuestProgram
    devices: Devices

    def ticks(self, count: int, start_ns: int | None = None) -> None:
        """Ticks of vCPU 0, one millisecond apart."""
        begin = time.monotonic_ns() if start_ns is None else start_ns
        for index in range(count):
            self.program.tick(0, begin + index * TICK_NS)

    def run(self, steps: int = 200) -> None:
        run(self.machine, self.program, self.devices, steps)

    def settle(self) -> None:
        settle(self.machine, self.program, self.devices)

    def anew(self) -> Guest:
        """The same VM with devices that start every ring at index 0, as after a reset."""
        devices = Devices(self.machine, self.program, self.devices.disks)
        devices.served, devices.packets = self.devices.served, self.devices.packets
        self.machine.notified.clear()
        return self._replace(devices=devices)

    def move(self) -> Guest:
        """The same VM on another machine, as a migration leaves it: memory and ring bases only."""
        machine = self.machine.copy()
        program = GuestProgram(self.machine.spec, machine, self.program.config)
        program.attach()
        devices = Devices(machine, program, self.devices.disks, self.devices.bases())
        devices.served, devices.packets = self.devices.served, self.devices.packets
        return Guest(machine, program, devices)


MakeGuest = Callable[..., Guest]


@pytest.fixture
def make_guest() -> MakeGuest:
    """Boots guests: a spec, a config, contents of the disks."""

    def make(
        spec: VmSpec | None = None,
        config: GuestConfig | None = None,
        disks: dict[int, bytearray] | None = None,
    ) -> Guest:
        spec = spec or small_spec()
        machine = SmallMachine(spec)
        program = GuestProgram(spec, machine, config)
        program.boot()
        if disks is None:
            disks = {
                device.number: bytearray(scratch_bytes(device.rings))
                for device in spec.devices
                if device.device_class == "blk"
            }
        return Guest(machine, program, Devices(machine, program, disks))

    return make
