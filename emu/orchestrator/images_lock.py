"""Which runs use a directory of images at the same time: at most both ends of one migration."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Self

from emu.errors import PreflightError

if TYPE_CHECKING:
    from pathlib import Path

#: Locked by the run that a VM is to come to; the run whose VM uses the images locks the directory.
LOCK_NAME = ".emu-incoming.lock"


class Role(Enum):
    """The role of a run that uses the images."""

    #: Its VM uses the images, and does not migrate to another run.
    ALONE = "alone"
    #: Its VM uses the images, and migrates to another run.
    SOURCE = "source"
    #: A VM migrates from another run, which uses the images until then.
    DESTINATION = "destination"


class ImagesLock:
    """The locks on a directory of images, as a context manager.

    At most one run is the source and at most one the destination; a run that uses the images alone
    is both. The kernel releases the locks of a process that is killed.

    Args:
        images: the directory; None for none.
        role: of this run.

    Raises:
        PreflightError: another run uses the images in a way that excludes this one.
    """

    def __init__(self, images: Path | None, role: Role) -> None:
        self._images = images
        self._used = -1
        self._incoming = -1
        if images is None:
            return
        free = role is Role.SOURCE or self._await_vm(images)
        if not free or (role is not Role.DESTINATION and not self.own()):
            self.__exit__()
            raise PreflightError(f"--images {images}: another run uses these images")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._incoming >= 0:
            assert self._images is not None  # noqa: S101  there is no lock without a directory
            # Before the lock is released: afterwards another process may create its own file.
            with suppress(OSError):
                (self._images / LOCK_NAME).unlink()
            os.close(self._incoming)
        if self._used >= 0:
            os.close(self._used)

    def own(self) -> bool:
        """Lock the images until the end of the run; False while another run uses them."""
        if self._images is None or self._used >= 0:
            return True
        try:
            self._used = _lock(self._images, os.O_RDONLY | os.O_DIRECTORY)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, or no directory, which is reported elsewhere
            return True
        return True

    def _await_vm(self, images: Path) -> bool:
        """Lock the images as their only destination; False if there is another one."""
        path = images / LOCK_NAME
        while True:
            try:
                fd = _lock(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            except BlockingIOError:
                return False
            except OSError:  # see `own`
                return True
            with suppress(OSError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    self._incoming = fd
                    return True
            os.close(fd)  # another run has removed it between the open and the lock


def _lock(path: Path, flags: int) -> int:
    """A descriptor that holds the lock.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there can be no lock.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
