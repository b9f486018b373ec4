"""A vCPU's mailbox: where the drivers and the guest's own code meet (``native/guest.c``)."""

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
_ORDER = struct.Struct("<II")
_U32 = 0xFFFF_FFFF


class Mailbox:
    """One page of guest memory.

    Args:
        machine: whose guest sets bits in it.
        ram: guest memory; what is written here is marked there.
        gpa: where it is.
    """

    __slots__ = ("_gpa", "_machine", "_orders", "_page", "_pending", "_ram", "counts")

    def __init__(self, machine: KernelMachine, ram: GuestRam, gpa: int) -> None:
        self._machine = machine
        self._ram = ram
        self._gpa = gpa
        self._page = page = ram.view(gpa, PAGE_SIZE)
        self._pending = page[image.PENDING : image.PENDING + _PENDING_BYTES].cast("Q")
        self._orders = page[image.ORDERED : image.ORDERED + 8].cast("I")
        self.counts = page[image.COUNTS : image.COUNTS + _COUNT_BYTES].cast("Q")

    def take(self) -> list[int]:
        """The vectors that the vCPU has taken, and that nobody has seen; they are seen now."""
        words = self._machine.take(self._pending)
        self._ram.mark(self._gpa, PAGE_SIZE)
        vectors = []
        for place, bits in enumerate(words):
            left = bits
            while left:
                lowest = left & -left
                vectors.append(64 * place + lowest.bit_length() - 1)
                left ^= lowest
        return vectors

    def put_back(self, vectors: list[int]) -> None:
        """They have not been seen after all."""
        words = [0] * 4
        for vector in vectors:
            words[vector >> 6] |= 1 << (vector & 63)
        self._machine.put_back(self._pending, words)
        self._ram.mark(self._gpa, PAGE_SIZE)

    @property
    def waiting(self) -> bool:
        """There are vectors that nobody has seen."""
        return any(self._pending)

    @property
    def unrung(self) -> int:
        """Doorbells that were ordered and have not been rung."""
        ordered, rung = self._orders
        return (ordered - rung) & _U32

    @property
    def full(self) -> bool:
        """There is no room for another order."""
        return self.unrung >= image.ORDER_SLOTS

    def order(self, address: int, value: int) -> None:
        """Have a doorbell rung; there is room."""
        ordered = self._orders[0]
        at = image.ORDERS + 8 * (ordered % image.ORDER_SLOTS)
        _ORDER.pack_into(self._page, at, address, value & _U32)
        # The guest's code looks at the number first: x86 keeps the order of stores.
        self._orders[0] = (ordered + 1) & _U32
        self._ram.mark(self._gpa, PAGE_SIZE)

    def release(self) -> None:
        """Let go of guest memory."""
        for view in (self._pending, self._orders, self.counts, self._page):
            view.release()
