"""The guest's block driver: one ring of a disk, its four slots, and the blocks that they own.

Everything that the driver remembers lies beside the ring (offsets below), so that a driver of
another process goes on where this one was paused. Each slot works on blocks of its own, one
request at a time: what a block must hold is always known, and every read is checked.

    0    driver queue state (16)     96   slots, 32 bytes each     304  indirect tables, 48 each
    16   words: PRNG, counters       224  request headers, 16 each 400  generations, u32 each
                                     288  status bytes
"""

from __future__ import annotations

import struct
import threading
from array import array
from enum import IntEnum
from typing import NamedTuple

from emu.guest.control import MODE, OVERDUE, GuestContext, Mode
from emu.guest.layout import (
    BLK_SLOTS,
    BLOCK,
    BLOCKS_PER_SLOT,
    CONTROL_BYTES,
    SECTOR,
    SERIAL_BYTES,
    DiskRingPlace,
)
from emu.guest.ledger import LedgerTotals
from emu.guest.stamps import GENERATION_MASK, SECTORS_PER_BLOCK, ZEROED, BlockPattern
from vhost_user.errors import BackendError
from vhost_user.virtqueue import DriverQueue


class Op(IntEnum):
    """Request types of virtio-blk (virtio 1.2, section 5.2.6)."""

    READ = 0
    WRITE = 1
    FLUSH = 4
    GET_ID = 8
    WRITE_ZEROES = 13


class BlkFeatures(NamedTuple):
    """What the guest's driver uses of a disk.

    Attributes:
        capacity: sectors of 512 bytes, or None where nobody has asked the device.
        read_only: VIRTIO_BLK_F_RO: only reads are sent.
        flush, write_zeroes: VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES.
    """

    capacity: int | None = None
    read_only: bool = False
    flush: bool = True
    write_zeroes: bool = True


class Generation(NamedTuple):
    """What a block holds: a generation, perhaps with `ZEROED`; 0 is a block never written.

    Attributes:
        value: as of the last completed write.
        pending: the generation of a write that is outstanding, or None.
    """

    value: int
    pending: int | None


_PRNG, REQUESTS, COMPLETED, DUPLICATED, CORRUPTED, ERRORS, INTERRUPTS, CHECKED, IDENTIFIED = range(
    2, 11
)
BROKEN = 11
_SLOTS_AT, _HEADERS_AT, _STATUS_AT, _TABLES_AT, _GENERATIONS_AT = 96, 224, 288, 304, 400
_TABLE_BYTES = 48
_SLOT_WORDS = 8
_BUSY, _HEAD, _OP, _INDEX, _GENERATION, _CURSOR = range(6)
_HEADER = struct.Struct("<IIQ")
_ZEROES_SEGMENT = struct.Struct("<QII")
_ID_BYTES = 20
_STATUS_UNSET = 0xFF
# Read buffers are spoiled at the start of each sector, so a read that did nothing is seen.
_POISON = array("Q", (0xDEAD_BEEF_DEAD_BEEF,)) * SECTORS_PER_BLOCK
# Knuth's MMIX generator: two operations a step; only its high bits are used.
_MULTIPLIER, _INCREMENT, _MASK64 = 6364136223846793005, 1442695040888963407, (1 << 64) - 1
# Of 256 requests: 120 reads, 120 writes, 8 flushes, 8 times zeroes.
_READS, _WRITES, _FLUSHES = 120, 240, 248

_Buffers = tuple[list[tuple[int, int]], list[tuple[int, int]]]


def driver_queue(
    context: GuestContext, place: DiskRingPlace, *, event_idx: bool
) -> tuple[DriverQueue, memoryview]:
    """The queue of a disk's ring, and the bytes of the driver's state beside it."""
    where, view = place.place.addresses, context.platform.ram.view
    control = view(place.place.control, CONTROL_BYTES)
    queue = DriverQueue(
        where.size,
        view(where.desc, 16 * where.size),
        view(where.avail, 6 + 2 * where.size),
        view(where.used, 6 + 8 * where.size),
        control[:16],
        event_idx=event_idx,
        ring=place.ring,
    )
    return queue, control


class BlkRing:
    """One ring of a disk under the stamped workload.

    Args:
        context: guest memory and the machine.
        place: where the ring lies.
        features: of its disk.
        event_idx, indirect: virtio ring features that were negotiated.
    """

    def __init__(
        self,
        context: GuestContext,
        place: DiskRingPlace,
        features: BlkFeatures,
        *,
        event_idx: bool,
        indirect: bool,
    ) -> None:
        self.number = place.unit
        self.place = place
        self.lock = threading.Lock()
        self._context = context
        self._features = features
        self._queue, control = driver_queue(context, place, event_idx=event_idx)
        self._control = control
        self._words = control[:_SLOTS_AT].cast("Q")
        self._slots = control[_SLOTS_AT:_HEADERS_AT].cast("I")
        self._status = control[_STATUS_AT:_TABLES_AT]
        self._generations = control[_GENERATIONS_AT:656].cast("I")
        ram = context.platform.ram
        self._data = [ram.view(place.data + slot * BLOCK, BLOCK) for slot in range(BLK_SLOTS)]
        self._poisoned = [data.cast("Q")[:: SECTOR // 8] for data in self._data]
        self._buffers = [self._slot_buffers(slot) for slot in range(BLK_SLOTS)]
        self._tables = [self._slot_table(slot) if indirect else None for slot in range(BLK_SLOTS)]
        self._pattern = BlockPattern(place.disk)
        self._first_block = place.ring * BLK_SLOTS * BLOCKS_PER_SLOT
        self._doorbell = context.platform.doorbell(place.device, place.ring)
        self._by_head: dict[int, int] = {}
        self._epoch = -1

    def _slot_buffers(self, slot: int) -> dict[int, _Buffers]:
        """The descriptors of each request type, made once."""
        header = (self.place.place.control + _HEADERS_AT + slot * _HEADER.size, _HEADER.size)
        status = (self.place.place.control + _STATUS_AT + slot, 1)
        data = self.place.data + slot * BLOCK
        return {
            Op.READ: ([header], [(data, BLOCK), status]),
            Op.WRITE: ([header, (data, BLOCK)], [status]),
            Op.FLUSH: ([header], [status]),
            Op.GET_ID: ([header], [(data, _ID_BYTES), status]),
            Op.WRITE_ZEROES: ([header, (data, _ZEROES_SEGMENT.size)], [status]),
        }

    def _slot_table(self, slot: int) -> tuple[int, memoryview] | None:
        """Odd slots describe their buffers in an indirect table, so both ways are in use."""
        if not slot % 2:
            return None
        at = _TABLES_AT + slot // 2 * _TABLE_BYTES
        return self.place.place.control + at, self._control[at : at + _TABLE_BYTES]

    def boot(self) -> None:
        """An empty ring, books and generations that begin at 0."""
        self._control[:] = bytes(CONTROL_BYTES)
        self._queue.reset()
        self._words[_PRNG] = (self.number + 1) * _MULTIPLIER & _MASK64
        self._mark_ring()

    def _mark_ring(self) -> None:
        self._context.mark(self.place.place.start, self.place.place.length)

    def interrupt(self) -> None:
        """The device has completed something."""
        with self.lock:
            self._words[INTERRUPTS] += 1
            self._run()

    def service(self) -> None:
        """Handle what the device has completed, without having been called."""
        with self.lock:
            self._run()

    def _refresh(self) -> None:
        """Derives anew what guest memory tells: another process may have gone on meanwhile."""
        slots = self._slots
        self._by_head = {
            slots[at + _HEAD]: at // _SLOT_WORDS
            for at in range(0, BLK_SLOTS * _SLOT_WORDS, _SLOT_WORDS)
            if slots[at + _BUSY]
        }
        self._epoch = self._context.epoch

    def _run(self) -> None:
        if self._epoch != self._context.epoch:
            self._refresh()
        context, queue = self._context, self._queue
        try:
            while not self._words[BROKEN]:
                paused = self._drain()
                if queue.publish():
                    context.platform.ring_doorbell(self._doorbell, self.place.ring)
                if paused:
                    context.rescan()
                    break
                if not queue.arm():
                    break
        except BackendError:
            # It completed what was not in flight: such a ring cannot be used any further.
            self._words[DUPLICATED] += 1
            self._words[BROKEN] = 1
        self._mark_ring()
        if context.idle.active and self.quiet():
            context.idle.settle(self.number)

    def _drain(self) -> bool:
        """Handles completions until there are none, or a pause comes; whether one has."""
        pop, platform = self._queue.pop, self._context.platform
        mode_of = self._context.control
        while (done := pop()) is not None:
            slot = self._complete(done[0])
            if slot is not None and mode_of[MODE] >= Mode.HEAVY:
                self._issue(slot, mode_of[MODE])
            if platform.paused:
                return True
        return False

    def _complete(self, head: int) -> int | None:
        """Takes one completion into the books; the slot that it frees, None if it was not due."""
        slot = self._by_head.pop(head, None)
        if slot is None:
            self._words[DUPLICATED] += 1
            return None
        slots, base = self._slots, slot * _SLOT_WORDS
        slots[base] = 0
        self._words[COMPLETED] += 1
        op = slots[base + _OP]
        if self._status[slot]:
            self._words[ERRORS] += 1
        elif op == Op.READ:
            self._check(slot, slots[base + _INDEX], slots[base + _GENERATION])
        elif op == Op.WRITE or op == Op.WRITE_ZEROES:
            self._generations[slots[base + _INDEX]] = slots[base + _GENERATION]
        elif op == Op.GET_ID:
            self._keep_serial(slot)
        return slot

    def _check(self, slot: int, index: int, generation: int) -> None:
        if not generation:
            return
        self._words[CHECKED] += 1
        if not self._pattern.matches(self._data[slot], self._first_block + index, generation):
            self._words[CORRUPTED] += 1

    def _keep_serial(self, slot: int) -> None:
        gpa = self._context.layout.serials + SERIAL_BYTES * self.place.device
        self._context.platform.ram.view(gpa, _ID_BYTES)[:] = self._data[slot][:_ID_BYTES]
        self._context.mark(gpa, _ID_BYTES)

    def _issue(self, slot: int, mode: int) -> bool:
        """Adds the slot's next request; False when it has none to make (verify is through)."""
        if mode == Mode.VERIFY:
            index = self._next_to_verify(slot)
            if index is None:
                return False
            self._submit(slot, Op.READ, index)
            return True
        words = self._words
        value = words[_PRNG] = (words[_PRNG] * _MULTIPLIER + _INCREMENT) & _MASK64
        index = slot * BLOCKS_PER_SLOT + (value >> 40) % BLOCKS_PER_SLOT
        self._submit(slot, self._choose(value >> 56, index), index)
        return True

    def _choose(self, pick: int, index: int) -> int:
        features = self._features
        if not self.place.ring and not self._words[IDENTIFIED]:
            self._words[IDENTIFIED] = 1
            return Op.GET_ID
        if features.read_only:
            return Op.READ
        if pick < _READS:
            # a block that was never written holds nothing to check
            return Op.READ if self._generations[index] else Op.WRITE
        if pick < _WRITES:
            return Op.WRITE
        if pick < _FLUSHES:
            return Op.FLUSH if features.flush else Op.WRITE
        return Op.WRITE_ZEROES if features.write_zeroes else Op.WRITE

    def _next_to_verify(self, slot: int) -> int | None:
        at, first = slot * _SLOT_WORDS + _CURSOR, slot * BLOCKS_PER_SLOT
        for cursor in range(self._slots[at], BLOCKS_PER_SLOT):
            if self._generations[first + cursor]:
                self._slots[at] = cursor + 1
                return first + cursor
        self._slots[at] = BLOCKS_PER_SLOT
        return None

    def _submit(self, slot: int, op: int, index: int) -> None:
        """Prepares header and data of a request and adds it to the ring."""
        generation = self._generations[index]
        block = self._first_block + index
        sector = block * SECTORS_PER_BLOCK
        if op == Op.READ:
            self._poisoned[slot][:] = _POISON
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
        elif op == Op.WRITE:
            generation = (generation & GENERATION_MASK) + 1
            self._data[slot][:] = self._pattern.image(block, generation)
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
        elif op == Op.WRITE_ZEROES:
            generation = (generation & GENERATION_MASK) + 1 | ZEROED
            _ZEROES_SEGMENT.pack_into(self._data[slot], 0, sector, SECTORS_PER_BLOCK, 0)
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
            sector = 0
        else:
            sector = 0
        _HEADER.pack_into(self._control, _HEADERS_AT + slot * _HEADER.size, op, 0, sector)
        self._status[slot] = _STATUS_UNSET
        readable, writable = self._buffers[slot][op]
        head = self._queue.add(readable, writable, self._tables[slot])
        slots, base = self._slots, slot * _SLOT_WORDS
        slots[base + _HEAD] = head
        slots[base + _OP] = op
        slots[base + _INDEX] = index
        slots[base + _GENERATION] = generation
        slots[base] = 1
        self._by_head[head] = slot
        self._words[REQUESTS] += 1

    def prime(self) -> None:
        """Fill every free slot and kick; for the loads that keep themselves going."""
        with self.lock:
            mode = self._context.control[MODE]
            if mode < Mode.HEAVY or self._words[BROKEN]:
                return
            if self._epoch != self._context.epoch:
                self._refresh()
            for slot in range(BLK_SLOTS):
                if not self._slots[slot * _SLOT_WORDS]:
                    self._issue(slot, mode)
            if self._queue.publish():
                self._context.platform.ring_doorbell(self._doorbell, self.place.ring)
            self._mark_ring()
            if self._context.idle.active and self.quiet():
                self._context.idle.settle(self.number)

    def submit_one(self) -> bool:
        """Make one request available, without a kick: `kick` follows at the next tick.

        Returns:
            False when all slots are busy.
        """
        with self.lock:
            if self._epoch != self._context.epoch:
                self._refresh()
            for slot in range(BLK_SLOTS):
                if not self._slots[slot * _SLOT_WORDS] and not self._words[BROKEN]:
                    self._issue(slot, Mode.LIGHT)
                    self._queue.publish()
                    self._mark_ring()
                    return True
        return False

    def kick(self) -> None:
        """Ring the doorbell for what `submit_one` has made available."""
        self._context.platform.ring_doorbell(self._doorbell, self.place.ring)

    def begin_verify(self) -> None:
        """Have the verify mode begin with the first block again."""
        with self.lock:
            for slot in range(BLK_SLOTS):
                self._slots[slot * _SLOT_WORDS + _CURSOR] = 0
            self._mark_ring()

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self._words[REQUESTS] - self._words[COMPLETED]

    def quiet(self) -> bool:
        """Nothing is outstanding and nothing will be submitted; the caller holds the lock."""
        if self.outstanding():
            return False
        if self._context.control[MODE] != Mode.VERIFY:
            return True
        cursors = self._slots[_CURSOR::_SLOT_WORDS]
        return all(cursor == BLOCKS_PER_SLOT for cursor in cursors)

    @property
    def checked(self) -> int:
        """Blocks whose contents were compared after a read."""
        return self._words[CHECKED]

    @property
    def corrupted(self) -> int:
        """Blocks that did not hold what they should."""
        return self._words[CORRUPTED]

    def ledger(self) -> LedgerTotals:
        """This ring's part of the books."""
        words = self._words
        outstanding = self.outstanding()
        return LedgerTotals(
            requests=words[REQUESTS],
            completed=words[COMPLETED],
            outstanding=outstanding,
            lost=outstanding if self._context.control[OVERDUE] else 0,
            duplicated=words[DUPLICATED],
            corrupted=words[CORRUPTED],
            errors=words[ERRORS],
            blk_interrupts=words[INTERRUPTS],
        )

    def generations(self) -> dict[int, Generation]:
        """What each of this ring's blocks holds, by its index on the disk."""
        slots = self._slots
        pending = {
            slots[base + _INDEX]: slots[base + _GENERATION]
            for base in range(0, BLK_SLOTS * _SLOT_WORDS, _SLOT_WORDS)
            if slots[base + _BUSY] and slots[base + _OP] in (Op.WRITE, Op.WRITE_ZEROES)
        }
        return {
            self._first_block + index: Generation(value, pending.get(index))
            for index, value in enumerate(self._generations)
        }
