"""The temporary directory of one run: sockets, scratch images, logs."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emu.errors import PreflightError
from emu.orchestrator import signals

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec

PREFIX = "emu-"
#: Characters that mkdtemp appends.
RANDOM_LENGTH = 8
SIDES = ("A", "B")
_LOCK = "run.lock"
SCRATCH_BYTES = 64 << 20


class RunDirectory:
    """A new directory under ``TMPDIR``, as a context manager.

    The directory is removed when the run ends. The run holds a lock on it: the next run removes the
    directory of a run that was killed, whose lock no process holds.

    Args:
        images: directory for the scratch images instead, which stay after the run.
        awaits_vm: another run uses the images until its VM has migrated; see `own_images`.

    Raises:
        PreflightError: it cannot be created, or another run uses the images.
    """

    def __init__(self, images: Path | None = None, *, awaits_vm: bool = False) -> None:
        self._images = images
        self._images_lock = -1
        remove_stale()
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock = _make_lock(self.path)
        except OSError as error:
            raise PreflightError(f"the directory for sockets cannot be created: {error}") from None
        if images is not None and not awaits_vm and not self.own_images():
            self.__exit__()
            raise PreflightError(f"--images {images}: another run uses these images")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        if self._images_lock >= 0:
            os.close(self._images_lock)

    def own_images(self) -> bool:
        """Reserve the images' directory until the run ends; False if another run has it."""
        if self._images is None or self._images_lock >= 0:
            return True
        fd = -1
        try:
            fd = os.open(self._images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:  # a file system without locks, or no directory, which is reported elsewhere
            if fd >= 0:
                os.close(fd)
            return True
        self._images_lock = fd
        return True

    def shortage(self) -> str:
        """An error text if no space is left for the run's files, else an empty string."""
        for path in (self._images, self.path):
            if path is not None and not os.statvfs(path).f_bavail:
                return f"no space left on device in {path}"
        return ""

    def socket(self, side: str, device: str) -> Path:
        """Path of the socket of a device's back-end."""
        return self.path / socket_name(side, device)

    def stream(self, number: int) -> Path:
        """Path of the destination's socket, by the number of the migration."""
        return self.path / f"migrate-{number}.sock"

    def uplink(self, side: str, program: str) -> Path:
        """Path of the datagram socket that connects a net program's NICs to the outside."""
        return self.path / f"{side}-{program}.uplink"

    def stats(self, side: str, program: str) -> Path:
        """Path of a back-end program's counters."""
        return self.path / f"{side}-{program}.stats"

    def log(self, side: str, program: str) -> Path:
        """Path of a program's output."""
        return self.path / f"{side}-{program}.log"

    def image(self, device: str) -> Path:
        """Path of the scratch image of a disk; the first call creates it, sparse.

        Raises:
            PreflightError: it cannot be created, or another file has its path.
        """
        path = (self._images or self.path) / f"{device}.img"
        try:
            if not path.exists():
                _make_image(path)
            elif self._images and path.stat().st_size != SCRATCH_BYTES:
                raise PreflightError(
                    f"{path} is not a scratch image: it would have {SCRATCH_BYTES} bytes"
                )
        except OSError as error:
            raise PreflightError(f"{path}: {error.strerror}") from None
        return path


def temporary_directory() -> str:
    """Where temporary files go: ``TMPDIR``, or what `tempfile` finds without it.

    `tempfile` tests the directory, once in a process, with a file that it makes and removes. Ctrl-C
    between the two would leave the file, so it has to wait.
    """
    with signals.held():
        return tempfile.gettempdir()


def remove_stale() -> None:
    """Remove the directories of runs that were killed: those whose lock no process holds."""
    for lock in Path(temporary_directory()).glob(f"{PREFIX}{'?' * RANDOM_LENGTH}/{_LOCK}"):
        try:
            fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or removed meanwhile
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its run has not ended
        else:
            shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(fd)


def _make_lock(directory: Path) -> int:
    """Create a locked file: it gets its name after it is locked, so `remove_stale` skips it."""
    fd = os.open(directory / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (directory / f"{_LOCK}.new").rename(directory / _LOCK)
    return fd


def _make_image(path: Path) -> None:
    """Create an image atomically: another run may open it at the same time."""
    fd, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(fd)
    try:
        os.truncate(part, SCRATCH_BYTES)
        with suppress(FileExistsError):  # the other run has created it
            os.link(part, path)
    finally:
        Path(part).unlink()


def socket_name(side: str, device: str) -> str:
    """Name of a back-end's socket within the directory."""
    return f"{side}-{device}.sock"


def longest_name(spec: VmSpec) -> str:
    """The longest socket name in a run of this VM."""
    names = [socket_name(side, device.name) for side in SIDES for device in spec.devices]
    return max([*names, "migrate-1000000.sock"], key=len)
