"""The dirty log: one bit for each 4096-byte page of guest memory that a back-end has written to.

The front-end makes it, a memfd of its own that every back-end maps, and takes the bits out while
they go on setting them: both sides use atomic operations on whole bytes or words (vhost-user
specification, "Migration"; page = address / 4096, byte = page / 8, bit = page % 8).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

from vhost_user import native
from vhost_user.errors import FrontendError, UsageError
from vhost_user.memory import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The log is as long as a whole number of these.
WORD_BYTES = 8
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_RUNS = 4096


def log_size(pages: int) -> int:
    """Bytes of a log for that many pages."""
    return -(-pages // (8 * WORD_BYTES)) * WORD_BYTES


class DirtyLog:
    """A dirty log, mapped. Marks may come from any number of threads and processes.

    Attributes:
        fd: the descriptor of the log; -1 at a back-end, which does not keep it.
        size: bytes of the log.
        offset: where in the file it starts.
    """

    def __init__(self, mapping: memoryview, *, fd: int, offset: int) -> None:
        self.fd = fd
        self.size = len(mapping)
        self.offset = offset
        self._view: memoryview | None = mapping
        self._address = native.address_of(mapping)
        self._mark = native.log_marker()

    @classmethod
    def create(cls, pages: int) -> DirtyLog:
        """Makes a log for guest-physical pages 0 to `pages` - 1: a sealed, sparse memfd.

        Raises:
            UsageError: the compiled extension was not built.
        """
        native.require()
        size = max(log_size(pages), WORD_BYTES)
        fd = os.memfd_create("vhost-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(memoryview(mmap.mmap(fd, size)), fd=fd, offset=0)
        except OSError:
            os.close(fd)
            raise

    @classmethod
    def map(cls, fd: int, size: int, offset: int) -> DirtyLog:
        """Maps the log that came with SET_LOG_BASE; `fd` stays the caller's.

        Raises:
            FrontendError: the file is smaller than it was said to be, or cannot be mapped.
        """
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            if size == 0 or offset + size > os.fstat(fd).st_size:
                raise FrontendError(
                    f"log of {size} bytes at offset {offset} is not in its file",
                    message="SET_LOG_BASE",
                )
            mapping = mmap.mmap(fd, offset + size - start, offset=start)
        except (OSError, ValueError, OverflowError) as error:
            raise FrontendError(f"cannot map: {error}", message="SET_LOG_BASE") from error
        return cls(memoryview(mapping)[offset - start :], fd=-1, offset=offset)

    def mark(self, gpa: int, length: int) -> None:
        """Marks the pages of [gpa, gpa + length) as written to. Call it after the write.

        Raises:
            FrontendError: the log does not reach so far.
            UsageError: it was closed.
        """
        view = self._view  # held here, so that a close by another thread cannot unmap it yet
        if view is None:
            raise UsageError("this dirty log was closed")
        if self._mark(self._address, self.size, gpa, length):
            raise FrontendError(f"guest addresses {gpa:#x}+{length:#x} are beyond the dirty log")

    def _extents(self) -> Iterator[tuple[int, int]]:
        """Parts (start, end) of the log that are not holes: a 180 GiB guest's log is 6 MB."""
        if self.fd < 0:
            yield 0, self.size
            return
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                return
            end = min(os.lseek(self.fd, start, os.SEEK_HOLE), self.size)
            yield start, end

    def harvest(self) -> list[tuple[int, int]]:
        """Takes the dirty pages, as runs (guest-physical address, length in bytes), in order.

        A bit is taken and cleared in one step, so that a mark made meanwhile is found now or by
        the next harvest. Adjoining pages are one run.
        """
        runs: list[tuple[int, int]] = []
        for start, end in self._extents():
            for first, pages in self._harvest_extent(start, end):
                gpa, length = first << PAGE_SHIFT, pages << PAGE_SHIFT
                if runs and sum(runs[-1]) == gpa:
                    gpa, length = runs[-1][0], runs.pop()[1] + length
                runs.append((gpa, length))
        return runs

    def _harvest_extent(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        view = self._view  # held, as in mark
        if view is None:
            raise UsageError("this dirty log was closed")
        ffi, harvest = native.ffi, native.lib.vu_log_harvest
        out, taken = ffi.new("uint64_t[]", 2 * _RUNS), ffi.new("size_t *")
        while start < end:
            words = ffi.cast("uint64_t *", self._address + start)
            count = (end - start) // WORD_BYTES
            done = harvest(words, count, start * 8, out, _RUNS, taken)
            flat = ffi.unpack(out, 2 * taken[0]) if taken[0] else []
            yield from zip(flat[::2], flat[1::2], strict=True)
            start += done * WORD_BYTES

    def close(self) -> None:
        """Unmaps the log, and closes its descriptor where it has one."""
        self._view = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
