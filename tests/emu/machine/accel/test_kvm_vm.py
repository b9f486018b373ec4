"""The kernel's virtual machine: memory, state, errors."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import errno

import pytest

from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm import KvmAccelerator
from emu.machine.accel.kvm_vm import KvmError, halted, open_error
from tests.emu.machine.accel.conftest import (
    MEMORY,
    VCPUS,
    KvmBench,
)
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOENT, "kvm_intel"), (errno.EACCES, "group kvm"), (errno.EMFILE, "Too many open")],
)
def test_the_error_text_without_kvm_has_advice(number: int, advice: str) -> None:
    assert open_error(number).startswith("/dev/kvm ")
    assert advice in open_error(number)


def test_a_closed_machine_does_nothing() -> None:
    bench = KvmBench()
    bench.close()
    bench.accel.pause(1.0)
    bench.accel.resume(1.0)
    with pytest.raises(EmuError, match="Bad file descriptor"):
        bench.vcpus.arm(0, 0)


def test_only_pages_that_the_guest_wrote_since_the_last_call_are_dirty(kvm: KvmBench) -> None:
    """The mailbox of each vCPU that has received an interrupt."""
    kvm.vcpus.pause()
    own = image.reserved_bytes(VCPUS) >> 12
    kernel = accelerator(kvm).kernel
    kernel.dirty_pages(1, own)
    assert kernel.dirty_pages(1, own) == []
    kvm.vcpus.arm(2, 0)
    kvm.vcpus.resume()
    wait_until(lambda: kvm.mailboxes[2].counts[image.TIMER_VECTOR])
    kvm.vcpus.pause()
    first = MEMORY - image.reserved_bytes(VCPUS) >> 12
    mailbox = (image.layout_of(kvm.ram, VCPUS).mailbox(2) >> 12) - first
    assert mailbox in kernel.dirty_pages(1, own)


def test_a_state_of_another_size_is_refused(kvm: KvmBench) -> None:
    """Loading a state that was just saved sets no part, as all parts equal the kernel's."""
    kvm.vcpus.pause()
    kernel = accelerator(kvm).kernel
    state = kernel.save(1)
    assert kernel.load(1, state) == 0
    with pytest.raises(KvmError, match=f"has {len(state) - 1} bytes, not {len(state)}"):
        kernel.load(1, state[:-1])


def test_a_vcpu_that_waits_for_an_interrupt_is_halted(kvm: KvmBench) -> None:
    """A vCPU that was only powered on is not."""
    fresh = KvmBench.__new__(KvmBench)
    super(KvmBench, fresh).__init__("kvm")
    assert not any(halted(accelerator(fresh).kernel.save(vcpu)) for vcpu in range(VCPUS))
    fresh.close()

    def halts() -> bool:
        kvm.vcpus.pause()
        found = halted(accelerator(kvm).kernel.save(1))
        kvm.vcpus.resume()
        return found

    wait_until(halts)


def test_memory_that_cannot_be_mapped_is_an_error(kvm: KvmBench) -> None:
    """It overlaps another slot."""
    kvm.vcpus.pause()
    with pytest.raises(KvmError, match="KVM cannot map 4096 bytes of memory at 0x0"):
        accelerator(kvm).kernel.map(7, 0, kvm.ram.view(0, 4096))


def accelerator(bench: KvmBench) -> KvmAccelerator:
    """Its accelerator."""
    assert isinstance(bench.accel, KvmAccelerator)
    return bench.accel
