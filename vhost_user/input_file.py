"""Input files whose names the user gives: VMs, baselines, reports."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, most: int) -> bytes:
    """The contents of a regular file; a read of some other kinds of file never ends.

    Args:
        path: of the file.
        most: bytes of the largest file that is read.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    if not path.is_file():
        path.stat()  # an error of the system says more
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return data
