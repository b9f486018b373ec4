"""Requests that a back-end has left in flight when it replied to GET_VRING_BASE.

A back-end shall complete the requests that it has taken before it replies (vhost-user, "Ring
states" and GET_VRING_BASE, since e7985b6a56): then the used index of a stopped ring is its base.
One that replies earlier completes them later. A disk whose back-end has no inflight region is
drained before it stops (`VhostDevice.drains`). For the others, two wait after the stop:

- the source of a migration: the destination continues after these requests, and gets no inflight
  region, so they would be lost;
- a reset: they would be completed in the rings as set up again.

Where the same rings are started again on the same host, nothing is awaited: the back-end gets its
inflight region again.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.errors import VhostUserError
from vhost_user.memory import PAGE_SIZE
from vhost_user.virtqueue import split_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from devices.device import VhostDevice
    from devices.vring import Vring
    from emu.machine.ram import GuestRam
    from vhost_user.virtqueue import RingAddresses

#: Seconds between two reads of the used indices of rings whose requests are awaited.
DRAIN_INTERVAL = 0.0001


class _StoppedRing(NamedTuple):
    """A ring, and its used index in guest memory.

    Attributes:
        ring: the ring.
        used: the used ring, as words: the second one is its index (virtio 1.3, 2.7.8).
        where: the addresses of the ring.
        device: its device.
    """

    ring: Vring
    used: memoryview
    where: RingAddresses
    device: VhostDevice

    def is_early(self) -> bool:
        """Whether it was stopped, and requests before its base are not completed.

        Raises:
            VhostUserError: a request from its base on is completed: a destination would complete it
                once more.
        """
        ring, used = self.ring, self.used[1]
        if ring.started or not ring.served or ring.base == used or not self.device.connected:
            return False
        if (ring.base - used) & 0xFFFF > self.where.size:
            raise VhostUserError(
                f"its back-end has sent {ring.base} as the base of ring {ring.index}, and has "
                f"completed requests up to {used}",
                device=self.device.name,
            )
        return True

    def used_pages(self) -> tuple[int, int]:
        """The pages of its used ring: their guest address, and their bytes."""
        first, length = self.where.used, split_sizes(self.where.size).used
        start = first // PAGE_SIZE * PAGE_SIZE
        return start, -(-(first + length - start) // PAGE_SIZE) * PAGE_SIZE


class StoppedRings:
    """Rings whose requests are awaited when they have stopped.

    It is made before they stop, so that a ring costs one read and one comparison in a blackout.

    Args:
        devices: their devices, whose drivers set up no ring anew from now on.
        ram: guest memory.
    """

    def __init__(self, devices: Iterable[VhostDevice], ram: GuestRam) -> None:
        self._rings = [
            _StoppedRing(ring, ram.view(where.used, 4).cast("H"), where, device)
            for device in devices
            for ring in device.configured_rings()
            if (where := ring.addresses) is not None
        ]

    def await_requests(
        self,
        timeout: float,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> list[tuple[int, int]]:
        """Return when each ring that was stopped has completed the requests before its base.

        Args:
            timeout: seconds.
            waiting: makes a context manager, in which it waits if it has to.

        Returns:
            The pages (guest address, bytes) of the used rings that have changed meanwhile. A
            back-end logs a write to a used ring after the write, so it may not have logged the last
            one yet.

        Raises:
            VhostUserError: a back-end has not completed its requests in time, or has completed some
                beyond the base that it sent.
        """
        early = [each for each in self._rings if each.used[1] != each.ring.base]
        early = [each for each in early if each.is_early()]
        if not early:
            return []
        with waiting():
            self._wait(early, timeout)
        return [each.used_pages() for each in early]

    @staticmethod
    def _wait(early: list[_StoppedRing], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while left := [each for each in early if each.is_early()]:
            if time.monotonic() > deadline:
                ring = left[0].ring
                raise VhostUserError(
                    f"its back-end has stopped ring {ring.index} and not completed the requests "
                    f"before its base {ring.base} within {timeout:g} s",
                    device=left[0].device.name,
                )
            # A driver may have suppressed the calls: there is no event to wait for.
            time.sleep(DRAIN_INTERVAL)
