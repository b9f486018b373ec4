"""Rings without a kick descriptor, which are looked at by the clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.loop import Loop, Timer
    from backends.ring import Ring

#: They are looked at this often.
POLL_NS = 1_000_000


class Polling:
    """The clock of a device's polled rings; it runs while there are any.

    Args:
        loop: the loop that serves the device.
        rings: all of its rings.
        look: looks at one.
    """

    def __init__(self, loop: Loop, rings: Sequence[Ring], look: Callable[[Ring], None]) -> None:
        self._loop = loop
        self._rings = rings
        self._look = look
        self._timer: Timer | None = None

    def begin(self) -> None:
        """A ring is polled from now on."""
        if self._timer is None:
            self._timer = self._loop.at(time.monotonic_ns() + POLL_NS, self._poll)

    def _poll(self) -> None:
        self._timer = None
        polled = [ring for ring in self._rings if ring.polled]
        for ring in polled:
            self._look(ring)
        if polled:
            self.begin()
