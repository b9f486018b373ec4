"""Fixtures and functions of the tests of KVM."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.notifiers import ANY_VALUE, Ioeventfd
from emu.machine.accel import kvm_guest_image as image
from emu.machine.vcpu_state import (
    pack,
    unpack,
)
from tests.emu.machine.accel.conftest import (
    VCPUS,
    KvmBench,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTIFY = 0xE000_0000
VECTOR = 10


def ioeventfds(fds: Sequence[int], first: int = 0) -> list[Ioeventfd]:
    return [Ioeventfd(NOTIFY + 4 * (first + n), 4, ANY_VALUE, fd) for n, fd in enumerate(fds)]


def copy(source: KvmBench, destination: KvmBench) -> None:
    """Copy the memory and the vCPU state that a migration transfers."""
    for gpa, length in source.ram.extents():
        destination.ram.view(gpa, length)[:] = source.ram.view(gpa, length)
    data = pack(source.vcpus.save())
    destination.vcpus.load(unpack(data, VCPUS))


def ticks(bench: KvmBench) -> int:
    return int(bench.mailboxes[0].counts[image.TIMER_VECTOR])
