"""A ring of a driver that makes requests: slots, counters, and the handling of completions.

A request has a slot, numbered from 0, until the device has completed it. What a driver keeps lies
beside the ring, so that a driver in another process continues where this one was paused:

    0    driver queue state (16)     16   counters, 7 words     72   heads of the slots, u32 each
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

    Extents = Sequence[tuple[int, int]]

#: The counters (u64). BROKEN is 1 once the device has completed what was not in flight.
REQUESTS, COMPLETED, DUPLICATED, CORRUPTED, ERRORS, INTERRUPTS, BROKEN = range(7)
#: Where the driver's own state begins.
OWN_STATE_AT = 96
_COUNTERS_AT, _HEADS_AT = 16, 72
#: A slot without a request has this in place of a head.
_FREE = 0xFFFF_FFFF


class RequestRing:
    """One ring. Its driver holds a lock whenever it calls a method.

    Args:
        context: guest memory and the machine.
        place: where the ring lies; of a unit of one ring.
        slots: how many there are, at most 6.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.

    Attributes:
        control: the `CONTROL_BYTES` beside the ring.
        counters: the words of this module, u64.
    """

    def __init__(
        self, context: GuestContext, place: UnitPlace, slots: int, *, event_idx: bool
    ) -> None:
        self._context = context
        self._number = place.position
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

    def boot(self) -> None:
        """Write the initial state: an empty ring, free slots; all else beside the ring is 0."""
        self.control[:] = bytes(CONTROL_BYTES)
        self._queue.reset()
        for slot in range(len(self._heads)):
            self._heads[slot] = _FREE
        self.mark()

    def mark(self) -> None:
        """Record that the ring's pages were written."""
        self._context.mark(*self._pages)

    def free_slots(self) -> list[int]:
        """The slots that a request can be added in: none when the ring is broken."""
        if self.counters[BROKEN]:
            return []
        return [slot for slot, head in enumerate(self._heads) if head == _FREE]

    def busy_slots(self) -> list[int]:
        """The slots whose requests are outstanding."""
        return [slot for slot, head in enumerate(self._heads) if head != _FREE]

    def add(
        self,
        slot: int,
        readable: Extents,
        writable: Extents,
        indirect: tuple[int, memoryview] | None = None,
    ) -> None:
        """Add the request of a free slot; the device sees it after `publish` or `kick`.

        Args:
            slot: its slot.
            readable: the buffers that the device reads, as of `DriverQueue.add`.
            writable: the buffers that the device writes.
            indirect: a table to describe the buffers in.
        """
        head = self._queue.add(readable, writable, indirect)
        self._heads[slot] = head
        self._slots_by_head[head] = slot
        self.counters[REQUESTS] += 1

    def notify(self) -> None:
        """Notify the device."""
        self._context.platform.notify(self._notify_address, self._number)

    def kick(self) -> None:
        """Make what was added available, and notify the device if it wants that."""
        if self.publish():
            self.notify()
        self.mark()

    def run(self, completed: Callable[[int, int], None]) -> None:
        """Handle completions until there are none, or the vCPUs are to pause.

        Args:
            completed: gets the slot of each request that was completed, which is free then, and the
                bytes that the device has written. What it adds is made available.
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
            # The device completed what was not in flight: the ring cannot be used any further.
            counters[DUPLICATED] += 1
            counters[BROKEN] = 1
        self.mark()

    def _refresh(self) -> None:
        """Derive the state from guest memory again: another process may have written it."""
        self._slots_by_head = {self._heads[slot]: slot for slot in self.busy_slots()}
        self._epoch = self._context.epoch

    def _drain(self, completed: Callable[[int, int], None]) -> bool:
        """Handle completions until there are none, or the vCPUs are to pause; whether they are."""
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

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self.counters[REQUESTS] - self.counters[COMPLETED]

    def request_log(self) -> RequestLog:
        """This ring's part of the request log, but for interrupts."""
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
