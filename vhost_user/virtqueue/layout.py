"""The split ring in memory (virtio 1.3, section 2.7).

Virtio 1 rings are little-endian, and so are the hosts that this project runs on: native views of
memory are right.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

F_NEXT = 1
F_WRITE = 2
F_INDIRECT = 4

#: avail.flags: the driver wants no interrupts. used.flags: the device wants no kicks.
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

DESCRIPTOR_SIZE = 16
#: A descriptor: u64 address, u32 length, u16 flags, u16 next.
DESCRIPTOR = struct.Struct("=QIHH")
#: The same without `next`, which the driver uses for its free list.
DESCRIPTOR_BODY = struct.Struct("=QIH")

DESC_ALIGN = 16
AVAIL_ALIGN = 2
USED_ALIGN = 4

#: Largest ring of the virtio specification; vhost-user front-ends use 1024 at most.
MAX_SIZE = 32768
#: Descriptors of one indirect table, unless the ring has more. The specification allows as many as
#: the ring has; drivers put more into tables, and QEMU's devices accept 1024.
MAX_CHAIN = 1024


class RingAddresses(NamedTuple):
    """Where the driver has put a ring: its size in descriptors, and guest physical addresses."""

    size: int
    desc: int
    avail: int
    used: int


class SplitSizes(NamedTuple):
    """Bytes of the three parts of a ring."""

    desc: int
    avail: int
    used: int


def split_sizes(size: int, *, event_idx: bool = True) -> SplitSizes:
    """Bytes that a ring of `size` descriptors takes.

    The event fields (2 bytes each, VIRTIO_F_EVENT_IDX) are part of the layout even if they are not
    negotiated; a driver that does not use them may leave them out.
    """
    event = 2 if event_idx else 0
    return SplitSizes(DESCRIPTOR_SIZE * size, 4 + 2 * size + event, 4 + 8 * size + event)


class SplitOffsets(NamedTuple):
    """Offsets of the parts of a ring, and of its end."""

    desc: int
    avail: int
    used: int
    end: int


def split_offsets(size: int, *, event_idx: bool = True) -> SplitOffsets:
    """Offsets of the parts when they are packed as tightly as their alignment (16, 2, 4) allows."""
    sizes = split_sizes(size, event_idx=event_idx)
    avail = sizes.desc
    used = -(-(avail + sizes.avail) // USED_ALIGN) * USED_ALIGN
    return SplitOffsets(0, avail, used, used + sizes.used)


def valid_size(size: int) -> bool:
    """Whether a split ring may have that many descriptors: a power of two up to 32768."""
    return 0 < size <= MAX_SIZE and size & (size - 1) == 0


class RingWords(NamedTuple):
    """Views of a ring: its available and its used part as u16, the used elements as u32."""

    avail: memoryview
    used: memoryview
    elements: memoryview


def cast_ring(
    size: int, desc: memoryview, avail: memoryview, used: memoryview, *, event_idx: bool
) -> RingWords | None:
    """The views of a ring as words.

    Bytes beyond the ring are cut off. None if `size` is not valid, or a part is too short.
    """
    event = 2 if event_idx else 0
    avail_end, elements_end = 4 + 2 * size + event, 4 + 8 * size
    if (
        not valid_size(size)
        or len(desc) < DESCRIPTOR_SIZE * size
        or len(avail) < avail_end
        or len(used) < elements_end + event
    ):
        return None
    return RingWords(
        avail[:avail_end].cast("H"),
        used[: elements_end + event].cast("H"),
        used[4:elements_end].cast("I"),
    )
