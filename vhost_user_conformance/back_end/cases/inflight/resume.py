"""VU-B-1230 and up: how a back-end uses the region that another one left, or an invalid one."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from vhost_user.payloads import Inflight
from vhost_user_conformance.back_end.cases.inflight import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.inflight_region import (
    SIZE,
    Region,
    get_region,
    noted_ring,
    set_region,
)
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed
from vhost_user_conformance.peer.wire import Closed, Silent, WireError

if TYPE_CHECKING:
    from vhost_user_conformance.peer.device_work import Job
    from vhost_user_conformance.peer.memory import TestRing

#: Counters of requests that are served again, by descriptor, and number of attempts.
_COUNTERS, _ROUNDS = (7, 3, 9, 5, 4), 4


def _left_over(be: BackEnd, requests: int) -> tuple[TestRing, Region, list[Job]]:
    """Requests that a former back-end may have taken: the ring does not show it."""
    be.negotiate()
    memory = be.memory()
    region = get_region(be)
    ring = be.ring(memory, 0, SIZE)
    return ring, region, [be.work.post(memory, ring) for _ in range(requests)]


def _resume(be: BackEnd, ring: TestRing, region: Region, base: int) -> None:
    set_region(be, region)
    be.start(ring, base=base)
    ring.kick()


def _use(ring: TestRing, *jobs: Job) -> None:
    """Complete requests instead of the device."""
    for at, job in enumerate(jobs):
        ring.memory.write(ring.used + 4 + 8 * at, struct.pack("<II", job.head, 1))
    ring.memory.write(ring.used + 2, struct.pack("<H", len(jobs)))


def _completed(ring: TestRing) -> list[int]:
    heads = []
    while (done := ring.driver.pop()) is not None:
        heads.append(done[0])
    return heads


@area.case(
    1230, "Requests that are recorded as in flight are served again at the start", device="blk"
)
def resubmitted(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 3)
    region.note({job.head: count for count, job in enumerate(jobs)})
    _resume(be, ring, region, 3)
    be.await_used(ring, 3)
    heads = sorted(_completed(ring))
    wanted = sorted(job.head for job in jobs)
    check(heads == wanted, f"chains {wanted}, each once", f"chains {heads}")
    for job in jobs:
        status = ring.memory.read(job.status or 0, 1)[0]
        check(status == 0, "status 0 of each", f"status {status}")


@area.case(
    1231,
    "After completions out of order only the request in flight is served again",
    device="blk",
)
def out_of_order(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 3)
    _use(ring, jobs[0], jobs[2])
    region.note({jobs[1].head: 5}, used=2, batch=jobs[2].head)
    _resume(be, ring, region, 3)
    be.await_used(ring, 3)
    be.check_idle(ring)
    heads = _completed(ring)
    wanted = [jobs[0].head, jobs[2].head, jobs[1].head]
    check(heads == wanted, f"chains {wanted}, each once", f"chains {heads}")


@area.case(1232, "New requests are served after those that were in flight", device="blk")
def both(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 4)
    region.note({job.head: count for count, job in enumerate(jobs[:2])})
    _resume(be, ring, region, 2)
    be.await_used(ring, 4)
    heads = sorted(_completed(ring))
    wanted = sorted(job.head for job in jobs)
    check(heads == wanted, f"chains {wanted}, each once", f"chains {heads}")
    base = be.stop(ring)
    check(base == 4, "base 4", f"base {base}")
    check(not region.taken(), "nothing in flight", f"heads {region.taken()}")


@area.case(
    1233,
    "A completed request that is still recorded as in flight is not served again",
    device="blk",
)
def completed_and_noted(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 2)
    # It ended after the used index and before the region was updated: the ring has the last batch.
    _use(ring, jobs[0])
    region.note({job.head: count for count, job in enumerate(jobs)}, batch=jobs[0].head)
    _resume(be, ring, region, 2)
    be.await_used(ring, 2)
    be.check_idle(ring)
    heads = _completed(ring)
    wanted = [job.head for job in jobs]
    check(heads == wanted, f"chains {wanted}, each once", f"chains {heads}")


@area.case(1234, "Requests in flight are served again in the order of their counters", device="blk")
def by_counter(be: BackEnd) -> None:
    be.negotiate()
    memory, region = be.memory(), get_region(be)
    orders: list[tuple[int, ...]] = []
    for _ in range(_ROUNDS):
        ring = be.ring(memory, 0, SIZE)
        heads = [be.work.post(memory, ring).head for _ in _COUNTERS]
        region.note(dict(zip(heads, _COUNTERS, strict=True)))
        _resume(be, ring, region, len(heads))
        be.await_used(ring, len(heads))
        be.stop(ring)
        orders.append(tuple(_COUNTERS[heads.index(head)] for head in _completed(ring)))
        if list(orders[-1]) == sorted(_COUNTERS):
            return
    # A disk may complete in any order; the same wrong order each time is the order of service.
    check(
        len(set(orders)) > 1, f"counters {sorted(_COUNTERS)} in their order", f"{orders[0]}, always"
    )
    observed(f"completed in the orders {orders}")


@area.case(
    1235, "Counters continue after those of the requests that are served again", device="blk"
)
def counters_go_on(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 1)
    region.note({jobs[0].head: 1000})
    _resume(be, ring, region, 1)
    be.await_used(ring, 1)
    _completed(ring)
    heads = [be.work.post(ring.memory, ring).head for _ in range(2)]
    ring.kick()
    be.await_used(ring, 3)
    be.stop(ring)
    counters = [region.state(head)[2] for head in heads]
    check(min(counters) > 1000, "counters above 1000", f"{counters}")


@area.case(
    1236,
    "With a base that was recovered from the used index, as after a crash, nothing is served twice",
    device="blk",
    spec="QEMU virtio_queue_restore_last_avail_idx",
    severity=Severity.SHOULD,
)
def base_from_used(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 3)
    region.note({job.head: count for count, job in enumerate(jobs)})
    _resume(be, ring, region, 0)
    be.await_used(ring, 3)
    be.check_idle(ring)
    heads = sorted(_completed(ring))
    wanted = sorted(job.head for job in jobs)
    check(heads == wanted, f"chains {wanted}, each once", f"chains {heads}")


@area.case(1237, "No request of a batch that is in the used ring is served again", device="blk")
def whole_batch(be: BackEnd) -> None:
    ring, region, jobs = _left_over(be, 4)
    heads = [job.head for job in jobs]
    # Three were completed in one batch, each linked to the one before; the region has none of them.
    region.note({head: count for count, head in enumerate(heads)}, batch=heads[2])
    for head, before in ((heads[2], heads[1]), (heads[1], heads[0])):
        region.link(head, before)
    _use(ring, *jobs[:3])
    while ring.driver.pop() is not None:
        pass
    _resume(be, ring, region, 4)
    be.await_used(ring, 4)
    served = _completed(ring)
    check(served == heads[3:], f"chain {heads[3]} alone served again", f"chains {served}")
    be.check_idle(ring)


@area.case(1240, "A region outlives its connection: the next one continues with it", device="blk")
def next_connection(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    for _ in range(3):
        be.serve(ring)
    other = be.reconnect()
    other.negotiate()
    other.share(ring.memory)
    set_region(other, region)
    other.start(ring, base=ring.used_index)
    for _ in range(3):
        other.serve(ring)
    other.stop(ring)
    check(region.header()[4] == 6, "used_idx 6", f"used_idx {region.header()[4]}")


@area.case(
    1241,
    "Requests that were made while no back-end served are served after a reconnect",
    device="blk",
)
def asked_meanwhile(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    be.serve(ring)
    other = be.reconnect()
    job = other.work.post(ring.memory, ring)
    other.negotiate()
    other.share(ring.memory)
    set_region(other, region)
    other.start(ring, base=ring.used_index)
    ring.kick()
    other.await_used(ring, 2)
    other.check_completed(ring, job)


@area.case(1242, "The next connection does not use the region of an earlier one", device="blk")
def not_remembered(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    be.serve(ring)
    other = be.reconnect()
    # It may be written after the completion, until its connection has ended.
    before = bytes(region.view)
    another = other.working_ring()
    other.serve(another)
    other.stop(another)
    check(bytes(region.view) == before, "no write to the old region", "it was written to")


def _refusal(be: BackEnd, message: Inflight, fds: tuple[int, ...]) -> None:
    """The back-end may accept or refuse the region, and must survive it."""
    try:
        how = be.refused(F.SET_INFLIGHT_FD, message.pack(), fds=fds)
    except Failed:
        how = "acknowledged with 0"
    if how == "closed":
        return
    try:
        memory = be.memory()
        ring = be.ring(memory, 0, SIZE)
        be.start(ring)
        be.work.post(memory, ring)
        ring.kick()
        served = ring.await_used(1, be.timeout)
        be.barrier()
    except (Closed, Silent):
        observed(f"{how}, and the connection ended at the start")
    if how == "acknowledged with 0":
        observed(f"{how}, and the ring {'serves' if served else 'does not serve'}")


_WRONG = {
    "more bytes than its file has": Inflight(1 << 20, 0, 1, SIZE),
    "an offset beyond the end of its file": Inflight(2048, 1 << 30, 1, SIZE),
    "too few bytes for its rings": Inflight(64, 0, 1, SIZE),
    "no bytes": Inflight(0, 0, 1, SIZE),
    "no queue": Inflight(2048, 0, 0, SIZE),
    "queues of no descriptors": Inflight(2048, 0, 1, 0),
    "65535 queues of 65535": Inflight(2048, 0, 65535, 65535),
    "an end that overflows": Inflight(1 << 63, 1 << 63, 1, SIZE),
}


@area.each(1250, _WRONG, "A region with {} is refused, or survived", device="blk")
def wrong_regions(be: BackEnd, name: str) -> None:
    be.negotiate()
    fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, 2048)
    _refusal(be, _WRONG[name], (fd,))


@area.case(1260, "SET_INFLIGHT_FD without a descriptor is refused", needs=("REPLY_ACK",))
def no_descriptor(be: BackEnd) -> None:
    be.negotiate()
    be.refused(F.SET_INFLIGHT_FD, Inflight(2048, 0, 1, SIZE).pack())


_ASKED = {"no queue": (0, 64), "queues of no descriptors": (1, 0), "65535 queues": (65535, 1024)}


@area.each(1261, _ASKED, "GET_INFLIGHT_FD for {} is answered, or the connection closed")
def wrong_sizes(be: BackEnd, name: str) -> None:
    be.negotiate()
    try:
        reply = be.ask(F.GET_INFLIGHT_FD, Inflight(0, 0, *_ASKED[name]).pack())
    except Closed:
        return
    # No other reply is specified: a front-end reads an inflight description, whatever came.
    check(len(reply.payload) == 24, "24 bytes in the reply", f"{len(reply.payload)} bytes")
    size = Inflight.unpack(reply.payload).mmap_size
    observed(f"answered with a size of {size} and {len(reply.fds)} descriptors")


_SPOILT = {
    "an unknown version": (8, b"\x07\x00"),
    "another number of descriptors": (10, b"\xff\xff"),
    "a last_batch_head beyond its descriptors": (12, b"\xff\xff"),
    "a used_idx that differs by 32768": (14, b"\x00\x80"),
}


@area.each(1270, _SPOILT, "A region with {} does not crash the back-end", device="blk")
def spoilt(be: BackEnd, name: str) -> None:
    ring, region, _ = _left_over(be, 1)
    region.note({})
    at, data = _SPOILT[name]
    region.view[at : at + len(data)] = data
    try:
        _resume(be, ring, region, 0)
        served = ring.await_used(1, be.timeout)
        be.barrier()
    except WireError:
        observed("it closed the connection")
    observed(f"the ring {'serves' if served else 'does not serve'}")


@area.case(
    1275, "An empty chain that is recorded as in flight does not crash the back-end", device="blk"
)
def no_chain(be: BackEnd) -> None:
    ring, region, _ = _left_over(be, 1)
    region.note({63: 1})
    try:
        _resume(be, ring, region, 1)
        served = ring.await_used(1, be.timeout)
        be.barrier()
    except WireError:
        observed("it closed the connection")
    observed(f"chain 63, of no bytes, was {'completed' if served else 'left'}")


@area.case(
    1280,
    "With GET_VRING_BASE_INFLIGHT a request taken is completed, or recorded and served later",
    spec="VHOST_USER_GET_VRING_BASE; e0822e6085",
    needs=("GET_VRING_BASE_INFLIGHT",),
    device="blk",
)
def left_at_the_stop(be: BackEnd) -> None:
    be.negotiate("GET_VRING_BASE_INFLIGHT")
    _check_left(be, F.GET_VRING_BASE)


@area.case(
    1281,
    "At GET_VRING_BASE_SKIP_DRAIN a request taken is completed, or recorded and served later",
    spec="VHOST_USER_GET_VRING_BASE_SKIP_DRAIN; 1276e6c85d",
    needs=("GET_VRING_BASE_SKIP_DRAIN",),
    device="blk",
)
def left_by_skip_drain(be: BackEnd) -> None:
    be.negotiate("GET_VRING_BASE_INFLIGHT", "GET_VRING_BASE_SKIP_DRAIN")
    _check_left(be, F.GET_VRING_BASE_SKIP_DRAIN)


@area.case(
    1282,
    "Where GET_VRING_BASE_SKIP_DRAIN is negotiated, GET_VRING_BASE still completes all requests",
    spec="VHOST_USER_GET_VRING_BASE; 1276e6c85d",
    needs=("GET_VRING_BASE_SKIP_DRAIN",),
    device="blk",
)
def completed_at_the_stop(be: BackEnd) -> None:
    be.negotiate("GET_VRING_BASE_INFLIGHT", "GET_VRING_BASE_SKIP_DRAIN")
    ring, region, _ = _busy_ring(be)
    base = be.stop(ring)
    used, noted = ring.used_index, len(region.taken())
    check(
        (used, noted) == (base, 0),
        f"all {base} that were taken completed, and none recorded",
        f"{used} completed, {noted} recorded",
    )


def _busy_ring(be: BackEnd) -> tuple[TestRing, Region, list[Job]]:
    """A ring that has completed a request, and was just kicked for many; all of its requests."""
    memory = be.memory()
    region = get_region(be)
    set_region(be, region)
    ring = be.ring(memory, 0, SIZE)
    be.start(ring)
    jobs = [be.work.post(memory, ring)]
    ring.kick()
    be.await_used(ring, 1)
    jobs += [be.work.post(memory, ring) for _ in range(SIZE // 3 - 1)]
    ring.kick()
    return ring, region, jobs


def _check_left(be: BackEnd, by: F) -> None:
    ring, region, jobs = _busy_ring(be)
    base = be.stop(ring, by=by)
    used, noted = ring.used_index, len(region.taken())
    check(
        used + noted == base,
        f"all {base} that were taken completed or recorded",
        f"{used} completed, {noted} recorded",
    )
    _resume(be, ring, region, base)
    be.await_used(ring, len(jobs))
    be.check_idle(ring)
    heads, wanted = sorted(_completed(ring)), sorted(job.head for job in jobs)
    check(heads == wanted, f"chains {wanted}, each once", f"chains {heads}")
