"""Kicks that bring no request, one after the other.

A front-end can pass a kick that is readable for ever without doing anything more: an eventfd with
EFD_SEMAPHORE whose counter is at its end, for example. Each turn of the loop would serve it.
"""

from __future__ import annotations

import time

from backends.limits import IDLE_KICKS

#: Nanoseconds that so many kicks take at most: those of a driver that seldom kicks for nothing take
#: longer, and cost less than polling.
IDLE_KICKS_NS = 2_000_000_000


class IdleKicks:
    """Counts the kicks of a ring since the last one that brought a request."""

    __slots__ = ("_begin", "_count", "_position")

    def __init__(self) -> None:
        self._begin = 0
        self._count = 0
        self._position: int | None = None

    def too_many(self, position: int | None, size: int) -> bool:
        """Count a kick.

        A driver may kick for each buffer that it adds, and a device may keep them all for later, as
        a NIC does: these are not more than the ring has descriptors.

        Args:
            position: the available index up to which the ring was served after the kick; None while
                it is not active.
            size: descriptors of the ring.
        """
        if position != self._position:
            self._position = position
            self._count = 0
            return False
        if not self._count:
            self._begin = time.monotonic_ns()
        self._count += 1
        if self._count <= IDLE_KICKS + size:
            return False
        self._count = 0
        return time.monotonic_ns() - self._begin < IDLE_KICKS_NS
