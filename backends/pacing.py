"""Costs that a control thread is told to have, so that another back-end's pace can be shown.

A unit's figure is that of a whole round trip in lock-step, as it would be measured from the
front-end: what the front-end itself spends between a reply and its next request belongs to the
unit. So a short gap after the last reply is credited to the next unit, and so is what a sleep
took too long: many units take as long as their costs together, however busy the machine is. A
unit that follows nothing is credited with three times the longest round trip that this thread has
seen, because who has slept for long wakes up about so slowly, but with half of its cost at the
most; and it begins with the first message of those that came together. A sleep ends earlier by
what sleeps have usually taken too long.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: A longer gap is the front-end doing something else, and is credited to nobody.
LONGEST_GAP_NS = 1_000_000
#: What takes longer than this was no round trip alone.
LONGEST_ROUND_TRIP_NS = 300_000
#: Gaps that are remembered.
GAPS = 15
#: A sleep is not cut short by more than this.
LARGEST_LATENESS_NS = 200_000
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
        self._begun = 0
        self._arrived = 0
        self._lateness = 0
        self._gaps: deque[int] = deque(maxlen=GAPS)

    def answered(self) -> None:
        """An answer has just been sent, to whatever message."""
        self._answered = self._clock()

    def arrived(self, arrival: int) -> None:
        """A message came: if an answer was the last thing before it, that is a round trip."""
        if self._answered:
            gap = arrival - self._answered
            if gap <= LONGEST_ROUND_TRIP_NS:
                self._gaps.append(gap)
            self._answered = 0
            self._begun = arrival
        elif arrival - self._arrived > LONGEST_GAP_NS:
            self._begun = arrival
        self._arrived = arrival

    def charge(self, arrival: int, cost: int) -> None:
        """Return when a unit of ``cost`` ns, whose request came at ``arrival``, may be answered."""
        if arrival - self._replied <= LONGEST_GAP_NS:
            begin = self._due
        else:
            credit = min(3 * max(self._gaps, default=0), cost // 2)
            begin = min(arrival, self._begun or arrival) - credit
        due = begin + cost
        now = self._clock()
        left = due - now - self._lateness
        if left > 0:
            self._sleep(left / 1e9)
            slept = self._clock() - now
            self._lateness += (min(slept - left, LARGEST_LATENESS_NS) - self._lateness) // 8
            now += slept
        self._due = max(due, now - LARGEST_CREDIT_NS)
        self._replied = now
