"""The device's side of a split virtqueue.

The guest's driver writes the ring, so everything in it is checked. Each descriptor is read exactly
once, so that what is used is what was checked.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.errors import FrontendError
from vhost_user.memory import TranslationError
from vhost_user.native import WEAKLY_ORDERED, barrier
from vhost_user.virtqueue import batch as compiled
from vhost_user.virtqueue.layout import (
    DESCRIPTOR,
    DESCRIPTOR_SIZE,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    MAX_CHAIN,
    cast_ring,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vhost_user.inflight import InflightRing
    from vhost_user.memory import MemoryTable
    from vhost_user.virtqueue.layout import RingWords

_unpack_from = DESCRIPTOR.unpack_from
# What most queues have to resubmit; it stays empty.
_NOTHING: deque[int] = deque()


class Chain(NamedTuple):
    """A chain of buffers that the driver made available.

    Attributes:
        head: index of its first descriptor, for `DeviceQueue.push`.
        readable: what the driver wrote for the device, in order.
        writable: where the device may write, in order.
        writable_extents: the same as (guest-physical address, length), for the dirty log.
    """

    head: int
    readable: list[memoryview]
    writable: list[memoryview]
    writable_extents: list[tuple[int, int]]

    def dirtied(self, written: int) -> Iterator[tuple[int, int]]:
        """The guest-physical extents that the first `written` bytes of `writable` lie in."""
        for gpa, length in self.writable_extents:
            if written <= 0:
                return
            yield gpa, min(length, written)
            written -= length


class DeviceQueue:
    """A split virtqueue as the device uses it.

    Args:
        size: number of descriptors, a power of two.
        desc: the descriptor table, 16 * size bytes.
        avail: the available ring, 6 + 2 * size bytes (4 + 2 * size without event index).
        used: the used ring, 6 + 8 * size bytes (4 + 8 * size without event index).
        memory: where the buffers are.
        last_avail: index of the next available entry to take, from SET_VRING_BASE. The used index
            is read from the ring.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.
        log: called with (guest-physical address, length) of each write to the used ring.
        used_log_gpa: the address to log the used ring at (SET_VRING_ADDR); None: it is not logged.
        inflight: tracks the requests that are being served; those that an earlier back-end has
            taken and not completed come first, for any value of `last_avail`.
        ring: index of this ring, for errors.
        words: what `cast_ring` returned for the same parts, size and event index, if it was called.

    `log` and `used_log_gpa` may be set at any time. The caller logs what it writes to buffers: see
    `Chain.dirtied`.

    Raises:
        FrontendError: the ring cannot have that size.
    """

    __slots__ = (
        "_again",
        "_avail",
        "_avail_idx",
        "_batch",
        "_call_next",
        "_desc",
        "_event_idx",
        "_last_avail",
        "_mask",
        "_memory",
        "_unaligned",
        "_used",
        "_used_elements",
        "_used_idx",
        "_used_start",
        "inflight",
        "log",
        "ring",
        "size",
        "used_log_gpa",
    )

    def __init__(
        self,
        size: int,
        desc: memoryview,
        avail: memoryview,
        used: memoryview,
        memory: MemoryTable,
        *,
        last_avail: int,
        event_idx: bool,
        log: Callable[[int, int], None] | None = None,
        used_log_gpa: int | None = None,
        inflight: InflightRing | None = None,
        ring: int | None = None,
        words: RingWords | None = None,
    ) -> None:
        self.size = size
        self.ring = ring
        self.log = log
        self.used_log_gpa = used_log_gpa
        words = words or cast_ring(size, desc, avail, used, event_idx=event_idx)
        if words is None:
            raise self._fault(f"the addresses do not fit a ring of {size} descriptors")
        self._avail, self._used, self._used_elements = words
        self._mask = size - 1
        self._memory = memory
        self._event_idx = event_idx
        self._desc = desc
        self._last_avail = self._avail_idx = last_avail & 0xFFFF
        self._used_idx = self._used_start = self._used[1]
        # An interrupt may have been due, and not sent, when the ring was stopped.
        self._call_next = True
        self.inflight = inflight
        self._again = _NOTHING
        self._batch: compiled.Batch | None = None
        self._unaligned = False

    def resume(self) -> None:
        """Resubmit what an earlier back-end has not completed, by the inflight region.

        Raises:
            FrontendError: the region is not one for this ring.
        """
        if self.inflight is not None:
            self._again = deque(self.inflight.resume(self._used_idx))
            if self._again:
                highest = max(self._again)
                if highest >= self.size:
                    raise self._fault(f"request {highest} in the inflight region of {self.size}")
                # They were taken from the available ring, in an order that is not known.
                taken = self._used_idx + len(self._again)
                self._last_avail = self._avail_idx = taken & 0xFFFF

    def resubmit_rest_of(self, before: DeviceQueue) -> None:
        """Resubmit what the queue that this one replaces has not popped yet."""
        self._again = before._again

    @property
    def to_resubmit(self) -> int:
        """Chains that an earlier back-end has taken, and this one has not popped yet."""
        return len(self._again)

    def _fault(self, text: str) -> FrontendError:
        return FrontendError(text, ring=self.ring)

    @property
    def last_avail(self) -> int:
        """Index of the next available entry, 0 to 65535: the vring base."""
        return self._last_avail

    # For compiled functions

    def batch(self) -> compiled.Batch | None:
        """The ring for compiled functions.

        Returns:
            None where there are none, where they cannot access the ring, while there are chains to
            resubmit or to publish, and before the first request.
        """
        if self._again or self._used_idx != self._used_start or not compiled.enabled:
            return None
        if self._batch is None and self._avail[1] != self._last_avail:
            self._make_batch()
        return self._batch

    def _make_batch(self) -> None:
        regions = self._memory.array
        if regions is None or self._unaligned:
            return
        parts = (self._desc, self._avail, self._used)
        self._unaligned = not compiled.aligned(parts)
        if not self._unaligned:
            self._batch = compiled.Batch(self, regions, parts, event_idx=self._event_idx)

    def lend(self, words: memoryview, at: int) -> None:
        """Write the state into five words: see ``struct vu_queue``, from ``last_avail`` on."""
        words[at] = self._last_avail
        words[at + 1] = words[at + 2] = self._used_idx
        words[at + 3] = self._call_next
        if self.inflight is not None:
            words[at + 4] = self.inflight.counter

    def take_back(self, words: memoryview, at: int) -> None:
        """Read what a compiled function has made of the state."""
        self._last_avail = self._avail_idx = words[at]
        self._used_idx = self._used_start = words[at + 1]
        self._call_next = bool(words[at + 3])
        if self.inflight is not None:
            self.inflight.counter = words[at + 4]

    def _more(self) -> int:
        """Read the available index again; how many entries can be taken."""
        index = self._avail[1]
        count = (index - self._last_avail) & 0xFFFF
        if count > self.size:
            raise self._fault(f"available index is {count} ahead, in a ring of {self.size}")
        self._avail_idx = index
        if WEAKLY_ORDERED:
            barrier()  # the index before the entries it makes available
        return count

    def pop(self) -> Chain | None:
        """The next chain, or None when the driver has made no more available.

        The chain's views stay valid as long as there is a reference to them. An error does not
        change the ring: the next call would return the same chain.

        Raises:
            FrontendError: the driver broke the ring: an index out of range, a loop, a buffer that
                is empty or outside of memory, an invalid table of descriptors.
        """
        if self._again:
            chain = self._chain(self._again[0])
            self._again.popleft()
            return chain
        last = self._last_avail
        if last == self._avail_idx and not self._more():
            return None
        head = self._avail[2 + (last & self._mask)]
        if head >= self.size:
            raise self._fault(f"descriptor {head} in a ring of {self.size}")
        chain = self._chain(head)
        self._last_avail = (last + 1) & 0xFFFF
        if self.inflight is not None:
            self.inflight.taken(head)
        return chain

    def _chain(self, head: int) -> Chain:
        chain = Chain(head, [], [], [])
        try:
            self._follow(self._desc, self.size, head, chain)
        except TranslationError as error:
            raise self._fault(f"chain {head}: {error.text}") from error
        return chain

    def _follow(self, table: memoryview | bytes, size: int, index: int, chain: Chain) -> None:
        """Add the descriptors of a table to a chain, from `index` on."""
        head, readable, writable, extents = chain
        view = self._memory.view
        for _ in range(size):
            gpa, length, flags, following = _unpack_from(table, index * DESCRIPTOR_SIZE)
            if flags & F_INDIRECT:
                self._follow_indirect(gpa, length, flags, chain, nested=table is not self._desc)
                return
            if not length:
                raise self._fault(f"chain {head}: descriptor {index} has no bytes")
            try:
                data = view(gpa, length)
            except TranslationError:
                pieces = self._memory.slices(gpa, length)
                (writable if flags & F_WRITE else readable).extend(pieces)
            else:
                (writable if flags & F_WRITE else readable).append(data)
            if flags & F_WRITE:
                extents.append((gpa, length))
            elif extents:
                raise self._fault(f"chain {head}: a readable buffer after a writable one")
            if not flags & F_NEXT:
                return
            if following >= size:
                raise self._fault(f"chain {head}: descriptor {following} in a table of {size}")
            index = following
        raise self._fault(f"chain {head}: more than {size} descriptors, or a loop")

    def _follow_indirect(
        self, gpa: int, length: int, flags: int, chain: Chain, *, nested: bool
    ) -> None:
        """Add the descriptors of an indirect table (virtio 1.3, 2.7.5.3)."""
        if nested:
            raise self._fault(f"chain {chain.head}: an indirect table inside an indirect table")
        if flags & F_NEXT:
            raise self._fault(f"chain {chain.head}: a descriptor after an indirect table")
        count, rest = divmod(length, DESCRIPTOR_SIZE)
        if rest or not 0 < count <= max(self.size, MAX_CHAIN):
            raise self._fault(f"chain {chain.head}: an indirect table of {length} bytes")
        table = b"".join(self._memory.slices(gpa, length))  # a copy: the driver may still write
        self._follow(table, count, 0, chain)

    def push(self, head: int, written: int) -> None:
        """Put a chain into the used ring, with `written` bytes; visible after `publish`."""
        index = self._used_idx
        slot = (index & self._mask) << 1
        elements = self._used_elements
        elements[slot] = head
        elements[slot + 1] = written
        self._used_idx = (index + 1) & 0xFFFF
        if self.inflight is not None:
            self.inflight.given_back(head)
        if self.log is not None and self.used_log_gpa is not None:
            self.log(self.used_log_gpa + 4 + 4 * slot, 8)

    def publish(self) -> bool:
        """Make what was pushed visible; True when the driver wants an interrupt for it."""
        new, old = self._used_idx, self._used_start
        if new == old:
            return False
        used = self._used
        if WEAKLY_ORDERED:
            barrier()  # the elements before the index that makes them visible
        used[1] = new
        self._used_start = new
        if self.inflight is not None:
            self.inflight.published(new)
        if self.log is not None and self.used_log_gpa is not None:
            self.log(self.used_log_gpa, 4)
        barrier()  # the index before the read of what the driver wants
        if self._call_next:
            self._call_next = False
            return True
        if self._event_idx:
            event = self._avail[2 + self.size]
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._avail[0] & 1

    def arm(self) -> bool:
        """Enable kicks; True when more became available meanwhile: poll again then."""
        used = self._used
        if self._event_idx:
            event = 2 + 4 * self.size
            used[event] = self._last_avail
            if self.log is not None and self.used_log_gpa is not None:
                self.log(self.used_log_gpa + 2 * event, 2)
        elif used[0]:  # a device that served the ring before had disabled them
            used[0] = 0
            if self.log is not None and self.used_log_gpa is not None:
                self.log(self.used_log_gpa, 2)
        barrier()  # the enabling before the read
        return self._avail[1] != self._last_avail
