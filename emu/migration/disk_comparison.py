"""Whether source and destination of a migration have the same disks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject

#: Of the name of the file with which a source marks the directory of images.
MARK_PREFIX = ".emu-migration-"
_MARK = re.compile(r"[0-9A-Za-z]{1,64}")


def differences(mine: JsonObject, source: JsonObject) -> list[str]:
    """The differences between the source's disks and this side's, as text.

    Args:
        mine: ``{"images": directory or None, "disk": file_identity()}``.
        source: ``{"mark": of marked(), "disk": file_identity()}``, from the source's HELLO.
    """
    found = []
    mark, images = source.get("mark"), mine.get("images")
    if (mark is None) != (images is None):
        side = "destination" if mark is None else "source"
        found.append(f"disks: only the {side} has --images")
    elif mark is not None and images is not None and not _has_mark(Path(images), str(mark)):
        found.append(f"disks: --images {images} of the destination is not the source's directory")
    theirs, ours = source.get("disk"), mine.get("disk")
    if (theirs is None) != (ours is None):
        side = "destination" if theirs is None else "source"
        found.append(f"blk0: only the {side} has --disk")
    elif theirs is not None and ours is not None and theirs != ours:
        what = "size" if theirs.get("size") != ours.get("size") else "sha256"
        found.append(
            f"blk0: --disk differs, {what} {theirs.get(what)} at the source, "
            f"{ours.get(what)} at the destination"
        )
    return found


def _has_mark(images: Path, mark: str) -> bool:
    # The name comes from the other side: it must not contain a path to another directory.
    return _MARK.fullmatch(mark) is not None and (images / f"{MARK_PREFIX}{mark}").exists()
