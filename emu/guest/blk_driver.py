"""The guest's block driver: one ring of a disk, its four slots, and the blocks that they own.

Each slot works on blocks of its own, one request at a time: what a block must hold is always
known, and every read is checked. The driver's state is in `emu.guest.blk_state`, that of its ring
in `emu.guest.request_ring`.
"""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING

from emu.guest.blk_state import (
    CHECKED,
    GENERATION,
    IDENTIFIED,
    INDEX,
    OP,
    PRNG,
    SLOT_WORDS,
    STATUS_UNSET,
    BlkState,
    Generation,
    Op,
)
from emu.guest.control_page import MODE, GuestContext, Mode
from emu.guest.layout import (
    BLK_SLOTS,
    BLOCK,
    BLOCKS_PER_SLOT,
    SERIAL_BYTES,
    UnitPlace,
)
from emu.guest.request_ring import CORRUPTED, ERRORS, INTERRUPTS, RequestRing
from emu.guest.stamps import GENERATION_MASK, SECTORS_PER_BLOCK, ZEROED, BlockPattern
from vhost_user.virtio.blk import SECTOR_SIZE, SEGMENT, VIRTIO_BLK_ID_BYTES

if TYPE_CHECKING:
    from emu.guest.config import BlkFeatures
    from emu.guest.request_log import RequestLog
    from emu.guest.request_ring import Chain

# Written to the start of each sector of a read buffer, so that a read that wrote nothing is seen.
_POISON = array("Q", (0xDEAD_BEEF_DEAD_BEEF,)) * SECTORS_PER_BLOCK
# Knuth's MMIX generator: two operations a step; only its high bits are used.
_MULTIPLIER, _INCREMENT, _MASK64 = 6364136223846793005, 1442695040888963407, (1 << 64) - 1
# Requests are compared with these: to look up a member of an enumeration takes as long as a call.
_READ, _WRITE, _ZEROES, _GET_ID = map(int, (Op.READ, Op.WRITE, Op.WRITE_ZEROES, Op.GET_ID))
_HEAVY, _VERIFY = int(Mode.HEAVY), int(Mode.VERIFY)
# Of 256 requests: 120 reads, 120 writes, 8 flushes, 8 times zeroes.
_READS_BELOW, _WRITES_BELOW, _FLUSHES_BELOW = 120, 240, 248


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
        self.accepting = True
        self._context = context
        self._features = features
        self._ring = RequestRing(context, place, BLK_SLOTS, event_idx=event_idx)
        self._counters = self._ring.counters
        self.state = state = BlkState(context.platform.ram, place, self._ring.control)
        self._words, self._slots, self._status = state.words, state.slots, state.status
        self._generations, self._data = state.generations, state.data
        self._poisoned = [data.cast("Q")[:: SECTOR_SIZE // 8] for data in self._data]
        self._buffers = [state.buffers(slot) for slot in range(BLK_SLOTS)]
        self._tables = [state.table(slot) if indirect else None for slot in range(BLK_SLOTS)]
        self._pattern = BlockPattern(place.number)

    def boot(self) -> None:
        """Write the initial state: an empty ring, counters and generations at 0."""
        self._ring.boot()
        self._words[PRNG] = (self.number + 1) * _MULTIPLIER & _MASK64

    def boot_again(self, *, keep: bool) -> None:
        """See `QueueUnit.boot_again`; without ``keep`` nothing is known of the blocks."""
        with self.lock:
            self._ring.boot_again()
            self._words[IDENTIFIED] = 0
            if not keep:
                for index in range(len(self._generations)):
                    self._generations[index] = 0
            self._ring.mark()

    @property
    def kicks(self) -> int:
        """See `QueueUnit.kicks`."""
        return self._ring.kicks

    @property
    def interrupts(self) -> int:
        """Interrupts handled."""
        return self._counters[INTERRUPTS]

    def interrupt(self) -> None:
        """The device has completed requests."""
        with self.lock:
            self._counters[INTERRUPTS] += 1
            self._run()

    def service(self) -> None:
        """Handle what the device has completed, without an interrupt."""
        with self.lock:
            self._run()

    def restart(self) -> int:
        """Submit the requests in flight again: the device is being reset.

        Each request works on a block of its own, so that a second execution changes nothing.

        Returns:
            How many they are.
        """
        with self.lock:
            return self._ring.restart(self._completed, self._chain)

    def _chain(self, slot: int) -> Chain:
        """The request of a busy slot: its header and data are still in guest memory."""
        self._status[slot] = STATUS_UNSET
        return (*self._buffers[slot][self._slots[slot * SLOT_WORDS + OP]], self._tables[slot])

    def _run(self) -> None:
        self._ring.handle_completions(self._completed)
        self._context.idle.check(self)

    def _completed(self, slot: int, _written: int) -> None:
        """Account for a completed request, and add the slot's next one if the load asks for it."""
        slots, base = self._slots, slot * SLOT_WORDS
        op = slots[base + OP]
        if self._status[slot]:
            self._counters[ERRORS] += 1
        elif op == _READ:
            self._check(slot, slots[base + INDEX], slots[base + GENERATION])
        elif op in (_WRITE, _ZEROES):
            self._generations[slots[base + INDEX]] = slots[base + GENERATION]
        elif op == _GET_ID:
            self._store_serial(slot)
        mode = self._context.control[MODE]
        if mode >= _HEAVY and self.accepting:
            self._issue(slot, mode)

    def _check(self, slot: int, index: int, generation: int) -> None:
        if not generation:
            return
        self._words[CHECKED] += 1
        if not self._pattern.matches(self._data[slot], self.state.first_block + index, generation):
            self._counters[CORRUPTED] += 1

    def _store_serial(self, slot: int) -> None:
        gpa = self._context.layout.serials + SERIAL_BYTES * self.place.device
        self._context.platform.ram.view(gpa, VIRTIO_BLK_ID_BYTES)[:] = self._data[slot][
            :VIRTIO_BLK_ID_BYTES
        ]
        self._context.mark(gpa, VIRTIO_BLK_ID_BYTES)

    def _issue(self, slot: int, mode: int) -> bool:
        """Add the slot's next request; False when there is none (all blocks are verified)."""
        if mode == _VERIFY:
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
        if self.place.leads and not self._words[IDENTIFIED]:
            self._words[IDENTIFIED] = 1
            return Op.GET_ID
        if features.read_only:
            return Op.READ
        if pick < _READS_BELOW:
            # a block that was never written holds nothing to check
            return Op.READ if self._generations[index] else Op.WRITE
        if pick < _WRITES_BELOW:
            return Op.WRITE
        if pick < _FLUSHES_BELOW:
            return Op.FLUSH if features.flush else Op.WRITE
        return Op.WRITE_ZEROES if features.write_zeroes else Op.WRITE

    def _submit(self, slot: int, op: int, index: int) -> None:
        """Prepare header and data of a request and add it to the ring."""
        generation = self._generations[index]
        block = self.state.first_block + index
        sector = block * SECTORS_PER_BLOCK
        if op == _READ:
            self._poisoned[slot][:] = _POISON
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
        elif op == _WRITE:
            generation = (generation & GENERATION_MASK) + 1
            self._data[slot][:] = self._pattern.image(block, generation)
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
        elif op == _ZEROES:
            generation = (generation & GENERATION_MASK) + 1 | ZEROED
            SEGMENT.pack_into(self._data[slot], 0, sector, SECTORS_PER_BLOCK, 0)
            self._context.mark(self.place.data + slot * BLOCK, BLOCK)
            sector = 0
        else:
            sector = 0
        self.state.write_header(slot, op, sector)
        readable, writable = self._buffers[slot][op]
        self._ring.add(slot, readable, writable, self._tables[slot])
        slots, base = self._slots, slot * SLOT_WORDS
        slots[base + OP] = op
        slots[base + INDEX] = index
        slots[base + GENERATION] = generation

    def prime(self) -> None:
        """Fill every free slot and kick; for the loads in which completions submit requests."""
        with self.lock:
            mode, free = self._context.control[MODE], self._ring.free_slots()
            if mode < Mode.HEAVY or not free or not self.accepting:
                return
            for slot in free:
                self._issue(slot, mode)
            self._ring.kick()
            self._context.idle.check(self)

    def submit_one(self) -> bool:
        """Make one request available, without a kick: `kick` follows at the next tick.

        Returns:
            False when all slots are busy, or the device is unplugged.
        """
        with self.lock:
            free = self._ring.free_slots()
            if not free or not self.accepting:
                return False
            self._issue(free[0], Mode.LIGHT)
            self._ring.publish()
            self._ring.mark()
            return True

    def kick(self) -> None:
        """Notify the device of what `submit_one` has made available."""
        if self.accepting or self.outstanding():
            self._ring.notify()

    def begin_verify(self) -> None:
        """Start the verify mode at the first block again."""
        with self.lock:
            self.state.rewind()
            self._ring.mark()

    def completed(self) -> int:
        """Requests that the device has completed."""
        return self._ring.completed()

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self._ring.outstanding()

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
        return self._counters[CORRUPTED]

    def request_log(self) -> RequestLog:
        """This ring's part of the request log."""
        return self._ring.request_log()._replace(blk_interrupts=self._counters[INTERRUPTS])

    def generations(self) -> dict[int, Generation]:
        """What each of this ring's blocks holds, by its index on the disk."""
        return self.state.contents(self._ring.busy_slots())
