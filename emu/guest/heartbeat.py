"""The guest's heartbeat: for how long no guest code ran, as recorded in guest memory.

Every entry to and exit from guest code beats, and so does the tick of vCPU 0. Gaps that are
longer than a tick should be are kept with their times, so that the one that a blackout made can
be told from one that a busy host made.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

LAST, MAX_GAP, COUNT, NOTED = range(4)
_LOG = 8
_LOG_ENTRIES = 64
#: A gap is remembered with its times from here on: twice the tick's period.
NOTED_GAP_NS = 2_000_000


class Heartbeat:
    """Words of the pulse page: last beat, largest gap, beats, and the last 64 noticeable gaps.

    Beats come from many threads without a lock. Between the read of the last beat and the write
    of the new one stands no call, so that CPython does not switch threads there; a beat that was
    overtaken while it read the clock is dropped.

    Args:
        words: the pulse page as u64.
        gpa: its guest physical address.
        mark: to mark it dirty.

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
        """The memory is another process's work: the first gap is noted, however short it is."""
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
        if (gap > NOTED_GAP_NS or self._fresh) and last:
            # The log first: a thread that finds `first_ns` set asks the log for the gap before it.
            self._note(last, now_ns)
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
        """Wait for the next beat: when it was, or None if there was none in ``timeout`` seconds.

        The waiting thread may notice it late, as it competes with the guest's for the interpreter.
        """
        awaited = queue.SimpleQueue[int]()
        self._awaited = awaited
        try:
            return awaited.get(timeout=timeout)
        except queue.Empty:
            return None
        finally:
            self._awaited = None

    def _note(self, start: int, end: int) -> None:
        words = self._words
        words[MAX_GAP] = max(words[MAX_GAP], end - start)
        at = _LOG + 2 * (words[NOTED] % _LOG_ENTRIES)
        words[at] = start
        words[at + 1] = end
        words[NOTED] += 1

    def shift(self, ns: int) -> None:
        """From now on the guest's clock is another one, ahead of the former by ``ns``."""
        words = self._words
        kept = range(_LOG, _LOG + 2 * min(words[NOTED], _LOG_ENTRIES))
        for at in (LAST, *kept):
            # A gap from before that clock began is not looked for.
            words[at] = max(1, words[at] + ns) if words[at] else 0
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
        """The last noticeable gaps: (last beat before, first beat after), oldest first."""
        noted = self._words[NOTED]
        first = max(0, noted - _LOG_ENTRIES)
        places = [_LOG + 2 * (index % _LOG_ENTRIES) for index in range(first, noted)]
        return [(self._words[at], self._words[at + 1]) for at in places]

    def gap_between(self, start_ns: int, end_ns: int) -> int:
        """The largest gap, in nanoseconds, that overlaps a span of time; 0 for none noticeable."""
        return max(
            (end - start for start, end in self.gaps() if start < end_ns and end > start_ns),
            default=0,
        )

    def gap_at(self, at_ns: int) -> int:
        """The gap, in nanoseconds, around a moment in which no guest code had run yet."""
        return self.gap_between(at_ns - 1, at_ns + 1)
