"""A watcher of a guest's heartbeat: for how long its vCPU stood still.

The heartbeat is a counter in guest memory that a vCPU increments each millisecond. In a migration
guest memory exists twice. What the destination receives is never higher than what the source has
reached, so a counter of the destination that is higher was incremented by a vCPU there.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Seconds between two looks at the counters; with the time of a wake-up, about 0.15 ms.
PERIOD = 0.0001


class Gap(NamedTuple):
    """The time between two beats, in nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        start, end: when each beat was seen first.
        counter: index of the counter that had the second one.
    """

    start: int
    end: int
    counter: int

    @property
    def ms(self) -> float:
        """Its length in milliseconds."""
        return (self.end - self.start) / 1e6


class HeartbeatWatcher:
    """Looks at a heartbeat from a thread of its own, as a context manager.

    Args:
        counters: each one is a view of one u64 in guest memory; the source's comes first.

    Attributes:
        gaps: between all beats that were seen, in order. Use them when the block has been left.
    """

    def __init__(self, counters: Sequence[memoryview]) -> None:
        self.gaps: list[Gap] = []
        self._counters = counters
        self._end = False
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end = True
        self._thread.join()

    def has_beaten_since(self, at_ns: int) -> bool:
        """Whether a beat was seen after that time."""
        return bool(self.gaps) and self.gaps[-1].end > at_ns

    def _watch(self) -> None:
        counters = self._counters
        last = max(counter[0] for counter in counters)
        changed = time.monotonic_ns()
        while not self._end:
            values = [counter[0] for counter in counters]
            now = time.monotonic_ns()
            value = max(values)
            if value != last:
                self.gaps.append(Gap(changed, now, values.index(value)))
                last, changed = value, now
            time.sleep(PERIOD)  # another process's write to memory causes no event


def longest_between(gaps: Iterable[Gap], start_ns: int, end_ns: int) -> Gap | None:
    """The longest one of those that overlap a span of time."""
    found = [gap for gap in gaps if gap.start < end_ns and gap.end > start_ns]
    return max(found, key=lambda gap: gap.ms, default=None)


def of_the_move(gaps: Iterable[Gap]) -> Gap | None:
    """The one that ends with the first beat at the destination of a migration."""
    return next((gap for gap in gaps if gap.counter), None)
