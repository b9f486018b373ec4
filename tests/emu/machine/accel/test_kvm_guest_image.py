"""The layout and the contents of the reserved memory, without KVM."""

from __future__ import annotations

import struct

import pytest

from emu.machine.accel import kvm_guest_image as image
from emu.machine.ram import GuestRam
from vhost_user.memory import PAGE_SIZE

MEMORY = 16 << 20


@pytest.mark.parametrize("vcpus", [1, 4, 224])
def test_the_image_fills_the_reserved_memory(vcpus: int) -> None:
    """Its last mailbox ends at the end of the memory below 4 GiB."""
    ram = GuestRam(MEMORY)
    layout = image.layout_of(ram, vcpus)
    assert layout.tables == MEMORY - image.reserved_bytes(vcpus)
    assert layout.mailbox(vcpus - 1) + PAGE_SIZE == MEMORY
    assert list(layout) == sorted(layout)
    ram.close()


def test_each_mailbox_has_its_port_and_only_the_first_the_timer() -> None:
    """In guest memory and in a copy of the reserved part alike."""
    ram, vcpus, first_port = GuestRam(MEMORY), 3, 0x1000
    layout = image.layout_of(ram, vcpus)
    copy = image.ReservedCopy(layout.tables, image.reserved_bytes(vcpus))
    for memory in (ram, copy):
        image.write(memory, layout, b"code", first_port, vcpus)
    assert ram.view(layout.tables, len(copy.view)) == copy.view
    for vcpu in range(vcpus):
        page = ram.view(layout.mailbox(vcpu), PAGE_SIZE)
        assert struct.unpack_from("<Q", page, image.PORT) == (first_port + 2 * vcpu,)
        assert struct.unpack_from("<I", page, image.TIMER) == (0 if vcpu else image.TIMER_MS,)
    assert bytes(ram.view(layout.code, 4)) == b"code"
