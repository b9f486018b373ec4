"""The memory table: guest memory as a back-end sees it, and the translation of addresses.

A region has two addresses: descriptors have guest-physical ones, SET_VRING_ADDR has addresses of
the front-end's process ("user addresses"). Both are translated to the same mapping.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from vhost_user import native
from vhost_user.errors import FrontendError
from vhost_user.mapping import LostMemoryError, Mapping, MappingError

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
    """A region and its bytes in this process; `file` is the device and the inode of its file."""

    gpa: int
    gpa_end: int
    user: int
    user_end: int
    data: memoryview
    region: MemoryRegion
    mapping: Mapping
    file: tuple[int, int]


class RegionArray(NamedTuple):
    """The regions of a table for compiled functions, as ``struct vu_region[count]``.

    Attributes:
        address: of the array.
        length: how many there are, one at least.
        keep: what the array refers to.
    """

    address: int
    length: int
    keep: tuple[object, ...]


_REGION = struct.Struct("=3Q")

# (start, end, bytes) of the region of the last hit: it is tried before the lookup.
_NOWHERE = (0, 0, memoryview(b""))


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


def map_region(region: MemoryRegion, fd: int) -> MappedRegion:
    """A region, mapped with this descriptor, and shared with no other region or table.

    Raises:
        MemoryTableError: it is empty, wraps around, does not fit its file, or its descriptor is not
            one for reading and writing.
    """
    gpa_end, user_end = region.gpa + region.size, region.user_addr + region.size
    if region.size == 0:
        raise MemoryTableError(f"region of no bytes at guest address {region.gpa:#x}")
    if gpa_end > ADDRESS_SPACE or user_end > ADDRESS_SPACE:
        raise MemoryTableError(f"region at guest address {region.gpa:#x} wraps around")
    try:
        mapping = Mapping(fd, region.mmap_offset, region.size)
    except MappingError as error:
        raise MemoryTableError(f"the region at guest address {region.gpa:#x} {error}") from error
    status = os.fstat(fd)
    file = status.st_dev, status.st_ino
    return MappedRegion(
        region.gpa, gpa_end, region.user_addr, user_end, mapping.view, region, mapping, file
    )


class MemoryTable:
    """Guest memory, mapped, as SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG define it.

    Used by one thread at a time. A change either succeeds or leaves the table as it was; in both
    cases the descriptors that came with it are closed.

    Attributes:
        generation: grows with each change, which makes earlier views stale.
    """

    _why_lost = "its file has shrunk"

    def __init__(self) -> None:
        self.generation = 0
        self._regions: list[MappedRegion] = []
        #: How often each region was added again.
        self._repeated: Counter[tuple[int, ...]] = Counter()
        self._forget()

    def _forget(self) -> None:
        """Prepare the lookups for the current list of regions."""
        self._by_user = sorted(self._regions, key=attrgetter("user"))
        self._starts = [region.gpa for region in self._regions]
        self._user_starts = [region.user for region in self._by_user]
        self._array: RegionArray | None = None
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

    @property
    def array(self) -> RegionArray | None:
        """The regions for compiled functions; None where there are none, or no such functions."""
        if self._array is None and self._regions and native.available:
            views = [mapped.data for mapped in self._regions]
            data = bytearray().join(
                _REGION.pack(mapped.gpa, len(mapped.data), native.address_of(mapped.data))
                for mapped in self._regions
            )
            address = native.address_of(memoryview(data))
            self._array = RegionArray(address, len(views), (data, *views))
        return self._array

    def replace(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        """Replace the whole table (SET_MEM_TABLE); owns and closes `fds`, one for each region.

        Raises:
            MemoryTableError: regions overlap, are empty, wrap around, do not fit their file, or
                come with a descriptor that is not for reading and writing.
        """
        try:
            if len(regions) != len(fds):
                raise MemoryTableError(f"{len(regions)} regions came with {len(fds)} descriptors")
            self._install([map_region(*pair) for pair in zip(regions, fds, strict=True)])
            self._repeated.clear()
        finally:
            _close_all(fds)

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Add one region (ADD_MEM_REG); owns and closes `fd`.

        A region that is there already, in the same file, is only counted: QEMU 7.2 adds each region
        of a NIC once for each pair of rings, and removes it as often.

        Raises:
            MemoryTableError: as `replace`.
        """
        try:
            mapped = map_region(region, fd)
            if any(known.region == region and known.file == mapped.file for known in self._regions):
                self._repeated[region[:3]] += 1
            else:
                self._install([*self._regions, mapped])
        finally:
            os.close(fd)

    def remove(self, region: MemoryRegion) -> None:
        """Remove the region with this guest address, user address and size (REM_MEM_REG).

        The mmap offset is not compared, as in other back-ends. A region that was added several
        times is removed with its last removal.

        Raises:
            MemoryTableError: there is none.
        """
        wanted = region[:3]
        if self._repeated[wanted]:
            self._repeated[wanted] -= 1
            return
        kept = [mapped for mapped in self._regions if mapped.region[:3] != wanted]
        if len(kept) == len(self._regions):
            raise MemoryTableError(f"no such region at guest address {region.gpa:#x} to remove")
        self._install(kept)

    def check(self) -> None:
        """Check that no page was gone when it was accessed.

        Raises:
            LostMemoryError: one was: the file of a region has shrunk.
        """
        for mapped in self._regions:
            if mapped.mapping.lost:
                raise LostMemoryError(f"guest memory at {mapped.gpa:#x}", self._why_lost)

    def close(self) -> None:
        """Remove all regions. Their memory is unmapped with the last view of it."""
        self._install([])
        self._repeated.clear()

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
