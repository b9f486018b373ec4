"""The time of KVM's notifiers and vCPUs: one by one, in a batch, and from several threads.

Each machine has vCPUs that are in KVM_RUN, halted, as an idle guest's are: deassigning a notifier
waits until none of them can be using it any more.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bench.floor_program import NoCompilerError, measure_vcpus
from devices.notifiers import ANY_VALUE, Ioeventfd
from emu.errors import EmuError
from emu.machine.accel.kvm import KvmAccelerator
from emu.machine.ram import GuestRam
from emu.machine.vcpus import VcpuSet
from vhost_user.eventfd import PythonEventfds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.figures import Figure
    from emu.machine.accel.kvm_vm import KernelMachine

#: Rings of the RFC's VM, and the address of the first one's notify address.
RINGS = 608
NOTIFY_BASE = 0xE000_0000
MEMORY = 64 << 20
VCPUS = (1, 16, 224)
WORKERS = 4
ROUNDS = 5
VCPU_ROUNDS = 15
#: Seconds until the vCPUs that have entered KVM_RUN are halted.
SETTLE = 0.002
TIMEOUT = 10.0


class Idle:
    """A guest whose drivers do nothing."""

    def interrupt(self, vcpu: int, vector: int) -> None:
        """Nothing."""

    def tick(self, vcpu: int, now_ns: int) -> int | None:  # noqa: ARG002  the accelerator's
        """Nothing."""
        return None

    def beat(self, now_ns: int) -> None:
        """Nothing."""


class Rig:
    """A machine whose vCPUs run, and an eventfd for each ring."""

    def __init__(self, vcpus: int) -> None:
        self.accel = KvmAccelerator(lambda *_: None)
        self.kernel: KernelMachine = self.accel.kernel
        self.ram = GuestRam(MEMORY)
        self.accel.set_memory(self.ram)
        self.vcpus = VcpuSet(vcpus, self.accel)
        self.vcpus.start(Idle())
        self.vcpus.resume()
        self.count = vcpus
        self.fds = PythonEventfds().create(RINGS)
        self.ioeventfds = [
            Ioeventfd(NOTIFY_BASE + 4 * n, 4, ANY_VALUE, fd) for n, fd in enumerate(self.fds)
        ]
        self.irqfds = list(enumerate(self.fds))
        self.table = self.kernel.make_routes(RINGS)
        for ring in range(RINGS):
            self.table[ring].apic, self.table[ring].vector = ring % vcpus, 64 + ring % 128
        self.kernel.set_routes(self.table, RINGS)

    def close(self) -> None:
        self.vcpus.stop()
        self.accel.close()
        self.ram.close()
        PythonEventfds().close(self.fds)


@pytest.fixture(scope="module", params=VCPUS, ids=lambda count: f"{count} vcpus")
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    try:
        made = Rig(request.param)
    except EmuError as error:
        pytest.skip(str(error))
    yield made
    made.close()


class Kind(NamedTuple):
    """A kind of notifier: all notifiers of a rig, and the function that changes some."""

    of: Callable[[Rig], Sequence[Any]]
    change: Callable[[Rig, Sequence[Any], bool], None]


KINDS = {
    "ioeventfd": Kind(
        lambda rig: rig.ioeventfds,
        lambda rig, some, assign: rig.kernel.change_ioeventfds(some, assign=assign),
    ),
    "irqfd": Kind(
        lambda rig: rig.irqfds,
        lambda rig, some, assign: rig.kernel.change_irqfds(some, assign=assign),
    ),
}


def _one_by_one(kind: Kind, rig: Rig, assign: bool) -> None:
    for one in kind.of(rig):
        kind.change(rig, [one], assign)


def _batch(kind: Kind, rig: Rig, assign: bool) -> None:
    kind.change(rig, kind.of(rig), assign)


def _threads(kind: Kind, rig: Rig, assign: bool) -> None:
    everything = kind.of(rig)
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = [everything[n::WORKERS] for n in range(WORKERS)]
        for done in wait([pool.submit(kind.change, rig, part, assign) for part in parts]).done:
            done.result()


WAYS = {"one by one": _one_by_one, "batch": _batch, "threads": _threads}
_smoke = [pytest.param("batch", marks=[pytest.mark.smoke]), "one by one", "threads"]


@pytest.mark.parametrize("way", _smoke)
@pytest.mark.parametrize("step", ["assign", "deassign"])
@pytest.mark.parametrize("kind", KINDS)
def test_notifiers(
    benchmark: Any, figure: Figure, rig: Rig, kind: str, step: str, way: str
) -> None:
    """All of the RFC's VM."""
    figure.unit, figure.units = kind, RINGS
    benchmark.group = f"kvm: {step} {kind}s, {rig.count} vCPUs"
    assign, run, sort = step == "assign", WAYS[way], KINDS[kind]
    state = [False]

    def prepare() -> None:
        if state[0] == assign:
            _batch(sort, rig, not assign)
        state[0] = not assign

    def change() -> None:
        run(sort, rig, assign)
        state[0] = assign

    benchmark.pedantic(change, setup=prepare, rounds=ROUNDS)
    if state[0]:
        _batch(sort, rig, assign=False)


def test_closing_an_irqfd_instead(benchmark: Any, figure: Figure, rig: Rig) -> None:
    """The kernel deassigns an irqfd when its eventfd is closed."""
    figure.unit, figure.units = "irqfd", RINGS
    benchmark.group = f"kvm: deassign irqfds, {rig.count} vCPUs"
    fds: list[int] = []

    def prepare() -> None:
        fds[:] = PythonEventfds().create(RINGS)
        rig.kernel.change_irqfds(list(enumerate(fds)), assign=True)

    def close() -> None:
        for fd in fds:
            os.close(fd)

    benchmark.pedantic(close, setup=prepare, rounds=ROUNDS)


@pytest.mark.parametrize("way", ["one by one", "batch"])
def test_routes(benchmark: Any, figure: Figure, rig: Rig, way: str) -> None:
    """One commit for each added route, as in QEMU of 2021, or one commit for all."""
    figure.unit, figure.units = "route", RINGS
    benchmark.group = f"kvm: routes, {rig.count} vCPUs"

    def grow() -> None:
        for count in range(1, RINGS + 1):
            rig.kernel.set_routes(rig.table, count)

    def whole() -> None:
        rig.kernel.set_routes(rig.table, RINGS)

    benchmark.pedantic(grow if way == "one by one" else whole, rounds=ROUNDS)


def _floor_ns(step: str, vcpus: int) -> int | None:
    """Nanoseconds of the floor; None without a compiler."""
    try:
        floor = measure_vcpus(vcpus)
    except NoCompilerError:
        return None
    return {
        "pause": floor.pause_ns,
        "save": floor.save_ns,
        "load the same": floor.load_ns,
        "resume": floor.resume_ns,
    }[step]


@pytest.mark.parametrize("step", ["pause", "save", "load the same", "resume"])
def test_vcpus(benchmark: Any, figure: Figure, rig: Rig, step: str) -> None:
    """The vCPUs' part of a blackout."""
    figure.unit, figure.units = "vcpu", rig.count
    figure.floor_ns = _floor_ns(step, rig.count)
    benchmark.group = f"kvm: vcpus, {rig.count} vCPUs"
    vcpus = rig.vcpus
    vcpus.pause(TIMEOUT)
    states = vcpus.save()

    def ready() -> None:
        if step == "pause":
            vcpus.resume(TIMEOUT)
            time.sleep(SETTLE)
        elif step == "resume":
            vcpus.pause(TIMEOUT)

    steps: dict[str, Callable[[], object]] = {
        "pause": lambda: vcpus.pause(TIMEOUT),
        "save": vcpus.save,
        "load the same": lambda: vcpus.load(states),
        "resume": lambda: vcpus.resume(TIMEOUT),
    }
    benchmark.pedantic(steps[step], setup=ready, rounds=VCPU_ROUNDS)
    vcpus.resume(TIMEOUT)
