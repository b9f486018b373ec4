"""The file behind a block device: its size, its lock, and the calls that work on parts of it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user.virtio.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

ZERO_CHUNK = bytes(1 << 20)

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16

#: Errors of a file system that cannot punch holes or zero ranges.
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL)

# The standard library has no fallocate with a mode.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_long))

#: Buffers of one call (readv(2)).
IOV_MAX = 1024
#: The f_type of tmpfs and ramfs (statfs(2)).
_IN_MEMORY = (0x01021994, 0x858458F6)


class ImageError(ValueError):
    """The file cannot be served as a disk; the text is for the user."""


class Image:
    """A disk's contents.

    Args:
        path: a regular file or a block device.
        read_only: open it for reading only.

    Attributes:
        fd: its descriptor.
        size: bytes, a multiple of 512.
        read_flags: flags of an `os.preadv` that does not wait for the disk; None if the file system
            has none, and each read may wait.
        write_flags: the same for `os.pwritev`; RWF_NOWAIT until a write has shown that the file
            system does not know it.

    Raises:
        ImageError: it is missing, cannot be opened, is empty, or is not a multiple of 512 bytes.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        # Non-blocking: a FIFO would wait for its other end; it has no effect on what is a disk.
        flags = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            # Before it is opened: some devices do something then.
            self._check_kind(Path(path).stat())
            self.fd = os.open(path, flags | (os.O_RDONLY if read_only else os.O_RDWR))
        except OSError as error:
            purpose = "reading" if read_only else "reading and writing"
            raise ImageError(f"{path}: cannot be opened for {purpose}: {error.strerror}") from error
        try:
            self.size = self._measure()
        except ImageError:
            os.close(self.fd)
            raise
        self.read_flags, self.write_flags = self._find_flags()
        self._locked = False

    def _check_kind(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
            raise ImageError(f"{self.path}: is neither a file nor a block device")

    def _measure(self) -> int:
        try:
            self._check_kind(os.fstat(self.fd))
            size = os.lseek(self.fd, 0, os.SEEK_END)
        except OSError as error:
            raise ImageError(f"{self.path}: has no size: {error.strerror}") from error
        if not size:
            raise ImageError(f"{self.path}: is empty")
        if size % SECTOR_SIZE:
            raise ImageError(f"{self.path}: {size} bytes is not a multiple of {SECTOR_SIZE}")
        return size

    def refresh(self) -> bool:
        """Read the file's size again; True when it has grown.

        Raises:
            ImageError: it has shrunk, or cannot be a disk any more; `size` is unchanged.
        """
        size = self._measure()
        if size < self.size:
            raise ImageError(f"{self.path}: is now {size} bytes, less than {self.size}")
        grown = size > self.size
        self.size = size
        return grown

    def _find_flags(self) -> tuple[int | None, int | None]:
        """The flags of reads and writes that do not wait."""
        if _file_system(self.fd) in _IN_MEMORY:
            return 0, 0  # there is no disk to wait for
        try:
            os.preadv(self.fd, [bytearray(SECTOR_SIZE)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError:
            return None, os.RWF_NOWAIT
        return os.RWF_NOWAIT, os.RWF_NOWAIT

    def lock(self) -> str | None:
        """Lock the file: exclusively, or shared when it is read-only.

        The lock belongs to the open file description, so two devices of one process exclude each
        other as well.

        Returns:
            None, or why it cannot be locked.
        """
        if not self._locked:
            kind = fcntl.LOCK_SH if self.read_only else fcntl.LOCK_EX
            try:
                fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return f"{self.path} is in use by another back-end with started rings"
            self._locked = True
        return None

    def unlock(self) -> None:
        """Unlock the file."""
        if self._locked:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            self._locked = False

    def close(self) -> None:
        """Close the file, which unlocks it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers; may block.

        Raises:
            OSError: the file cannot be read, or ends.
        """
        left = list(buffers)
        while left:
            count = os.preadv(self.fd, left[:IOV_MAX], offset)
            if not count:
                raise OSError(errno.EIO, "the file has become shorter")
            offset += count
            left = _rest(left, count)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write all of the buffers.

        Raises:
            OSError: the file cannot be written, or the file system is full.
        """
        left = list(buffers)
        while left:
            count = os.pwritev(self.fd, left[:IOV_MAX], offset)
            offset += count
            left = _rest(left, count)

    def flush(self) -> None:
        """Write the file's data to the disk."""
        os.fdatasync(self.fd)

    def discard(self, offset: int, length: int) -> None:
        """Deallocate the bytes; a hint, so the file system may do nothing."""
        self._allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Have the bytes read as zeroes, and be deallocated with ``unmap``."""
        mode = FALLOC_FL_PUNCH_HOLE if unmap else FALLOC_FL_ZERO_RANGE
        if self._allocate(mode | FALLOC_FL_KEEP_SIZE, offset, length):
            return
        while length:
            count = os.pwrite(self.fd, memoryview(ZERO_CHUNK)[:length], offset)
            offset += count
            length -= count

    def _allocate(self, mode: int, offset: int, length: int) -> bool:
        if _libc.fallocate(self.fd, mode, offset, length) == 0:
            return True
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return False
        raise OSError(code, os.strerror(code), self.path)


def _file_system(fd: int) -> int:
    """The f_type of a file's file system, the first word of struct statfs; 0 if it is not known."""
    status = (ctypes.c_long * 32)()
    return int(status[0]) if _libc.fstatfs(fd, status) == 0 else 0


def _rest(buffers: list[memoryview], count: int) -> list[memoryview]:
    """The rest of the buffers after ``count`` bytes."""
    for number, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[number + 1 :]]
        count -= len(buffer)
    return []
