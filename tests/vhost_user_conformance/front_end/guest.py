"""A ring in shared memory, for tests of what the suite's back-end takes from it."""

from __future__ import annotations

import os
import struct

from vhost_user.payloads import MemoryRegion, VringAddr
from vhost_user_conformance.front_end.guest_memory import GuestMemory
from vhost_user_conformance.front_end.ring import Chain, Ring, Walker

SIZE = 4
#: Guest and user addresses differ, as they do in a VM.
GPA, USER, BYTES = 0x10000, 0x7000_0000, 0x10000
DESC, AVAIL, USED, TABLE, DATA = 0, 0x1000, 0x2000, 0x3000, 0x4000


class Guest:
    """A ring in shared memory, and a driver that may make mistakes."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        os.truncate(self.fd, BYTES)
        self.memory = GuestMemory()
        self.memory.add(MemoryRegion(GPA, BYTES, USER, 0), self.fd)
        self.ring = Ring(0)
        self.ring.size = SIZE
        self.ring.address = VringAddr(0, 0, USER + DESC, USER + USED, USER + AVAIL, 0)
        self.walker = Walker(self.memory, self.ring)

    def write(self, at: int, data: bytes) -> None:
        """Write to guest memory, by offset."""
        view = self.memory.view(GPA + at, len(data))
        assert view is not None
        view[:] = data

    def read(self, at: int, size: int) -> bytes:
        """Read from guest memory, by offset."""
        view = self.memory.view(GPA + at, size)
        assert view is not None
        return bytes(view)

    def describe(
        self, index: int, gpa: int, length: int, flags: int = 0, following: int = 0, at: int = DESC
    ) -> None:
        """Write a descriptor."""
        self.write(at + 16 * index, struct.pack("<QIHH", gpa, length, flags, following))

    def offer(self, *heads: int) -> None:
        """Make chains available, from the beginning of the ring."""
        for slot, head in enumerate(heads):
            self.write(AVAIL + 4 + 2 * slot, struct.pack("<H", head))
        self.write(AVAIL + 2, struct.pack("<H", len(heads)))

    def take(self) -> Chain:
        """Take the first chain."""
        self.offer(0)
        chain = self.walker.take()
        assert chain is not None
        return chain

    def close(self) -> None:
        """Unmap the memory."""
        self.memory.clear()
        os.close(self.fd)
