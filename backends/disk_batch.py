"""Requests of a disk by a compiled function, many in one call.

It serves reads that hit the page cache and writes that do not wait. Writes that may wait are only
taken from the ring: see `Writes`. All other requests stay in the ring, for `backends.blk_device`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from backends.limits import COMPILED_BUDGET, COMPILED_BYTES, INLINE_BYTES
from backends.ring_service import NOTIFY, SERVED, Served
from vhost_user import native

if TYPE_CHECKING:
    from backends.image import Image
    from vhost_user.virtqueue.batch import Batch

# Words of ``struct vu_disk``.
_FD, _READ_FLAGS, _WRITE_FLAGS, _BYTES, _LARGEST, _COUNTERS, _WRITES, _COUNT = range(8)
_WAITS = -1


class Writes(NamedTuple):
    """Writes that were taken from a ring.

    Attributes:
        array: ``struct vu_disk_write[]``.
        length: how many there are.
        keep: what the array refers to.
    """

    array: Any
    length: int
    keep: object

    def make(self, fd: int, losses: int) -> None:
        """Write; from any thread, and it may block.

        Args:
            fd: the file.
            losses: `vhost_user.mapping.losses` when guest memory was checked. If it is another
                number, the writes fail instead: their data may be zeroes.
        """
        native.lib.vu_disk_write_all(fd, self.array, self.length, losses)

    def complete(self, batch: Batch) -> tuple[bool, int]:
        """Give them back to their ring, which was lent.

        Returns:
            Whether the driver wants an interrupt, and how many have failed.
        """
        result = native.lib.vu_disk_written(batch.pointer, self.array, self.length)
        return bool(result & 1), result >> 1

    @property
    def all(self) -> list[Any]:
        """Each ``struct vu_disk_write``."""
        return [self.array[number] for number in range(self.length)]


class DiskBatch:
    """A disk, for the compiled function.

    Args:
        image: its file.
        counters: of its device.

    Attributes:
        notify: after a call: the driver wants an interrupt.
        writes: after a call: what is to be written now, or None.
    """

    def __init__(self, image: Image, counters: memoryview) -> None:
        self.notify = False
        self.writes: Writes | None = None
        self._image = image
        self._free: list[Any] = []
        self._room: Any = None
        self._room_address = 0
        data = bytearray(8 * 8)
        self._words = memoryview(data).cast("q")
        if not native.available:
            return
        memory = native.ffi.from_buffer(data)
        self._keep = memory, counters
        self._disk = native.ffi.cast("vu_disk *", memory)
        self._words[_FD] = image.fd
        self._words[_LARGEST] = INLINE_BYTES
        self._words[_COUNTERS] = native.address_of(counters)

    def serve(self, batch: Batch, *, collect: bool) -> Served:
        """Serve a ring that was lent, and take it back.

        Args:
            batch: the ring.
            collect: take writes that may wait; the caller has them made.
        """
        words, image = self._words, self._image
        reads, writes = image.read_flags, None if image.read_only else image.write_flags
        words[_READ_FLAGS] = _WAITS if reads is None else reads
        words[_WRITE_FLAGS] = _WAITS if writes is None else writes
        words[_BYTES] = image.size
        words[_WRITES] = self._room_for_writes() if writes is None and collect else 0
        result: int = native.lib.vu_disk_serve(
            batch.pointer, self._disk, COMPILED_BUDGET, COMPILED_BYTES
        )
        batch.end()
        self.notify = bool(result & NOTIFY)
        count = words[_COUNT]
        self.writes = None
        if count:
            self.writes = Writes(self._room, count, batch.keep)
            self._room = None
            words[_COUNT] = 0
        return SERVED[result & ~NOTIFY]

    def _room_for_writes(self) -> int:
        if self._image.read_only:
            return 0
        if self._room is None:
            free = self._free
            self._room = free.pop() if free else native.ffi.new(f"vu_disk_write[{COMPILED_BUDGET}]")
            self._room_address = int(native.ffi.cast("uintptr_t", self._room))
        return self._room_address

    def release(self, writes: Writes) -> None:
        """Reuse the room of writes that were completed."""
        self._free.append(writes.array)
