"""A workload that writes memory at a given rate, and checks what it has written before.

It writes its pages in turn, again and again. Each page holds the number of its last write, so that
the next write detects that a migration brought an older copy of the page, or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.control_page import (
    DIRTY_AT,
    DIRTY_COUNT,
    DIRTY_RATE,
    DIRTY_WRONG,
    HOLD_READER,
    shifted,
)
from emu.guest.request_log import RequestLog
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from emu.guest.control_page import GuestContext

_WORDS = PAGE_SIZE // 8
#: Nanoseconds of missed writes that one tick makes up for at most: a guest that did not run does
#: not catch up, so a throttled guest writes less.
MAX_CATCH_UP_NS = 2_000_000
#: Pages between two checks whether the vCPUs are to stop.
BATCH = 64


class DirtyMemoryLoad:
    """Writes a word to one page after the other.

    Args:
        context: guest memory, and the rate in its control page (bytes a second, 0 for off).
    """

    def __init__(self, context: GuestContext) -> None:
        self._context = context
        self._gpa, size = context.layout.dirty_memory
        self.pages = size // PAGE_SIZE
        self._words = context.platform.ram.view(self._gpa, size).cast("Q")

    def shift_clock(self, ns: int) -> None:
        """The guest's clock is a different one from now on, ``ns`` ahead of the one before."""
        pulse = self._context.pulse
        pulse[DIRTY_AT] = shifted(pulse[DIRTY_AT], ns)

    def tick(self, now_ns: int) -> None:
        """Write as many pages as are due, or as there is time for."""
        context = self._context
        rate = context.control[DIRTY_RATE]
        if not rate or context.control[HOLD_READER]:
            return
        pulse = context.pulse
        elapsed = min(max(0, now_ns - pulse[DIRTY_AT]), MAX_CATCH_UP_NS)
        due = min(rate * elapsed // (1_000_000_000 * PAGE_SIZE), self.pages)
        if not due:
            if elapsed == MAX_CATCH_UP_NS:
                pulse[DIRTY_AT] = now_ns  # a slow rate, or the first tick
            return
        pulse[DIRTY_AT] = now_ns
        while due > 0 and not context.platform.paused:
            due -= self._write(min(due, BATCH))

    def _write(self, count: int) -> int:
        """Write the next pages up to the end of the memory; returns how many."""
        pulse, words = self._context.pulse, self._words
        done, pages = pulse[DIRTY_COUNT], self.pages
        first = done % pages
        count = min(count, pages - first)
        wrong = 0
        for number in range(done + 1, done + count + 1):
            at = (first + number - done - 1) * _WORDS
            if words[at] != max(0, number - pages):
                wrong += 1
            words[at] = number
        pulse[DIRTY_COUNT] = done + count
        pulse[DIRTY_WRONG] += wrong
        self._context.mark(self._gpa + first * PAGE_SIZE, count * PAGE_SIZE)
        return count

    def request_log(self) -> RequestLog:
        """Pages that did not hold what was last written to them."""
        return RequestLog(corrupted=self._context.pulse[DIRTY_WRONG])
