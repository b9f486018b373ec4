"""The directory of one run: sockets, scratch images, logs. It goes when the run ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emu.errors import PreflightError

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec

PREFIX = "emu-"
#: Characters that mkdtemp appends.
RANDOM_LENGTH = 8
SIDES = ("A", "B")
SCRATCH_BYTES = 64 << 20


class RunDirectory:
    """A new directory under ``TMPDIR``, as a context manager.

    Args:
        images: where scratch images are kept instead, beyond the run.

    Raises:
        PreflightError: it cannot be made.
    """

    def __init__(self, images: Path | None = None) -> None:
        self._images = images
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        except OSError as error:
            raise PreflightError(f"no directory for sockets can be made: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def socket(self, side: str, device: str) -> Path:
        """Where the back-end of a device listens."""
        return self.path / socket_name(side, device)

    def stream(self, number: int) -> Path:
        """Where the destination of the migration with this number listens."""
        return self.path / f"migrate-{number}.sock"

    def uplink(self, side: str, program: str) -> Path:
        """The datagram socket by which a net program reaches the world outside of the VM."""
        return self.path / f"{side}-{program}.uplink"

    def stats(self, side: str, program: str) -> Path:
        """Where a back-end program keeps its counters."""
        return self.path / f"{side}-{program}.stats"

    def log(self, side: str, program: str) -> Path:
        """Where the stderr of a program goes."""
        return self.path / f"{side}-{program}.log"

    def image(self, device: str) -> Path:
        """The scratch image of a disk: sparse, made when it is asked for first.

        Raises:
            PreflightError: it cannot be made, or there is something else of that name.
        """
        path = (self._images or self.path) / f"{device}.img"
        try:
            if not path.exists():
                _make_image(path)
            elif self._images and path.stat().st_size != SCRATCH_BYTES:
                raise PreflightError(
                    f"{path} is no scratch image: it would have {SCRATCH_BYTES} bytes"
                )
        except OSError as error:
            raise PreflightError(f"{path}: {error.strerror}") from None
        return path


def _make_image(path: Path) -> None:
    """Make it whole or not at all: another run may look for it at the same time."""
    fd, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(fd)
    try:
        os.truncate(part, SCRATCH_BYTES)
        with suppress(FileExistsError):  # the other one was quicker
            os.link(part, path)
    finally:
        Path(part).unlink()


def socket_name(side: str, device: str) -> str:
    """Name of a back-end's socket within the directory."""
    return f"{side}-{device}.sock"


def longest_name(spec: VmSpec) -> str:
    """The longest name of a socket that a run of this VM makes."""
    names = [socket_name(side, device.name) for side in SIDES for device in spec.devices]
    return max([*names, "migrate-1000000.sock"], key=len)
