"""Whether a compiled extension is of the sources that lie beside it.

Sources can become newer than what was built of them: after ``git pull``, in an editable
installation. The functions may then have the same names and other results, so such an extension is
not used. It has the checksum of its sources as the constant ``SOURCES``.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_NO_FILES = zlib.crc32(b"")


def checksum(folder: Path) -> int:
    """The checksum of the C files in a folder; the builds of the extensions call it, too."""
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(folder.glob("*.[ch]"))))


def check(lib: Any, name: str, folder: Path) -> None:
    """Check what was built.

    Args:
        lib: of the extension.
        name: of its module.
        folder: of its C files, which need not be there.

    Raises:
        ImportError: the sources are others.
    """
    built = getattr(lib, "SOURCES", None)  # one that is older than the checksum has none
    if checksum(folder) not in (built, _NO_FILES):
        raise ImportError(f"{name} was built of other sources: run `pip install -e .` again")
