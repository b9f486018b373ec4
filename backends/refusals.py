"""Rings that are not started because somebody else has what their device may not share.

No event tells when the other one lets go of it, which may be another program's process: so the
rings are looked at again by the clock. The kick that was to start them does not come again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop, Timer
    from backends.ring import Ring

log = logging.getLogger("backends")

#: Rings that were refused are looked at again this often.
RETRY_NS = 10_000_000


class Refusals:
    """The rings of a device that wait for what it could not get.

    Args:
        name: what the device is called.
        loop: the loop that serves it.
        look: looks at a ring, and so tries again; it comes back by `refuse` if it must.
    """

    def __init__(self, name: str, loop: Loop, look: Callable[[Ring], None]) -> None:
        self._name = name
        self._loop = loop
        self._look = look
        self._rings: dict[Ring, None] = {}
        self._timer: Timer | None = None

    def refuse(self, ring: Ring, why: str) -> None:
        """The ring cannot be started now. That is told once, until it could be or was stopped."""
        if not self._rings:
            log.error("%s: ring %d is not started: %s", self._name, ring.index, why)
        if ring not in self._rings:
            self._rings[ring] = None
            ring.fail()
        if self._timer is None:
            self._timer = self._loop.at(time.monotonic_ns() + RETRY_NS, self._retry)

    def forget(self, ring: Ring) -> None:
        """The ring was stopped."""
        self._rings.pop(ring, None)

    def _retry(self) -> None:
        self._timer = None
        for ring in list(self._rings):
            self._look(ring)
            if ring.queue is not None:
                self.forget(ring)
        if self._rings and self._timer is None:
            # Those that are disabled meanwhile were not even tried.
            self._timer = self._loop.at(time.monotonic_ns() + RETRY_NS, self._retry)
