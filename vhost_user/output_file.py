"""Output files whose names the user gives: reports, traces, statistics.

Other users may be able to create files in the directory, as in ``/tmp``: no symbolic link at the
name is followed, and a temporary file never has the name of one that exists. Only FIFOs and
character devices are written to through a link, as with ``/dev/stdout`` and ``/dev/fd/63``: they
hold nothing that could be overwritten. A FIFO that no process reads is an error:
a program that waits for it would neither start nor end.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Less the umask, as for any program's output.
MODE = 0o666
#: Seconds in which the reader of a FIFO may come: a shell starts it at the same time as the writer.
READER_TIMEOUT = 2.0
#: Seconds between two attempts to open a FIFO.
_READER_INTERVAL = 0.02


@contextmanager
def replaced(path: Path, *, mode: int = MODE) -> Iterator[int]:
    """A descriptor for reading and writing, of a new file that gets the name when the block ends.

    A process that has the old file of that name open keeps it. A link at the name is replaced by
    the file. If the block raises, nothing has changed.

    Args:
        path: the name; a regular file there keeps its permissions.
        mode: permissions of a file that is not there yet, less the umask.

    Raises:
        OSError: it cannot be created, or the name is not that of a regular file or a link.
    """
    permissions = _permissions(path)
    part = path.with_name(f".{os.urandom(8).hex()}.part")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(part, flags, mode)
    except OSError as error:
        raise _about(path, error) from None
    try:
        if permissions is not None:
            os.fchmod(fd, permissions)
        yield fd
        try:
            part.rename(path)
        except OSError as error:
            raise _about(path, error) from None
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    finally:
        os.close(fd)


def write(path: Path, contents: str | bytes) -> None:
    """Write a whole document: into a stream, or as the new contents of a file.

    Raises:
        OSError: it cannot be written; a file is unchanged then.
    """
    data = contents.encode() if isinstance(contents, str) else contents
    if is_stream(path):
        with open_stream(path) as fd:
            _write_all(fd, data)
    else:
        with replaced(path) as fd:
            _write_all(fd, data)


def open_to_append(path: Path, *, timeout: float | None = READER_TIMEOUT) -> int:
    """A descriptor that appends to a file, a FIFO or a character device; a file may be new.

    Args:
        path: the name.
        timeout: seconds to wait for the reader of a FIFO; None waits without limit.

    Raises:
        OSError: it cannot be opened, is a link to a file, or is a FIFO that no process reads.
    """
    flags = os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        return _open_to_write(path, flags, timeout)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    with open_stream(path, timeout=timeout) as fd:
        return os.dup(fd)


def _open_to_write(path: Path, flags: int, timeout: float | None) -> int:
    """A descriptor whose writes wait; the open waits only for the reader of a FIFO."""
    flags |= os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
    if timeout is None:
        return os.open(path, flags, MODE)
    deadline = time.monotonic() + timeout
    while True:
        try:
            fd = os.open(path, flags | os.O_NONBLOCK, MODE)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
            if time.monotonic() >= deadline:
                raise OSError(errno.ENXIO, "no process reads this FIFO", str(path)) from None
            time.sleep(_READER_INTERVAL)  # there is no event for that
        else:
            os.set_blocking(fd, True)
            return fd


@contextmanager
def open_stream(path: Path, *, timeout: float | None = READER_TIMEOUT) -> Iterator[int]:
    """A descriptor that writes to a FIFO or a character device, perhaps behind a link.

    Args:
        path: the name.
        timeout: seconds to wait for the reader of a FIFO; None waits without limit.

    Raises:
        OSError: it cannot be opened, is something else, or is a FIFO that no process reads.
    """
    if not is_stream(path):
        raise OSError(errno.ELOOP, "is a symbolic link to something else than a stream", str(path))
    fd = _open_to_write(path, 0, timeout)
    try:
        if not _is_stream(os.fstat(fd)):  # it has been replaced meanwhile
            raise OSError(errno.ELOOP, "is not a stream any more", str(path))
        yield fd
    finally:
        os.close(fd)


def is_stream(path: Path) -> bool:
    """Whether it is a FIFO or a character device, perhaps behind a link: ``/dev/null``, ``>(cat)``.

    Such a file is written to; any other one is replaced by a new file.

    Raises:
        OSError: the name cannot be looked up, for another reason than that it does not exist.
    """
    try:
        return _is_stream(path.stat())
    except FileNotFoundError:
        return False


def _is_stream(status: os.stat_result) -> bool:
    return stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)


def _permissions(path: Path) -> int | None:
    """Those of the regular file of this name, if there is one."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return None
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "is not a regular file", str(path))
    return stat.S_IMODE(mode)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _about(path: Path, error: OSError) -> OSError:
    """The error under the name that the user has given."""
    return OSError(error.errno, error.strerror, str(path))
