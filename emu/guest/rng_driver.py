"""The guest's entropy driver: rings of requests for random bytes, each of which is checked.

A request is one buffer, which the driver fills with a pattern first. The device must have written
at least one byte (virtio 1.2, section 5.4.6.1), no more than it reports, and not the pattern. The
driver's state lies beside the ring:

    0    driver queue state (16)     16   words: counters     96   slots, 8 bytes each
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from emu.guest.control_page import LIGHT_REQUESTS, MODE, OVERDUE, GuestContext, Mode
from emu.guest.driver import Driver
from emu.guest.layout import CONTROL_BYTES, UnitPlace
from emu.guest.request_log import RequestLog
from emu.guest.rings import open_ring
from vhost_user.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.guest.config import GuestConfig

SLOTS = 4
REQUEST_BYTES = 256
#: 256 random bytes equal this with a probability of 2^-2048.
_PATTERN = b"\xa5" * REQUEST_BYTES

#: Words (u64) of the state, and (u32) of a slot.
REQUESTS, COMPLETED, DUPLICATED, CORRUPTED, INTERRUPTS, BROKEN = range(2, 8)
_SLOTS_AT, _SLOTS_END = 96, 96 + 8 * SLOTS
BUSY, HEAD = range(2)
#: This driver's word of the pulse page: the next ring to get a request.
_LIGHT = 0


class RngRing:
    """One ring of an entropy device.

    Args:
        context: guest memory and the machine.
        place: where the ring lies.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.
    """

    def __init__(self, context: GuestContext, place: UnitPlace, *, event_idx: bool) -> None:
        self.number = place.unit
        self.place = place
        self.lock = threading.Lock()
        self._context = context
        ram = context.platform.ram
        self._queue, self._control = open_ring(
            ram, place.rings[0], place.position, event_idx=event_idx
        )
        self._words = self._control[:_SLOTS_AT].cast("Q")
        self._slots = self._control[_SLOTS_AT:_SLOTS_END].cast("I")
        self._data = [
            ram.view(place.data + slot * REQUEST_BYTES, REQUEST_BYTES) for slot in range(SLOTS)
        ]
        self._notify_address = context.platform.notify_address(place.device, place.position)

    def boot(self) -> None:
        """Write the initial state: an empty ring, counters at 0."""
        self._control[:] = bytes(CONTROL_BYTES)
        self._queue.reset()
        self._mark()

    def interrupt(self) -> None:
        """The device has completed requests."""
        with self.lock:
            self._words[INTERRUPTS] += 1
            self._run()

    def service(self) -> None:
        """Handle what the device has completed, without an interrupt."""
        with self.lock:
            self._run()

    def prime(self) -> None:
        """Submit a request in every free slot, if in this load completions submit requests."""
        with self.lock:
            if self._context.control[MODE] == Mode.HEAVY:
                while self._submit():
                    pass
                self._notify()
            self._settle()

    def submit_one(self) -> None:
        """Submit one request and notify the device, unless all slots are busy."""
        with self.lock:
            if self._submit():
                self._notify()

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self._words[REQUESTS] - self._words[COMPLETED]

    def quiet(self) -> bool:
        """Nothing is outstanding and nothing will be submitted; the caller holds the lock."""
        return not self.outstanding()

    def request_log(self) -> RequestLog:
        """This ring's counters."""
        words, outstanding = self._words, self.outstanding()
        return RequestLog(
            requests=words[REQUESTS],
            completed=words[COMPLETED],
            outstanding=outstanding,
            lost=outstanding if self._context.control[OVERDUE] else 0,
            duplicated=words[DUPLICATED],
            corrupted=words[CORRUPTED],
        )

    @property
    def interrupts(self) -> int:
        """Interrupts handled."""
        return self._words[INTERRUPTS]

    def _run(self) -> None:
        context, queue = self._context, self._queue
        try:
            while not self._words[BROKEN]:
                paused = self._drain()
                self._notify()
                if paused:
                    context.rescan()
                    break
                if not queue.arm():
                    break
        except BackendError:
            # The device completed what was not in flight: the ring cannot be used any further.
            self._words[DUPLICATED] += 1
            self._words[BROKEN] = 1
        self._mark()
        self._settle()

    def _drain(self) -> bool:
        """Handle completions until there are none, or the vCPUs are to pause; whether they are."""
        context = self._context
        while (done := self._queue.pop()) is not None:
            self._complete(*done)
            if context.control[MODE] == Mode.HEAVY:
                self._submit()
            if context.platform.paused:
                return True
        return False

    def _complete(self, head: int, written: int) -> None:
        slots = self._slots
        for slot in range(SLOTS):
            if slots[2 * slot + BUSY] and slots[2 * slot + HEAD] == head:
                break
        else:
            self._words[DUPLICATED] += 1
            return
        slots[2 * slot + BUSY] = 0
        self._words[COMPLETED] += 1
        if not _is_random(self._data[slot], written):
            self._words[CORRUPTED] += 1

    def _submit(self) -> bool:
        """Add a request in a free slot; False when there is none."""
        if self._words[BROKEN]:
            return False
        slots = self._slots
        for slot in range(SLOTS):
            if not slots[2 * slot + BUSY]:
                self._data[slot][:] = _PATTERN
                gpa = self.place.data + slot * REQUEST_BYTES
                self._context.mark(gpa, REQUEST_BYTES)
                slots[2 * slot + HEAD] = self._queue.add([], [(gpa, REQUEST_BYTES)])
                slots[2 * slot + BUSY] = 1
                self._words[REQUESTS] += 1
                return True
        return False

    def _notify(self) -> None:
        if self._queue.publish():
            self._context.platform.notify(self._notify_address, self.place.position)
        self._mark()

    def _settle(self) -> None:
        if self._context.idle.active and self.quiet():
            self._context.idle.settle(self.number)

    def _mark(self) -> None:
        self._context.mark(self.place.rings[0].start, self.place.rings[0].length)


def _is_random(data: memoryview, written: int) -> bool:
    """Whether a completed buffer is as it should be, of which the device wrote so many bytes."""
    if not 0 < written <= REQUEST_BYTES or data == _PATTERN:
        return False
    return data[written:] == _PATTERN[written:]


class RngDriver(Driver):
    """All rings of all entropy devices; see `Driver`."""

    DATA_BYTES = SLOTS * REQUEST_BYTES

    queues: list[RngRing]

    def __init__(
        self, context: GuestContext, places: Sequence[UnitPlace], word: int, config: GuestConfig
    ) -> None:
        super().__init__(context, places, word, config)
        self.queues = [RngRing(context, place, event_idx=config.event_idx) for place in places]

    def light(self) -> None:
        """Submit one request on each of the next rings in turn."""
        pulse, cursor = self._context.pulse, self._word + _LIGHT
        for _ in range(min(self._context.control[LIGHT_REQUESTS], len(self.queues))):
            self.queues[pulse[cursor] % len(self.queues)].submit_one()
            pulse[cursor] += 1

    def requests_in_flight(self) -> int:
        """The sum over all rings."""
        return sum(ring.outstanding() for ring in self.queues)

    def stats(self) -> dict[str, int]:
        """Requests completed, and interrupts."""
        return {
            "requests": sum(ring.request_log().completed for ring in self.queues),
            "interrupts": sum(ring.interrupts for ring in self.queues),
        }
