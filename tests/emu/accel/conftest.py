"""Every registered accelerator takes the contract tests; what they need of it is a `Bench`."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, says what it is

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from emu import accel
from emu.vcpus import VcpuSet
from tests.emu.guests import Recorder
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.accel import Accelerator
    from emu.gate import Gate

VCPUS = 4


class Bench:
    """An accelerator with vCPUs that run, and eventfds to try it with.

    This one is for accelerators whose guest is a program in Python. One that runs real code brings
    its own, with a guest that writes to doorbells and tells of interrupts, in `BENCHES`.
    """

    def __init__(self, name: str) -> None:
        self.exits: list[tuple[int, int]] = []
        self.accel: Accelerator = accel.create(name, lambda *write: self.exits.append(write))
        self.vcpus = VcpuSet(VCPUS, self.accel)
        self.gate: Gate = self.vcpus.gate
        self.guest = Recorder()
        self._fds: list[int] = []

    def start(self) -> None:
        """The vCPUs run."""
        self.vcpus.start(self.guest)
        self.vcpus.resume()

    def eventfds(self, count: int) -> list[int]:
        fds = eventfd.default().create(count)
        self._fds += fds
        return fds

    def write(self, address: int, value: int = 0) -> None:
        """Guest code writes to a doorbell."""
        self.accel.mmio_write(address, value)

    def interrupt(self) -> tuple[int, int]:
        """The next (vcpu, vector) that the guest took."""
        return self.guest.next_interrupt()

    def quiet(self) -> bool:
        """No interrupt comes."""
        return self.guest.quiet()

    def close(self) -> None:
        self.vcpus.stop()
        self.accel.close()
        for fd in self._fds:
            os.close(fd)


BENCHES: dict[str, Callable[[], Bench]] = {}


@pytest.fixture(params=accel.registered())
def bench(request):
    made = BENCHES.get(request.param, lambda: Bench(request.param))()
    yield made
    made.close()
