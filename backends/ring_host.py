"""A device's memory and rings as the front-end sets them up, whatever the device does.

Descriptors that are no longer needed are not closed on the spot, but a little later: the
front-end waits for the replies of all rings, of this device and of others, and not for this.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from backends import stats
from backends.ring import Ring
from vhost_user import eventfd
from vhost_user.errors import FrontendError
from vhost_user.features import (
    F_RING_EVENT_IDX,
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
)
from vhost_user.memory import PAGE_SIZE, MemoryTable
from vhost_user.payloads import VRING_F_LOG
from vhost_user.virtqueue import DeviceQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.loop import Loop, Timer
    from vhost_user.dirty_log import DirtyLog
    from vhost_user.inflight import InflightRegion, InflightRing
    from vhost_user.payloads import VringAddr


#: Nanoseconds after which what a stopped ring has left is tidied up: longer than a blackout lasts.
TIDY_NS = 250_000_000


class RingHost:
    """The ground of every back-end device.

    Args:
        name: what errors and tables call it.
        loop: the loop that serves it.
        rings: how many rings it has.
        counters: its u64 slots in the statistics (`backends.stats`).

    Attributes:
        memory: guest memory.
        acked: the feature bits that the front-end took.
        log_mark: marks guest memory as written to, or None while nothing is logged.
    """

    def __init__(
        self, name: str, loop: Loop, rings: int, counters: memoryview | None = None
    ) -> None:
        self.name = name
        self.loop = loop
        self.rings = [Ring(index) for index in range(rings)]
        self.counters = stats.StatsWriter(1).device(0) if counters is None else counters
        self.memory = MemoryTable()
        self.acked = 0
        self.log_mark: Callable[[int, int], None] | None = None
        self._log: DirtyLog | None = None
        self._inflight: InflightRegion | None = None
        self._event_idx = False
        self._retired_fds: list[int] = []
        self._retired_kicks: list[int] = []
        self._retired_queues: list[DeviceQueue] = []
        self._tidying: Timer | None = None
        self._batch = eventfd.default()

    # Features and the log

    def set_features(self, acked: int) -> None:
        """The front-end took these feature bits; rings that run go on with them.

        Raises:
            FrontendError: they begin to log, and the log does not cover guest memory.
        """
        self.check_log(acked, self.memory.end)
        self.acked = acked
        self._event_idx = bool(acked >> F_RING_EVENT_IDX & 1)
        if not acked >> VHOST_USER_F_PROTOCOL_FEATURES & 1:
            for ring in self.rings:
                ring.enabled = True
        self._apply_log()

    def set_log(self, dirty_log: DirtyLog | None) -> None:
        """Marks go to this log from now on.

        Raises:
            FrontendError: it does not cover guest memory, or a used ring that is to be logged.
        """
        if dirty_log is not None:
            reach = _reach(dirty_log)
            try:
                _check_reach(reach, self.memory.end)
                for ring in self.rings:
                    if ring.addr is not None and ring.started:
                        self._check_used_log(ring, ring.addr, reach)
            except FrontendError:
                dirty_log.close()
                raise
        if self._log is not None:
            self._log.close()
        self._log = dirty_log
        self._apply_log()

    def check_log(self, acked: int, end: int) -> None:
        """Whether rings that run may go on logging, with these features and this much memory.

        A log may be left over from before the memory grew. That harms nobody while no ring is
        started: QEMU sends a new one after the memory table when it starts a device.

        Raises:
            FrontendError: the log does not reach to that end of guest memory.
        """
        logging_all = acked >> VHOST_F_LOG_ALL & 1
        if self._log is not None and logging_all and any(ring.started for ring in self.rings):
            _check_reach(_reach(self._log), end)

    def _check_used_log(self, ring: Ring, addr: VringAddr, reach: int) -> None:
        if addr.flags & VRING_F_LOG:
            end = addr.log + 4 + 8 * ring.size + (2 if self._event_idx else 0)
            if end > reach:
                raise FrontendError(
                    f"the used ring is to be logged up to {end:#x}, and the log ends at {reach:#x}",
                    ring=ring.index,
                )

    def _apply_log(self) -> None:
        logging_all = self.acked >> VHOST_F_LOG_ALL & 1
        self.log_mark = self._log.mark if self._log is not None and logging_all else None
        for ring in self.rings:
            if ring.queue is not None:
                self._log_ring(ring, ring.queue)

    def _log_ring(self, ring: Ring, queue: DeviceQueue) -> None:
        addr = ring.addr
        wanted = self._log is not None and addr is not None and addr.flags & VRING_F_LOG
        queue.log = self._log.mark if self._log is not None and wanted else None
        queue.used_log_gpa = addr.log if addr is not None and wanted else None

    # The inflight region

    def set_inflight(self, region: InflightRegion) -> None:
        """Rings that start from now on note there what they take, and begin with what is noted."""
        if self._inflight is not None:
            self._inflight.close()
        self._inflight = region

    # Rings

    def set_addr(self, ring: Ring, addr: VringAddr) -> None:
        """The ring has new addresses, or its used ring is logged from now on, or no more.

        Raises:
            FrontendError: they are not in guest memory, or the used ring is not in the log.
        """
        # One that does not even cover the memory is left over: see `check_log`.
        if self._log is not None and (reach := _reach(self._log)) >= self.memory.end:
            self._check_used_log(ring, addr, reach)
        ring.addr = addr
        ring.views = None
        ring.broken = False
        if ring.queue is not None:
            self.rebuild(ring)
        elif ring.size and self.memory.end:
            ring.map(self.memory, event_idx=self._event_idx)

    def set_call(self, ring: Ring, fd: int) -> None:
        """The ring has a new call; -1: the driver polls."""
        if ring.call_fd >= 0:
            self.retire_fds([ring.call_fd])
        ring.call_fd = fd
        if ring.queue is not None:
            # What was completed while there was none would otherwise go unnoticed.
            ring.call()

    def set_err(self, ring: Ring, fd: int) -> None:
        """The ring has a new error descriptor, or none (-1)."""
        if ring.err_fd >= 0:
            self.retire_fds([ring.err_fd])
        ring.err_fd = fd

    def build(self, ring: Ring) -> DeviceQueue:
        """Begin to use the ring's memory, from its base on.

        Raises:
            FrontendError: it has no addresses, or they are not in guest memory.
        """
        views = ring.map(self.memory, event_idx=self._event_idx)
        queue = DeviceQueue(
            ring.size,
            views.desc,
            views.avail,
            views.used,
            self.memory,
            last_avail=ring.base,
            event_idx=self._event_idx,
            inflight=self._inflight_of(ring),
            ring=ring.index,
        )
        if self._log is not None:
            self._log_ring(ring, queue)
        ring.queue = queue
        ring.adrift = False
        return queue

    def _inflight_of(self, ring: Ring) -> InflightRing | None:
        if ring.queue is not None:
            return ring.queue.inflight
        return None if self._inflight is None else self._inflight.ring(ring.index)

    def rebuild(self, ring: Ring, base: int | None = None) -> None:
        """Go on with a ring in use where its addresses are now.

        Raises:
            FrontendError: they are not in guest memory.
        """
        queue = ring.queue
        if queue is not None:
            # The new queue reads from memory how far the device is: nothing may be held back.
            if queue.publish():
                ring.call()
            ring.base = queue.last_avail if base is None else base
            self.build(ring)

    def use_memory(self, memory: MemoryTable) -> None:
        """Guest memory is this one from now on, which is empty as yet; the old one is let go of."""
        memory.generation = self.memory.generation + 1
        self.memory.close()
        self.memory = memory

    # What is no longer needed

    def retire_fds(self, fds: Sequence[int]) -> None:
        """Close descriptors a little later."""
        self._retired_fds.extend(fds)
        self.tidy_later()

    def tidy_later(self) -> None:
        """Close what has been retired when the front-end does not wait for anything any more."""
        if self._tidying is None:
            # At a turn's end: the turn may hold an event of a kick that is closed here.
            tidy = partial(self.loop.finally_, self.tidy)
            self._tidying = self.loop.at(time.monotonic_ns() + TIDY_NS, tidy)

    def tidy(self) -> None:
        """Close the descriptors and let go of the views of rings that were stopped."""
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None
        self._retired_queues.clear()
        kicks, self._retired_kicks = self._retired_kicks, []
        for fd in kicks:
            self.loop.unwatch_kick(fd)
        fds, self._retired_fds = self._retired_fds + kicks, []
        if fds:
            self._batch.close(fds)

    def forget_memory(self) -> None:
        """Drop guest memory and the log: the front-end has gone."""
        self.set_log(None)
        if self._inflight is not None:
            self._inflight.close()
            self._inflight = None
        self.acked = 0
        self._event_idx = False
        self.use_memory(MemoryTable())
        for ring in self.rings:
            ring.views = None


def _reach(dirty_log: DirtyLog) -> int:
    """One past the last guest-physical address that has a bit in the log."""
    return dirty_log.size * 8 * PAGE_SIZE


def _check_reach(reach: int, end: int) -> None:
    if end > reach:
        raise FrontendError(f"guest memory ends at {end:#x}, and the log at {reach:#x}")
