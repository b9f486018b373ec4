"""The device's side of a split ring for compiled functions, which serve many requests in one call.

They follow the same rules as `DeviceQueue`, and serve requests of the usual kind only. All others
stay in the ring for `DeviceQueue`, which also reports what is wrong with a ring: a compiled
function reports no error. Without the compiled extension `DeviceQueue` serves everything.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Protocol

from vhost_user import native
from vhost_user.memory import PAGE_SIZE
from vhost_user.virtqueue.layout import AVAIL_ALIGN, DESC_ALIGN, USED_ALIGN, split_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vhost_user.dirty_log import DirtyLog
    from vhost_user.inflight import InflightRing
    from vhost_user.memory import RegionArray

#: Requests that a compiled function serves in one call at most: the room of ``heads``.
MOST = 64
#: ``struct vu_queue``: all fields are words, but for the u16 ``heads`` at its end.
_WORDS = 23
_BYTES = 8 * _WORDS + 2 * MOST
# Words of it that change.
_LOG, _USED_LOG, _LOG_BYTES, _USED_GPA, _LOSSES, _CALL, _EVENTS = range(9, 16)
_LAST_AVAIL = 18
_WORD = (1 << 64) - 1
#: False: nothing is served by compiled functions.
enabled = native.available


class Queue(Protocol):
    """What a `Batch` needs of `vhost_user.virtqueue.DeviceQueue`, which describes it."""

    size: int
    inflight: InflightRing | None
    log: Callable[[int, int], None] | None
    used_log_gpa: int | None

    def lend(self, words: memoryview, at: int, /) -> None:
        """Write the state into five words."""

    def take_back(self, words: memoryview, at: int, /) -> None:
        """Read the state."""


class Batch:
    """A `DeviceQueue` as compiled functions use it; valid as long as the queue is.

    Between `begin` and `end` the compiled function owns the ring, and no method of the queue may be
    called.

    Args:
        queue: the queue.
        regions: guest memory.
        parts: the bytes of the descriptor table, the available ring, and the used ring.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.

    Attributes:
        pointer: the ``vu_queue *``.
        keep: what the pointer, and pointers to guest memory, need to stay valid.
    """

    __slots__ = ("_queue", "_used_bytes", "_words", "keep", "pointer")

    def __init__(
        self,
        queue: Queue,
        regions: RegionArray,
        parts: Sequence[memoryview],
        *,
        event_idx: bool,
    ) -> None:
        self._queue = queue
        self._used_bytes = split_sizes(queue.size, event_idx=event_idx).used
        data = bytearray(_BYTES)
        self._words = memoryview(data)[: 8 * _WORDS].cast("Q")
        inflight = None if queue.inflight is None else queue.inflight.part
        first = (
            *(queue.size, event_idx, *map(native.address_of, parts)),
            *(regions.address, regions.length, 0),
            0 if inflight is None else native.address_of(inflight),
        )
        struct.pack_into(f"={len(first)}Q", data, 0, *first)
        memory = native.ffi.from_buffer(data)
        struct.pack_into("=2q", data, 8 * _CALL, -1, -1)
        self.pointer: Any = native.ffi.cast("vu_queue *", memory)
        self.keep = memory, regions, parts, inflight

    def begin(
        self,
        losses: int,
        log: DirtyLog | None,
        *,
        log_buffers: bool,
        call: int = -1,
        events: int = -1,
    ) -> bool:
        """Hand the ring to a compiled function.

        Returns:
            False, and nothing was done, if the used ring is beyond the end of the log.

        Args:
            losses: `vhost_user.mapping.losses` when guest memory was checked last; a compiled
                function serves nothing when it is another number.
            log: the dirty log, if there is one.
            log_buffers: mark there what is written to buffers.
            call: descriptor for interrupts; the caller interrupts the driver where it is -1.
            events: an epoll descriptor for what else is to be done. If there is one, the function
                may wait some microseconds for the next request.
        """
        words, queue = self._words, self._queue
        words[_LOSSES] = losses
        words[_CALL] = call & _WORD
        words[_EVENTS] = events & _WORD
        if log is None:
            words[_LOG] = words[_USED_LOG] = 0
        else:
            gpa = None if queue.log is None else queue.used_log_gpa
            if gpa is not None and gpa + self._used_bytes > log.size * 8 * PAGE_SIZE:
                return False
            words[_LOG_BYTES] = log.size
            words[_LOG] = log.address if log_buffers else 0
            words[_USED_LOG] = 0 if gpa is None else log.address
            words[_USED_GPA] = gpa or 0
        queue.lend(words, _LAST_AVAIL)
        return True

    def end(self) -> None:
        """Take the ring back."""
        self._queue.take_back(self._words, _LAST_AVAIL)


def aligned(parts: Sequence[memoryview]) -> bool:
    """Whether the parts of a ring are aligned in this process: a region may begin at any byte."""
    desc, avail, used = map(native.address_of, parts)
    return not (desc % DESC_ALIGN or avail % AVAIL_ALIGN or used % USED_ALIGN)
