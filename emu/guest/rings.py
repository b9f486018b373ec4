"""A driver's view of one ring: the queue, and the driver's own bytes beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.layout import CONTROL_BYTES, RingPlace
from vhost_user.virtqueue import DriverQueue, split_sizes
from vhost_user.virtqueue.split_driver import STATE_SIZE

if TYPE_CHECKING:
    from emu.guest.platform import Ram


def open_ring(
    ram: Ram, place: RingPlace, ring: int, *, event_idx: bool
) -> tuple[DriverQueue, memoryview]:
    """The queue of a ring, and `CONTROL_BYTES` of state whose first 16 are the queue's.

    Args:
        ram: guest memory; nothing is written to it.
        place: where the ring is.
        ring: its index in the device, for error messages.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.
    """
    where = place.addresses
    desc, avail, used = split_sizes(where.size)
    control = ram.view(place.control, CONTROL_BYTES)
    queue = DriverQueue(
        where.size,
        ram.view(where.desc, desc),
        ram.view(where.avail, avail),
        ram.view(where.used, used),
        control[:STATE_SIZE],
        event_idx=event_idx,
        ring=ring,
    )
    return queue, control
