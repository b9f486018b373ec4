"""vCPUs and notifiers of KVM beyond the contract: state, dirty pages, limits."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os

import pytest

from devices.notifiers import Irqfd
from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.ram import GuestRam
from emu.machine.run_gate import RunGate
from tests.emu.machine.accel.conftest import (
    KvmBench,
    make,
)
from tests.emu.machine.accel.kvm_bench import VECTOR, copy, ticks
from tests.waiting import wait_until


def test_too_little_memory_for_the_code_of_the_vcpus() -> None:
    made = make("kvm")
    ram = GuestRam(4 << 12)
    made.set_memory(ram)
    with pytest.raises(EmuError, match="too little"):
        made.create_vcpus(1, RunGate())
    made.close()
    ram.close()


def test_a_guest_continues_on_another_machine(kvm: KvmBench, incoming: KvmBench) -> None:
    (fd,) = kvm.eventfds(1)
    kvm.accel.set_routes({VECTOR: 2})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
    for _ in range(3):
        os.eventfd_write(fd, 1)
        kvm.interrupt()
    kvm.vcpus.pause()
    had = ticks(kvm)
    os.eventfd_write(fd, 1)  # not delivered when the state is saved
    incoming.accel.set_routes({VECTOR: 2})
    copy(kvm, incoming)
    incoming.vcpus.resume()
    assert incoming.interrupt() == (2, VECTOR)
    assert incoming.mailboxes[2].counts[image.FIRST_VECTOR + VECTOR] == 4
    wait_until(lambda: ticks(incoming) > had + 10)
    assert kvm.quiet()
