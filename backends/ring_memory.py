"""Where a ring is in guest memory: its size, its addresses, its views."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from backends.guest_memory import log_reach
from vhost_user.errors import FrontendError
from vhost_user.payloads import VRING_F_LOG, VringAddr
from vhost_user.postcopy import PagesMissing
from vhost_user.virtqueue import DeviceQueue
from vhost_user.virtqueue.layout import (
    AVAIL_ALIGN,
    DESC_ALIGN,
    MAX_SIZE,
    USED_ALIGN,
    cast_ring,
    valid_size,
)

if TYPE_CHECKING:
    from backends.guest_memory import GuestMemory
    from vhost_user.inflight import InflightRing
    from vhost_user.virtqueue.layout import RingWords

log = logging.getLogger("backends")


class RingViews(NamedTuple):
    """The three parts of a ring, mapped, and what they depend on (`GuestMemory.generation`)."""

    desc: memoryview
    avail: memoryview
    used: memoryview
    words: RingWords | None
    generation: int


class RingMemory:
    """The memory of one ring.

    Args:
        index: the ring's number in the device.
        guest: guest memory.
        name: the device's name.

    Attributes:
        size: entries, 0 until SET_VRING_NUM.
        addr: the payload of SET_VRING_ADDR, or None.
    """

    __slots__ = ("_guest", "_index", "_name", "_reported", "_views", "addr", "size")

    def __init__(self, index: int, guest: GuestMemory, name: str) -> None:
        self._index = index
        self._name = name
        self._guest = guest
        self.forget()

    def forget(self) -> None:
        """The initial state: without a size or addresses."""
        self.size = 0
        self.addr: VringAddr | None = None
        self._views: RingViews | None = None
        # Descriptors of an inflight region that was too small, and of the ring.
        self._reported: tuple[int, int] | None = None

    @property
    def configured(self) -> bool:
        """It has a size and addresses."""
        return self.addr is not None and self.size > 0

    def set_size(self, size: int, *, active: bool) -> None:
        """SET_VRING_NUM, for a ring that is active or not.

        Raises:
            FrontendError: a split ring's size is a power of two, 32768 at most; and it cannot
                change while the ring is active.
        """
        if not valid_size(size):
            raise self._error(f"size {size} is not a power of two up to {MAX_SIZE}")
        if active and size != self.size:
            raise self._error("size changed while the ring is running")
        if size != self.size:
            self.size = size
            self._views = None

    def set_addr(self, addr: tuple[int, ...]) -> None:
        """SET_VRING_ADDR: new addresses, or the used ring is logged from now on, or not any more.

        Args:
            addr: the fields of a `VringAddr`.

        Raises:
            FrontendError: the used ring is not in the log.
        """
        guest = self._guest
        # A log that does not even cover the memory is left over: see `BackendDevice.check_log`.
        if guest.log is not None and (reach := log_reach(guest.log)) >= guest.table.end:
            self.check_used_log(reach, VringAddr(*addr))
        if addr != self.addr:
            self.addr = VringAddr(*addr)
            self._views = None

    def check_used_log(self, reach: int, addr: VringAddr | None = None) -> None:
        """Check that a log that ends at ``reach`` covers the used ring, where it is to be logged.

        Raises:
            FrontendError: it does not.
        """
        addr = addr or self.addr
        if addr is not None and addr.flags & VRING_F_LOG:
            end = addr.log + 4 + 8 * self.size + (2 if self._guest.event_idx else 0)
            if end > reach:
                raise self._error(
                    f"the used ring is to be logged up to {end:#x}, and the log ends at {reach:#x}"
                )

    def map(self) -> RingViews:
        """The ring's views; found once, and again after guest memory has changed.

        With the event index each of the two rings is followed by an event field.

        Raises:
            FrontendError: an address is not aligned, or is not in the memory table.
        """
        views, generation = self._views, self._guest.generation
        if views is not None and views.generation == generation:
            return views
        addr, size = self.addr, self.size
        if addr is None or not size:
            raise self._error("the ring has no size or no addresses yet")
        if addr.desc % DESC_ALIGN or addr.avail % AVAIL_ALIGN or addr.used % USED_ALIGN:
            raise self._error("an address of the ring is not aligned")
        view, event_idx = self._guest.table.user_view, self._guest.event_idx
        event = 2 if event_idx else 0
        desc = view(addr.desc, 16 * size)
        avail = view(addr.avail, 4 + 2 * size + event)
        used = view(addr.used, 4 + 8 * size + event)
        words = cast_ring(size, desc, avail, used, event_idx=event_idx)
        self._views = RingViews(desc, avail, used, words, generation)
        return self._views

    def map_early(self) -> None:
        """Map the ring before it is started, if it is configured and there is memory.

        Raises:
            FrontendError: as `map`.
        """
        views = self._views
        if views is not None and views.generation == self._guest.generation:
            return
        if self.configured and self._guest.table.end:
            with suppress(PagesMissing):  # they are waited for when the ring starts
                self.map()

    def queue(self, base: int, before: DeviceQueue | None) -> DeviceQueue:
        """The device's side of the ring, from this available index on.

        Args:
            base: the available index.
            before: the queue that it replaces, if the ring is active.

        Raises:
            FrontendError: as `map`.
        """
        views = self.map()
        queue = DeviceQueue(
            self.size,
            views.desc,
            views.avail,
            views.used,
            self._guest.table,
            last_avail=base,
            event_idx=self._guest.event_idx,
            inflight=self._inflight(before),
            ring=self._index,
            words=views.words,
        )
        if before is not None:
            queue.resubmit_rest_of(before)
        if self._guest.log is not None:
            self.log_used_ring(queue)
        return queue

    def _inflight(self, before: DeviceQueue | None) -> InflightRing | None:
        """Where the ring records its requests.

        A region for smaller rings records nothing: QEMU 10.0 asks for one of 128 descriptors, and
        a guest may have rings of 1024.

        Raises:
            FrontendError: such a region has requests of an earlier back-end.
        """
        if before is not None:
            return before.inflight
        part = self._guest.inflight_of(self._index)
        if part is None or part.size >= self.size:
            return part
        if part.occupied:
            raise self._error(
                f"requests to resubmit in an inflight region of {part.size} descriptors, and the "
                f"ring has {self.size}"
            )
        if self._reported != (part.size, self.size):
            self._reported = (part.size, self.size)
            log.warning(
                "%s: the inflight region is for rings of %d descriptors, and ring %d has %d: "
                "requests in flight are lost if this program dies",
                *(self._name, part.size, self._index, self.size),
            )
        return None

    def log_used_ring(self, queue: DeviceQueue) -> None:
        """The log or the log flag has changed: log writes to the used ring, or do not."""
        dirty_log, addr = self._guest.log, self.addr
        wanted = dirty_log is not None and addr is not None and addr.flags & VRING_F_LOG
        queue.log = dirty_log.mark if dirty_log is not None and wanted else None
        queue.used_log_gpa = addr.log if addr is not None and wanted else None

    def unmap(self) -> None:
        """Drop the views."""
        self._views = None

    def _error(self, text: str) -> FrontendError:
        return FrontendError(text, ring=self._index)
