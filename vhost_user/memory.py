"""The memory table: guest memory as a back-end sees it, and the translation of addresses.

A region has two addresses: descriptors have guest-physical ones, SET_VRING_ADDR has addresses of
the front-end's process ("user addresses"). Both are translated to the same mapping.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_right
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from vhost_user.errors import FrontendError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vhost_user.payloads import MemoryRegion

#: The unit of memory tables and dirty logs.
PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
#: One past the highest address.
ADDRESS_SPACE = 1 << 64


class MemoryTableError(FrontendError):
    """The front-end sent an invalid memory table."""


class TranslationError(FrontendError):
    """An address range is not, or not completely, in the memory table."""


class MappedRegion(NamedTuple):
    """A region and its bytes in this process."""

    gpa: int
    gpa_end: int
    user: int
    user_end: int
    data: memoryview
    region: MemoryRegion


# (start, end, bytes) of the region of the last hit: it is tried before the lookup.
_NOWHERE = (0, 0, memoryview(b""))

# All devices of a VM have the same few files, so a process that serves 40 of them maps each file
# only once. A mapping lives as long as any view of it: a request in flight that still has a view
# does not lose its memory.
_mappings: WeakValueDictionary[tuple[int, int, int, int], mmap.mmap] = WeakValueDictionary()
_mappings_lock = threading.Lock()


def _map(fd: int, offset: int, size: int, *, alone: bool) -> memoryview:
    """The bytes [offset, offset + size) of a file.

    Args:
        fd: the file.
        offset: where they begin.
        size: how many they are.
        alone: in a mapping of their own; else all tables of this process share one.

    Raises:
        MemoryTableError: the file is too small, or cannot be mapped.
    """
    try:
        status = os.fstat(fd)
        if offset + size > status.st_size:
            raise MemoryTableError(
                f"region of {size:#x} bytes at offset {offset:#x} of a file of {status.st_size:#x}"
            )
        # a file of huge pages can only be mapped from the start of one
        granule = max(mmap.ALLOCATIONGRANULARITY, status.st_blksize)
        start = offset - offset % granule
        length = offset + size - start
        if alone:
            return memoryview(mmap.mmap(fd, length, offset=start))[offset - start :]
        key = (status.st_dev, status.st_ino, start, length)
        with _mappings_lock:
            mapping = _mappings.get(key)
            if mapping is None:
                mapping = _mappings[key] = mmap.mmap(fd, length, offset=start)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryTableError(f"region cannot be mapped: {error}") from error
    return memoryview(mapping)[offset - start :]


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _check_disjoint(regions: Sequence[MappedRegion]) -> None:
    """Check regions that are sorted by guest-physical address."""
    for low, high in pairwise(regions):
        if high.gpa < low.gpa_end:
            raise MemoryTableError(f"regions overlap at guest address {high.gpa:#x}")
    by_user = sorted(regions, key=attrgetter("user"))
    for low, high in pairwise(by_user):
        if high.user < low.user_end:
            raise MemoryTableError(f"regions overlap at user address {high.user:#x}")


def map_region(region: MemoryRegion, fd: int, *, alone: bool = False) -> MappedRegion:
    """A region, mapped; with ``alone`` no other region and no other table shares the mapping.

    Raises:
        MemoryTableError: it is empty, wraps around, or does not fit its file.
    """
    gpa_end, user_end = region.gpa + region.size, region.user_addr + region.size
    if region.size == 0:
        raise MemoryTableError(f"region of no bytes at guest address {region.gpa:#x}")
    if gpa_end > ADDRESS_SPACE or user_end > ADDRESS_SPACE:
        raise MemoryTableError(f"region at guest address {region.gpa:#x} wraps around")
    data = _map(fd, region.mmap_offset, region.size, alone=alone)
    return MappedRegion(region.gpa, gpa_end, region.user_addr, user_end, data, region)


class MemoryTable:
    """Guest memory, mapped, as SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG define it.

    Used by one thread at a time. A change either succeeds or leaves the table as it was; in both
    cases the descriptors that came with it are closed.

    Attributes:
        generation: grows with each change, which makes earlier views stale.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._regions: list[MappedRegion] = []
        self._forget()

    def _forget(self) -> None:
        """Prepare the lookups for the current list of regions."""
        self._by_user = sorted(self._regions, key=attrgetter("user"))
        self._starts = [region.gpa for region in self._regions]
        self._user_starts = [region.user for region in self._by_user]
        self._last = _NOWHERE
        self._user_last = _NOWHERE

    def _install(self, regions: list[MappedRegion]) -> None:
        regions.sort(key=attrgetter("gpa"))
        _check_disjoint(regions)
        self._regions = regions
        self.generation += 1
        self._forget()

    @property
    def regions(self) -> list[MemoryRegion]:
        """The regions that the front-end sent, by guest-physical address."""
        return [mapped.region for mapped in self._regions]

    @property
    def end(self) -> int:
        """One past the highest guest-physical address: the range of a dirty log."""
        return self._regions[-1].gpa_end if self._regions else 0

    def replace(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        """Replace the whole table (SET_MEM_TABLE); owns and closes `fds`, one for each region.

        Raises:
            MemoryTableError: regions overlap, are empty, wrap around, or do not fit their file.
        """
        try:
            if len(regions) != len(fds):
                raise MemoryTableError(f"{len(regions)} regions came with {len(fds)} descriptors")
            self._install([map_region(*pair) for pair in zip(regions, fds, strict=True)])
        finally:
            _close_all(fds)

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Add one region (ADD_MEM_REG); owns and closes `fd`.

        Raises:
            MemoryTableError: as `replace`.
        """
        try:
            self._install([*self._regions, map_region(region, fd)])
        finally:
            os.close(fd)

    def remove(self, region: MemoryRegion) -> None:
        """Remove the region with this guest address, user address and size (REM_MEM_REG).

        The mmap offset is not compared, as in other back-ends.

        Raises:
            MemoryTableError: there is none.
        """
        wanted = region[:3]
        kept = [mapped for mapped in self._regions if mapped.region[:3] != wanted]
        if len(kept) == len(self._regions):
            raise MemoryTableError(f"no such region at guest address {region.gpa:#x} to remove")
        self._install(kept)

    def close(self) -> None:
        """Remove all regions. Their memory is unmapped with the last view of it."""
        self._install([])

    def view(self, gpa: int, length: int) -> memoryview:
        """The bytes [gpa, gpa + length) of guest memory; they must lie in one region.

        Raises:
            TranslationError: they do not.
        """
        start, end, data = self._last
        if gpa < start or gpa + length > end:
            start, data = self._seek(gpa, length)
        offset = gpa - start
        return data[offset : offset + length]

    def _seek(self, gpa: int, length: int) -> tuple[int, memoryview]:
        index = bisect_right(self._starts, gpa) - 1
        if index >= 0:
            found = self._regions[index]
            if gpa + length <= found.gpa_end:
                self._last = (found.gpa, found.gpa_end, found.data)
                return found.gpa, found.data
        raise TranslationError(f"guest addresses {gpa:#x}+{length:#x} are not in one region")

    def slices(self, gpa: int, length: int) -> list[memoryview]:
        """The bytes [gpa, gpa + length), in pieces where they cross adjacent regions.

        Raises:
            TranslationError: a part of them is in no region.
        """
        start, end, data = self._last
        if start <= gpa and gpa + length <= end:
            return [data[gpa - start : gpa - start + length]]
        pieces: list[memoryview] = []
        at, stop = gpa, gpa + length
        for found in self._regions[max(0, bisect_right(self._starts, gpa) - 1) :]:
            if not found.gpa <= at < found.gpa_end:
                break
            pieces.append(found.data[at - found.gpa : stop - found.gpa])
            at = min(stop, found.gpa_end)
            if at == stop:
                self._last = (found.gpa, found.gpa_end, found.data)
                return pieces
        raise TranslationError(f"guest addresses {gpa:#x}+{length:#x} are not in the table")

    def _user_seek(self, address: int, length: int) -> tuple[int, memoryview]:
        index = bisect_right(self._user_starts, address) - 1
        if index >= 0:
            found = self._by_user[index]
            if address + length <= found.user_end:
                self._user_last = (found.user, found.user_end, found.data)
                return found.user, found.data
        raise TranslationError(f"user addresses {address:#x}+{length:#x} are not in one region")

    def user_view(self, user_addr: int, length: int) -> memoryview:
        """The bytes at an address of the front-end's process (ring addresses), in one region.

        Raises:
            TranslationError: they are not in one region.
        """
        start, end, data = self._user_last
        if user_addr < start or user_addr + length > end:
            start, data = self._user_seek(user_addr, length)
        offset = user_addr - start
        return data[offset : offset + length]
