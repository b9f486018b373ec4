"""Rings of a disk, its requests, and sectors whose contents are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user_conformance.model.verdict import Failed, check, unsupported
from vhost_user_conformance.peer.device_work import BLK_F_RO, BLK_IN, BLK_OUT, SECTOR, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import Memory, TestRing


#: First of the sectors that these cases write; no other case writes them.
AT = 2048


def disk_ring(
    be: BackEnd,
    *bits: int,
    size: int = 64,
    start: int = 0,
    memory: Memory | None = None,
    region: int = 0,
) -> TestRing:
    """A ring that runs, with these feature bits.

    Raises:
        Unsupported: one of them is not offered.
    """
    events = VIRTIO_RING_F_EVENT_IDX in bits
    memory = be.negotiate_bits(*bits).shared(memory)
    ring = be.ring(memory, 0, size, start=start, event_idx=events, region=region)
    be.start(ring)
    return ring


def need_writable(be: BackEnd) -> None:
    """Raises `Unsupported` if the disk is read-only."""
    if be.features >> BLK_F_RO & 1:
        unsupported("the disk is read-only")


def status_of(ring: TestRing, job: Job) -> int:
    """The status byte of a request."""
    assert job.status is not None  # noqa: S101  a disk's job has one
    return ring.memory.read(job.status, 1)[0]


def finish(be: BackEnd, ring: TestRing, jobs: Sequence[Job]) -> list[int]:
    """Kick, wait for all of them, and check each; the heads in the order of completion."""
    ring.kick()
    be.await_used(ring, ring.avail_index)
    heads: list[int] = []
    for _ in jobs:
        done = ring.driver.pop()
        if done is None:
            raise Failed("a completion for each request", f"{len(heads)} of {len(jobs)}")
        heads.append(done[0])
    check(sorted(heads) == sorted(job.head for job in jobs), "each request once", f"{heads}")
    for job in jobs:
        status = status_of(ring, job)
        check(status == 0, f"status 0 of chain {job.head}", f"status {status}")
    return heads


def sector(number: int) -> bytes:
    """The contents that these cases write to a sector: its number, repeated."""
    return number.to_bytes(4, "little") * (SECTOR // 4)


def fill(be: BackEnd, ring: TestRing, count: int) -> None:
    """Write sectors whose contents differ."""
    need_writable(be)
    data = b"".join(sector(number + 1) for number in range(count))
    finish(be, ring, [be.disk.request(ring.memory, ring, BLK_OUT, AT, read=data)])


def read(be: BackEnd, ring: TestRing, sector: int, *, indirect: bool = False) -> Job:
    """Make a read of one sector available."""
    return be.disk.request(ring.memory, ring, BLK_IN, sector, write=SECTOR, indirect=indirect)


def in_batches(ring: TestRing, heads: Sequence[int]) -> None:
    """Check that the used ring has these chains in their order, from its beginning.

    A device may write the element of the last chain of a batch only, at the index of the first, and
    skip the other elements.

    Raises:
        Failed: an element has a chain that was completed already, or is unknown.
    """
    index = 0
    while index < len(heads):
        element = ring.memory.read(ring.used + 4 + 8 * index, 4)
        head = int.from_bytes(element, "little")
        wanted = heads[index:]
        check(head in wanted, f"one of the chains {wanted} in used element {index}", f"{head}")
        index += wanted.index(head) + 1


# -- buffers
