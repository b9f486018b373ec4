"""The dirty log: one bit for each 4096-byte page of guest memory that a back-end has written to.

The front-end creates it, a memfd that every back-end maps, and reads and clears the bits while the
back-ends set them: both sides use atomic operations on whole bytes or words (vhost-user
specification, "Migration"; page = address / 4096, byte = page / 8, bit = page % 8).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import TYPE_CHECKING

from vhost_user import native
from vhost_user.errors import FrontendError, UsageError
from vhost_user.mapping import LostMemoryError, Mapping, MappingError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The size of a log is a multiple of this.
WORD_BYTES = 8
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_RUN = struct.Struct("=QQ")
#: That one call of the compiled function returns at most.
_RUNS = 4096


def log_size(pages: int) -> int:
    """Bytes of a log of so many pages."""
    return -(-pages // (8 * WORD_BYTES)) * WORD_BYTES


class DirtyLog:
    """A dirty log, mapped. Any number of threads and processes may mark pages.

    Attributes:
        fd: the descriptor of the log; -1 at a back-end, which does not keep one.
        size: bytes of the log.
        offset: where in the file it starts.
        address: of its first byte in this process.
    """

    def __init__(self, mapping: memoryview, *, fd: int, offset: int) -> None:
        self.fd = fd
        self.size = len(mapping)
        self.offset = offset
        self._view: memoryview | None = mapping
        self._mapping: Mapping | None = None
        self.address = native.address_of(mapping)
        self._mark = native.log_marker()

    @classmethod
    def create(cls, pages: int) -> DirtyLog:
        """Create a log for guest-physical pages 0 to `pages` - 1: a sealed, sparse memfd.

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
        """Map the log of SET_LOG_BASE; `fd` stays the caller's.

        Raises:
            FrontendError: the file is smaller than in the message, or cannot be mapped.
        """
        try:
            mapping = Mapping(fd, offset, size)
        except MappingError as error:
            raise FrontendError(f"the dirty log {error}", message="SET_LOG_BASE") from error
        log = cls(mapping.view, fd=-1, offset=offset)
        log._mapping = mapping
        return log

    def mark(self, gpa: int, length: int) -> None:
        """Mark the pages of [gpa, gpa + length) as written. Call it after the write.

        Raises:
            FrontendError: the range is beyond the end of the log.
            UsageError: it was closed.
        """
        view = self._view  # a reference, so that a close by another thread does not unmap it yet
        if view is None:
            raise UsageError("this dirty log was closed")
        if self._mark(self.address, self.size, gpa, length):
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
        """Read and clear the log: runs of dirty pages (guest-physical address, bytes), in order.

        A bit is read and cleared in one step, so that a concurrent mark is found now or by the
        next harvest. Adjacent pages are one run.
        """
        view = self._view  # a reference, as in mark
        if view is None:
            raise UsageError("this dirty log was closed")
        ffi, harvest = native.ffi, native.lib.vu_log_harvest
        out, taken = ffi.new("uint64_t[]", 2 * _RUNS), ffi.new("size_t *")
        runs: list[tuple[int, int]] = []
        for start, end in self._extents():
            at = start
            while at < end:
                words, count = ffi.cast("uint64_t *", self.address + at), (end - at) // WORD_BYTES
                at += WORD_BYTES * harvest(words, count, at * 8, out, _RUNS, taken)
                found = list(_RUN.iter_unpack(ffi.buffer(out, taken[0] * _RUN.size)))
                if runs and found and sum(runs[-1]) == found[0][0]:
                    gpa, length = runs.pop()
                    found[0] = gpa, length + found[0][1]
                runs += found
        return runs

    def check(self) -> None:
        """Check that no page was gone when it was accessed.

        Raises:
            LostMemoryError: one was.
        """
        if self._mapping is not None and self._mapping.lost:
            raise LostMemoryError("the dirty log")

    def close(self) -> None:
        """Unmap the log, and close its descriptor if it has one."""
        self._view = self._mapping = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
