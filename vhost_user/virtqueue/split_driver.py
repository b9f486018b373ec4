"""The driver's side of a split virtqueue.

All of its state is in the ring and in 16 more bytes, which may be guest memory: after a migration
another process creates a `DriverQueue` on the same bytes and continues. The free descriptors are
linked through their `next` fields; a descriptor of length 0 is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.errors import BackendError, UsageError
from vhost_user.native import WEAKLY_ORDERED, barrier
from vhost_user.virtqueue.layout import (
    AVAIL_NO_INTERRUPT,
    DESCRIPTOR,
    DESCRIPTOR_BODY,
    DESCRIPTOR_SIZE,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    USED_NO_NOTIFY,
    cast_ring,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes of `state`: u32 free_head, num_free, last_used, next_avail.
STATE_SIZE = 16
_FREE_HEAD, _NUM_FREE, _LAST_USED, _NEXT_AVAIL = range(4)

#: A descriptor's length is a u32.
MAX_LENGTH = 0xFFFFFFFF

_pack_into = DESCRIPTOR_BODY.pack_into
_pack_whole = DESCRIPTOR.pack_into


def _check_buffers(
    readable: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]]
) -> None:
    """Check before anything is written, so that an error does not change the ring."""
    if not readable and not writable:
        raise UsageError("a chain without a buffer")
    for buffers in (readable, writable):
        for gpa, length in buffers:
            if not 0 < length <= MAX_LENGTH:
                raise UsageError(f"a buffer of {length} bytes at guest address {gpa:#x}")


def _fill_table(
    table: memoryview,
    readable: Sequence[tuple[int, int]],
    writable: Sequence[tuple[int, int]],
) -> int:
    """Write descriptors of buffers into an indirect table; returns its length in bytes."""
    length = (len(readable) + len(writable)) * DESCRIPTOR_SIZE
    if length > len(table):
        raise UsageError(f"an indirect table of {length} bytes does not fit into {len(table)}")
    at = 0
    for buffers, flags in ((readable, 0), (writable, F_WRITE)):
        for gpa, size in buffers:
            following = at + DESCRIPTOR_SIZE
            link = F_NEXT if following < length else 0
            _pack_whole(table, at, gpa, size, flags | link, following // DESCRIPTOR_SIZE)
            at = following
    return length


class QueueFull(UsageError):
    """There are not enough free descriptors."""


class DriverQueue:
    """A split virtqueue as the driver uses it.

    Args:
        size: number of descriptors, a power of two.
        desc: the descriptor table, 16 * size bytes.
        avail: the available ring, 6 + 2 * size bytes (4 + 2 * size without event index).
        used: the used ring, 6 + 8 * size bytes (4 + 8 * size without event index).
        state: 16 bytes for the driver's own state.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.
        ring: index of this ring, for errors.

    The memory is used as it is: call `reset` to begin with an empty ring.

    Raises:
        UsageError: the ring cannot have that size.
    """

    __slots__ = (
        "_avail",
        "_desc",
        "_event_idx",
        "_halves",
        "_lengths",
        "_mask",
        "_state",
        "_used",
        "_used_elements",
        "ring",
        "size",
    )

    def __init__(
        self,
        size: int,
        desc: memoryview,
        avail: memoryview,
        used: memoryview,
        state: memoryview,
        *,
        event_idx: bool,
        ring: int | None = None,
    ) -> None:
        self.size = size
        self.ring = ring
        parts = cast_ring(size, desc, avail, used, event_idx=event_idx)
        if parts is None:
            raise UsageError(f"the memory does not fit a ring of {size} descriptors", ring=ring)
        self._avail, self._used, self._used_elements = parts
        self._mask = size - 1
        self._event_idx = event_idx
        self._desc = desc[: DESCRIPTOR_SIZE * size]
        self._lengths = self._desc.cast("I")
        self._halves = self._desc.cast("H")
        self._state = state[:STATE_SIZE].cast("I")

    def reset(self, start: int = 0) -> None:
        """Make the ring empty, with both indices at `start` (0, as a device expects it)."""
        for part in (self._desc, self._avail.cast("B"), self._used.cast("B")):
            part[:] = bytes(part.nbytes)
        for index in range(self.size):
            self._halves[8 * index + 7] = (index + 1) & self._mask
        self._avail[1] = self._used[1] = start
        state = self._state
        state[_FREE_HEAD], state[_NUM_FREE] = 0, self.size
        state[_LAST_USED] = state[_NEXT_AVAIL] = start
        if self._event_idx:
            self._avail[2 + self.size] = self._used[2 + 4 * self.size] = start

    @property
    def free(self) -> int:
        """Free descriptors."""
        return self._state[_NUM_FREE]

    @property
    def in_flight(self) -> int:
        """Chains that were added and have not been returned by `pop`."""
        state = self._state
        return (state[_NEXT_AVAIL] - state[_LAST_USED]) & 0xFFFF

    def add(
        self,
        readable: Sequence[tuple[int, int]],
        writable: Sequence[tuple[int, int]],
        indirect: tuple[int, memoryview] | None = None,
    ) -> int:
        """Add a chain of buffers; the device sees it after `publish`.

        Args:
            readable: (guest-physical address, length) of each buffer to read.
            writable: the same of each buffer to write.
            indirect: address and bytes of a table to describe the buffers in, 16 bytes each; the
                chain then takes one descriptor of the ring.

        Returns:
            The head: `pop` returns it when the chain is completed.

        Raises:
            QueueFull: not enough descriptors are free; nothing was added.
            UsageError: there is no buffer, a buffer is empty, or the table is too small.
        """
        _check_buffers(readable, writable)
        count = len(readable) + len(writable) if indirect is None else 1
        state = self._state
        free = state[_NUM_FREE]
        if count > free:
            raise QueueFull(f"{count} descriptors are needed, {free} are free", ring=self.ring)
        head = state[_FREE_HEAD]
        if indirect is None:
            state[_FREE_HEAD] = self._fill(head, readable, writable, count - 1)
        else:
            gpa, table = indirect
            length = _fill_table(table, readable, writable)
            _pack_into(self._desc, head * DESCRIPTOR_SIZE, gpa, length, F_INDIRECT)
            state[_FREE_HEAD] = self._halves[8 * head + 7]
        state[_NUM_FREE] = free - count
        index = state[_NEXT_AVAIL]
        self._avail[2 + (index & self._mask)] = head
        state[_NEXT_AVAIL] = (index + 1) & 0xFFFF
        return head

    def _fill(
        self,
        index: int,
        readable: Sequence[tuple[int, int]],
        writable: Sequence[tuple[int, int]],
        left: int,
    ) -> int:
        """Write descriptors along the free list, which links them already; its new head."""
        desc, halves = self._desc, self._halves
        for gpa, length in readable:
            _pack_into(desc, index * DESCRIPTOR_SIZE, gpa, length, F_NEXT if left else 0)
            index = halves[8 * index + 7]
            left -= 1
        for gpa, length in writable:
            flags = F_WRITE | F_NEXT if left else F_WRITE
            _pack_into(desc, index * DESCRIPTOR_SIZE, gpa, length, flags)
            index = halves[8 * index + 7]
            left -= 1
        return index

    def publish(self) -> bool:
        """Make what was added visible; True when the device wants a kick for it."""
        avail = self._avail
        new, old = self._state[_NEXT_AVAIL], avail[1]
        if new == old:
            return False
        if WEAKLY_ORDERED:
            barrier()  # descriptors and entries before the index that makes them visible
        avail[1] = new
        barrier()  # the index before the read of what the device wants
        if self._event_idx:
            event = self._used[2 + 4 * self.size]
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._used[0] & USED_NO_NOTIFY

    def pop(self) -> tuple[int, int] | None:
        """The next completion, (head, bytes written), or None.

        Raises:
            BackendError: the device completed what is not in flight.
        """
        state = self._state
        last = state[_LAST_USED]
        done = (self._used[1] - last) & 0xFFFF
        if not done:
            return None
        if done > self.in_flight:
            raise BackendError(
                f"used index is {done} ahead, with {self.in_flight} in flight", ring=self.ring
            )
        if WEAKLY_ORDERED:
            barrier()  # the index before the element it makes visible
        slot = (last & self._mask) << 1
        head = self._used_elements[slot]
        written = self._used_elements[slot + 1]
        if head >= self.size or not self._lengths[4 * head + 2]:
            raise BackendError(f"completed {head}, which is not in flight", ring=self.ring)
        self._free_chain(head)
        state[_LAST_USED] = (last + 1) & 0xFFFF
        return head, written

    def _free_chain(self, head: int) -> None:
        lengths, halves, state = self._lengths, self._halves, self._state
        index, count = head, 1
        lengths[4 * index + 2] = 0
        while halves[8 * index + 6] & F_NEXT:
            if (
                count == self.size
            ):  # the device has written to the descriptor table, which it must not
                raise BackendError(f"chain {head} has become a loop", ring=self.ring)
            index = halves[8 * index + 7] & self._mask
            lengths[4 * index + 2] = 0
            count += 1
        halves[8 * index + 7] = state[_FREE_HEAD]
        state[_FREE_HEAD] = head
        state[_NUM_FREE] += count

    def disarm(self) -> None:
        """Disable interrupts. With event index there are none anyway until `arm`."""
        if not self._event_idx:
            self._avail[0] = AVAIL_NO_INTERRUPT

    def arm(self) -> bool:
        """Enable interrupts; True when more was completed meanwhile: poll again then."""
        last = self._state[_LAST_USED]
        if self._event_idx:
            self._avail[2 + self.size] = last
        else:
            self._avail[0] = 0
        barrier()  # the enabling before the read
        return self._used[1] != last
