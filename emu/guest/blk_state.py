"""The block driver's state of one ring in guest memory, and the formats of its requests.

All of it lies beside the ring, so that a driver in another process continues where this one was
paused:

    0    driver queue state (16)     96   slots, 32 bytes each     304  indirect tables, 48 each
    16   words: PRNG, counters       224  request headers, 16 each 400  generations, u32 each
                                     288  status bytes
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from emu.guest.layout import BLK_SLOTS, BLOCK, BLOCKS_PER_SLOT, CONTROL_BYTES, UnitPlace
from emu.guest.request_log import RequestLog
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


(
    PRNG,
    REQUESTS,
    COMPLETED,
    DUPLICATED,
    CORRUPTED,
    ERRORS,
    INTERRUPTS,
    CHECKED,
    IDENTIFIED,
    BROKEN,
) = range(2, 12)
_SLOTS_AT, _HEADERS_AT, _STATUS_AT, _TABLES_AT, _GENERATIONS_AT, _END = 96, 224, 288, 304, 400, 656
_TABLE_BYTES = 48
#: Words (u32) of a slot, from its number times `SLOT_WORDS`.
SLOT_WORDS = 8
BUSY, HEAD, OP, INDEX, GENERATION, CURSOR = range(6)

Buffers = tuple[list[tuple[int, int]], list[tuple[int, int]]]


class BlkState:
    """Views of one ring's state and data buffers.

    Args:
        ram: guest memory.
        place: the ring.
        control: the driver's bytes beside it.

    Attributes:
        words: PRNG and counters, u64, at the indices above.
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
        self.words = control[:_SLOTS_AT].cast("Q")
        self.slots = control[_SLOTS_AT:_HEADERS_AT].cast("I")
        self.status = control[_STATUS_AT:_TABLES_AT]
        self.generations = control[_GENERATIONS_AT:_END].cast("I")
        self.data = [ram.view(place.data + slot * BLOCK, BLOCK) for slot in range(BLK_SLOTS)]
        self.first_block = place.position * BLK_SLOTS * BLOCKS_PER_SLOT

    def clear(self) -> None:
        """Set all counters and generations to 0."""
        self._control[:] = bytes(CONTROL_BYTES)

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

    def busy_heads(self) -> dict[int, int]:
        """The slots with a request outstanding, by the head of its chain."""
        slots = self.slots
        return {
            slots[base + HEAD]: base // SLOT_WORDS
            for base in range(0, BLK_SLOTS * SLOT_WORDS, SLOT_WORDS)
            if slots[base + BUSY]
        }

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
        return all(cursor == BLOCKS_PER_SLOT for cursor in self.slots[CURSOR::SLOT_WORDS])

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self.words[REQUESTS] - self.words[COMPLETED]

    def request_log(self, *, overdue: bool) -> RequestLog:
        """This ring's part of the request log; when ``overdue``, what is outstanding is lost."""
        words = self.words
        outstanding = self.outstanding()
        return RequestLog(
            requests=words[REQUESTS],
            completed=words[COMPLETED],
            outstanding=outstanding,
            lost=outstanding if overdue else 0,
            duplicated=words[DUPLICATED],
            corrupted=words[CORRUPTED],
            errors=words[ERRORS],
            blk_interrupts=words[INTERRUPTS],
        )

    def contents(self) -> dict[int, Generation]:
        """What each of the ring's blocks holds, by its index on the disk."""
        slots = self.slots
        pending = {
            slots[base + INDEX]: slots[base + GENERATION]
            for base in range(0, BLK_SLOTS * SLOT_WORDS, SLOT_WORDS)
            if slots[base + BUSY] and slots[base + OP] in (Op.WRITE, Op.WRITE_ZEROES)
        }
        return {
            self.first_block + index: Generation(value, pending.get(index))
            for index, value in enumerate(self.generations)
        }
