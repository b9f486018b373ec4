"""Waiting for the requests that a back-end has in flight when its rings are to stop.

A back-end shall complete the requests that it has taken before it replies (vhost-user, "Ring
states" and GET_VRING_BASE, since e7985b6a56): then the used index of a stopped ring is its base.
One that replies earlier completes them later. A disk whose back-end has no inflight region is
drained before it stops (`VhostDevice.drains`). For the others, two wait after the stop:

- the source of a migration: the destination continues after these requests, and gets no inflight
  region, so they would be lost;
- a reset: they would be completed in the rings as set up again.

Where the same rings are started again on the same host, nothing is awaited: the back-end gets its
inflight region again.

A buffer of a receive ring that a back-end has taken without a frame for it is not a request: no
event would complete it. A stopped ring is not processed ("Ring states"), so nothing is written to
that buffer any more, and another back-end takes it again (`Vring.held`).
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.errors import VhostUserError
from vhost_user.memory import PAGE_SIZE
from vhost_user.readiness import readable
from vhost_user.virtqueue import split_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from devices.device import VhostDevice
    from devices.vring import Vring
    from emu.machine.ram import GuestRam
    from vhost_user.virtqueue import RingAddresses

#: Seconds between two reads of the used indices of rings whose requests are awaited.
DRAIN_INTERVAL = 0.0001


class Unfinished(NamedTuple):
    """What a back-end has not done yet.

    Attributes:
        device: its device.
        what: as in "its back-end has not completed 3 requests".
    """

    device: VhostDevice
    what: str


def await_back_ends(unfinished: Callable[[], Sequence[Unfinished]], timeout: float) -> None:
    """Return when ``unfinished`` returns nothing any more.

    Nothing is sent to the back-ends, and no reply of them is due.

    Args:
        unfinished: reads guest memory; each of its devices is connected.
        timeout: seconds.

    Raises:
        VhostUserError: the time is over.
        Disconnected, BackendError: such a back-end has closed its connection, or has sent a
            message.
    """
    deadline = time.monotonic() + timeout
    while left := unfinished():
        if time.monotonic() > deadline:
            device, what = left[0]
            raise VhostUserError(f"its back-end {what} within {timeout:g} s", device=device.name)
        # No event reports a completion: a driver may have suppressed the calls.
        if readable([device.connection for device, _ in left], DRAIN_INTERVAL):
            for device, _ in unfinished():  # the last completion may have come before the end
                device.connection.receive()


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

    def unfinished(self) -> Unfinished:
        """For an error."""
        ring = self.ring
        return Unfinished(
            self.device,
            f"has stopped ring {ring.index} and not completed the requests before its base "
            f"{ring.base}",
        )

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

        A receive ring is not awaited: `Vring.held` becomes the number of these buffers.

        Args:
            timeout: seconds.
            waiting: makes a context manager, in which it waits if it has to.

        Returns:
            The pages (guest address, bytes) of the used rings that have changed meanwhile. A
            back-end logs a write to a used ring after the write, so it may not have logged the last
            one yet.

        Raises:
            VhostUserError: a back-end has not completed its requests in time, or has completed some
                beyond the base that it sent, or has disconnected meanwhile.
        """
        ahead = [each for each in self._rings if each.used[1] != each.ring.base]
        early: list[_StoppedRing] = []
        for each in [each for each in ahead if each.is_early()]:
            if each.device.receives(each.ring):
                each.ring.held = (each.ring.base - each.used[1]) & 0xFFFF
            else:
                early.append(each)
        if early:
            with waiting():
                await_back_ends(lambda: [e.unfinished() for e in early if e.is_early()], timeout)
        return [each.used_pages() for each in early]
