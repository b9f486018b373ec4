"""Guest memory: sparse and shared, of any size.

It is one region, or two around the hole below 4 GiB, where the notify addresses are. Each is a
memfd, so that a back-end can map it, and uses memory only for the pages that were touched. The size
is sealed: otherwise a back-end, which has the descriptor, could make the file shorter, and the next
access here would end the VM.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from vhost_user.memory import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: The most bytes below the hole; the rest is above it.
LOW_BYTES = 3 << 30
HIGH_START = 4 << 30
#: Seals: what no process can do to a region.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class RamError(EmuError, ValueError):
    """An address range that is not guest memory, or not within one region."""


class RamRegion(NamedTuple):
    """A contiguous part of guest memory.

    Attributes:
        gpa: its guest-physical address.
        size: bytes.
        fd: the memfd; offset 0 is `gpa`.
    """

    gpa: int
    size: int
    fd: int


class GuestRam:
    """The memory of one machine.

    The guest's own writes are recorded by page (`mark`), for a migration; back-ends record theirs
    in the dirty log.

    Args:
        size: bytes, a multiple of 4096.
        fds: the memfds of existing memory, one for each region; the caller closes them.

    Raises:
        RamError: the size is invalid, or the memory of ``fds`` is not of that size, or not sealed.
        OSError: out of descriptors or memory.

    Attributes:
        size: bytes.
        inherited: it is the memory of ``fds``: another process may be running its guest.
        regions: one or two, in address order.
        pages: pages of the guest-physical address space up to the end of memory, including the
            hole: the number of bits of a dirty log.
    """

    def __init__(self, size: int, fds: Sequence[int] = ()) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise RamError(f"{size} bytes is not a whole number of pages")
        self.size = size
        self.inherited = bool(fds)
        self.regions: list[RamRegion] = []
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        low = min(size, LOW_BYTES)
        try:
            self._add_region(0, low, fds[0] if fds else None)
            if size > low:
                self._add_region(HIGH_START, size - low, fds[1] if fds else None)
        except (OSError, RamError):
            self.close()
            raise
        last = self.regions[-1]
        self.pages = (last.gpa + last.size) >> PAGE_SHIFT
        self._low = self._views[0]
        self._low_end = low
        self._high = self._views[-1]
        self._high_end = last.gpa + last.size if size > low else 0
        self._reserved = 0
        self._writers: list[Callable[[], Iterable[int]]] = []
        self._dirty: set[int] = set()
        # The set that was harvested last, and the pages that were found in it.
        self._harvested: set[int] = set()
        self._reported: set[int] = set()

    def _add_region(self, gpa: int, size: int, existing_fd: int | None) -> None:
        if existing_fd is None:
            fd = os.memfd_create(f"guest-ram-{gpa:#x}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self.regions.append(RamRegion(gpa, size, fd))
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        else:
            fd = os.dup(existing_fd)
            self.regions.append(RamRegion(gpa, size, fd))
            existing_size = os.fstat(fd).st_size
            if existing_size != size:
                raise RamError(f"the existing memory has {existing_size} bytes, not {size}")
            if not _seals_of(fd) & fcntl.F_SEAL_SHRINK:
                raise RamError("the existing memory is not sealed: it could shrink at any time")
        # The kernel accounts a memfd's pages when they are touched: a mapping reserves nothing.
        mapping = mmap.mmap(fd, size, mmap.MAP_SHARED)
        self._maps.append(mapping)
        self._views.append(memoryview(mapping))

    def view(self, gpa: int, length: int) -> memoryview:
        """Guest memory itself, writable. After a write the caller calls `mark`.

        Raises:
            RamError: a part of the range is not memory, or it spans the hole.
        """
        end = gpa + length
        if 0 <= gpa <= end <= self._low_end:
            return self._low[gpa:end]
        if HIGH_START <= gpa <= end <= self._high_end:
            return self._high[gpa - HIGH_START : end - HIGH_START]
        raise RamError(f"[{gpa:#x}, {end:#x}) is not guest memory")

    def mark(self, gpa: int, length: int) -> None:
        """Record that the guest has written there, after the write: see `harvest`."""
        first = gpa >> 12
        last = (gpa + length - 1) >> 12
        if first == last:
            self._dirty.add(first)
        else:
            # Made first: between the read of `_dirty` and the update there must be no other call.
            pages = range(first, last + 1)
            self._dirty.update(pages)

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy into guest memory and mark it.

        Raises:
            RamError: see `view`.
        """
        self.view(gpa, len(data))[:] = data
        self.mark(gpa, len(data))

    def reserve(self, size: int) -> None:
        """Reserve the last bytes of the first region for the accelerator's guest code.

        Raises:
            RamError: the region is too small.
        """
        if size >= self.regions[0].size:
            raise RamError(f"{self.size} bytes of memory are too little for so many vCPUs")
        self._reserved = size

    @property
    def free_regions(self) -> list[RamRegion]:
        """The regions that the guest's drivers may use."""
        low, *high = self.regions
        return [low._replace(size=low.size - self._reserved), *high]

    def add_writer(self, dirty: Callable[[], Iterable[int]]) -> None:
        """Add a function for each harvest to call: it returns pages written by other guest code."""
        self._writers.append(dirty)

    def harvest(self) -> set[int]:
        """The numbers of the pages that were marked since the last harvest.

        vCPUs may run. A mark that read the old set just before the exchange may update it after
        the harvest has read it; the next harvest finds it, as it reads that set once more. A page
        that was in the old set already needs no second report: the write came before its mark,
        hence before the exchange, hence before the harvesting thread reads the page. While the
        vCPUs are paused, one harvest finds all marks.
        """
        dirty, self._dirty = self._dirty, set()
        late = self._harvested.copy() - self._reported
        found = dirty.copy()
        self._harvested, self._reported = dirty, found
        return found.union(late, *[written() for written in self._writers])

    def extents(self) -> list[tuple[int, int]]:
        """All pages that were ever touched, as (gpa, length) runs, in address order."""
        return [run for region in self.regions for run in _data_of(region)]

    def locate(self, gpa: int, length: int) -> tuple[int, int]:
        """The memfd that holds the range, and the offset in it, such as for sendfile.

        Raises:
            RamError: see `view`.
        """
        for region in self.regions:
            if length >= 0 and region.gpa <= gpa and gpa + length <= region.gpa + region.size:
                return region.fd, gpa - region.gpa
        raise RamError(f"[{gpa:#x}, {gpa + length:#x}) is not guest memory")

    def close(self) -> None:
        """Release the memory. Idempotent.

        A mapping of which the caller has views is released with the last of them.
        """
        for view in self._views:
            with suppress(BufferError):
                view.release()
        for mapping in self._maps:
            with suppress(BufferError):
                mapping.close()
        for region in self.regions:
            os.close(region.fd)
        self._views, self._maps, self.regions = [], [], []


def _seals_of(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # no memfd
        return 0


def _data_of(region: RamRegion) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    end = 0
    while end < region.size:
        try:
            start = os.lseek(region.fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        end = os.lseek(region.fd, start, os.SEEK_HOLE)
        runs.append((region.gpa + start, end - start))
    return runs
