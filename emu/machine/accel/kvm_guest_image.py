"""The guest's image in a KVM machine: vCPU code, tables, and a mailbox for each vCPU.

It occupies the end of the memory below 4 GiB, which drivers do not use:

    page tables     4 GiB mapped one to one, in pages of 2 MiB (6 pages)
    descriptors     a page: 64-bit code, data
    interrupts      a page: 256 gates, each to the stub of its vector
    code            2 pages
    mailboxes       a page for each vCPU; see ``native/guest.c``
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from emu.machine.ram import GuestRam

_TABLE_PAGES = 6
_CODE_PAGES = 2
_FIXED_PAGES = _TABLE_PAGES + 2 + _CODE_PAGES
_STUB_BYTES = 16
_VECTORS = 256
#: Page tables: present and writable; in a directory also: a page of 2 MiB.
_PRESENT = 0x3
_LARGE = 0x83
# As vk_begin (native/kvm.c) sets them: a vCPU that returns from an interrupt loads its segments
# from these descriptors, and they must stay the same.
_CODE_DESCRIPTOR = 0x00AF_9B00_0000_FFFF
_DATA_DESCRIPTOR = 0x00CF_9300_0000_FFFF
CODE_SELECTOR = 8
DATA_SELECTOR = 16
GDT_LIMIT = 3 * 8 - 1
IDT_LIMIT = 256 * 16 - 1
_INTERRUPT_GATE = 0x8E << 40

#: Vectors of a local APIC: for queued writes, for the timer, and those that devices share.
WRITES_VECTOR, TIMER_VECTOR = 0x20, 0x21
FIRST_VECTOR, LAST_VECTOR = 0x22, 0xFE

# Offsets in a mailbox, as in native/guest.c.
PORT = 0x08
QUEUED = 0x10
PENDING = 0x20
TIMER = 0x40
WRITES = 0x100
WRITE_SLOTS = 128
STACK_TOP = 0x800
COUNTS = 0x800
#: Ticks of the local APIC's clock, which runs at 1 GHz under KVM, in a millisecond.
TIMER_MS = 1_000_000


def reserved_bytes(vcpus: int) -> int:
    """Bytes at the end of the memory below 4 GiB that are reserved for the vCPUs' code."""
    return (_FIXED_PAGES + vcpus) * PAGE_SIZE


class ImageLayout(NamedTuple):
    """Guest-physical addresses of the parts of the image."""

    tables: int
    descriptors: int
    gates: int
    code: int
    mailboxes: int

    def mailbox(self, vcpu: int) -> int:
        """The address of a vCPU's mailbox."""
        return self.mailboxes + vcpu * PAGE_SIZE


def layout_of(ram: GuestRam, vcpus: int) -> ImageLayout:
    """The addresses of the image in a machine with that memory."""
    low = ram.regions[0]
    at = low.gpa + low.size - reserved_bytes(vcpus)
    descriptors = at + _TABLE_PAGES * PAGE_SIZE
    code = descriptors + 2 * PAGE_SIZE
    mailboxes = code + _CODE_PAGES * PAGE_SIZE
    return ImageLayout(at, descriptors, descriptors + PAGE_SIZE, code, mailboxes)


class Memory(Protocol):
    """Guest memory, or a copy of its reserved part."""

    def write(self, gpa: int, data: bytes | bytearray) -> None:
        """Write bytes at a guest-physical address."""


class ReservedCopy:
    """Memory to map instead of the reserved part, for vCPUs that must not write to the guest's.

    Args:
        gpa: its guest-physical address.
        size: bytes.
    """

    def __init__(self, gpa: int, size: int) -> None:
        self.gpa = gpa
        self.view = memoryview(mmap.mmap(-1, size))

    def write(self, gpa: int, data: bytes | bytearray) -> None:
        """See `Memory.write`."""
        self.view[gpa - self.gpa : gpa - self.gpa + len(data)] = data


def write(ram: Memory, layout: ImageLayout, code: bytes, first_port: int, vcpus: int) -> None:
    """Write the image; vCPU 0 has the timer.

    Args:
        ram: guest memory, or a copy of the reserved part.
        layout: the result of `layout_of`.
        code: the vCPUs' code, stubs included.
        first_port: the port by which vCPU 0 notifies the drivers; vCPU N's is 2 * N higher.
        vcpus: number of mailboxes.
    """
    ram.write(layout.code, code)
    ram.write(layout.descriptors, struct.pack("<3Q", 0, _CODE_DESCRIPTOR, _DATA_DESCRIPTOR))
    stubs = layout.code + _STUB_BYTES
    gates = [_gate(stubs + _STUB_BYTES * vector) for vector in range(_VECTORS)]
    ram.write(layout.gates, b"".join(gates))
    ram.write(layout.tables, _page_tables(layout.tables))
    for vcpu in range(vcpus):
        page = bytearray(PAGE_SIZE)
        struct.pack_into("<Q", page, PORT, first_port + 2 * vcpu)
        struct.pack_into("<I", page, TIMER, 0 if vcpu else TIMER_MS)
        ram.write(layout.mailbox(vcpu), page)


def _gate(address: int) -> bytes:
    low = address & 0xFFFF | CODE_SELECTOR << 16 | _INTERRUPT_GATE | (address >> 16 & 0xFFFF) << 48
    return struct.pack("<2Q", low, address >> 32)


def _page_tables(at: int) -> bytes:
    """A root, a table of directories, and four directories of 512 pages of 2 MiB each."""
    entries = 512
    root = [at + PAGE_SIZE | _PRESENT] + [0] * (entries - 1)
    directories = [at + (2 + n) * PAGE_SIZE | _PRESENT for n in range(4)] + [0] * (entries - 4)
    pages = [n << 21 | _LARGE for n in range(4 * entries)]
    return struct.pack(f"<{6 * entries}Q", *root, *directories, *pages)
