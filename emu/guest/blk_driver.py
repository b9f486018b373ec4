"""The guest's block driver: one ring of a disk, its four slots, and the blocks that they own.

Each slot works on blocks of its own, one request at a time: what a block must hold is always
known, and every read is checked. The driver's state is in `emu.guest.blk_state`.
"""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING

from emu.guest.blk_state import (
    BROKEN,
    BUSY,
    CHECKED,
    COMPLETED,
    CORRUPTED,
    DUPLICATED,
    ERRORS,
    GENERATION,
    HEAD,
    IDENTIFIED,
    INDEX,
    INTERRUPTS,
    OP,
    PRNG,
    REQUESTS,
    SLOT_WORDS,
    BlkState,
    Generation,
    Op,
)
from emu.guest.control_page import (
    MODE,
    OVERDUE,
    GuestContext,
    Mode,
)
from emu.guest.layout import (
    BLK_SLOTS,
    BLOCK,
    BLOCKS_PER_SLOT,
    SERIAL_BYTES,
    UnitPlace,
)
from emu.guest.rings import open_ring
from emu.guest.stamps import GENERATION_MASK, SECTORS_PER_BLOCK, ZEROED, BlockPattern
from vhost_user.errors import BackendError
from vhost_user.virtio.blk import SECTOR_SIZE, SEGMENT, VIRTIO_BLK_ID_BYTES

if TYPE_CHECKING:
    from emu.guest.config import BlkFeatures
    from emu.guest.request_log import RequestLog

# Written to the start of each sector of a read buffer, so that a read that wrote nothing is seen.
_POISON = array("Q", (0xDEAD_BEEF_DEAD_BEEF,)) * SECTORS_PER_BLOCK
# Knuth's MMIX generator: two operations a step; only its high bits are used.
_MULTIPLIER, _INCREMENT, _MASK64 = 6364136223846793005, 1442695040888963407, (1 << 64) - 1
# Of 256 requests: 120 reads, 120 writes, 8 flushes, 8 times zeroes.
_READS, _WRITES, _FLUSHES = 120, 240, 248


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
        place: UnitPlace,
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
        ram = context.platform.ram
        self._queue, control = open_ring(ram, place.rings[0], place.position, event_idx=event_idx)
        self.state = state = BlkState(ram, place, control)
        self._words, self._slots, self._status = state.words, state.slots, state.status
        self._generations, self._data = state.generations, state.data
        self._poisoned = [data.cast("Q")[:: SECTOR_SIZE // 8] for data in self._data]
        self._buffers = [state.buffers(slot) for slot in range(BLK_SLOTS)]
        self._tables = [state.table(slot) if indirect else None for slot in range(BLK_SLOTS)]
        self._pattern = BlockPattern(place.number)
        self._notify_address = context.platform.notify_address(place.device, place.position)
        self._by_head: dict[int, int] = {}
        self._epoch = -1

    def boot(self) -> None:
        """Write the initial state: an empty ring, counters and generations at 0."""
        self.state.clear()
        self._queue.reset()
        self._words[PRNG] = (self.number + 1) * _MULTIPLIER & _MASK64
        self._mark_ring()

    def _mark_ring(self) -> None:
        self._context.mark(self.place.rings[0].start, self.place.rings[0].length)

    def interrupt(self) -> None:
        """The device has completed requests."""
        with self.lock:
            self._words[INTERRUPTS] += 1
            self._run()

    def service(self) -> None:
        """Handle what the device has completed, without an interrupt."""
        with self.lock:
            self._run()

    def _refresh(self) -> None:
        """Derive the state from guest memory again: another process may have written it."""
        self._by_head = self.state.busy_heads()
        self._epoch = self._context.epoch

    def _run(self) -> None:
        if self._epoch != self._context.epoch:
            self._refresh()
        context, queue = self._context, self._queue
        try:
            while not self._words[BROKEN]:
                paused = self._drain()
                if queue.publish():
                    context.platform.notify(self._notify_address, self.place.position)
                if paused:
                    context.rescan()
                    break
                if not queue.arm():
                    break
        except BackendError:
            # The device completed what was not in flight: the ring cannot be used any further.
            self._words[DUPLICATED] += 1
            self._words[BROKEN] = 1
        self._mark_ring()
        if context.idle.active and self.quiet():
            context.idle.settle(self.number)

    def _drain(self) -> bool:
        """Handle completions until there are none, or the vCPUs are to pause; whether they are."""
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
        """Count one completion; returns the slot that it frees, None if it was not outstanding."""
        slot = self._by_head.pop(head, None)
        if slot is None:
            self._words[DUPLICATED] += 1
            return None
        slots, base = self._slots, slot * SLOT_WORDS
        slots[base + BUSY] = 0
        self._words[COMPLETED] += 1
        op = slots[base + OP]
        if self._status[slot]:
            self._words[ERRORS] += 1
        elif op == Op.READ:
            self._check(slot, slots[base + INDEX], slots[base + GENERATION])
        elif op == Op.WRITE or op == Op.WRITE_ZEROES:
            self._generations[slots[base + INDEX]] = slots[base + GENERATION]
        elif op == Op.GET_ID:
            self._store_serial(slot)
        return slot

    def _check(self, slot: int, index: int, generation: int) -> None:
        if not generation:
            return
        self._words[CHECKED] += 1
        if not self._pattern.matches(self._data[slot], self.state.first_block + index, generation):
            self._words[CORRUPTED] += 1

    def _store_serial(self, slot: int) -> None:
        gpa = self._context.layout.serials + SERIAL_BYTES * self.place.device
        self._context.platform.ram.view(gpa, VIRTIO_BLK_ID_BYTES)[:] = self._data[slot][
            :VIRTIO_BLK_ID_BYTES
        ]
        self._context.mark(gpa, VIRTIO_BLK_ID_BYTES)

    def _issue(self, slot: int, mode: int) -> bool:
        """Add the slot's next request; False when there is none (all blocks are verified)."""
        if mode == Mode.VERIFY:
            index = self.state.next_written(slot)
            if index is None:
                return False
            self._submit(slot, Op.READ, index)
            return True
        words = self._words
        value = words[PRNG] = (words[PRNG] * _MULTIPLIER + _INCREMENT) & _MASK64
        index = slot * BLOCKS_PER_SLOT + (value >> 40) % BLOCKS_PER_SLOT
        self._submit(slot, self._choose(value >> 56, index), index)
        return True

    def _choose(self, pick: int, index: int) -> int:
        features = self._features
        if not self.place.position and not self._words[IDENTIFIED]:
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

    def _submit(self, slot: int, op: int, index: int) -> None:
        """Prepare header and data of a request and add it to the ring."""
        generation = self._generations[index]
        block = self.state.first_block + index
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
            SEGMENT.pack_into(self._data[slot], 0, sector, SECTORS_PER_BLOCK, 0)
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
            sector = 0
        else:
            sector = 0
        self.state.write_header(slot, op, sector)
        readable, writable = self._buffers[slot][op]
        head = self._queue.add(readable, writable, self._tables[slot])
        slots, base = self._slots, slot * SLOT_WORDS
        slots[base + HEAD] = head
        slots[base + OP] = op
        slots[base + INDEX] = index
        slots[base + GENERATION] = generation
        slots[base + BUSY] = 1
        self._by_head[head] = slot
        self._words[REQUESTS] += 1

    def prime(self) -> None:
        """Fill every free slot and kick; for the loads in which completions submit requests."""
        with self.lock:
            mode = self._context.control[MODE]
            if mode < Mode.HEAVY or self._words[BROKEN]:
                return
            if self._epoch != self._context.epoch:
                self._refresh()
            for slot in range(BLK_SLOTS):
                if not self._slots[slot * SLOT_WORDS]:
                    self._issue(slot, mode)
            if self._queue.publish():
                self._context.platform.notify(self._notify_address, self.place.position)
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
                if not self._slots[slot * SLOT_WORDS] and not self._words[BROKEN]:
                    self._issue(slot, Mode.LIGHT)
                    self._queue.publish()
                    self._mark_ring()
                    return True
        return False

    def kick(self) -> None:
        """Notify the device of what `submit_one` has made available."""
        self._context.platform.notify(self._notify_address, self.place.position)

    def begin_verify(self) -> None:
        """Start the verify mode at the first block again."""
        with self.lock:
            self.state.rewind()
            self._mark_ring()

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self.state.outstanding()

    def quiet(self) -> bool:
        """Nothing is outstanding and nothing will be submitted; the caller holds the lock."""
        if self.outstanding():
            return False
        return self._context.control[MODE] != Mode.VERIFY or self.state.all_verified()

    @property
    def checked(self) -> int:
        """Blocks whose contents were compared after a read."""
        return self._words[CHECKED]

    @property
    def corrupted(self) -> int:
        """Blocks whose contents differed from what the driver had written."""
        return self._words[CORRUPTED]

    def request_log(self) -> RequestLog:
        """This ring's part of the request log."""
        return self.state.request_log(overdue=bool(self._context.control[OVERDUE]))

    def generations(self) -> dict[int, Generation]:
        """What each of this ring's blocks holds, by its index on the disk."""
        return self.state.contents()
