"""Latency that is injected into a control thread, to reproduce the pace of another back-end.

A unit of work is a message, or a commit of the emulated machine. Its latency is that of a whole
round trip in lock-step, as the front-end measures it: the time between a reply and the
front-end's next request is a part of the unit. So a short gap after the last reply is credited to
the next unit, and so is the time by which a sleep was too long: many units take the sum of their
latencies, however busy the machine is. A unit that follows no other is credited with three times
the longest round trip that this thread has seen (a process that has slept for long takes about
that long to wake up), but with at most half of its latency; and it begins with the first message
of those that came together. A sleep is shortened by the time by which sleeps are usually too long.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: In a longer gap the front-end was not sending, so the gap is not credited.
LONGEST_GAP_NS = 1_000_000
#: What takes longer than this was more than a round trip.
LONGEST_ROUND_TRIP_NS = 300_000
#: Gaps that are remembered.
GAPS = 15
#: A sleep is not cut short by more than this.
LARGEST_LATENESS_NS = 200_000
#: A control thread that is later than this does not catch up.
LARGEST_CREDIT_NS = 20_000_000


class InjectedLatency(NamedTuple):
    """Nanoseconds that a message takes; 0 injects nothing."""

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
        self._finished = 0
        self._replied = 0
        self._begun = 0
        self._arrived = 0
        self._lateness = 0
        self._gaps: deque[int] = deque(maxlen=GAPS)

    def replied(self) -> None:
        """A reply has just been sent, to any message."""
        self._replied = self._clock()

    def arrived(self, arrival: int) -> None:
        """A message came: if a reply was sent just before it, that is a round trip."""
        if self._replied:
            gap = arrival - self._replied
            if gap <= LONGEST_ROUND_TRIP_NS:
                self._gaps.append(gap)
            self._replied = 0
            self._begun = arrival
        elif arrival - self._arrived > LONGEST_GAP_NS:
            self._begun = arrival
        self._arrived = arrival

    def inject(self, arrival: int, latency: int) -> None:
        """Wait until ``latency`` ns after the start of a unit of work.

        Args:
            arrival: when the unit's request arrived, from which its start is computed; monotonic
                nanoseconds.
            latency: nanoseconds.
        """
        if arrival - self._finished <= LONGEST_GAP_NS:
            begin = self._due
        else:
            credit = min(3 * max(self._gaps, default=0), latency // 2)
            begin = min(arrival, self._begun or arrival) - credit
        due = begin + latency
        now = self._clock()
        left = due - now - self._lateness
        if left > 0:
            self._sleep(left / 1e9)
            slept = self._clock() - now
            self._lateness += (min(slept - left, LARGEST_LATENESS_NS) - self._lateness) // 8
            now += slept
        self._due = max(due, now - LARGEST_CREDIT_NS)
        self._finished = now
