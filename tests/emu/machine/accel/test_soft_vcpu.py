"""Emulated vCPUs: interrupts, timers, and a pause in the middle of guest code."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from emu.machine.accel.soft_vcpu import SoftVcpu
from emu.machine.vcpu_state import VcpuState
from tests.emu.guests import Holding, Recorder
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.emu.machine.soft_vcpus import SoftVcpus

MS = 1_000_000


def test_an_interrupt_that_a_pause_ended_early_is_taken_again_after_resume(rig: SoftVcpus) -> None:
    guest = Holding(listens=lambda: rig.vcpus.gate.paused)
    rig.run(guest)
    rig.signal(1)
    guest.wait_entered()
    rig.vcpus.pause()
    assert rig.vcpus.save()[1] == VcpuState(halted=False, pending=(1,))
    assert guest.interrupts.empty()
    guest.go.set()
    rig.vcpus.resume()
    assert guest.next_interrupt() == (1, 1)
    assert guest.quiet()


def test_a_timer_ticks_on_time_and_does_not_spin(rig: SoftVcpus) -> None:
    guest = Recorder({2: 5 * MS})
    rig.run(guest)
    times: list[int] = []
    while len(times) < 6:
        vcpu, now = guest.ticks.get(timeout=TIMEOUT)
        if vcpu == 2:
            times.append(now)
    gaps = [late - early for early, late in itertools.pairwise(times)]
    assert min(gaps) >= 5 * MS
    vcpu_of_the_timer = rig.vcpus._vcpus[2]
    assert isinstance(vcpu_of_the_timer, SoftVcpu)
    assert vcpu_of_the_timer.slices <= len(times) + guest.ticks.qsize() + 1


def test_arm_ticks_a_vcpu_that_had_no_timer(rig: SoftVcpus) -> None:
    """A later due time does not replace an earlier one."""
    guest = Recorder()
    rig.run(guest)
    rig.vcpus.pause()
    while not guest.ticks.empty():
        guest.ticks.get()
    rig.vcpus.resume()
    rig.vcpus.arm(3, time.monotonic_ns() + 5 * MS)
    rig.vcpus.arm(3, time.monotonic_ns() + round(3 * TIMEOUT * 1000) * MS)
    assert guest.ticks.get(timeout=TIMEOUT)[0] == 3


def test_guest_code_may_arm_its_own_vcpu(rig: SoftVcpus) -> None:
    guest = Recorder()
    guest.interrupt = lambda vcpu, vector: rig.vcpus.arm(vcpu, time.monotonic_ns())
    rig.run(guest)
    for _ in range(4):
        guest.ticks.get(timeout=TIMEOUT)
    rig.signal(1)
    assert guest.ticks.get(timeout=TIMEOUT)[0] == 1


def test_a_vcpu_without_program_crashes_alone(rig: SoftVcpus) -> None:
    rig.vcpus.start(None)
    for thread in rig.vcpus._threads:
        thread.join(TIMEOUT)
    assert len(rig.vcpus.crashed) == 4
    rig.vcpus.resume()
