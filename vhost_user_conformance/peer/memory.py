"""Guest memory of the suite, and rings in it, shared with the peer under test."""

from __future__ import annotations

import copy
import os
import select
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from vhost_user import eventfd
from vhost_user.mapping import Mapping
from vhost_user.payloads import MemoryRegion, MemTable
from vhost_user.virtqueue import DriverQueue, split_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 4096
MIB = 1 << 20
#: Guest addresses begin here; user addresses are higher by this offset, so that neither is valid
#: as the other.
GPA_BASE = 1 << 20
USER_OFFSET = 0x7F00_0000_0000


class Region(NamedTuple):
    """A region of guest memory: ``offset`` into the file of ``fd``."""

    gpa: int
    size: int
    offset: int
    fd: int

    @property
    def on_wire(self) -> MemoryRegion:
        """As a memory table has it."""
        return MemoryRegion(self.gpa, self.size, self.gpa + USER_OFFSET, self.offset)


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two ranges overlap, each an address and a size."""
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


class Memory:
    """Some regions of guest memory, each a memfd of its own.

    Args:
        sizes: bytes of each region.
        gap: bytes of guest address space between them.
        offset: where in its file each one begins.
    """

    def __init__(
        self, sizes: Sequence[int] = (4 * MIB,), *, gap: int = 16 * MIB, offset: int = 0
    ) -> None:
        self.regions: list[Region] = []
        self._maps: list[memoryview] = []
        self._next: list[int] = []
        gpa = GPA_BASE
        for size in sizes:
            fd = os.memfd_create("conformance", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, offset + size)
            self.regions.append(Region(gpa, size, offset, fd))
            self._maps.append(Mapping(fd, offset, size).view)  # the peer may truncate the file
            self._next.append(gpa)
            gpa += size + gap

    @property
    def table(self) -> bytes:
        """SET_MEM_TABLE's payload."""
        return MemTable(tuple(region.on_wire for region in self.regions)).pack()

    @property
    def fds(self) -> tuple[int, ...]:
        """SET_MEM_TABLE's descriptors."""
        return tuple(region.fd for region in self.regions)

    @property
    def end(self) -> int:
        """The first guest address after all regions."""
        return max(region.gpa + region.size for region in self.regions)

    def allocate(self, size: int, *, align: int = 64, region: int = 0) -> int:
        """Allocate this number of zero bytes; their guest address."""
        gpa = -(-self._next[region] // align) * align
        self._next[region] = gpa + size
        where = self.regions[region]
        if gpa + size > where.gpa + where.size:
            raise MemoryError(f"region {region} has no {size} bytes left")
        return gpa

    def view(self, gpa: int, size: int) -> memoryview:
        """These bytes of guest memory."""
        for region, mapped in zip(self.regions, self._maps, strict=True):
            if region.gpa <= gpa and gpa + size <= region.gpa + region.size:
                at = gpa - region.gpa
                return mapped[at : at + size]
        raise ValueError(f"no guest memory at {gpa:#x}")

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of these bytes."""
        return bytes(self.view(gpa, size))

    def write(self, gpa: int, data: bytes) -> None:
        """Write bytes to this guest address."""
        self.view(gpa, len(data))[:] = data

    def copy_region(self, other: Memory, region: int) -> None:
        """Make a region's contents, and what is allocated in it, those of another memory."""
        where = other.regions[region]
        self.write(where.gpa, other.read(where.gpa, where.size))
        self._next[region] = other._next[region]

    def close(self) -> None:
        """Release the memory; views may outlive it."""
        for region in self.regions:
            os.close(region.fd)
        self.regions.clear()


class TestRing:
    """One ring: its memory, a driver's side of it, and the eventfds.

    Args:
        memory: that holds it.
        index: of the ring.
        size: descriptors.
        start: initial value of both of its indices.
        event_idx: VIRTIO_F_EVENT_IDX is in use.
        region: of the memory.
        at_end: the available ring is its last part, and ends where the region ends.

    Attributes:
        avail_size: bytes of its available ring.
        used_size: bytes of its used ring.
        user_offset: difference between user addresses and guest addresses of its region.
    """

    __test__ = False

    def __init__(
        self,
        memory: Memory,
        index: int,
        size: int = 64,
        *,
        start: int = 0,
        event_idx: bool = False,
        region: int = 0,
        at_end: bool = False,
    ) -> None:
        self.memory = memory
        self.index = index
        self.size = size
        self.start = start
        self.region = region
        self.user_offset = USER_OFFSET
        self.event_idx = event_idx
        event = 2 if event_idx or not at_end else 0
        self.avail_size, self.used_size = 4 + 2 * size + event, 4 + 8 * size + event
        if at_end:
            where = memory.regions[region]
            end = where.gpa + where.size
            self.avail = end - self.avail_size
            self.desc = self.avail - self.used_size - 16 * size & ~15
            self.used = self.desc + 16 * size
        else:
            parts = split_offsets(size)
            base = memory.allocate(parts.end, align=PAGE, region=region)
            self.desc, self.avail = base + parts.desc, base + parts.avail
            self.used = base + parts.used
        self.driver = _new_driver(self)
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def moved_to(self, memory: Memory) -> TestRing:
        """The ring in memory that replaces its own, with the same addresses and eventfds.

        No request is in flight. ``memory`` has a copy of the ring's region, and is not shared yet.
        """
        moved = copy.copy(self)
        moved.memory, moved.start = memory, self.used_index
        moved.driver = _new_driver(moved)
        return moved

    @property
    def used_index(self) -> int:
        """The device's index."""
        return self.used_index_in(self.memory)

    def used_index_in(self, memory: Memory) -> int:
        """The device's index in other memory than that of the driver."""
        index: int = struct.unpack("<H", memory.read(self.used + 2, 2))[0]
        return index

    @property
    def avail_index(self) -> int:
        """The driver's index."""
        index: int = struct.unpack("<H", self.memory.read(self.avail + 2, 2))[0]
        return index

    def kick(self) -> None:
        """Signal the kick eventfd."""
        eventfd.signal(self.kick_fd)

    def await_heard(self, timeout: float) -> bool:
        """Whether the device reads the kick eventfd in time; a polling device never does."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.kick_fd, select.POLLIN)
        while poll.poll(0):
            if time.monotonic() > deadline:
                return False
            os.sched_yield()  # there is no event when the counter is 0
        return True

    def unkick(self) -> None:
        """Cancel a kick that the device has not read."""
        eventfd.take(self.kick_fd)

    def calls(self) -> int:
        """Read and reset the counter of the call eventfd, which the peer may have made blocking."""
        return eventfd.take(self.call_fd)

    def await_call(self, timeout: float) -> bool:
        """Whether the call eventfd is signalled within this time; its counter is reset."""
        poll = select.poll()
        poll.register(self.call_fd, select.POLLIN)
        return bool(poll.poll(timeout * 1000)) and self.calls() > 0

    def await_last_call(self, quiet: float) -> None:
        """Wait until no call has come for ``quiet`` seconds: a call follows its completion."""
        while self.await_call(quiet):
            pass

    def await_used(self, index: int, timeout: float, memory: Memory | None = None) -> bool:
        """Whether the device's index becomes ``index`` within this time.

        Most changes are signalled by a call, but calls may be suppressed.

        Args:
            index: modulo 65536.
            timeout: seconds.
            memory: where the device has the ring; by default the memory of the driver.
        """
        where = self.memory if memory is None else memory
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.call_fd, select.POLLIN)
        while self.used_index_in(where) != index & 0xFFFF:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if poll.poll(min(left, 0.005) * 1000):
                self.calls()
        return True

    def await_progress(self, index: int, timeout: float) -> bool:
        """Whether the device's index changes from ``index`` within this time."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        while self.used_index == index & 0xFFFF:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 0.001) * 1000)
        return True

    def close(self) -> None:
        """Close the eventfds."""
        os.close(self.kick_fd)
        os.close(self.call_fd)


def _new_driver(ring: TestRing) -> DriverQueue:
    """The driver's side of a ring that is empty, at its initial index."""
    view = ring.memory.view
    driver = DriverQueue(
        ring.size,
        view(ring.desc, 16 * ring.size),
        view(ring.avail, ring.avail_size),
        view(ring.used, ring.used_size),
        memoryview(bytearray(16)),
        event_idx=ring.event_idx,
        ring=ring.index,
    )
    driver.reset(ring.start)
    return driver
