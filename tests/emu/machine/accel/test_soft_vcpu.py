"""Emulated vCPUs: interrupts, timers, and a pause in the middle of guest code."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

import pytest

from devices.notifiers import Irqfd
from emu.machine.accel import registry
from emu.machine.accel.soft_vcpu import SoftVcpu
from emu.machine.vcpu_state import VcpuState
from emu.machine.vcpus import VcpuSet
from tests.emu.guests import Holding, Recorder
from tests.timeouts import TIMEOUT
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Iterator


MS = 1_000_000


class Rig:
    """vCPUs of the soft accelerator with one eventfd each: vector N is vCPU N's."""

    def __init__(self, count: int) -> None:
        self.accel = registry.create("soft", lambda *_: None)
        self.vcpus = VcpuSet(count, self.accel)
        self.fds = eventfd.default().create(count)
        self.accel.set_routes({index: index for index in range(count)})
        for index, fd in enumerate(self.fds):
            self.accel.change_irqfds((), [Irqfd(index, fd)])

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


def _run(rig: Rig, guest: Recorder) -> None:
    rig.vcpus.start(guest)
    rig.vcpus.resume()


def test_an_interrupt_that_a_pause_ended_early_is_taken_again_after_resume(rig: Rig) -> None:
    guest = Holding(listens=lambda: rig.vcpus.gate.paused)
    _run(rig, guest)
    rig.signal(1)
    guest.wait_entered()
    rig.vcpus.pause()
    assert rig.vcpus.save()[1] == VcpuState(halted=False, pending=(1,))
    assert guest.interrupts.empty()
    guest.go.set()
    rig.vcpus.resume()
    assert guest.next_interrupt() == (1, 1)
    assert guest.quiet()


def test_a_timer_ticks_on_time_and_does_not_spin(rig: Rig) -> None:
    guest = Recorder({2: 5 * MS})
    _run(rig, guest)
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


def test_arm_ticks_a_vcpu_that_had_no_timer(rig: Rig) -> None:
    """A later due time does not replace an earlier one."""
    guest = Recorder()
    _run(rig, guest)
    rig.vcpus.pause()
    while not guest.ticks.empty():
        guest.ticks.get()
    rig.vcpus.resume()
    rig.vcpus.arm(3, time.monotonic_ns() + 5 * MS)
    rig.vcpus.arm(3, time.monotonic_ns() + round(3 * TIMEOUT * 1000) * MS)
    assert guest.ticks.get(timeout=TIMEOUT)[0] == 3


def test_guest_code_may_arm_its_own_vcpu(rig: Rig) -> None:
    guest = Recorder()
    guest.interrupt = lambda vcpu, vector: rig.vcpus.arm(vcpu, time.monotonic_ns())
    _run(rig, guest)
    for _ in range(4):
        guest.ticks.get(timeout=TIMEOUT)
    rig.signal(1)
    assert guest.ticks.get(timeout=TIMEOUT)[0] == 1


def test_a_vcpu_without_program_crashes_alone(rig: Rig) -> None:
    rig.vcpus.start(None)
    for thread in rig.vcpus._threads:
        thread.join(TIMEOUT)
    assert len(rig.vcpus.crashed) == 4
    rig.vcpus.resume()
