"""Writing the files that a user has named in options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.errors import EmuError
from vhost_user import output_file

if TYPE_CHECKING:
    from pathlib import Path


def write(option: str, path: Path, contents: str | bytes) -> None:
    """Write a whole document; a file is replaced atomically.

    Args:
        option: that names the file, for the error.
        path: the option's value.
        contents: of the file.

    Raises:
        EmuError: it cannot be written; a file is unchanged then.
    """
    try:
        output_file.write(path, contents)
    except OSError as error:
        raise EmuError(f"{option} {path}: {error.strerror}") from None
