"""VU-B-2145 and up: a disk's requests in all layouts and batches that a ring allows."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.back_end.cases.data_blk import area
from vhost_user_conformance.back_end.connection import severity_of_size
from vhost_user_conformance.back_end.disk import (
    AT,
    disk_ring,
    fill,
    finish,
    in_batches,
    need_writable,
    read,
    sector,
    status_of,
)
from vhost_user_conformance.model.verdict import Severity, check, observed
from vhost_user_conformance.peer.device_work import (
    BLK_F_FLUSH,
    BLK_FLUSH,
    BLK_IN,
    BLK_OUT,
    SECTOR,
    Job,
)
from vhost_user_conformance.peer.memory import MIB, Memory, TestRing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.back_end.connection import BackEnd

_IN_ORDER = 35
_INDIRECTLY = "virtio 1.3, 2.7.5.3"


def _all_right(be: BackEnd, ring: TestRing, jobs: Sequence[Job], sectors: Sequence[int]) -> None:
    """Each read returned its own sector."""
    for job, number in zip(jobs, sectors, strict=True):
        data = be.disk.data_of(ring.memory, job, SECTOR)
        check(data == sector(number + 1), f"sector {AT + number} in chain {job.head}", "another")


# -- rings


@area.each(
    2145,
    (4, 8, 32, 256, 1024),
    "A ring of {} serves while its indices wrap around its size twice",
    device="blk",
    severity=severity_of_size,
)
def rounds(be: BackEnd, size: int) -> None:
    ring = disk_ring(be, size=size)
    memory = ring.memory
    header, data, status = memory.allocate(16), memory.allocate(SECTOR), memory.allocate(1)
    for _ in range(2 * size + 1):
        memory.write(status, b"\xff")
        head = ring.driver.add([(header, 16)], [(data, SECTOR), (status, 1)])
        ring.driver.publish()
        finish(be, ring, [Job(head, None, status)])


@area.case(2150, "A ring of 2 serves requests in indirect tables", device="blk", spec=_INDIRECTLY)
def smallest(be: BackEnd) -> None:
    ring = disk_ring(be, VIRTIO_RING_F_INDIRECT_DESC, size=2)
    for _ in range(7):
        finish(be, ring, [read(be, ring, 0, indirect=True) for _ in range(2)])


@area.case(
    2151,
    "A full ring of 1024 requests is served after one kick",
    device="blk",
    severity=Severity.SHOULD,
)
def full(be: BackEnd) -> None:
    ring = disk_ring(be, VIRTIO_RING_F_INDIRECT_DESC, size=1024)
    for _ in range(2):
        finish(be, ring, [read(be, ring, 0, indirect=True) for _ in range(1024)])


@area.case(2152, "Both indices wrap at 65535, and each read returns its sector", device="blk")
def wraps(be: BackEnd) -> None:
    ring = disk_ring(be, start=65500)
    fill(be, ring, 16)
    for _ in range(6):
        sectors = range(16)
        jobs = [read(be, ring, AT + number) for number in sectors]
        finish(be, ring, jobs)
        _all_right(be, ring, jobs, sectors)
    base = be.stop(ring)
    wanted = 65500 + 97 & 0xFFFF
    check(base == wanted, f"base {wanted}", f"base {base}")


# -- the order of completions


@area.case(2153, "Completions in any order each have the head of their own request", device="blk")
def any_order(be: BackEnd) -> None:
    flush = be.read_features().features >> BLK_F_FLUSH & 1
    ring = disk_ring(be, *([BLK_F_FLUSH] if flush else []), size=256)
    fill(be, ring, 24)
    jobs, reads = [], []
    for number in range(24):
        job = read(be, ring, AT + number)
        jobs.append(job)
        reads.append(job)
        if be.driver_features >> BLK_F_FLUSH & 1 and number % 4 == 0:
            jobs.append(be.disk.request(ring.memory, ring, BLK_FLUSH, 0))
        if number % 6 == 0:
            jobs.append(be.disk.request(ring.memory, ring, BLK_OUT, AT + 4096, read=bytes(1 << 15)))
    heads = finish(be, ring, jobs)
    _all_right(be, ring, reads, range(24))
    if heads != [job.head for job in jobs]:
        observed("completed out of order, each one correctly")


@area.case(
    2154,
    "With VIRTIO_F_IN_ORDER requests complete in the order in which they were made",
    device="blk",
    spec="virtio 1.3, 2.7.9",
)
def in_order(be: BackEnd) -> None:
    ring = disk_ring(be, _IN_ORDER, size=256)
    jobs = [read(be, ring, number) for number in range(40)]
    ring.kick()
    be.await_used(ring, 40)
    in_batches(ring, [job.head for job in jobs])


@area.case(2155, "Header, data and status may lie in different regions", device="blk")
def regions(be: BackEnd) -> None:
    memory = be.memory(MIB, MIB, MIB, share=False)
    ring = disk_ring(be, memory=memory)
    for where in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        header, data, status = (
            memory.allocate(size, region=region)
            for size, region in zip((16, SECTOR, 1), where, strict=True)
        )
        memory.write(status, b"\xff")
        job = Job(ring.driver.add([(header, 16)], [(data, SECTOR), (status, 1)]), None, status)
        ring.driver.publish()
        finish(be, ring, [job])


@area.case(
    2156,
    "A buffer that spans two adjacent regions is used",
    severity=Severity.SHOULD,
    device="blk",
)
def across(be: BackEnd) -> None:
    memory = Memory((2 * MIB, MIB), gap=0)
    be.own(memory.close)
    ring = disk_ring(be, memory=memory)
    fill(be, ring, 4)
    edge = memory.regions[1].gpa
    header, status, at = memory.allocate(16), memory.allocate(1), edge - 3 * SECTOR // 2
    memory.write(header, struct.pack("<IIQ", BLK_IN, 0, AT))
    memory.write(status, b"\xff")
    job = Job(ring.driver.add([(header, 16)], [(at, 4 * SECTOR), (status, 1)]), None, status)
    ring.driver.publish()
    finish(be, ring, [job])
    data = memory.read(at, edge - at) + memory.read(edge, 4 * SECTOR - (edge - at))
    wanted = b"".join(sector(number + 1) for number in range(4))
    check(data == wanted, "the four sectors, in both regions", "others")


@area.case(2157, "Status and data may be at odd addresses", device="blk")
def unaligned(be: BackEnd) -> None:
    ring = disk_ring(be)
    fill(be, ring, 2)
    memory = ring.memory
    base = memory.allocate(4096) + 1
    memory.write(base, struct.pack("<IIQ", BLK_IN, 0, AT + 1))
    memory.write(base + 16 + SECTOR, b"\xff")
    writable = [(base + 16, SECTOR), (base + 16 + SECTOR, 1)]
    job = Job(ring.driver.add([(base, 16)], writable), None, base + 16 + SECTOR)
    ring.driver.publish()
    finish(be, ring, [job])
    check(memory.read(base + 16, SECTOR) == sector(2), "the sector", "something else")


def _segments(be: BackEnd, ring: TestRing, count: int, *, indirect: bool) -> None:
    """Read this number of sectors, each into a buffer of its own."""
    memory = ring.memory
    header, status = memory.allocate(16), memory.allocate(1)
    memory.write(header, struct.pack("<IIQ", BLK_IN, 0, AT))
    memory.write(status, b"\xff")
    pieces = [(memory.allocate(SECTOR), SECTOR) for _ in range(count)]
    table = None
    if indirect:
        gpa = memory.allocate(16 * (count + 2))
        table = gpa, memory.view(gpa, 16 * (count + 2))
    head = ring.driver.add([(header, 16)], [*pieces, (status, 1)], table)
    ring.driver.publish()
    finish(be, ring, [Job(head, None, status)])
    for number, piece in enumerate(pieces):
        data = memory.read(*piece)
        check(data == sector(number + 1), f"sector {AT + number} in its buffer", "another")


@area.each(2190, (4, 16, 128), "A chain of all {} descriptors of its ring is served", device="blk")
def longest_chain(be: BackEnd, size: int) -> None:
    ring = disk_ring(be, size=size)
    fill(be, ring, size - 2)
    for _ in range(3):
        _segments(be, ring, size - 2, indirect=False)


@area.each(
    2181,
    (4, 64, 128),
    "An indirect table as long as its ring of {} is served",
    device="blk",
    spec=_INDIRECTLY,
)
def longest_table(be: BackEnd, size: int) -> None:
    ring = disk_ring(be, VIRTIO_RING_F_INDIRECT_DESC, size=size)
    fill(be, ring, size - 2)
    _segments(be, ring, size - 2, indirect=True)


@area.case(2184, "Direct and indirect requests may be mixed", device="blk", spec=_INDIRECTLY)
def mixed(be: BackEnd) -> None:
    ring = disk_ring(be, VIRTIO_RING_F_INDIRECT_DESC)
    fill(be, ring, 12)
    for _ in range(8):
        jobs = [read(be, ring, AT + n, indirect=n % 2 == 0) for n in range(12)]
        finish(be, ring, jobs)
        _all_right(be, ring, jobs, range(12))


def _ask_for_nothing(be: BackEnd, ring: TestRing, kind: int, sector: int) -> None:
    """A request of no data, which needs a status."""
    job = be.disk.request(ring.memory, ring, kind, sector)
    ring.kick()
    be.await_used(ring, 1)
    status = status_of(ring, job)
    check(status != 0xFF, "a status", "none was written")
    if status:
        observed(f"status {status}")


@area.case(2185, "A read of 0 bytes completes", device="blk", severity=Severity.SHOULD)
def read_nothing(be: BackEnd) -> None:
    ring = disk_ring(be)
    _ask_for_nothing(be, ring, BLK_IN, 0)


@area.case(2186, "A write of 0 bytes completes", device="blk", severity=Severity.SHOULD)
def write_nothing(be: BackEnd) -> None:
    ring = disk_ring(be)
    need_writable(be)
    _ask_for_nothing(be, ring, BLK_OUT, AT)
