"""The dirty memory of a VM: pages that the guest wrote, and pages that the back-ends logged."""

from __future__ import annotations

from bisect import bisect_left
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
        self._unsent: list[Run] = []
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
        written, unsent = self._ram.harvest(), self._unsent
        self._unsent = []
        logged = self._log.harvest()
        if (run := self._outside(logged)) is not None:
            raise BackendError(
                f"a back-end has marked {run[0]:#x}+{run[1]:#x} in the dirty log, "
                "where the VM has no memory"
            )
        return joined([*runs_of(written), *unsent, *logged])

    def _outside(self, runs: list[Run]) -> Run | None:
        """The first of these disjoint runs in address order that is not within a region."""
        first = 0
        for region in self._ram.regions:
            end = region.gpa + region.size
            after = bisect_left(runs, (end,), first)
            if after > first:
                if runs[first][0] < region.gpa:
                    return runs[first]
                if sum(runs[after - 1]) > end:
                    return runs[after - 1]
            first = after
        return runs[first] if first < len(runs) else None

    def put_back(self, runs: Iterable[Run]) -> None:
        """Make `dirty` return these runs of whole pages again: they were not sent."""
        self._unsent += runs


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same memory as disjoint runs in address order; adjacent ones are one run."""
    made: list[Run] = []
    start, end = 0, -1
    for run in sorted(runs):
        gpa, length = run
        if gpa > end:
            made.append(run)
            start, end = gpa, gpa + length
        elif gpa + length > end:
            end = gpa + length
            made[-1] = start, end - start
    return made


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
