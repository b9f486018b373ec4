"""The thread of the guest's drivers of a KVM machine."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os

from devices.notifiers import Irqfd
from tests.emu.machine.accel.conftest import (
    VCPUS,
    KvmBench,
)
from tests.emu.machine.accel.kvm_bench import VECTOR, copy
from tests.waiting import wait_until


def test_a_driver_that_fails_ends_its_vcpu_alone(kvm: KvmBench) -> None:
    fds = kvm.eventfds(VCPUS)
    kvm.accel.set_routes({vcpu: vcpu for vcpu in range(VCPUS)})
    for vcpu, fd in enumerate(fds):
        kvm.accel.change_irqfds((), [Irqfd(vcpu, fd)])
    take = kvm.guest.interrupt

    def interrupt(vcpu: int, vector: int) -> None:
        if vcpu == 2:
            raise ZeroDivisionError
        take(vcpu, vector)

    kvm.guest.interrupt = interrupt
    os.eventfd_write(fds[2], 1)
    wait_until(lambda: [crash.vcpu for crash in kvm.vcpus.crashed] == [2])
    kvm.vcpus.pause()
    kvm.vcpus.resume()
    os.eventfd_write(fds[3], 1)
    assert kvm.interrupt() == (3, 3)


def test_an_interrupt_in_a_mailbox_is_handled_on_another_machine(
    kvm: KvmBench, incoming: KvmBench
) -> None:
    """The vCPU received it, and the machine paused before its driver ran."""
    (fd,) = kvm.eventfds(1)
    kvm.accel.set_routes({VECTOR: 2})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
    kvm.gate.close()
    os.eventfd_write(fd, 1)
    wait_until(lambda: kvm.mailboxes[2].waiting)
    kvm.vcpus.pause()
    incoming.accel.set_routes({VECTOR: 2})
    copy(kvm, incoming)
    incoming.vcpus.resume()
    assert incoming.interrupt() == (2, VECTOR)
    kvm.vcpus.resume()
    assert kvm.interrupt() == (2, VECTOR)


def test_drivers_run_for_one_vcpu_at_a_time_inside_of_the_gate(kvm: KvmBench) -> None:
    """Each vCPU's interrupts are handled on its behalf."""
    fds = kvm.eventfds(VCPUS)
    kvm.accel.set_routes({vcpu: vcpu for vcpu in range(VCPUS)})
    inside: list[tuple[int, set[int]]] = []
    take = kvm.guest.interrupt

    def interrupt(vcpu: int, vector: int) -> None:
        inside.append((vcpu, set(kvm.gate.inside)))
        take(vcpu, vector)

    kvm.guest.interrupt = interrupt
    for vcpu, fd in enumerate(fds):
        kvm.accel.change_irqfds((), [Irqfd(vcpu, fd)])
        os.eventfd_write(fd, 1)
        assert kvm.interrupt() == (vcpu, vcpu)
    assert inside == [(vcpu, {vcpu}) for vcpu in range(VCPUS)]
