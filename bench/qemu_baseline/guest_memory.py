"""Guest memory of another process: its memfd, found among the files that the process has open."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


class MemoryPage:
    """One page of a memfd of another process.

    Args:
        pid: the process.
        name: of the memfd.
        offset: of the page in the file.
        besides: inodes of files of that name that are not meant.

    Raises:
        EmuError: the process has no such file, or it may not be opened.

    Attributes:
        inode: of the file.
        bytes: the page itself, writable; it is unmapped with the last view of it.
    """

    def __init__(self, pid: int, name: str, offset: int, besides: Container[int] = ()) -> None:
        try:
            for path in _memfds(pid, name):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    self.inode = os.fstat(fd).st_ino
                    if self.inode not in besides:
                        self.bytes = memoryview(mmap.mmap(fd, mmap.PAGESIZE, offset=offset))
                        return
                finally:
                    os.close(fd)
        except (OSError, ValueError) as error:
            raise EmuError(f"the memory of process {pid}: {error}") from error
        raise EmuError(f"process {pid} has no memfd {name}")

    def counter(self, offset: int) -> memoryview:
        """The u64 at that offset in the page, as a view with one element."""
        return self.bytes[offset : offset + 8].cast("Q")


def _memfds(pid: int, name: str) -> Iterator[Path]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if str(link.readlink()) == f"/memfd:{name} (deleted)":
                yield link
