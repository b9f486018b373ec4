"""The bandwidth limit: a token bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.config.migration_parameters import MIN_CHUNK
from emu.strategies.timeline import now

if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 1_000_000_000
#: The largest burst, in seconds of the rate.
BURST = 0.01


class TokenBucket:
    """Computes how long to wait after bytes have been sent. It does not wait itself.

    Args:
        rate: bytes a second; 0 for no limit.
        clock: CLOCK_MONOTONIC nanoseconds, or another clock in a test.

    Attributes:
        chunk: bytes to send at once, so that the waits stay short and even.
    """

    def __init__(self, rate: int, clock: Callable[[], int] = now) -> None:
        self.rate = rate
        self.chunk = max(MIN_CHUNK, int(rate * BURST)) & -MIN_CHUNK
        self._clock = clock
        #: When all bytes so far would have been sent at the rate.
        self._busy_until = clock()

    def consume(self, count: int) -> int:
        """Account for bytes that were sent; return nanoseconds to wait before the next ones."""
        if not self.rate:
            return 0
        at = self._clock()
        # Idle time allows a burst of one chunk at most.
        burst = self.chunk * _NS // self.rate
        self._busy_until = max(self._busy_until, at - burst) + count * _NS // self.rate
        return max(0, self._busy_until - at)
