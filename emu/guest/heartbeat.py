"""The guest's heartbeat: for how long no guest code ran, as recorded in guest memory.

Every entry to and exit from guest code is a beat, and so is the tick of vCPU 0. Gaps that are
longer than a tick should be are recorded with their times, to distinguish the gap of a blackout
from one that a busy host caused.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from emu.guest.control_page import shifted
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

LAST, MAX_GAP, COUNT, RECORDED = range(4)
_LOG = 8
_LOG_ENTRIES = 64
#: A gap longer than this is recorded with its times: twice the tick's period.
LONG_GAP_NS = 2_000_000


class Heartbeat:
    """Words of the pulse page: last beat, largest gap, beats, and the last 64 long gaps.

    Many threads call `beat` without a lock. Between the read of the last beat and the write of the
    new one there is no call, so that CPython does not switch threads there; a beat is dropped when
    a later one was written while it read the clock.

    Args:
        words: the pulse page as u64.
        gpa: its guest physical address.
        mark: marks guest memory as dirty: (address, length).

    Attributes:
        first_ns: the first beat since `attach`, 0 before it.
    """

    __slots__ = ("_awaited", "_fresh", "_gpa", "_mark", "_words", "first_ns")

    def __init__(self, words: memoryview, gpa: int, mark: Callable[[int, int], None]) -> None:
        self._words = words
        self._gpa = gpa
        self._mark = mark
        self._fresh = False
        self.first_ns = 0
        self._awaited: queue.SimpleQueue[int] | None = None

    def attach(self) -> None:
        """Another process has written the memory: record the first gap, however short it is."""
        self._fresh = True
        self.first_ns = 0

    def start(self, now_ns: int) -> None:
        """The first beat: gaps count from here."""
        self._words[LAST] = now_ns
        self._mark(self._gpa, PAGE_SIZE)

    def beat(self, now_ns: int) -> None:
        """Guest code ran at this time (CLOCK_MONOTONIC)."""
        words = self._words
        last = words[LAST]
        if now_ns <= last:
            return
        words[LAST] = now_ns
        words[COUNT] += 1
        gap = now_ns - last
        if (gap > LONG_GAP_NS or self._fresh) and last:
            # The log first: a thread that finds `first_ns` set asks the log for the gap before it.
            self._record(last, now_ns)
            if self._fresh:
                self._fresh = False
                self.first_ns = now_ns
        elif gap > words[MAX_GAP] and last:
            words[MAX_GAP] = gap
        self._mark(self._gpa, PAGE_SIZE)
        awaited = self._awaited
        if awaited is not None:
            self._awaited = None
            awaited.put(now_ns)

    def await_beat(self, timeout: float) -> int | None:
        """Wait for the next beat: its time, or None if there was none in ``timeout`` seconds.

        The waiting thread may return late, as it competes with the guest's for the interpreter.
        """
        awaited = queue.SimpleQueue[int]()
        self._awaited = awaited
        try:
            return awaited.get(timeout=timeout)
        except queue.Empty:
            return None
        finally:
            self._awaited = None

    def _record(self, start: int, end: int) -> None:
        words = self._words
        words[MAX_GAP] = max(words[MAX_GAP], end - start)
        at = _LOG + 2 * (words[RECORDED] % _LOG_ENTRIES)
        words[at] = start
        words[at + 1] = end
        words[RECORDED] += 1

    def shift(self, ns: int) -> None:
        """The guest's clock is a different one from now on, ``ns`` ahead of the one before."""
        words = self._words
        kept = range(_LOG, _LOG + 2 * min(words[RECORDED], _LOG_ENTRIES))
        for at in (LAST, *kept):
            # A time before that clock began becomes 1: 0 means that there was no beat.
            words[at] = shifted(words[at], ns, least=1) if words[at] else 0
        self._mark(self._gpa, PAGE_SIZE)

    @property
    def last(self) -> int:
        """The last beat, nanoseconds of CLOCK_MONOTONIC."""
        return self._words[LAST]

    @property
    def max_gap_ns(self) -> int:
        """The largest gap since the boot, in nanoseconds."""
        return self._words[MAX_GAP]

    @property
    def count(self) -> int:
        """Beats since the boot."""
        return self._words[COUNT]

    def gaps(self) -> list[tuple[int, int]]:
        """The last long gaps: (last beat before, first beat after), oldest first."""
        recorded = self._words[RECORDED]
        first = max(0, recorded - _LOG_ENTRIES)
        places = [_LOG + 2 * (index % _LOG_ENTRIES) for index in range(first, recorded)]
        return [(self._words[at], self._words[at + 1]) for at in places]

    def gap_between(self, start_ns: int, end_ns: int) -> int:
        """The largest recorded gap, in nanoseconds, that overlaps a span of time; 0 for none."""
        return max(
            (end - start for start, end in self.gaps() if start < end_ns and end > start_ns),
            default=0,
        )

    def gap_at(self, at_ns: int) -> int:
        """The gap, in nanoseconds, around a time at which no guest code ran."""
        return self.gap_between(at_ns - 1, at_ns + 1)
