"""The user's image file of the first disk: its digest as the guest and as the host read it."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.report.cells import rough_time, size

if TYPE_CHECKING:
    from emu.config.plan import DiskFile
    from emu.orchestrator.signals import SignalWatcher
    from emu.orchestrator.vm_host import VmHost
    from emu.report.progress import Progress

#: Each step allows the guest to read a further ``1 / STEPS`` of the disk, but not the last
#: `HELD_BACK` steps before the VM has migrated: so it reads before, during and after the blackout.
STEPS = 40
STEP_SECONDS = 0.05
HELD_BACK = 4
_BLOCK = 64 << 10
#: Bytes between two reports of how far the host has read.
_REPORT = 64 << 20
#: Seconds without a further block after which the guest is considered to hang; how fast it reads
#: is a matter of the machine.
STALL = 20.0
_POLL = 0.1


def host_digest(disk: DiskFile, watcher: SignalWatcher, progress: Progress) -> str:
    """The SHA-256 of the file, in hex; a step of the run, with its progress.

    Raises:
        OSError: the file cannot be read.
        SignalError: the user has ended the run.
    """
    progress.step(f"read {disk.path} on the host, {size(disk.size)}")
    begin = time.monotonic()
    digest = hashlib.sha256()
    with disk.path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
            watcher.check()
            if not (at := file.tell()) % _REPORT:
                left = rough_time((time.monotonic() - begin) * (disk.size - at) / at)
                progress.advance(f"{size(at)} of {size(disk.size)}, {left} left", at, disk.size)
    return digest.hexdigest()


class DiskReader:
    """Makes the guest read the whole disk, from before the blackout until after it."""

    def __init__(self, disk: DiskFile, source: VmHost) -> None:
        self._size = disk.size
        self._limit = 0
        self._step = max(_BLOCK, disk.size // STEPS)
        self._source = source
        source.execute("x-disk-reader", {"action": "start", "limit": self._next_limit()})

    def advance(self) -> None:
        """Allow the guest to read one step further; the VM is still at the source."""
        before = self._limit
        if self._next_limit() != before:
            self._source.execute("x-disk-reader", {"action": "limit", "limit": self._limit})

    def finish(self, side: VmHost, watcher: SignalWatcher, progress: Progress) -> str:
        """Let the guest read to the end, on the side where the VM runs now; return the digest.

        Raises:
            EmuError: the guest reads nothing more for `STALL` seconds.
        """
        state = side.execute("x-disk-reader", {"action": "limit"})
        position, since = -1, time.monotonic()
        while not state["done"]:
            if state["position"] != position:
                position, since = state["position"], time.monotonic()
            elif time.monotonic() > since + STALL:
                raise EmuError(f"the guest's read of blk0 stopped at {position} bytes")
            progress.advance(self._text(position), position, self._size)
            watcher.pause(_POLL)
            state = side.execute("x-disk-reader", {"action": "status"})
        return str(state["sha256"])

    def _text(self, position: int) -> str:
        shift, unit = (20, "MiB") if self._size >= 1 << 20 else (10, "KiB")
        return f"the guest has read {position >> shift} of {self._size >> shift} {unit} of blk0"

    def _next_limit(self) -> int:
        most = max(0, self._size - self._step * HELD_BACK) // _BLOCK * _BLOCK
        self._limit = min(self._limit + self._step // _BLOCK * _BLOCK, most)
        return self._limit
