"""The ring of a driver that makes requests: slots, counters, and the handling of completions.

A request occupies a slot, numbered from 0, until the device has completed it. The state of the ring
and of its driver is in guest memory, next to the ring, so that after a migration the driver in
another process continues from it. At these offsets (bytes) there are:

    0    the state of the `DriverQueue` (16 bytes)
    16   the counters, 7 words of u64
    72   the head of the request in each slot, u32
    96   the driver's own state
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.control_page import OVERDUE, GuestContext
from emu.guest.layout import CONTROL_BYTES, UnitPlace
from emu.guest.request_log import RequestLog
from emu.guest.rings import open_ring
from vhost_user.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: Buffers: guest physical address and length of each.
    Extents = Sequence[tuple[int, int]]
    #: A request: the buffers that the device reads, those that it writes, and the guest physical
    #: address and memory of the indirect table to use, if any.
    Chain = tuple[Extents, Extents, tuple[int, memoryview] | None]

#: Indices of the counters: those of `RequestLog`; interrupts; and BROKEN, which is 1 once the
#: device has made the used ring invalid, as by completing a request twice.
REQUESTS, COMPLETED, DUPLICATED, CORRUPTED, ERRORS, INTERRUPTS, BROKEN = range(7)
#: The offset of the driver's own state.
OWN_STATE_AT = 96
_COUNTERS_AT, _HEADS_AT = 16, 72
#: The head of a slot without a request.
_FREE = 0xFFFF_FFFF


class RequestRing:
    """One ring. A driver calls the methods under the lock of its unit.

    Args:
        context: guest memory and the machine.
        place: where the ring is; its unit has this ring only.
        slots: how many requests can be in flight, at most 6.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.

    Attributes:
        control: the `CONTROL_BYTES` next to the ring: see the module.
        counters: u64 words, with the indices REQUESTS to BROKEN.
        publish: makes what was added available; True if the device wants to be notified.
        kicks: notifications sent in this process.
    """

    def __init__(
        self, context: GuestContext, place: UnitPlace, slots: int, *, event_idx: bool
    ) -> None:
        self._context = context
        self._ring_index = place.position
        self._pages = place.rings[0].start, place.rings[0].length
        self._queue, self.control = open_ring(
            context.platform.ram, place.rings[0], place.position, event_idx=event_idx
        )
        self.counters = self.control[_COUNTERS_AT:_HEADS_AT].cast("Q")
        self._heads = self.control[_HEADS_AT : _HEADS_AT + 4 * slots].cast("I")
        self._notify_address = context.platform.notify_address(place.device, place.position)
        self.publish = self._queue.publish
        self._slots_by_head: dict[int, int] = {}
        self._epoch = -1
        self.kicks = 0

    def boot(self) -> None:
        """Write the initial state: an empty ring, free slots, and zeroes for all else."""
        self.control[:] = bytes(CONTROL_BYTES)
        self._queue.reset()
        for slot in range(len(self._heads)):
            self._heads[slot] = _FREE
        self.mark()

    def boot_again(self) -> None:
        """Write an empty ring and free slots; the counters and the driver's own state stay.

        No request is in flight.
        """
        self._queue.reset()
        for slot in range(len(self._heads)):
            self._heads[slot] = _FREE
        self._slots_by_head.clear()
        self._epoch = self._context.epoch
        self.counters[BROKEN] = 0
        self.mark()

    def mark(self) -> None:
        """Mark the pages of the ring and its state as dirty."""
        self._context.mark(*self._pages)

    def free_slots(self) -> list[int]:
        """The slots without a request; none if the ring is broken."""
        if self.counters[BROKEN]:
            return []
        return [slot for slot, head in enumerate(self._heads) if head == _FREE]

    def busy_slots(self) -> list[int]:
        """The slots whose requests are in flight."""
        return [slot for slot, head in enumerate(self._heads) if head != _FREE]

    def add(
        self,
        slot: int,
        readable: Extents,
        writable: Extents,
        indirect: tuple[int, memoryview] | None = None,
    ) -> None:
        """Add a request in a free slot; `publish` or `kick` makes it available to the device.

        Args:
            slot: the slot.
            readable: the buffers that the device reads.
            writable: the buffers that the device writes.
            indirect: guest physical address and memory of an indirect table to use.
        """
        self._put(slot, readable, writable, indirect)
        self.counters[REQUESTS] += 1

    def _put(
        self,
        slot: int,
        readable: Extents,
        writable: Extents,
        indirect: tuple[int, memoryview] | None,
    ) -> None:
        head = self._queue.add(readable, writable, indirect)
        self._heads[slot] = head
        self._slots_by_head[head] = slot

    def notify(self) -> None:
        """Notify the device."""
        self.kicks += 1
        self._context.platform.notify(self._notify_address, self._ring_index)

    def kick(self) -> None:
        """Make the added requests available, and notify the device if it wants that."""
        if self.publish():
            self.notify()
        self.mark()

    def handle_completions(self, completed: Callable[[int, int], None]) -> None:
        """Handle completions until there are none, or the vCPUs are to pause.

        Args:
            completed: called for each completed request with its slot, which is free again, and
                the number of bytes that the device has written. It may add requests, which are
                made available afterwards.
        """
        context, queue, counters = self._context, self._queue, self.counters
        if self._epoch != context.epoch:
            self._refresh()
        try:
            while not counters[BROKEN]:
                paused = self._drain(completed)
                if self.publish():
                    self.notify()
                if paused:
                    context.rescan()
                    break
                if not queue.arm():
                    break
        except BackendError:
            # The used ring is invalid; nearly always a request has been completed twice.
            counters[DUPLICATED] += 1
            counters[BROKEN] = 1
        self.mark()

    def restart(self, completed: Callable[[int, int], None], chain: Callable[[int], Chain]) -> int:
        """Empty the ring, and submit the requests in flight again: the device is being reset.

        No device serves the ring meanwhile. What the device has completed before is handled first.

        Args:
            completed: as for `handle_completions`.
            chain: returns the request of a slot, which its device can execute once more.

        Returns:
            The number of requests submitted again.
        """
        if self._epoch != self._context.epoch:
            self._refresh()
        try:
            while not self.counters[BROKEN] and self._drain(completed):
                pass  # the ring is emptied even if the vCPUs are to pause
        except BackendError:
            self.counters[DUPLICATED] += 1
        self.counters[BROKEN] = 0
        again = self.busy_slots()
        self._queue.reset()
        self._slots_by_head.clear()
        for slot in again:
            self._put(slot, *chain(slot))
        self.publish()
        self.mark()
        return len(again)

    def _refresh(self) -> None:
        """Read the slots from guest memory again: the driver ran in another process."""
        self._slots_by_head = {self._heads[slot]: slot for slot in self.busy_slots()}
        self._epoch = self._context.epoch

    def _drain(self, completed: Callable[[int, int], None]) -> bool:
        """Handle completions: False when there are no more, True if the vCPUs have to pause."""
        pop, platform, slot_of = self._queue.pop, self._context.platform, self._slots_by_head.pop
        heads, counters = self._heads, self.counters
        while (done := pop()) is not None:
            slot = slot_of(done[0], None)
            if slot is None:
                counters[DUPLICATED] += 1
            else:
                heads[slot] = _FREE
                counters[COMPLETED] += 1
                completed(slot, done[1])
            if platform.paused:
                return True
        return False

    def completed(self) -> int:
        """The number of requests that the device has completed."""
        return self.counters[COMPLETED]

    def outstanding(self) -> int:
        """The number of requests in flight."""
        return self.counters[REQUESTS] - self.counters[COMPLETED]

    def request_log(self) -> RequestLog:
        """This ring's part of the request log, without interrupts."""
        counters, outstanding = self.counters, self.outstanding()
        return RequestLog(
            requests=counters[REQUESTS],
            completed=counters[COMPLETED],
            outstanding=outstanding,
            lost=outstanding if self._context.control[OVERDUE] else 0,
            duplicated=counters[DUPLICATED],
            corrupted=counters[CORRUPTED],
            errors=counters[ERRORS],
        )
