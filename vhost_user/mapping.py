"""Memory that a peer shares: a part of the file that it sent, mapped for reading and writing.

A peer's file is not trusted. Each mapping is made with the descriptor that the peer sent, and has
the rights of that descriptor; a mapping of the same file by another descriptor is never reused. The
file may shrink while it is mapped. An access to a page that is gone does not end the process: it is
counted in `losses`, the mapping is marked (`Mapping.lost`), and the page reads as zeroes. The
user of a mapping compares the count, and fails its device (docs/explanation/peers-descriptors.md).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Any

from vhost_user import native
from vhost_user.errors import FrontendError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Linux's number; the standard library has no name for it.
O_PATH = 0o10000000


class MappingError(ValueError):
    """The part of the file cannot be mapped; the text begins with a verb, to follow its name."""


class LostMemoryError(FrontendError):
    """Pages of a mapping were gone when they were accessed.

    Args:
        what: the memory, for the text.
        why: the reason, for the text.
    """

    def __init__(self, what: str, why: str = "its file has shrunk") -> None:
        super().__init__(f"{what} is lost: {why}")


class Mapping:
    """Bytes [offset, offset + size) of a file, shared, readable and writable.

    Args:
        fd: the file; it stays the caller's, and may be closed.
        offset: that of the first byte.
        size: the number of bytes.

    Attributes:
        view: the bytes. The mapping lives as long as a view of it.
        start: address in this process of the first page that is mapped.
        length: bytes of the pages that are mapped.

    Raises:
        MappingError: the file is shorter, or the descriptor does not permit reading and writing.
    """

    __slots__ = ("_entry", "length", "start", "view")

    def __init__(self, fd: int, offset: int, size: int) -> None:
        try:
            file_size = os.fstat(fd).st_size
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError as error:
            raise MappingError(f"cannot be mapped: {error.strerror}") from error
        if flags & O_PATH or flags & os.O_ACCMODE != os.O_RDWR:
            kind = "is O_PATH" if flags & O_PATH else "is not for reading and writing"
            raise MappingError(f"cannot be mapped: its descriptor {kind}")
        if offset + size > file_size:
            raise MappingError(f"has {size:#x} bytes at {offset:#x} of a file of {file_size:#x}")
        if native.available:
            self._map(fd, offset, size)
        else:
            self._map_unguarded(fd, offset, size)

    def _map(self, fd: int, offset: int, size: int) -> None:
        error = native.ffi.new("int *")
        entry = native.lib.vu_map(fd, offset, size, error)
        if not entry:
            raise MappingError(f"cannot be mapped: {os.strerror(error[0])}")
        self._entry: Any = entry
        self.start = int(entry.start)
        self.length = int(entry.end) - self.start
        unmap = native.lib.vu_unmap
        memory = native.ffi.gc(entry.bytes, lambda _: unmap(entry), size)
        self.view = memoryview(native.ffi.buffer(memory, size))

    def _map_unguarded(self, fd: int, offset: int, size: int) -> None:
        """Without the compiled extension there is no handler: a file that shrinks ends the process.

        A file of huge pages can only be mapped from the start of such a page.
        """
        granule = max(mmap.ALLOCATIONGRANULARITY, os.fstat(fd).st_blksize)
        skipped = offset % granule
        try:
            mapped = mmap.mmap(fd, skipped + size, offset=offset - skipped)
        except (OSError, ValueError, OverflowError) as error:
            raise MappingError(f"cannot be mapped: {error}") from error
        self._entry = None
        self.start, self.length = 0, len(mapped)
        self.view = memoryview(mapped)[skipped:]

    @property
    def lost(self) -> bool:
        """Whether pages were gone when they were accessed."""
        return self._entry is not None and bool(self._entry.lost)


def _counter() -> Sequence[int]:
    if not native.available:
        return (0,)
    counter = native.ffi.buffer(native.ffi.addressof(native.lib, "vu_losses"), 8)
    return memoryview(counter).cast("Q")


#: One number: how many accesses have met a page that was gone, in all mappings of the process.
losses = _counter()

#: The errno of a system call that was given a buffer whose pages are gone.
GONE = errno.EFAULT


def look(views: Sequence[memoryview]) -> None:
    """After a system call has failed with `GONE`: count a loss if pages of the views are gone."""
    if native.available:
        for view in views:
            if len(view):
                native.lib.vu_look(native.ffi.from_buffer(view), len(view))
