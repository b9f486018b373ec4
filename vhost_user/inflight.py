"""The inflight region: which requests a back-end has taken and not completed (split rings).

It is shared memory that outlives the back-end. A new back-end that gets the region resubmits those
requests, in their original order, and none that was completed. The ring alone does not show which
these are, as requests complete out of order (vhost-user specification, "Inflight I/O tracking"; the
layout is that for split virtqueues).
"""

from __future__ import annotations

import fcntl
import os
import struct

from vhost_user.errors import FrontendError
from vhost_user.mapping import LostMemoryError, Mapping, MappingError
from vhost_user.native import barrier

#: features u64, version u16, desc_num u16, last_batch_head u16, used_idx u16.
_HEADER = struct.Struct("<QHHHH")
_DESCRIPTOR_SIZE = 16
_ALIGNMENT = 64
_VERSION = 1
#: Requests are counted from the last one of the region on: a ring never gets that far by itself.
_LAST_COUNT = 1 << 63
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
# Offsets in a ring's part, in units of u16.
_AT_VERSION, _AT_NUMBER, _AT_BATCH, _AT_USED = 4, 5, 6, 7


def ring_bytes(size: int) -> int:
    """Bytes of the part of a ring of ``size`` descriptors."""
    return -(-(_HEADER.size + _DESCRIPTOR_SIZE * size) // _ALIGNMENT) * _ALIGNMENT


def create(rings: int, size: int) -> tuple[int, int]:
    """A new region for ``rings`` rings of ``size`` descriptors: its sealed memfd, and its bytes.

    Raises:
        OSError: out of descriptors or memory.
    """
    length = rings * ring_bytes(size)
    fd = os.memfd_create("vhost-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, length)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd, length


class InflightRing:
    """The part of one ring, at the back-end.

    Attributes:
        size: descriptors of the ring.
        counter: the number of the next request.
    """

    __slots__ = ("_batch", "_bytes", "_counters", "_words", "counter", "size")

    def __init__(self, part: memoryview, size: int) -> None:
        self.size = size
        self._bytes = part
        self._words = part.cast("H")
        self._counters = part.cast("Q")
        self.counter = 0
        self._batch: list[int] = []

    def resume(self, used_idx: int) -> list[int]:
        """The heads to resubmit when the ring starts, the oldest first.

        Args:
            used_idx: the used index in guest memory.

        Raises:
            FrontendError: the region has another layout, or a counter that no back-end has written.
        """
        words = self._words
        if not words[_AT_VERSION]:
            words[_AT_NUMBER] = self.size
            words[_AT_USED] = used_idx
            words[_AT_VERSION] = _VERSION
        if words[_AT_VERSION] != _VERSION or words[_AT_NUMBER] != self.size:
            raise FrontendError(
                f"an inflight region of version {words[_AT_VERSION]} for "
                f"{words[_AT_NUMBER]} descriptors, where the ring has {self.size}"
            )
        self._batch.clear()
        self._settle(used_idx)
        waiting = [head for head in range(self.size) if self._bytes[self._at(head)]]
        waiting.sort(key=self._count_of)
        if waiting:
            last = self._count_of(waiting[-1])
            if last >= _LAST_COUNT:
                raise FrontendError(f"an inflight region whose last request has number {last:#x}")
            self.counter = last + 1
        return waiting

    @property
    def part(self) -> memoryview:
        """The ring's bytes in the region."""
        return self._bytes

    @property
    def occupied(self) -> bool:
        """A request is recorded that was taken and not completed."""
        return any(self._bytes[self._at(head)] for head in range(self.size))

    def _settle(self, used_idx: int) -> None:
        """Mark the last batch as completed, if the back-end ended before it could."""
        words = self._words
        missing = (used_idx - words[_AT_USED]) & 0xFFFF
        head = words[_AT_BATCH]
        for _ in range(min(missing, self.size)):
            if head >= self.size:
                break
            self._bytes[self._at(head)] = 0
            head = words[self._at(head) // 2 + 3]
        words[_AT_USED] = used_idx

    @staticmethod
    def _at(head: int) -> int:
        return _HEADER.size + _DESCRIPTOR_SIZE * head

    def _count_of(self, head: int) -> int:
        return self._counters[self._at(head) // 8 + 1]

    def taken(self, head: int) -> None:
        """A chain was taken from the available ring."""
        at = 16 + 16 * head
        self._counters[at // 8 + 1] = self.counter
        self.counter += 1
        self._bytes[at] = 1

    def given_back(self, head: int) -> None:
        """A chain was put into the used ring; the driver does not see it yet."""
        words = self._words
        words[(16 + 16 * head) // 2 + 3] = words[_AT_BATCH]
        words[_AT_BATCH] = head
        self._batch.append(head)

    def published(self, used_idx: int) -> None:
        """Record the used index: the driver sees all requests that were completed."""
        barrier()  # the used index before the marks that depend on it
        for head in self._batch:
            self._bytes[16 + 16 * head] = 0
        self._batch.clear()
        self._words[_AT_USED] = used_idx


class InflightRegion:
    """The region of SET_INFLIGHT_FD, mapped by a back-end.

    Args:
        fd: its file, which stays the caller's.
        size: bytes of the region.
        offset: of the region in its file.
        rings: how many rings it is for.
        ring_size: their descriptors.

    Raises:
        FrontendError: the region is too small, or not in its file, or cannot be mapped.
    """

    def __init__(self, fd: int, size: int, offset: int, rings: int, ring_size: int) -> None:
        needed = rings * ring_bytes(ring_size)
        if not 0 < needed <= size:
            raise FrontendError(
                f"{size} bytes are not an inflight region of {rings} rings "
                f"of {ring_size} descriptors",
                message="SET_INFLIGHT_FD",
            )
        try:
            self._mapping = Mapping(fd, offset, size)
        except MappingError as error:
            text = f"the inflight region {error}"
            raise FrontendError(text, message="SET_INFLIGHT_FD") from error
        self._view = self._mapping.view
        self._each = ring_bytes(ring_size)
        self.rings = rings
        self.ring_size = ring_size
        self._parts: dict[int, InflightRing] = {}

    def ring(self, index: int) -> InflightRing | None:
        """The part of a ring, or None for a ring that the region does not have."""
        if index >= self.rings:
            return None
        part = self._parts.get(index)
        if part is None:
            at = index * self._each
            part = self._parts[index] = InflightRing(
                self._view[at : at + self._each], self.ring_size
            )
        return part

    def check(self) -> None:
        """Check that no page was gone when it was accessed.

        Raises:
            LostMemoryError: one was.
        """
        if self._mapping.lost:
            raise LostMemoryError("the inflight region")

    def close(self) -> None:
        """Drop the mapping; it is unmapped when no ring uses it. The file stays."""
        self._parts.clear()
        self._view = memoryview(b"")
