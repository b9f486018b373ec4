"""Costs that a control thread is told to have, so that another back-end's pace can be shown.

A unit's figure is that of a whole round trip in lock-step, as it would be measured from the
front-end: what the front-end itself spends between a reply and its next request belongs to the
unit. So a short gap after the last reply is credited to the next unit, and so is what a sleep
took too long: many units take as long as their costs together, however busy the machine is. A
unit that follows nothing is credited with what such gaps have been on this thread so far.
"""

from __future__ import annotations

import time
from collections import deque
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: A longer gap is the front-end doing something else, and is credited to nobody.
LONGEST_GAP_NS = 1_000_000
#: Gaps that are remembered.
GAPS = 15
#: A control thread that is so late does not catch up any more.
LARGEST_CREDIT_NS = 20_000_000


class Costs(NamedTuple):
    """Nanoseconds per unit; 0 is the native pace."""

    get_vring_base: int = 0
    set_mem_table: int = 0


class Pacer:
    """The pace of one control thread.

    Args:
        clock: monotonic nanoseconds.
        sleep: waits for that many seconds.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._due = 0
        self._replied = 0
        self._answered = 0
        self._gaps: deque[int] = deque(maxlen=GAPS)

    def answered(self) -> None:
        """An answer has just been sent, to whatever message."""
        self._answered = self._clock()

    def arrived(self, arrival: int) -> None:
        """A message came: if an answer was the last thing before it, that is a round trip."""
        if self._answered:
            gap = arrival - self._answered
            if gap <= LONGEST_GAP_NS:
                self._gaps.append(gap)
            self._answered = 0

    def _typical_gap(self) -> int:
        return median_low(self._gaps) if self._gaps else 0

    def charge(self, arrival: int, cost: int) -> None:
        """Return when a unit of ``cost`` ns, whose request came at ``arrival``, may be answered."""
        follows = arrival - self._replied <= LONGEST_GAP_NS
        due = (self._due if follows else arrival - self._typical_gap()) + cost
        now = self._clock()
        if now < due:
            self._sleep((due - now) / 1e9)
            now = self._clock()
        self._due = max(due, now - LARGEST_CREDIT_NS)
        self._replied = now
