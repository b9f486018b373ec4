"""Whether two runs, perhaps on two machines, have the same images behind a VM's disks.

The scratch images are in a directory that both see. To show that it is the same one, and not one
of the same name, the source puts a file there whose name nobody can know, and the destination
looks whether it sees it. The user's file behind the first disk is only read: it may be a copy,
with the same digest.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import PreflightError
from emu.orchestrator.disk_check import host_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.config.plan import MachinePlan
    from emu.orchestrator.signals import Attention
    from emu.qmp.protocol import JsonObject

_PREFIX = ".emu-migration-"


def of_file(plan: MachinePlan, attention: Attention) -> JsonObject | None:
    """Size and digest of the user's file behind the first disk, if there is one.

    Raises:
        OSError: it cannot be read.
    """
    if plan.disk is None:
        return None
    return {"size": plan.disk.size, "sha256": host_digest(plan.disk, attention)}


@contextmanager
def marked(images: Path | None) -> Iterator[str | None]:
    """Mark the directory for as long as the block runs; the mark, for the destination.

    Raises:
        PreflightError: nothing can be written there.
    """
    if images is None:
        yield None
        return
    mark = secrets.token_hex(16)
    path = images / f"{_PREFIX}{mark}"
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        raise PreflightError(f"--images {images}: {error.strerror}") from None
    try:
        yield mark
    finally:
        with suppress(OSError):
            path.unlink()


def differences(mine: JsonObject, said: JsonObject) -> list[str]:
    """What of the source's disks is not as at this side, in words.

    Args:
        mine: ``{"images": directory or None, "disk": of_file()}``.
        said: ``{"mark": of marked(), "disk": of_file()}``, by the source.
    """
    found = []
    mark, images = said.get("mark"), mine.get("images")
    if (mark is None) != (images is None):
        side = "destination" if mark is None else "source"
        found.append(f"disks: only the {side} has --images")
    elif mark is not None and images is not None and not _sees(Path(images), str(mark)):
        found.append(f"disks: --images {images} of the destination is not the source's directory")
    theirs, ours = said.get("disk"), mine.get("disk")
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


def _sees(images: Path, mark: str) -> bool:
    # The name comes from the other side: nothing of it may lead elsewhere.
    return mark.isalnum() and (images / f"{_PREFIX}{mark}").exists()
