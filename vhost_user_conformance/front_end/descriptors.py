"""File descriptors that came with a message: their kind, identity and size."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import NamedTuple

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


def map_shared(fd: int, size: int, offset: int) -> mmap.mmap | None:
    """Map the file's first ``offset + size`` bytes, shared and writable; None if that fails.

    ``offset`` need not be page-aligned, so the bytes before it are mapped, too.
    """
    try:
        return mmap.mmap(fd, offset + size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError, OverflowError):
        return None
