"""The block driver's own state of one ring in guest memory, and the formats of its requests.

It lies behind what each ring of requests has (`emu.guest.request_ring`):

    96   words                       224  request headers, 16 each   304  indirect tables, 48 each
    128  slots, 16 bytes each        288  status bytes               400  generations, u32 each
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from emu.guest.layout import BLK_SLOTS, BLOCK, BLOCKS_PER_SLOT, UnitPlace
from emu.guest.request_ring import OWN_STATE_AT
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SEGMENT,
    VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.guest.platform import Ram

#: No device returns this status, so one that was never written is seen.
STATUS_UNSET = 0xFF


class Op(IntEnum):
    """The request types of virtio-blk that the driver sends."""

    READ = VIRTIO_BLK_T_IN
    WRITE = VIRTIO_BLK_T_OUT
    FLUSH = VIRTIO_BLK_T_FLUSH
    GET_ID = VIRTIO_BLK_T_GET_ID
    WRITE_ZEROES = VIRTIO_BLK_T_WRITE_ZEROES


class Generation(NamedTuple):
    """What a block holds: a generation, perhaps with `ZEROED`; 0 is a block never written.

    Attributes:
        value: as of the last completed write.
        pending: the generation of a write that is outstanding, or None.
    """

    value: int
    pending: int | None


#: Words (u64): the state of the random numbers, blocks compared, whether the serial was read.
PRNG, CHECKED, IDENTIFIED = range(3)
_SLOTS_AT, _HEADERS_AT, _STATUS_AT, _TABLES_AT, _GENERATIONS_AT, _END = 128, 224, 288, 304, 400, 656
_TABLE_BYTES = 48
#: Words (u32) of a slot, from its number times `SLOT_WORDS`.
SLOT_WORDS = 4
OP, INDEX, GENERATION, CURSOR = range(SLOT_WORDS)

Buffers = tuple[list[tuple[int, int]], list[tuple[int, int]]]


class BlkState:
    """Views of one ring's state and data buffers.

    Args:
        ram: guest memory.
        place: the ring.
        control: the driver's bytes beside it.

    Attributes:
        words: u64, at the indices above.
        slots: `SLOT_WORDS` u32 a slot.
        status: the status byte of each slot.
        generations: of each block that the ring owns, u32.
        data: the buffer of each slot.
        first_block: index on the disk of the first block that the ring owns.
    """

    def __init__(self, ram: Ram, place: UnitPlace, control: memoryview) -> None:
        self._control = control
        self._gpa = place.rings[0].control
        self._data_gpa = place.data
        self.words = control[OWN_STATE_AT:_SLOTS_AT].cast("Q")
        self.slots = control[_SLOTS_AT:_HEADERS_AT].cast("I")
        self.status = control[_STATUS_AT:_TABLES_AT]
        self.generations = control[_GENERATIONS_AT:_END].cast("I")
        self.data = [ram.view(place.data + slot * BLOCK, BLOCK) for slot in range(BLK_SLOTS)]
        self.first_block = place.position * BLK_SLOTS * BLOCKS_PER_SLOT

    def write_header(self, slot: int, op: int, sector: int) -> None:
        """Write a slot's request header, and set its status to `STATUS_UNSET`."""
        REQUEST_HEADER.pack_into(
            self._control, _HEADERS_AT + slot * REQUEST_HEADER.size, op, 0, sector
        )
        self.status[slot] = STATUS_UNSET

    def buffers(self, slot: int) -> dict[int, Buffers]:
        """The extents of a slot's chain, by request type: readable ones and writable ones."""
        header = (self._gpa + _HEADERS_AT + slot * REQUEST_HEADER.size, REQUEST_HEADER.size)
        status = (self._gpa + _STATUS_AT + slot, 1)
        data = self._data_gpa + slot * BLOCK
        return {
            Op.READ: ([header], [(data, BLOCK), status]),
            Op.WRITE: ([header, (data, BLOCK)], [status]),
            Op.FLUSH: ([header], [status]),
            Op.GET_ID: ([header], [(data, VIRTIO_BLK_ID_BYTES), status]),
            Op.WRITE_ZEROES: ([header, (data, SEGMENT.size)], [status]),
        }

    def table(self, slot: int) -> tuple[int, memoryview] | None:
        """A slot's indirect table. Even slots have none, so that both kinds of chain are used."""
        if not slot % 2:
            return None
        at = _TABLES_AT + slot // 2 * _TABLE_BYTES
        return self._gpa + at, self._control[at : at + _TABLE_BYTES]

    def rewind(self) -> None:
        """Start the verify mode at the first block again."""
        for slot in range(BLK_SLOTS):
            self.slots[slot * SLOT_WORDS + CURSOR] = 0

    def next_written(self, slot: int) -> int | None:
        """The slot's next block that was ever written; None when all have been read back."""
        at, first = slot * SLOT_WORDS + CURSOR, slot * BLOCKS_PER_SLOT
        for cursor in range(self.slots[at], BLOCKS_PER_SLOT):
            if self.generations[first + cursor]:
                self.slots[at] = cursor + 1
                return first + cursor
        self.slots[at] = BLOCKS_PER_SLOT
        return None

    def all_verified(self) -> bool:
        """Whether every block has been read back."""
        return all(
            self.slots[slot * SLOT_WORDS + CURSOR] == BLOCKS_PER_SLOT for slot in range(BLK_SLOTS)
        )

    def contents(self, busy: Iterable[int]) -> dict[int, Generation]:
        """What each of the ring's blocks holds, by its index on the disk.

        Args:
            busy: the slots whose requests are outstanding.
        """
        slots = self.slots
        pending = {
            slots[slot * SLOT_WORDS + INDEX]: slots[slot * SLOT_WORDS + GENERATION]
            for slot in busy
            if slots[slot * SLOT_WORDS + OP] in (Op.WRITE, Op.WRITE_ZEROES)
        }
        return {
            self.first_block + index: Generation(value, pending.get(index))
            for index, value in enumerate(self.generations)
        }
