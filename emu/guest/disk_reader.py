"""A guest program that reads its first disk in full, in order, and hashes what it reads.

Chunks of 64 KiB are read through all rings of the disk at once and hashed in their order; the
SHA-256 state, the chunks and the position lie in the reader's page, so that another process can
continue the hash in the middle of the disk. In write mode each chunk is written back unchanged once
it has been hashed.

    0    SHA-256 state (40)    256  chunks, 8 bytes each    640  status bytes
    40   words                 512  request headers, 16 each
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from emu.guest.blk_state import STATUS_UNSET, Op
from emu.guest.control_page import HOLD_READER, READER_SEEN, GuestContext, remaining
from emu.guest.layout import CHUNK, MAX_READER_SLOTS, UnitPlace
from emu.guest.request_log import RequestLog
from emu.guest.request_ring import ERRORS, INTERRUPTS, RequestRing
from vhost_user.memory import PAGE_SIZE
from vhost_user.native import SHA256_STATE_SIZE, Sha256State
from vhost_user.virtio.blk import REQUEST_HEADER, SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.guest.request_ring import Chain

NO_LIMIT = (1 << 64) - 1

_WORDS_AT, _CHUNKS_AT, _HEADERS_AT, _STATUS_AT = 40, 256, 512, 640
#: Words (u64).
RUNNING, NEXT_READ, NEXT_HASHED, LIMIT, WOKEN = range(5)
#: Words (u32) of a chunk that is being read or written, one a ring.
_CHUNK_WORDS = 2
_STATE, _CHUNK = range(_CHUNK_WORDS)
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
        places: the disk's rings; each of the first 8 reads or writes a chunk at a time.
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
        self.place = places[0]
        self.size = capacity * SECTOR_SIZE
        self.lock = threading.Lock()
        self._context = context
        self._write = write
        self._rings = [RequestRing(context, place, 1, event_idx=event_idx) for place in places]
        # Chunks that are read or written at a time: each of the first rings has one.
        self._ahead = min(len(places), MAX_READER_SLOTS)
        self._chunks = -(-self.size // CHUNK)
        ram, layout = context.platform.ram, context.layout
        self._page = ram.view(layout.reader, PAGE_SIZE)
        self._sha = Sha256State(self._page[:SHA256_STATE_SIZE])
        self._words = self._page[_WORDS_AT:_CHUNKS_AT].cast("Q")
        self._table = self._page[_CHUNKS_AT:_HEADERS_AT].cast("I")
        self._status = self._page[_STATUS_AT : _STATUS_AT + MAX_READER_SLOTS]
        self._data = [
            ram.view(layout.reader_buffers + ring * CHUNK, CHUNK) for ring in range(self._ahead)
        ]
        self._progress = threading.Condition()
        self._waiters = 0

    def boot(self) -> None:
        """Write the initial state: empty rings, and an idle reader."""
        self._page[:] = bytes(PAGE_SIZE)
        self._words[LIMIT] = NO_LIMIT
        for ring in self._rings:
            ring.boot()
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
        """The device has completed requests of a ring, by its index among those in use."""
        with self.lock:
            self._rings[ring].counters[INTERRUPTS] += 1
            self._run((ring,))
        self._wake_waiters()

    def service(self) -> None:
        """Poll all rings, and submit the next reads."""
        with self.lock:
            self._run(range(len(self._rings)))
        self._wake_waiters()

    prime = service

    def _wake_waiters(self) -> None:
        if self._waiters:
            with self._progress:
                self._progress.notify_all()

    def restart(self) -> int:
        """Submit the requests in flight again: the disk is being reset.

        Returns:
            How many they are.
        """
        with self.lock:
            again = sum(
                ring.restart(
                    functools.partial(self._completed, number),
                    lambda _slot, number=number: self._chain(number),  # type: ignore[misc]
                )
                for number, ring in enumerate(self._rings)
            )
            self._mark()
            return again

    def _run(self, rings: Iterable[int]) -> None:
        """Handle the completions of some rings, and go on with the chunks."""
        for ring in rings:
            self._rings[ring].handle_completions(functools.partial(self._completed, ring))
        self._advance()
        self._mark()
        self._context.idle.check(self)

    def _completed(self, ring: int, _slot: int, _written: int) -> None:
        if self._status[ring]:
            self._rings[ring].counters[ERRORS] += 1
        state = ring * _CHUNK_WORDS + _STATE
        self._table[state] = _READ if self._table[state] == _READING else _FREE

    def _advance(self) -> None:
        """Hash the chunks read, in order, and read the next, until the vCPUs are to pause."""
        words, table = self._words, self._table
        while not self._context.platform.paused:
            chunk = words[NEXT_HASHED]
            ring = chunk % self._ahead
            base = ring * _CHUNK_WORDS
            if table[base + _STATE] == _READ and table[base + _CHUNK] == chunk:
                self._hash(ring, chunk)
            elif not self._read_next():
                return
        self._context.rescan()

    def _length(self, chunk: int) -> int:
        return min(CHUNK, self.size - chunk * CHUNK)

    def _hash(self, ring: int, chunk: int) -> None:
        self._sha.update(self._data[ring][: self._length(chunk)])
        self._words[NEXT_HASHED] = chunk + 1
        self._table[ring * _CHUNK_WORDS + _STATE] = _FREE
        if self._write:
            self._submit(ring, chunk, Op.WRITE)

    def _read_next(self) -> bool:
        """Submit the read of the next chunk if the limit allows it and its ring is free."""
        words = self._words
        chunk = words[NEXT_READ]
        ring = chunk % self._ahead
        if (
            not words[RUNNING]
            or chunk >= self._chunks
            or chunk * CHUNK + self._length(chunk) > words[LIMIT]
            or self._context.control[HOLD_READER]
            or self._table[ring * _CHUNK_WORDS + _STATE] != _FREE
            or not self._rings[ring].free_slots()
        ):
            return False
        words[NEXT_READ] = chunk + 1
        self._submit(ring, chunk, Op.READ)
        return True

    def _submit(self, ring: int, chunk: int, op: Op) -> None:
        """Add the request for a chunk to its ring, and kick the ring."""
        base = ring * _CHUNK_WORDS
        self._table[base + _CHUNK] = chunk
        self._table[base + _STATE] = _READING if op == Op.READ else _WRITING
        self._rings[ring].add(0, *self._chain(ring))
        self._rings[ring].kick()

    def _chain(self, ring: int) -> Chain:
        """The request for the chunk that a ring reads or writes."""
        layout, base = self._context.layout, ring * _CHUNK_WORDS
        reads, chunk = self._table[base + _STATE] == _READING, self._table[base + _CHUNK]
        header = _HEADERS_AT + ring * REQUEST_HEADER.size
        data = (layout.reader_buffers + ring * CHUNK, self._length(chunk))
        status = (layout.reader + _STATUS_AT + ring, 1)
        if reads:
            # so that a read that wrote nothing does not leave an earlier chunk to be hashed
            self._data[ring][:8] = b"unread!!"
            self._context.mark(data[0], 8)
        op = Op.READ if reads else Op.WRITE
        REQUEST_HEADER.pack_into(self._page, header, op, 0, chunk * CHUNK // SECTOR_SIZE)
        self._status[ring] = STATUS_UNSET
        extent = (layout.reader + header, REQUEST_HEADER.size)
        if reads:
            return [extent], [data, status], None
        return [extent, data], [status], None

    def completed(self) -> int:
        """Requests that the device has completed."""
        return sum(ring.completed() for ring in self._rings)

    def outstanding(self) -> int:
        """Requests submitted and not yet seen completed."""
        return sum(ring.outstanding() for ring in self._rings)

    def quiet(self) -> bool:
        """Nothing is outstanding (the load's hold is on); the caller holds the lock."""
        return not self.outstanding()

    def request_log(self) -> RequestLog:
        """The reader's part of the request log."""
        interrupts = sum(ring.counters[INTERRUPTS] for ring in self._rings)
        log = RequestLog.total(ring.request_log() for ring in self._rings)
        return log._replace(blk_interrupts=interrupts)
