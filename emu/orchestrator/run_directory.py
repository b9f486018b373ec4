"""The temporary directory of one run: sockets, scratch images, logs."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emu.errors import PreflightError
from emu.orchestrator.images_lock import ImagesLock, Role
from vhost_user.temporary_directory import TemporaryDirectory

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec

PREFIX = "emu-"
SIDES = ("A", "B")
SCRATCH_BYTES = 64 << 20


class RunDirectory:
    """A new directory under ``TMPDIR``, as a context manager.

    The directories of runs that were killed are removed first.

    Args:
        images: directory for the scratch images instead, which stay after the run.
        role: the use that the run makes of these images.

    Raises:
        PreflightError: it cannot be created, or another run uses the images.
    """

    def __init__(self, images: Path | None = None, *, role: Role = Role.ALONE) -> None:
        self._images = images
        with ExitStack() as stack:
            try:
                self.path = stack.enter_context(TemporaryDirectory(PREFIX))
            except OSError as error:
                raise PreflightError(
                    f"the directory for sockets cannot be created: {error}"
                ) from None
            self._lock = stack.enter_context(ImagesLock(images, role))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def own_images(self) -> bool:
        """The VM has arrived here: use the images alone. False while the source has them."""
        return self._lock.own()

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
            if not os.path.lexists(path):
                _make_image(path)
            elif self._images and not _is_scratch(path.lstat()):
                raise PreflightError(
                    f"{path} is not a scratch image: it would be a file of {SCRATCH_BYTES} bytes"
                )
        except OSError as error:
            raise PreflightError(f"{path}: {error.strerror}") from None
        return path


def _is_scratch(status: os.stat_result) -> bool:
    """No link: the guest would overwrite whatever is behind it."""
    return stat.S_ISREG(status.st_mode) and status.st_size == SCRATCH_BYTES


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
