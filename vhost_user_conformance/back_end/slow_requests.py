"""Requests of a disk that take long, so that a case can act while they are in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.model.verdict import check, observed, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_FLUSH,
    BLK_F_RO,
    BLK_FLUSH,
    BLK_OUT,
    SECTOR,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.device_work import Job
    from vhost_user_conformance.peer.memory import TestRing

#: Pairs of a write and a flush.
PAIRS = 24
#: How often they are tried: all of them may be complete by chance.
TURNS = 16
#: Descriptors of a ring that holds them.
SIZE = 256
#: A status byte that no device has written yet.
UNWRITTEN = 0xFF


def need_slow(be: BackEnd) -> None:
    """Raises `Unsupported` where no request of the disk is slow."""
    if be.features >> BLK_F_RO & 1 or not be.features >> BLK_F_FLUSH & 1:
        unsupported("is about slow requests: it accepts no writes or has no flush")


def make_slow(be: BackEnd, ring: TestRing, pairs: int = PAIRS, *, size: int = SECTOR) -> list[Job]:
    """Make slow requests available: writes of this size, and flushes; do not kick."""
    jobs = []
    for number in range(pairs):
        at = number * size // SECTOR
        jobs.append(be.disk.request(ring.memory, ring, BLK_OUT, at, read=bytes(size)))
        jobs.append(be.disk.request(ring.memory, ring, BLK_FLUSH, 0))
    return jobs


def post_slow(be: BackEnd, ring: TestRing, pairs: int = PAIRS) -> list[Job]:
    """Make slow requests, kick, and return them when the first one has been completed.

    Raises:
        Failed: none is completed.
    """
    before = ring.used_index
    jobs = make_slow(be, ring, pairs)
    ring.kick()
    # The first completion shows that the ring is being served.
    check(ring.await_progress(before, be.timeout), "a completion", "none came")
    return jobs


def outstanding(ring: TestRing) -> int:
    """How many requests the device has not completed."""
    return ring.avail_index - ring.used_index & 0xFFFF


def attempts(be: BackEnd, ring: TestRing) -> Iterator[list[Job]]:
    """Slow requests, again and again; the caller leaves the loop when some were in flight.

    Raises:
        Observed: none ever was when the caller looked.
    """
    for _ in range(TURNS):
        yield post_slow(be, ring)
        be.await_used(ring, ring.avail_index)
        while ring.driver.pop() is not None:
            pass
    observed("no request was in flight at the time that the rule is about")


def unwritten(ring: TestRing, jobs: list[Job]) -> list[Job]:
    """Those whose status byte the device has not written."""
    return [job for job in jobs if ring.memory.read(job.status or 0, 1)[0] == UNWRITTEN]


def all_completed(be: BackEnd, ring: TestRing, jobs: list[Job]) -> None:
    """Wait for all of them, and check that each is completed once and successfully.

    Raises:
        Failed: one is not, or another chain is completed.
    """
    be.await_used(ring, ring.avail_index)
    heads = []
    while (done := ring.driver.pop()) is not None:
        heads.append(done[0])
    wanted = sorted(job.head for job in jobs)
    check(sorted(heads) == wanted, f"chains {wanted}, each once", f"chains {sorted(heads)}")
    failed = [job.head for job in jobs if ring.memory.read(job.status or 0, 1)[0]]
    check(not failed, "status 0 of each", f"another one of chains {failed}")
