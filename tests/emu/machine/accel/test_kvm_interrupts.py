"""The irqfds and the routing table of a KVM machine."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os

import pytest

from devices.notifiers import Irqfd
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.base import NotifierError
from tests.emu.machine.accel.conftest import (
    VCPUS,
    KvmBench,
)
from tests.emu.machine.accel.kvm_bench import VECTOR


def test_a_vector_beyond_the_routes(kvm: KvmBench) -> None:
    most = kvm.accel.find_limits(VCPUS).max_routes
    with pytest.raises(NotifierError, match=f"KVM has {most} interrupt routes"):
        kvm.accel.set_routes({most: 0})
    kvm.accel.set_routes(dict.fromkeys(range(most), 1))


def test_vectors_that_share_a_vector_of_a_local_apic(kvm: KvmBench) -> None:
    step = image.LAST_VECTOR - image.FIRST_VECTOR + 1
    one, two = kvm.eventfds(2)
    kvm.accel.set_routes({VECTOR: 2, VECTOR + step: 2, VECTOR + 2 * step: 3})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, one)])
    kvm.accel.change_irqfds((), [Irqfd(VECTOR + step, two)])
    os.eventfd_write(two, 1)
    assert sorted(kvm.interrupt() for _ in range(2)) == [(2, VECTOR), (2, VECTOR + step)]
    assert kvm.quiet()


def test_an_irqfd_has_a_vector_and_an_eventfd_of_its_own(kvm: KvmBench) -> None:
    """An error changes nothing."""
    one, two = kvm.eventfds(2)
    kvm.accel.set_routes({VECTOR: 1, VECTOR + 1: 2})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, one)])
    for remove, add, text in (
        ((), [Irqfd(VECTOR, two)], "is assigned already"),
        ((), [Irqfd(VECTOR + 1, one)], f"its eventfd serves vector {VECTOR}"),
        ([Irqfd(VECTOR, two)], (), "is not assigned"),
        ([Irqfd(VECTOR + 1, two)], (), "is not assigned"),
    ):
        with pytest.raises(NotifierError, match=text):
            kvm.accel.change_irqfds(remove, add)
    kvm.accel.change_irqfds([Irqfd(VECTOR, one)], [Irqfd(VECTOR, two), Irqfd(VECTOR + 1, one)])
    os.eventfd_write(two, 1)
    assert kvm.interrupt() == (1, VECTOR)
    os.eventfd_write(one, 1)
    assert kvm.interrupt() == (2, VECTOR + 1)
