"""The contract tests run with every registered accelerator, each in a `Bench`."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.machine.accel import registry
from emu.machine.accel.kvm import KvmAccelerator
from emu.machine.ram import GuestRam
from emu.machine.vcpus import VcpuSet
from tests.emu.guests import Recorder
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.machine.accel.base import Accelerator, ExitHandler
    from emu.machine.accel.kvm_mailbox import Mailbox
    from emu.machine.run_gate import RunGate

VCPUS = 4
MEMORY = 16 << 20


def make(name: str, on_exit: ExitHandler = lambda *_: None) -> Accelerator:
    """An accelerator; the test is skipped where it does not work on this host."""
    try:
        return registry.create(name, on_exit)
    except EmuError as error:
        pytest.skip(str(error))


class Bench:
    """An accelerator with vCPUs and eventfds.

    For accelerators whose vCPUs run a program in Python. An accelerator that runs machine code has
    its own class in `BENCHES`.
    """

    #: Whether the vCPUs run the program of the test themselves.
    emulated = True

    def __init__(self, name: str, vcpus: int = VCPUS) -> None:
        self.exits: list[tuple[int, int]] = []
        self.accel: Accelerator = make(name, lambda *write: self.exits.append(write))
        self.ram = GuestRam(MEMORY)
        self.accel.set_memory(self.ram)
        self.vcpus = VcpuSet(vcpus, self.accel)
        self.gate: RunGate = self.vcpus.gate
        self.guest = Recorder()
        self._fds: list[int] = []

    def start(self) -> None:
        """Start and resume the vCPUs."""
        self.vcpus.start(self.guest)
        self.vcpus.resume()

    def eventfds(self, count: int) -> list[int]:
        fds = eventfd.default().create(count)
        self._fds += fds
        return fds

    def write(self, address: int, value: int = 0) -> None:
        """Make a write of guest code to a notify address."""
        self.accel.mmio_write(address, value)

    def interrupt(self) -> tuple[int, int]:
        """The next (vcpu, vector) that the guest took."""
        return self.guest.next_interrupt()

    def quiet(self) -> bool:
        """Whether the guest takes no interrupt for a moment."""
        return self.guest.quiet()

    def close(self) -> None:
        self.vcpus.stop()
        self.accel.close()
        self.ram.close()
        for fd in self._fds:
            os.close(fd)


class KvmBench(Bench):
    """The vCPUs' code makes the writes, so the vCPUs run from the beginning."""

    emulated = False

    def __init__(self, name: str = KvmAccelerator.name, vcpus: int = VCPUS) -> None:
        super().__init__(name, vcpus)
        super().start()
        # On a busy host an eventfd that is signalled directly after power-on was seen to cause no
        # interrupt, for an unknown reason. Drivers make no requests before the first tick.
        for _ in range(VCPUS):
            self.guest.ticks.get(timeout=TIMEOUT)

    def start(self) -> None:
        """The vCPUs run already."""

    @property
    def mailboxes(self) -> list[Mailbox]:
        assert isinstance(self.accel, KvmAccelerator)
        assert self.accel.drivers is not None
        return self.accel.drivers.mailboxes

    def write(self, address: int, value: int = 0) -> None:
        super().write(address, value)
        self.await_writes()

    def await_writes(self) -> None:
        """Wait until the vCPUs have made the queued writes."""
        wait_until(lambda: not any(mailbox.queued_writes for mailbox in self.mailboxes))


BENCHES: dict[str, Callable[[], Bench]] = {KvmAccelerator.name: KvmBench}


@pytest.fixture(params=registry.ACCELERATORS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = BENCHES.get(request.param, lambda: Bench(request.param))()
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[GuestRam]:
    made = GuestRam(MEMORY)
    yield made
    made.close()


@pytest.fixture
def kvm() -> Iterator[KvmBench]:
    made = KvmBench()
    yield made
    made.close()


@pytest.fixture
def incoming() -> Iterator[KvmBench]:
    """A machine whose vCPUs wait for a state to load."""
    made = KvmBench.__new__(KvmBench)
    super(KvmBench, made).__init__("kvm")
    made.vcpus.start(made.guest)
    yield made
    made.close()
