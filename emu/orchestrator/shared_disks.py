"""Whether two runs, perhaps on two machines, have the same images behind a VM's disks.

The scratch images are in a directory that both see. To show that it is the same one, and not one
of the same name, the source puts a file there whose name cannot be guessed, and the destination
looks whether it sees it. The user's file behind the first disk is only read: it may be a copy,
with the same digest.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from emu.errors import PreflightError
from emu.migration.same_disks import _PREFIX
from emu.orchestrator.disk_check import host_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.config.plan import MachinePlan
    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.protocol import JsonObject
    from emu.report.progress import Progress


def of_file(
    plan: MachinePlan, watcher: SignalWatcher, progress: Progress | None = None
) -> JsonObject | None:
    """Size and digest of the user's file behind the first disk, if there is one.

    Raises:
        OSError: it cannot be read.
    """
    if plan.disk is None:
        return None
    return {"size": plan.disk.size, "sha256": host_digest(plan.disk, watcher, progress)}


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
