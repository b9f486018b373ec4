"""How many rings of a device are active, and the resource that the device holds meanwhile.

No event reports that another process has released the resource, so rings that need it are polled
every 10 ms. The kick that was to start them does not come again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from backends.isolation import GuardedLoop
    from backends.loop import Loop, Timer

log = logging.getLogger("backends")

#: Nanoseconds until a resource that was not available is asked for again.
RETRY_NS = 10_000_000


class Resource(Protocol):
    """What a device may not share; see `backends.virtio_device.VirtioDevice`."""

    name: str

    def acquire(self) -> str | None:
        """None, or why it is not available."""

    def release(self) -> None:
        """Release it."""


class WaitingRing(Protocol):
    """A ring that waits for the resource."""

    index: int

    @property
    def active(self) -> bool:
        """It is in use."""

    def poll(self) -> None:
        """Try to become active, which calls `ActiveRings.enter`."""

    def signal_error(self) -> None:
        """Signal the ring's error descriptor."""


class ActiveRings:
    """The active rings of a device.

    Args:
        device: its resource is acquired for the first ring, and released after the last one.
        loop: the loop that serves it.
    """

    def __init__(self, device: Resource, loop: Loop | GuardedLoop) -> None:
        self._device = device
        self._loop = loop
        self._count = 0
        self._waiting: dict[WaitingRing, None] = {}
        self._timer: Timer | None = None

    def enter(self, ring: WaitingRing) -> bool:
        """A ring is to be active; False if that is not possible now, and is tried again later."""
        if not self._count:
            reason = self._device.acquire()
            if reason is not None:
                self._wait(ring, reason)
                return False
        self._count += 1
        return True

    def leave(self, count: int = 1) -> None:
        """So many rings are not active any more."""
        self._count -= count
        if not self._count:
            self._device.release()

    def forget(self, ring: WaitingRing) -> None:
        """The ring was stopped: it does not wait any more."""
        self._waiting.pop(ring, None)

    def _wait(self, ring: WaitingRing, reason: str) -> None:
        """Reported once, until the rings could be started or were stopped."""
        if not self._waiting:
            log.error("%s: ring %d is not started: %s", self._device.name, ring.index, reason)
        if ring not in self._waiting:
            self._waiting[ring] = None
            ring.signal_error()
        if self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        self._timer = self._loop.at(time.monotonic_ns() + RETRY_NS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        for ring in list(self._waiting):
            ring.poll()
            if ring.active:
                self.forget(ring)
        if self._waiting and self._timer is None:
            # Rings that have been disabled meanwhile were not even tried.
            self._schedule()
