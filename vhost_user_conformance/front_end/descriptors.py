"""File descriptors that came with a message: their kind, identity and size."""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from pathlib import Path
from typing import NamedTuple

from vhost_user.mapping import Mapping, MappingError

EVENTFD, MEMFD, SOCKET, PIPE, FILE = "eventfd", "memfd", "socket", "pipe", "file"


class Descriptor(NamedTuple):
    """A descriptor, as it was when it was received.

    Attributes:
        kind: one of the names above.
        identity: the same for two descriptors of one file.
        size: of the file in bytes, or 0.
    """

    kind: str
    identity: str
    size: int


def describe(fd: int) -> Descriptor:
    """Its description. The identity of an eventfd is the kernel's ``eventfd-id``."""
    found = os.fstat(fd)
    target = str(Path(f"/proc/self/fd/{fd}").readlink())
    if "[eventfd]" in target:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        number = [line.split()[-1] for line in lines if line.startswith("eventfd-id")]
        return Descriptor(EVENTFD, f"eventfd {number[0] if number else fd}", 0)
    identity = f"{found.st_dev}:{found.st_ino}"
    if stat.S_ISSOCK(found.st_mode):
        return Descriptor(SOCKET, identity, 0)
    if stat.S_ISFIFO(found.st_mode):
        return Descriptor(PIPE, identity, 0)
    kind = MEMFD if target.startswith("/memfd:") else FILE
    return Descriptor(kind, identity, found.st_size)


class SharedBytes:
    """Bytes [offset, offset + size) of a file that the front-end has sent, mapped.

    A front-end that truncates the file does not end the suite: what is gone reads as zeroes. A
    device file has no size, and cannot be truncated.

    Attributes:
        view: the bytes.

    Raises:
        MappingError: they cannot be mapped.
    """

    def __init__(self, fd: int, size: int, offset: int) -> None:
        self._mapping: Mapping | None = None
        if stat.S_ISCHR(os.fstat(fd).st_mode):
            self.view = self._map_device(fd, size, offset)
            return
        self._mapping = Mapping(fd, offset, size)
        self._end = offset + size
        self._fd = os.dup(fd)
        weakref.finalize(self, os.close, self._fd)
        self.view = self._mapping.view

    @staticmethod
    def _map_device(fd: int, size: int, offset: int) -> memoryview:
        try:
            whole = mmap.mmap(fd, offset + size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            raise MappingError(f"cannot be mapped: {error}") from error
        return memoryview(whole)[offset:]

    @property
    def size(self) -> int:
        """How many of the bytes, from the first one on, are in the file now."""
        if self._mapping is None:
            return len(self.view)
        if self._mapping.lost:  # a page of zeroes is in the place of one that was gone
            return 0
        return max(0, len(self.view) - max(0, self._end - os.fstat(self._fd).st_size))


def map_shared(fd: int, size: int, offset: int) -> SharedBytes | None:
    """Map a part of a file, shared and writable; None if that fails."""
    try:
        return SharedBytes(fd, size, offset)
    except MappingError:
        return None
