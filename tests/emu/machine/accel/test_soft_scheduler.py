"""The scheduler of emulated vCPUs: which vCPU runs next, also after a crash."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from devices.notifiers import Irqfd
from emu.machine.accel import registry
from emu.machine.vcpu_state import VcpuState
from emu.machine.vcpus import VcpuSet
from tests.emu.guests import Recorder, until
from tests.timeouts import TIMEOUT
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Iterator


class Rig:
    """Emulated vCPUs; vector N interrupts vCPU N."""

    def __init__(self, count: int) -> None:
        self.accel = registry.create("soft", lambda *_: None)
        self.vcpus = VcpuSet(count, self.accel)
        self.fds = eventfd.default().create(count)
        self.accel.set_routes({index: index for index in range(count)})
        for index, fd in enumerate(self.fds):
            self.accel.change_irqfds((), [Irqfd(index, fd)])

    def run(self, guest: Recorder) -> None:
        self.vcpus.start(guest)
        self.vcpus.resume()

    def signal(self, vcpu: int) -> None:
        os.eventfd_write(self.fds[vcpu], 1)

    def close(self) -> None:
        self.vcpus.stop()
        self.accel.close()
        eventfd.default().close(self.fds)


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(getattr(request, "param", 4))
    yield made
    made.close()


def test_guest_code_runs_on_the_thread_of_its_vcpu(rig: Rig) -> None:
    names: list[str] = []
    guest = Recorder()
    take = guest.beat

    def beat(now: int) -> None:
        names.append(threading.current_thread().name)
        take(now)

    guest.beat = beat
    rig.run(guest)
    names.clear()
    for vcpu in (2, 1):
        rig.signal(vcpu)
        guest.next_interrupt()
    rig.vcpus.pause()
    assert names == ["vcpu2", "vcpu2", "vcpu1", "vcpu1"]


def test_one_vcpu_at_a_time(rig: Rig) -> None:
    guest = Recorder()
    most = []

    def interrupt(vcpu: int, vector: int) -> None:
        most.append(len(rig.vcpus.gate.inside))
        if len(most) < 400:
            rig.signal(vcpu)

    guest.interrupt = interrupt
    rig.run(guest)
    for vcpu in range(4):
        rig.signal(vcpu)
    until(lambda: len(most) >= 400)
    rig.vcpus.pause()
    assert set(most) == {1}


def test_a_vcpu_that_is_always_busy_does_not_starve_the_others(rig: Rig) -> None:
    guest = Recorder()
    take = guest.interrupt

    def interrupt(vcpu: int, vector: int) -> None:
        if vcpu == 1:
            rig.signal(1)
        else:
            take(vcpu, vector)

    guest.interrupt = interrupt
    rig.run(guest)
    rig.signal(1)
    for vcpu in (2, 3, 2):
        rig.signal(vcpu)
        assert guest.next_interrupt() == (vcpu, vcpu)
    rig.vcpus.arm(0, time.monotonic_ns())
    until(lambda: not guest.ticks.empty())


def test_the_other_vcpus_run_on_after_a_crash(rig: Rig) -> None:
    guest = Recorder()
    take = guest.interrupt

    def interrupt(vcpu: int, vector: int) -> None:
        if vcpu < 3:
            raise ZeroDivisionError
        take(vcpu, vector)

    guest.interrupt = interrupt
    rig.run(guest)
    for vcpu in range(3):
        rig.signal(vcpu)
        until(lambda: len(rig.vcpus.crashed) > vcpu)  # noqa: B023  it is called at once
        rig.signal(vcpu)  # its vCPU thread has ended
    rig.signal(3)
    assert guest.next_interrupt() == (3, 3)
    rig.vcpus.pause()
    rig.vcpus.resume()
    rig.signal(3)
    assert guest.next_interrupt() == (3, 3)


def test_all_vcpus_may_crash(rig: Rig) -> None:
    guest = Recorder()

    def interrupt(vcpu: int, vector: int) -> None:
        raise ZeroDivisionError

    guest.interrupt = interrupt
    rig.run(guest)
    for vcpu in range(4):
        rig.signal(vcpu)
    until(lambda: len(rig.vcpus.crashed) == 4)
    rig.vcpus.pause()
    rig.vcpus.resume()


def test_vcpus_that_were_not_halted_run_before_all_others(rig: Rig) -> None:
    guest = Recorder()
    rig.vcpus.start(guest)
    rig.vcpus.load([VcpuState()] * 3 + [VcpuState(halted=False, pending=(3,))])
    for vcpu in (0, 1, 2):
        rig.signal(vcpu)
    rig.vcpus.resume()
    assert guest.next_interrupt() == (3, 3)
    assert guest.next_interrupts(3) == [(0, 0), (1, 1), (2, 2)]


def test_interrupts_during_a_pause_wake_no_vcpu(rig: Rig) -> None:
    guest = Recorder()
    rig.run(guest)
    rig.vcpus.pause()
    for vcpu in range(4):
        rig.signal(vcpu)
    assert guest.quiet()
    assert len(rig.vcpus.gate.parked) <= 1  # the thread that runs
    rig.vcpus.resume()
    assert guest.next_interrupts(4) == [(vcpu, vcpu) for vcpu in range(4)]


@pytest.mark.parametrize("rig", [224], indirect=True)
def test_224_busy_vcpus_pause_and_resume(rig: Rig) -> None:
    """Many times; bench/bench_vcpus.py measures the time."""
    guest = Recorder()

    count = itertools.count()

    def interrupt(vcpu: int, vector: int) -> None:
        next(count)
        sum(range(200))
        rig.signal(vcpu)

    guest.interrupt = interrupt
    rig.run(guest)
    for vcpu in range(224):
        rig.signal(vcpu)
    for _ in range(20):
        before = next(count)
        rig.vcpus.pause(TIMEOUT)
        assert not rig.vcpus.gate.inside
        rig.vcpus.resume(TIMEOUT)
        until(lambda: next(count) > before + 10)  # noqa: B023  it is called at once
