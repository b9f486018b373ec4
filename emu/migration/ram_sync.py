"""The dirty memory of a VM: pages that the guest wrote, and pages that the back-ends logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.errors import BackendError
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.machine.ram import GuestRam
    from emu.migration.stream import Run
    from vhost_user.dirty_log import DirtyLog


class RamSync:
    """The dirty memory of a source VM, round by round.

    Args:
        ram: guest memory; it tracks the guest's own writes.
        log: the dirty log of all back-ends.
    """

    def __init__(self, ram: GuestRam, log: DirtyLog) -> None:
        self._ram = ram
        self._log = log
        self._unsent: set[int] = set()
        # The first round sends all pages, so nothing marked before it counts. The second harvest
        # drops marks that raced with the first (`GuestRam.harvest`).
        ram.harvest()
        ram.harvest()

    def all_pages(self) -> list[Run]:
        """All memory that was ever written: the first round."""
        return self._ram.extents()

    def dirty(self) -> list[Run]:
        """The pages that were written since the last call, as runs in address order.

        Raises:
            BackendError: a back-end has marked an address that is not memory.
        """
        pages = self._ram.harvest() | self._unsent
        self._unsent = set()
        for gpa, length in self._log.harvest():
            if not any(r.gpa <= gpa and gpa + length <= r.gpa + r.size for r in self._ram.regions):
                raise BackendError(
                    f"a back-end has marked {gpa:#x}+{length:#x} in the dirty log, "
                    "where the VM has no memory"
                )
            first = gpa // PAGE_SIZE
            pages.update(range(first, first + length // PAGE_SIZE))
        return runs_of(pages)

    def put_back(self, runs: Iterable[Run]) -> None:
        """Make `dirty` return these runs again: they were not sent."""
        for gpa, length in runs:
            first = gpa // PAGE_SIZE
            self._unsent.update(range(first, first + length // PAGE_SIZE))


def runs_of(pages: Iterable[int]) -> list[Run]:
    """The pages as runs of (address, length); adjacent pages are one run."""
    runs: list[Run] = []
    start = previous = -2
    for page in sorted(pages):
        if page != previous + 1:
            if previous >= 0:
                runs.append((start * PAGE_SIZE, (previous + 1 - start) * PAGE_SIZE))
            start = page
        previous = page
    if previous >= 0:
        runs.append((start * PAGE_SIZE, (previous + 1 - start) * PAGE_SIZE))
    return runs


def total(runs: Iterable[Run]) -> int:
    """Bytes of all runs together."""
    return sum(length for _, length in runs)


def chunks(runs: Iterable[Run], size: int) -> Iterator[list[Run]]:
    """The runs in groups of ``size`` bytes, a whole number of pages; the last may be smaller."""
    group: list[Run] = []
    room = size
    for gpa, length in runs:
        at, end = gpa, gpa + length
        while at < end:
            part = min(end - at, room)
            group.append((at, part))
            at += part
            room -= part
            if not room:
                yield group
                group, room = [], size
    if group:
        yield group
