"""What a descriptor is that came with a message."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import NamedTuple

EVENTFD, MEMFD, SOCKET, PIPE, FILE = "eventfd", "memfd", "socket", "pipe", "file"


class Descriptor(NamedTuple):
    """A descriptor, as it was when it came.

    Attributes:
        kind: one of the names above.
        identity: two descriptors of one thing have the same.
        size: bytes of the file, or 0.
    """

    kind: str
    identity: str
    size: int


def look_at(fd: int) -> Descriptor:
    """What it is. Descriptors of one eventfd are known by the number that the kernel gives it."""
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


def map_shared(fd: int, size: int, offset: int) -> mmap.mmap | None:
    """A shared, writable mapping of the file's beginning up to there, or None: there can be none.

    ``offset`` need not be at a page's beginning, so all that is before it is mapped, too.
    """
    try:
        return mmap.mmap(fd, offset + size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError, OverflowError):
        return None
