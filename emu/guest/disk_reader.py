"""A guest program that reads its first disk in full, in order, and hashes what it reads.

Chunks of 64 KiB are read through all rings of the disk at once and hashed in their order; the
SHA-256 state, the slots and the position lie in the reader's page, so that another process can
continue the hash in the middle of the disk. In write mode each chunk is written back unchanged once
it has been hashed.

    0    SHA-256 state (40)    256  slots, 16 bytes each    640  status bytes
    40   words                 512  request headers, 16 each
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from emu.guest.blk_state import STATUS_UNSET, Op
from emu.guest.control_page import (
    HOLD_READER,
    OVERDUE,
    READER_SEEN,
    GuestContext,
    remaining,
)
from emu.guest.layout import CHUNK, MAX_READER_SLOTS, UnitPlace
from emu.guest.request_log import RequestLog
from emu.guest.rings import open_ring
from vhost_user.errors import BackendError
from vhost_user.memory import PAGE_SIZE
from vhost_user.native import SHA256_STATE_SIZE, Sha256State
from vhost_user.virtio.blk import REQUEST_HEADER, SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user.virtqueue import DriverQueue

NO_LIMIT = (1 << 64) - 1

_WORDS_AT, _SLOTS_AT, _HEADERS_AT, _STATUS_AT = 40, 256, 512, 640
(
    RUNNING,
    NEXT_READ,
    NEXT_HASHED,
    LIMIT,
    REQUESTS,
    COMPLETED,
    DUPLICATED,
    ERRORS,
    INTERRUPTS,
    WOKEN,
    BROKEN,
) = range(11)
_SLOT_WORDS = 4
_STATE, _HEAD, _CHUNK = range(3)
_FREE, _READING, _READ, _WRITING = range(4)


class ReaderStatus(NamedTuple):
    """The reader's progress.

    Attributes:
        position: bytes hashed.
        size: bytes of the disk.
        done: the whole disk was hashed (and written back, in write mode).
        sha256: the digest in hex, None until done.
    """

    position: int
    size: int
    done: bool
    sha256: str | None


class DiskReader:
    """Reads one disk sequentially through all of its rings.

    One lock covers all rings: a chunk that completes on one ring may let chunks of the others be
    hashed, and their slots be used again.

    Args:
        context: guest memory and the machine.
        places: the disk's rings; each has one slot, up to 8.
        capacity: of the disk, in sectors of 512 bytes.
        write: write every chunk back.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.
    """

    def __init__(
        self,
        context: GuestContext,
        places: Sequence[UnitPlace],
        capacity: int,
        *,
        write: bool,
        event_idx: bool,
    ) -> None:
        self.number = places[0].unit
        self.size = capacity * SECTOR_SIZE
        self.lock = threading.Lock()
        self._context = context
        self._places = places
        self._write = write
        self._slots = min(len(places), MAX_READER_SLOTS)
        self._chunks = -(-self.size // CHUNK)
        ram, layout = context.platform.ram, context.layout
        self._queues: list[DriverQueue] = [
            open_ring(ram, place.rings[0], place.position, event_idx=event_idx)[0]
            for place in places
        ]
        self._page = ram.view(layout.reader, PAGE_SIZE)
        self._sha = Sha256State(self._page[:SHA256_STATE_SIZE])
        self._words = self._page[_WORDS_AT:_SLOTS_AT].cast("Q")
        self._table = self._page[_SLOTS_AT:_HEADERS_AT].cast("I")
        self._status = self._page[_STATUS_AT : _STATUS_AT + MAX_READER_SLOTS]
        self._data = [
            ram.view(layout.reader_buffers + slot * CHUNK, CHUNK) for slot in range(self._slots)
        ]
        self._notify_addresses = [
            context.platform.notify_address(place.device, place.position) for place in places
        ]
        self._progress = threading.Condition()
        self._waiters = 0

    def boot(self) -> None:
        """Write the initial state: empty rings, and an idle reader."""
        self._page[:] = bytes(PAGE_SIZE)
        self._words[LIMIT] = NO_LIMIT
        for queue, place in zip(self._queues, self._places, strict=True):
            queue.reset()
            self._context.mark(place.rings[0].start, place.rings[0].length)
        self._mark()

    def _mark(self) -> None:
        self._context.mark(self._context.layout.reader, PAGE_SIZE)

    # -- called by the host

    def start(self, limit: int | None = None) -> None:
        """Read the disk from its beginning, once nothing of an earlier reading is outstanding.

        Args:
            limit: as `set_limit`.
        """
        with self.lock:
            words = self._words
            if words[RUNNING] and words[NEXT_HASHED] < self._chunks:
                return
            self._sha.reset()
            words[NEXT_READ] = words[NEXT_HASHED] = 0
            words[RUNNING] = 1
        self.set_limit(limit)

    def set_limit(self, limit: int | None) -> None:
        """Read no chunk that ends beyond this offset until another limit comes; None: no limit."""
        with self.lock:
            self._words[LIMIT] = NO_LIMIT if limit is None or limit >= self.size else limit
        self.wake()

    def wake(self) -> None:
        """Have the next tick check whether there is a chunk to read."""
        with self.lock:
            self._words[WOKEN] += 1
            self._mark()

    def status(self) -> ReaderStatus:
        """The reader's progress."""
        with self.lock:
            position = min(self._words[NEXT_HASHED] * CHUNK, self.size)
            running, outstanding = self._words[RUNNING], self.outstanding()
            done = bool(running and position == self.size and not outstanding)
            return ReaderStatus(position, self.size, done, self._sha.hexdigest() if done else None)

    def wait(self, position: int, timeout: float) -> ReaderStatus:
        """Wait until ``position`` bytes have been hashed; for the disk's size, until it is done.

        Returns:
            The status then, or after ``timeout`` seconds.
        """
        until = time.monotonic_ns() + int(timeout * 1e9)
        position = min(position, self.size)
        with self._progress:
            self._waiters += 1
            try:
                while True:
                    status = self.status()
                    reached = status.done if position == self.size else status.position >= position
                    left = remaining(until)
                    if reached or not left:
                        return status
                    self._progress.wait(left)
            finally:
                self._waiters -= 1

    # -- called by the guest

    def woken(self) -> bool:
        """Whether the host has called `wake` since the last call (vCPU 0's tick)."""
        pulse, words = self._context.pulse, self._words
        if pulse[READER_SEEN] == words[WOKEN]:
            return False
        pulse[READER_SEEN] = words[WOKEN]
        return True

    def interrupt(self, ring: int) -> None:
        """The device has completed requests of a ring."""
        with self.lock:
            self._words[INTERRUPTS] += 1
            self._run((ring,))
        self._wake_waiters()

    def service(self) -> None:
        """Poll all rings, and submit the next reads."""
        with self.lock:
            self._run(range(len(self._queues)))
        self._wake_waiters()

    prime = service

    def _wake_waiters(self) -> None:
        if self._waiters:
            with self._progress:
                self._progress.notify_all()

    def _run(self, rings: Sequence[int]) -> None:
        context = self._context
        touched: set[int] = set()
        try:
            while not self._words[BROKEN]:
                paused = any(self._drain(ring) for ring in rings)
                paused = self._advance(touched) or paused
                self._publish(touched)
                if paused:
                    context.rescan()
                    break
                if not any(self._queues[ring].arm() for ring in rings):
                    break
        except BackendError:
            # The device completed what was not in flight: the ring cannot be used any further.
            self._words[DUPLICATED] += 1
            self._words[BROKEN] = 1
        for ring in {*rings, *touched}:
            context.mark(self._places[ring].rings[0].start, self._places[ring].rings[0].length)
        self._mark()
        if context.idle.active and self.quiet():
            context.idle.settle(self.number)

    def _drain(self, ring: int) -> bool:
        """Handle a ring's completions; returns whether the vCPUs are to pause."""
        pop, platform = self._queues[ring].pop, self._context.platform
        while (done := pop()) is not None:
            self._complete(ring, done[0])
            if platform.paused:
                return True
        return False

    def _complete(self, ring: int, head: int) -> None:
        table = self._table
        for slot in range(ring, self._slots, len(self._queues)):
            base = slot * _SLOT_WORDS
            if table[base + _HEAD] == head and table[base] in (_READING, _WRITING):
                break
        else:
            self._words[DUPLICATED] += 1
            return
        self._words[COMPLETED] += 1
        if self._status[slot]:
            self._words[ERRORS] += 1
        table[base] = _READ if table[base] == _READING else _FREE

    def _advance(self, touched: set[int]) -> bool:
        """Hash the chunks read, in order, and read the next; whether the vCPUs are to pause."""
        words, table, platform = self._words, self._table, self._context.platform
        while not platform.paused:
            chunk = words[NEXT_HASHED]
            slot = chunk % self._slots
            base = slot * _SLOT_WORDS
            if table[base] == _READ and table[base + _CHUNK] == chunk:
                self._hash(slot, chunk, touched)
            elif not self._read_next(touched):
                return False
        return True

    def _length(self, chunk: int) -> int:
        return min(CHUNK, self.size - chunk * CHUNK)

    def _hash(self, slot: int, chunk: int, touched: set[int]) -> None:
        self._sha.update(self._data[slot][: self._length(chunk)])
        self._words[NEXT_HASHED] = chunk + 1
        self._table[slot * _SLOT_WORDS] = _FREE
        if self._write:
            self._submit(slot, chunk, Op.WRITE)
            touched.add(slot)

    def _read_next(self, touched: set[int]) -> bool:
        """Submit the read of the next chunk if the limit allows it and its slot is free."""
        words = self._words
        chunk = words[NEXT_READ]
        slot = chunk % self._slots
        if (
            not words[RUNNING]
            or chunk >= self._chunks
            or chunk * CHUNK + self._length(chunk) > words[LIMIT]
            or self._context.control[HOLD_READER]
            or self._table[slot * _SLOT_WORDS] != _FREE
        ):
            return False
        self._submit(slot, chunk, Op.READ)
        words[NEXT_READ] = chunk + 1
        touched.add(slot)
        return True

    def _submit(self, slot: int, chunk: int, op: Op) -> None:
        """Add the request for a chunk to its slot's ring (slot and ring have the same number)."""
        layout, context = self._context.layout, self._context
        header = _HEADERS_AT + slot * REQUEST_HEADER.size
        data = (layout.reader_buffers + slot * CHUNK, self._length(chunk))
        status = (layout.reader + _STATUS_AT + slot, 1)
        if op == Op.READ:
            # so that a read that wrote nothing does not leave an earlier chunk to be hashed
            self._data[slot][:8] = b"unread!!"
            context.mark(data[0], 8)
        REQUEST_HEADER.pack_into(self._page, header, op, 0, chunk * CHUNK // SECTOR_SIZE)
        self._status[slot] = STATUS_UNSET
        extent = (layout.reader + header, REQUEST_HEADER.size)
        if op == Op.READ:
            head = self._queues[slot].add([extent], [data, status])
        else:
            head = self._queues[slot].add([extent, data], [status])
        base = slot * _SLOT_WORDS
        self._table[base + _HEAD] = head
        self._table[base + _CHUNK] = chunk
        self._table[base] = _READING if op == Op.READ else _WRITING
        self._words[REQUESTS] += 1

    def _publish(self, touched: set[int]) -> None:
        for ring in touched:
            if self._queues[ring].publish():
                self._context.platform.notify(self._notify_addresses[ring], ring)

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return self._words[REQUESTS] - self._words[COMPLETED]

    def quiet(self) -> bool:
        """Nothing is outstanding (the load's hold is on); the caller holds the lock."""
        return not self.outstanding()

    def request_log(self) -> RequestLog:
        """The reader's part of the request log."""
        words, outstanding = self._words, self.outstanding()
        return RequestLog(
            requests=words[REQUESTS],
            completed=words[COMPLETED],
            outstanding=outstanding,
            lost=outstanding if self._context.control[OVERDUE] else 0,
            duplicated=words[DUPLICATED],
            errors=words[ERRORS],
            blk_interrupts=words[INTERRUPTS],
        )
