"""A vCPU's mailbox: memory that the drivers and the vCPU's code (``native/guest.c``) share."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.machine.accel import kvm_guest_image as image
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from emu.machine.accel.kvm_vm import KernelMachine
    from emu.machine.ram import GuestRam

_PENDING_BYTES = 4 * 8
_COUNT_BYTES = 256 * 8
_WRITE = struct.Struct("<II")
_U32 = 0xFFFF_FFFF


class Mailbox:
    """One page of guest memory.

    Args:
        machine: the kernel's VM.
        ram: guest memory; writes to the mailbox are marked there.
        gpa: guest-physical address of the page.
    """

    __slots__ = ("_counters", "_gpa", "_machine", "_page", "_pending", "_ram", "counts")

    def __init__(self, machine: KernelMachine, ram: GuestRam, gpa: int) -> None:
        self._machine = machine
        self._ram = ram
        self._gpa = gpa
        self._page = page = ram.view(gpa, PAGE_SIZE)
        self._pending = page[image.PENDING : image.PENDING + _PENDING_BYTES].cast("Q")
        self._counters = page[image.QUEUED : image.QUEUED + 8].cast("I")
        self.counts = page[image.COUNTS : image.COUNTS + _COUNT_BYTES].cast("Q")

    def take(self) -> list[int]:
        """Remove and return the vectors that the vCPU has received since the last call."""
        words = self._machine.take(self._pending)
        self._ram.mark(self._gpa, PAGE_SIZE)
        vectors = []
        for index, bits in enumerate(words):
            left = bits
            while left:
                lowest = left & -left
                vectors.append(64 * index + lowest.bit_length() - 1)
                left ^= lowest
        return vectors

    def put_back(self, vectors: list[int]) -> None:
        """Undo `take` for these vectors."""
        words = [0] * 4
        for vector in vectors:
            words[vector >> 6] |= 1 << (vector & 63)
        self._machine.put_back(self._pending, words)
        self._ram.mark(self._gpa, PAGE_SIZE)

    @property
    def waiting(self) -> bool:
        """Whether `take` would return vectors."""
        return any(self._pending)

    @property
    def queued_writes(self) -> int:
        """Number of writes that the vCPU has not made yet."""
        queued, written = self._counters
        return (queued - written) & _U32

    @property
    def full(self) -> bool:
        """Whether there is no room for another write."""
        return self.queued_writes >= image.WRITE_SLOTS

    def queue_write(self, address: int, value: int) -> None:
        """Queue a write to a notify address; the mailbox is not full."""
        queued = self._counters[0]
        at = image.WRITES + 8 * (queued % image.WRITE_SLOTS)
        _WRITE.pack_into(self._page, at, address, value & _U32)
        # After the entry: the vCPU's code reads the counter first. x86 keeps the order of stores.
        self._counters[0] = (queued + 1) & _U32
        self._ram.mark(self._gpa, PAGE_SIZE)

    def release(self) -> None:
        """Release the views of guest memory."""
        for view in (self._pending, self._counters, self.counts, self._page):
            view.release()
