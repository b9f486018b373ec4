"""The user's file behind the first disk: read by the guest across a migration, and by the host."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.report.cells import size

if TYPE_CHECKING:
    from emu.config.plan import DiskFile
    from emu.orchestrator.signals import SignalWatcher
    from emu.orchestrator.vm_host import VmHost
    from emu.report.progress import Progress

#: The reader is let on by this share of the disk at each step, and no further than the last
#: share before the VM has moved: so it reads before, during and after the blackout.
STEPS = 40
STEP_SECONDS = 0.05
HELD_BACK = 4
_BLOCK = 64 << 10
#: Bytes between two reports of how far the host has read.
_REPORT = 64 << 20
#: A guest that reads slower than this has stopped reading.
_SLOWEST = 2 << 20
_POLL = 0.1


def host_digest(disk: DiskFile, watcher: SignalWatcher, progress: Progress | None = None) -> str:
    """The SHA-256 of the file, in hex; ``progress`` is told how far the read is.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with disk.path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
            watcher.check()
            if progress is not None and not (at := file.tell()) % _REPORT:
                progress.advance(f"{size(at)} of {size(disk.size)}", at, disk.size)
    return digest.hexdigest()


class DiskReader:
    """Has the guest read the whole disk, from before the blackout until after it."""

    def __init__(self, disk: DiskFile, source: VmHost) -> None:
        self._size = disk.size
        self._limit = 0
        self._step = max(_BLOCK, disk.size // STEPS)
        self._source = source
        source.execute("x-disk-reader", {"action": "start", "limit": self._next_limit()})

    def let_on(self) -> None:
        """Let the reader go on a little; the VM is still at the source."""
        before = self._limit
        if self._next_limit() != before:
            self._source.execute("x-disk-reader", {"action": "limit", "limit": self._limit})

    def finish(self, side: VmHost, watcher: SignalWatcher, progress: Progress) -> str:
        """Let the reader read to the end, where the VM is now; the digest that it computed.

        Raises:
            EmuError: it does not get there.
        """
        deadline = time.monotonic() + 20.0 + self._size / _SLOWEST
        state = side.execute("x-disk-reader", {"action": "limit"})
        while not state["done"]:
            if time.monotonic() > deadline:
                raise EmuError(f"the guest's read of blk0 stands at {state['position']} bytes")
            progress.advance(self._told(state["position"]), state["position"], self._size)
            watcher.pause(_POLL)
            state = side.execute("x-disk-reader", {"action": "status"})
        return str(state["sha256"])

    def _told(self, position: int) -> str:
        shift, unit = (20, "MiB") if self._size >= 1 << 20 else (10, "KiB")
        return f"the guest has read {position >> shift} of {self._size >> shift} {unit} of blk0"

    def _next_limit(self) -> int:
        most = max(0, self._size - self._step * HELD_BACK) // _BLOCK * _BLOCK
        self._limit = min(self._limit + self._step // _BLOCK * _BLOCK, most)
        return self._limit
