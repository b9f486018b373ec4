"""Temporary directories that do not outlive their process for long, however it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from vhost_user.deferred_signals import deferred_signals

#: Characters that `tempfile.mkdtemp` appends to a prefix.
RANDOM_LENGTH = 8
_LOCK = "run.lock"


class TemporaryDirectory:
    """A new directory, as a context manager that returns its path.

    A lock is held on it until the block ends, or the process: the next directory of this prefix
    is made after those of processes that were killed have been removed.

    Args:
        prefix: of its name.
        parent: where to make it; by default ``TMPDIR``.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        folder = parent_directory() if parent is None else parent
        remove_stale(prefix, folder)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        self._lock = _make_lock(self.path)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def parent_directory() -> Path:
    """Where temporary files are made: ``TMPDIR``, or what `tempfile` finds without it.

    `tempfile` tests the directory, once in a process, with a file that it makes and removes. Ctrl-C
    between the two would leave the file, so signals have to wait (in a process of one thread).

    Raises:
        FileNotFoundError: no directory is usable.
    """
    with deferred_signals():
        return Path(tempfile.gettempdir())


def remove_stale(prefix: str, folder: Path) -> None:
    """Remove the directories of this prefix whose lock no process holds."""
    for lock in folder.glob(f"{prefix}{'?' * RANDOM_LENGTH}/{_LOCK}"):
        try:
            fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or it has gone meanwhile
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its process goes on
        else:
            shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(fd)


def _make_lock(directory: Path) -> int:
    """A locked file: its name appears when it is locked, so `remove_stale` never sees it free."""
    fd = os.open(directory / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (directory / f"{_LOCK}.new").rename(directory / _LOCK)
    return fd
