"""Which memory is dirty: what the guest wrote, joined with what the back-ends logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.migration.stream import Run
    from emu.ram import GuestRam
    from vhost_user.dirty_log import DirtyLog

PAGE = 4096


class RamSync:
    """The dirty memory of a source VM, round by round.

    Args:
        ram: guest memory; it tracks the guest's own writes.
        log: the log that all back-ends write to.
    """

    def __init__(self, ram: GuestRam, log: DirtyLog) -> None:
        self._ram = ram
        self._log = log
        ram.harvest()
        ram.harvest()

    def everything(self) -> list[Run]:
        """All memory that was ever touched: the first round."""
        return self._ram.extents()

    def dirty(self) -> list[Run]:
        """What has been written since the last call, as runs of whole pages in address order."""
        pages = self._ram.harvest()
        for gpa, length in self._log.harvest():
            first = gpa // PAGE
            pages.update(range(first, first + length // PAGE))
        return runs_of(pages)


def runs_of(pages: Iterable[int]) -> list[Run]:
    """Neighbouring pages put together to runs of (address, length)."""
    runs: list[Run] = []
    start = previous = -2
    for page in sorted(pages):
        if page != previous + 1:
            if previous >= 0:
                runs.append((start * PAGE, (previous + 1 - start) * PAGE))
            start = page
        previous = page
    if previous >= 0:
        runs.append((start * PAGE, (previous + 1 - start) * PAGE))
    return runs


def total(runs: Iterable[Run]) -> int:
    """Bytes of all runs together."""
    return sum(length for _, length in runs)
