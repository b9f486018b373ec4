"""The scheduler of emulated vCPUs: which vCPU runs next, also after a crash."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from emu.machine.vcpu_state import VcpuState
from tests.emu.guests import Recorder
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.emu.machine.soft_vcpus import SoftVcpus


def test_guest_code_runs_on_the_thread_of_its_vcpu(rig: SoftVcpus) -> None:
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


def test_one_vcpu_at_a_time(rig: SoftVcpus) -> None:
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
    wait_until(lambda: len(most) >= 400)
    rig.vcpus.pause()
    assert set(most) == {1}


def test_a_vcpu_that_is_always_busy_does_not_starve_the_others(rig: SoftVcpus) -> None:
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
    wait_until(lambda: not guest.ticks.empty())


def test_the_other_vcpus_run_on_after_a_crash(rig: SoftVcpus) -> None:
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
        wait_until(lambda: len(rig.vcpus.crashed) > vcpu)  # noqa: B023  it is called at once
        rig.signal(vcpu)  # its vCPU thread has ended
    rig.signal(3)
    assert guest.next_interrupt() == (3, 3)
    rig.vcpus.pause()
    rig.vcpus.resume()
    rig.signal(3)
    assert guest.next_interrupt() == (3, 3)


def test_all_vcpus_may_crash(rig: SoftVcpus) -> None:
    guest = Recorder()

    def interrupt(vcpu: int, vector: int) -> None:
        raise ZeroDivisionError

    guest.interrupt = interrupt
    rig.run(guest)
    for vcpu in range(4):
        rig.signal(vcpu)
    wait_until(lambda: len(rig.vcpus.crashed) == 4)
    rig.vcpus.pause()
    rig.vcpus.resume()


def test_vcpus_that_were_not_halted_run_before_all_others(rig: SoftVcpus) -> None:
    guest = Recorder()
    rig.vcpus.start(guest)
    rig.vcpus.load([VcpuState()] * 3 + [VcpuState(halted=False, pending=(3,))])
    for vcpu in (0, 1, 2):
        rig.signal(vcpu)
    rig.vcpus.resume()
    assert guest.next_interrupt() == (3, 3)
    assert guest.next_interrupts(3) == [(0, 0), (1, 1), (2, 2)]


def test_interrupts_during_a_pause_wake_no_vcpu(rig: SoftVcpus) -> None:
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
def test_224_busy_vcpus_pause_and_resume(rig: SoftVcpus) -> None:
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
        wait_until(lambda: next(count) > before + 10)  # noqa: B023  it is called at once
