"""A limit on bytes a second: a bucket of tokens that fills with time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.strategies.timeline import now

if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 1_000_000_000
#: What may be sent at once, as a share of a second.
BURST = 0.01
#: A page: there is no smaller piece.
MIN_PIECE = 4096


class TokenBucket:
    """Says how long to wait after bytes have been sent. It never waits by itself.

    Args:
        rate: bytes a second; 0 is no limit.
        clock: CLOCK_MONOTONIC nanoseconds, or another clock in a test.

    Attributes:
        piece: bytes to send at once, so that the waits stay short and even.
    """

    def __init__(self, rate: int, clock: Callable[[], int] = now) -> None:
        self.rate = rate
        self.piece = max(MIN_PIECE, int(rate * BURST)) & -MIN_PIECE
        self._clock = clock
        #: When all that was sent would have been sent at the rate.
        self._paid_until = clock()

    def spend(self, count: int) -> int:
        """These bytes were sent; nanoseconds to wait until the next may be."""
        if not self.rate:
            return 0
        at = self._clock()
        # Time in which nothing was sent buys no more than one piece at once.
        burst = self.piece * _NS // self.rate
        self._paid_until = max(self._paid_until, at - burst) + count * _NS // self.rate
        return max(0, self._paid_until - at)
