"""vCPUs of KVM: timer, state, and the parts that a load sets."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os

import pytest

from devices.notifiers import Irqfd
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm_vcpu import KvmVcpu
from emu.machine.accel.kvm_vm import halted
from emu.machine.ram import GuestRam
from emu.machine.vcpu_state import (
    VcpuState,
    VcpuStateError,
)
from emu.machine.vcpus import VcpuSet
from tests.emu.machine.accel.conftest import (
    MEMORY,
    VCPUS,
    KvmBench,
    make,
)
from tests.emu.machine.accel.kvm_bench import VECTOR, copy, ticks
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until


def test_only_the_first_vcpu_has_ticks(kvm: KvmBench) -> None:
    before = ticks(kvm)
    wait_until(lambda: ticks(kvm) > before + 20)
    assert {vcpu for vcpu, _ in (kvm.guest.ticks.get(timeout=TIMEOUT) for _ in range(20))} == {0}


def test_no_code_runs_while_the_machine_is_paused(kvm: KvmBench) -> None:
    kvm.vcpus.pause()
    before = bytes(kvm.ram.view(0, MEMORY))
    assert kvm.quiet()
    assert bytes(kvm.ram.view(0, MEMORY)) == before
    kvm.vcpus.resume()
    stood = ticks(kvm)
    wait_until(lambda: ticks(kvm) > stood)


def pause_halted(bench: KvmBench) -> None:
    """Pause the machine while all vCPUs but the first, which has the timer, are halted."""

    def caught() -> bool:
        bench.vcpus.pause()
        if all(halted(state.raw) for state in bench.vcpus.save()[1:]):
            return True
        bench.vcpus.resume()
        return False

    wait_until(caught)


def test_after_warm_up_a_load_sets_few_parts_of_the_state(
    kvm: KvmBench, incoming: KvmBench
) -> None:
    """A halted vCPU has the registers that it had before: only its last interrupt differs."""
    for vcpu in range(VCPUS):
        kvm.vcpus.arm(vcpu, 0)
    wait_until(lambda: all(box.counts[image.TIMER_VECTOR] for box in kvm.mailboxes))
    pause_halted(kvm)
    incoming.accel.warm_up(TIMEOUT)
    assert incoming.guest.quiet()
    copy(kvm, incoming)
    idle = [vcpu for vcpu in incoming.vcpus._vcpus[1:] if isinstance(vcpu, KvmVcpu)]
    assert [vcpu.parts_set for vcpu in idle] == [1] * (VCPUS - 1)
    incoming.vcpus.resume()
    had = ticks(kvm)
    wait_until(lambda: ticks(incoming) > had)


def test_the_state_of_another_accelerator(incoming: KvmBench) -> None:
    for state in (VcpuState(), VcpuState(raw=b"short")):
        with pytest.raises(VcpuStateError, match="vcpu0"):
            incoming.vcpus.load([state] * VCPUS)


def test_vcpus_that_were_never_started_are_released() -> None:
    made = make("kvm")
    ram = GuestRam(MEMORY)
    made.set_memory(ram)
    vcpus = VcpuSet(2, made)
    vcpus.stop()
    made.close()
    ram.close()


def test_many_vcpus_pause_and_run_again() -> None:
    many = KvmBench(vcpus=64)
    try:
        for _ in range(3):
            many.vcpus.pause()
            many.vcpus.resume()
        (fd,) = many.eventfds(1)
        many.accel.set_routes({VECTOR: 63})
        many.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
        os.eventfd_write(fd, 1)
        assert many.interrupt() == (63, VECTOR)
    finally:
        many.close()
