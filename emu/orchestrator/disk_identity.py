"""Checks that two runs, perhaps on two hosts, have the same disk images.

The scratch images are in a directory that both hosts share. To distinguish it from another
directory of the same name, the source creates a file with a random name there, and the destination
checks that the file exists. The user's image file of the first disk is only read: it may be a copy
with the same digest.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from emu.errors import PreflightError
from emu.migration.disk_comparison import MARK_PREFIX
from emu.orchestrator.disk_digests import host_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.config.plan import MachinePlan
    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.protocol import JsonObject
    from emu.report.progress import Progress


def file_identity(
    plan: MachinePlan, watcher: SignalWatcher, progress: Progress
) -> JsonObject | None:
    """Size and digest of the user's image file of the first disk, if there is one.

    Raises:
        OSError: the file cannot be read.
    """
    if plan.disk is None:
        return None
    return {"size": plan.disk.size, "sha256": host_digest(plan.disk, watcher, progress)}


@contextmanager
def marked(images: Path | None) -> Iterator[str | None]:
    """Mark the directory during the ``with`` block; yields the mark, for the destination.

    Raises:
        PreflightError: the directory is not writable.
    """
    if images is None:
        yield None
        return
    mark = os.urandom(16).hex()
    path = images / f"{MARK_PREFIX}{mark}"
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        raise PreflightError(f"--images {images}: {error.strerror}") from None
    try:
        yield mark
    finally:
        with suppress(OSError):
            path.unlink()
