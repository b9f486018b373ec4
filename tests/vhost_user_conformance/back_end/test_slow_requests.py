"""Slow requests: what is outstanding, and what must be completed."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.puppet import Puppet
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.model.verdict import Failed, Unsupported
from vhost_user_conformance.peer.device_work import BLK_F_FLUSH, BLK_F_RO, BlkWork, Job
from vhost_user_conformance.peer.memory import Memory, TestRing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ring() -> Iterator[TestRing]:
    """A ring that no device serves."""
    with closing(Memory()) as memory, closing(TestRing(memory, 0, slow_requests.SIZE)) as ring:
        yield ring


def complete(ring: TestRing, *jobs: Job, status: int = 0) -> None:
    """Complete them as a device does."""
    memory, index = ring.memory, ring.used_index
    for job in jobs:
        assert job.status is not None
        memory.write(job.status, bytes([status]))
        at = ring.used + 4 + 8 * (index % ring.size)
        memory.write(at, struct.pack("<II", job.head, 1))
        index += 1
    memory.write(ring.used + 2, struct.pack("<H", index & 0xFFFF))


@pytest.mark.parametrize("features", [0, 1 << BLK_F_FLUSH | 1 << BLK_F_RO])
def test_a_disk_without_slow_requests(features: int) -> None:
    """It has no flush, or is read-only."""
    with closing(Puppet(features, 0, {}).back_end()) as be:
        be.features = features
        with pytest.raises(Unsupported, match="slow requests"):
            slow_requests.need_slow(be)


def test_what_is_outstanding(ring: TestRing) -> None:
    """The requests that are not completed, and those whose status was not written."""
    with closing(Puppet(1 << BLK_F_FLUSH, 0, {}).back_end()) as be:
        be.device = "blk"
        assert isinstance(be.work, BlkWork)
        be.features = 1 << BLK_F_FLUSH
        slow_requests.need_slow(be)
        jobs = slow_requests.make_slow(be, ring, 3)
        assert len(jobs) == slow_requests.outstanding(ring) == 6
        complete(ring, *jobs[:4])
        assert slow_requests.outstanding(ring) == 2
        assert slow_requests.unwritten(ring, jobs) == jobs[4:]
        complete(ring, *reversed(jobs[4:]))
        slow_requests.all_completed(be, ring, jobs)


@pytest.mark.parametrize("wrong", ["twice", "status"])
def test_each_must_be_completed_once_with_success(ring: TestRing, wrong: str) -> None:
    """Another status than 0, and a chain that is completed instead of another, are failures."""
    with closing(Puppet(1 << BLK_F_FLUSH, 0, {}).back_end()) as be:
        be.device = "blk"
        jobs = slow_requests.make_slow(be, ring, 1)
        if wrong == "status":
            complete(ring, *jobs, status=1)
        else:
            complete(ring, jobs[0])
            ring.driver.pop()
            complete(ring, jobs[1])
        with pytest.raises(Failed):
            slow_requests.all_completed(be, ring, jobs)
