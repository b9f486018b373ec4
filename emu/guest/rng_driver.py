"""The guest's entropy driver: rings of requests for random bytes, each of which is checked.

A request is one buffer, which the driver fills with a pattern first. The device must have written
at least one byte (virtio 1.2, section 5.4.6.1), no more than it reports, and not the pattern.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from emu.guest.control_page import LIGHT_REQUESTS, MODE, GuestContext, Mode
from emu.guest.driver import Driver
from emu.guest.request_ring import CORRUPTED, INTERRUPTS, RequestRing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.guest.config import GuestConfig
    from emu.guest.layout import UnitPlace
    from emu.guest.request_log import RequestLog
    from emu.guest.request_ring import Chain

SLOTS = 4
REQUEST_BYTES = 256
#: 256 random bytes equal this with a probability of 2^-2048.
_PATTERN = b"\xa5" * REQUEST_BYTES

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
        self.accepting = True
        self._context = context
        self._ring = RequestRing(context, place, SLOTS, event_idx=event_idx)
        self._counters = self._ring.counters
        self._data = [
            context.platform.ram.view(place.data + slot * REQUEST_BYTES, REQUEST_BYTES)
            for slot in range(SLOTS)
        ]

    def boot(self) -> None:
        """Write the initial state: an empty ring, counters at 0."""
        self._ring.boot()

    def boot_again(self, *, keep: bool) -> None:  # noqa: ARG002  it stores nothing
        """See `QueueUnit.boot_again`."""
        with self.lock:
            self._ring.boot_again()

    @property
    def kicks(self) -> int:
        """See `QueueUnit.kicks`."""
        return self._ring.kicks

    def interrupt(self) -> None:
        """The device has completed requests."""
        with self.lock:
            self._counters[INTERRUPTS] += 1
            self._run()

    def service(self) -> None:
        """Handle what the device has completed, without an interrupt."""
        with self.lock:
            self._run()

    def prime(self) -> None:
        """Submit a request in every free slot, if in this load completions submit requests."""
        with self.lock:
            if self._context.control[MODE] == Mode.HEAVY and self.accepting:
                for slot in self._ring.free_slots():
                    self._submit(slot)
                self._ring.kick()
            self._context.idle.check(self)

    def submit_one(self) -> None:
        """Submit one request and notify the device, unless all slots are busy."""
        with self.lock:
            for slot in self._ring.free_slots()[:1] if self.accepting else ():
                self._submit(slot)
                self._ring.kick()

    def completed(self) -> int:
        """Requests that the device has completed."""
        return self._ring.completed()

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self._ring.outstanding()

    def quiet(self) -> bool:
        """Nothing is outstanding and nothing will be submitted; the caller holds the lock."""
        return not self.outstanding()

    def request_log(self) -> RequestLog:
        """This ring's counters."""
        return self._ring.request_log()

    @property
    def interrupts(self) -> int:
        """Interrupts handled."""
        return self._counters[INTERRUPTS]

    def restart(self) -> int:
        """Submit the requests in flight again: the device is being reset.

        Returns:
            How many they are.
        """
        with self.lock:
            return self._ring.restart(self._completed, self._chain)

    def _run(self) -> None:
        self._ring.handle_completions(self._completed)
        self._context.idle.check(self)

    def _completed(self, slot: int, written: int) -> None:
        """Check a completed request, and submit the next one if the load asks for it."""
        if not _is_random(self._data[slot], written):
            self._counters[CORRUPTED] += 1
        if self._context.control[MODE] == Mode.HEAVY and self.accepting:
            self._submit(slot)

    def _submit(self, slot: int) -> None:
        """Add the request of a free slot."""
        self._ring.add(slot, *self._chain(slot))

    def _chain(self, slot: int) -> Chain:
        """The request of a slot, whose buffer is filled with the pattern."""
        self._data[slot][:] = _PATTERN
        gpa = self.place.data + slot * REQUEST_BYTES
        self._context.mark(gpa, REQUEST_BYTES)
        return (), [(gpa, REQUEST_BYTES)], None


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

    def restart_device(self, device: int) -> int:
        """See `Driver.restart_device`."""
        return sum(ring.restart() for ring in self.queues if ring.place.device == device)

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
