"""The transmit ring of a queue pair: a few slots for packets, in the ring's own page.

    0    driver queue state (16)    16   heads of the slots, u32 each    48   slots of 80 bytes

The driver collects sent packets when it runs for another reason; it enables the ring's interrupt
only when it has to wait for a slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.frames import FLOW_BYTES
from emu.guest.layout import CONTROL_BYTES, RingPlace
from emu.guest.rings import open_ring

if TYPE_CHECKING:
    from emu.guest.platform import Ram

SLOTS, STRIDE = 8, 80
_HEADS_AT, _SLOTS_AT = 16, 48
#: Slots that hold no packet have this in place of a head.
_FREE = 0xFFFF_FFFF


class TransmitRing:
    """Slots of 72 bytes each: the virtio-net header and a frame of 60.

    Args:
        ram: guest memory.
        place: the ring.
        ring: its index in the device, for error messages.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.

    Attributes:
        bytes: where slots are filled in, at `offset`.
        free: slots that hold no packet.
    """

    def __init__(self, ram: Ram, place: RingPlace, ring: int, *, event_idx: bool) -> None:
        self.queue, self.bytes = open_ring(ram, place, ring, event_idx=event_idx)
        self.publish = self.queue.publish
        self.free: list[int] = []
        self._heads = self.bytes[_HEADS_AT:_SLOTS_AT].cast("I")
        self._extents = [
            [(place.control + _SLOTS_AT + slot * STRIDE, FLOW_BYTES)] for slot in range(SLOTS)
        ]
        self._by_head: dict[int, int] = {}

    def boot(self) -> None:
        """Write the initial state: an empty ring."""
        self.bytes[:] = bytes(CONTROL_BYTES)
        self.queue.reset()
        for slot in range(SLOTS):
            self._heads[slot] = _FREE

    def refresh(self) -> None:
        """Derive the state from guest memory again."""
        heads = list(self._heads)
        self._by_head = {head: slot for slot, head in enumerate(heads) if head != _FREE}
        self.free = [slot for slot, head in enumerate(heads) if head == _FREE]

    @staticmethod
    def offset(slot: int) -> int:
        """Where a slot lies in `bytes`."""
        return _SLOTS_AT + slot * STRIDE

    def send(self, slot: int) -> None:
        """Add a filled slot, taken from `free`, to the ring; `publish` makes it available."""
        head = self.queue.add(self._extents[slot], ())
        self._heads[slot] = head
        self._by_head[head] = slot

    def reclaim(self) -> None:
        """Collect the slots whose packets have been sent.

        Raises:
            BackendError: the device completed what is not in flight.
        """
        pop = self.queue.pop
        while (done := pop()) is not None:
            slot = self._by_head.pop(done[0])
            self._heads[slot] = _FREE
            self.free.append(slot)

    def await_slot(self) -> bool:
        """Enable the interrupt of the next completion; returns whether a slot is free already."""
        if self.queue.arm():
            self.reclaim()
        return bool(self.free)

    def empty(self) -> bool:
        """Whether the ring is empty; otherwise the next completion raises an interrupt."""
        if self.queue.in_flight:
            self.reclaim()
            if self.queue.in_flight:
                self.await_slot()
        return not self.queue.in_flight
