"""VU-B-21xx: requests to a disk, valid and invalid."""

from __future__ import annotations

import struct

from vhost_user.features import VIRTIO_F_VERSION_1, VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.back_end.cases.data_blk import area
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd
from vhost_user_conformance.back_end.malformed_driver import INDIRECT, NEXT, WRITE, spoil, survives
from vhost_user_conformance.model.verdict import Severity, check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_FLUSH,
    BLK_F_RO,
    BLK_FLUSH,
    BLK_GET_ID,
    BLK_IN,
    BLK_OUT,
    BLK_UNSUPP,
    SECTOR,
    Job,
)
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory, TestRing


def _disk(be: BackEnd, *, writes: bool = False, size: int = 64) -> TestRing:
    ring = be.working_ring(size=size)
    if writes and be.features >> BLK_F_RO & 1:
        unsupported("the disk is read-only")
    return ring


def _do(be: BackEnd, ring: TestRing, kind: int, sector: int, **options: object) -> tuple[Job, int]:
    """One request, with its status."""
    index = ring.used_index + 1
    job = be.disk.request(ring.memory, ring, kind, sector, **options)  # type: ignore[arg-type]
    ring.kick()
    be.await_used(ring, index)
    ring.driver.pop()
    assert job.status is not None  # noqa: S101  a disk's job has one
    return job, ring.memory.read(job.status, 1)[0]


def _read_back(be: BackEnd, ring: TestRing, sector: int, size: int) -> bytes:
    job, status = _do(be, ring, BLK_IN, sector, write=size)
    check(status == 0, "status 0 of a read", f"status {status}")
    return be.disk.data_of(ring.memory, job, size)


@area.each(
    2101, (512, 1024, 4096, 65536, 262144), "{} bytes that were written are read back", device="blk"
)
def written_and_read(be: BackEnd, size: int) -> None:
    ring = _disk(be, writes=True)
    data = bytes((n * 7 + size) & 0xFF for n in range(size))
    _, status = _do(be, ring, BLK_OUT, 8, read=data)
    check(status == 0, "status 0 of a write", f"status {status}")
    check(_read_back(be, ring, 8, size) == data, "the bytes that were written", "others")


@area.each(
    2110, (0, 1, 7, 8, 100, 1000), "Sector {} is read from where it was written", device="blk"
)
def sectors(be: BackEnd, sector: int) -> None:
    ring = _disk(be, writes=True)
    data = sector.to_bytes(4, "little") * (SECTOR // 4)
    _do(be, ring, BLK_OUT, sector, read=data)
    check(_read_back(be, ring, sector, SECTOR) == data, "the sector that was written", "another")


@area.case(2120, "VIRTIO_BLK_T_FLUSH is served where it is offered", device="blk")
def flush(be: BackEnd) -> None:
    ring = _disk(be)
    if not be.features >> BLK_F_FLUSH & 1:
        unsupported("VIRTIO_BLK_F_FLUSH is not offered")
    _, status = _do(be, ring, BLK_FLUSH, 0)
    check(status == 0, "status 0", f"status {status}")


@area.case(2121, "VIRTIO_BLK_T_GET_ID fills 20 bytes", device="blk")
def get_id(be: BackEnd) -> None:
    ring = _disk(be)
    # A device may end the name with a zero, and not write the bytes after it.
    first, again = (_id_over(be, ring, filler).split(b"\0")[0] for filler in (b"\xaa", b"\x55"))
    check(first == again, f"the same name twice: {first!r}", f"{again!r}")


def _id_over(be: BackEnd, ring: TestRing, filler: bytes) -> bytes:
    """The bytes of GET_ID, in a buffer that was filled before."""
    memory = ring.memory
    header, data, status = _header(memory, BLK_GET_ID, 0), memory.allocate(20), memory.allocate(1)
    memory.write(data, filler * 20)
    memory.write(status, b"\xff")
    _submit(be, ring, [(header, 16)], [(data, 20), (status, 1)])
    seen = memory.read(status, 1)[0]
    check(seen == 0, "status 0", f"status {seen}")
    return memory.read(data, 20)


@area.case(2122, "A request of an unknown type has status VIRTIO_BLK_S_UNSUPP", device="blk")
def unknown_type(be: BackEnd) -> None:
    ring = _disk(be)
    _, status = _do(be, ring, 77, 0, write=SECTOR)
    check(status == BLK_UNSUPP, f"status {BLK_UNSUPP}", f"status {status}")


@area.case(2123, "A read beyond the end of the disk fails", device="blk")
def beyond_the_end(be: BackEnd) -> None:
    ring = _disk(be)
    _, status = _do(be, ring, BLK_IN, 1 << 40, write=SECTOR)
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")


@area.case(2124, "A read across the end of the 64-bit sector range fails", device="blk")
def wrapping(be: BackEnd) -> None:
    ring = _disk(be)
    _, status = _do(be, ring, BLK_IN, (1 << 64) - 1, write=2 * SECTOR)
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")


@area.case(2125, "A disk continues after a request that failed", device="blk")
def after_a_failure(be: BackEnd) -> None:
    ring = _disk(be)
    _do(be, ring, BLK_IN, 1 << 40, write=SECTOR)
    check(len(_read_back(be, ring, 0, SECTOR)) == SECTOR, "a sector", "none")


@area.each(2130, (2, 3, 8, 30), "Data may be split over {} descriptors", device="blk")
def scattered(be: BackEnd, parts: int) -> None:
    ring = _disk(be, writes=True)
    data = bytes(range(256)) * (2 * parts)
    memory = ring.memory
    header, status = _header(memory, BLK_OUT, 16), memory.allocate(1)
    pieces = []
    for part in range(parts):
        gpa = memory.allocate(SECTOR, align=PAGE)
        memory.write(gpa, data[part * SECTOR : (part + 1) * SECTOR])
        pieces.append((gpa, SECTOR))
    _submit(be, ring, [(header, 16), *pieces], [(status, 1)])
    check(_read_back(be, ring, 16, len(data)) == data, "the bytes in their order", "others")


@area.case(2140, "The header may be split over descriptors", device="blk", spec="virtio 1.3, 2.7.4")
def split_header(be: BackEnd) -> None:
    ring = _disk(be)
    memory = ring.memory
    header = _header(memory, BLK_IN, 0)
    data, status = memory.allocate(SECTOR), memory.allocate(1)
    _submit(be, ring, [(header, 8), (header + 8, 8)], [(data, SECTOR), (status, 1)])
    check(memory.read(status, 1) == b"\0", "status 0", f"status {memory.read(status, 1)!r}")


@area.case(
    2141, "The status byte may share a descriptor with data", device="blk", spec="virtio 1.3, 2.7.4"
)
def shared_status(be: BackEnd) -> None:
    ring = _disk(be)
    memory = ring.memory
    header, data = _header(memory, BLK_IN, 0), memory.allocate(SECTOR + 1)
    memory.write(data + SECTOR, b"\xff")
    _submit(be, ring, [(header, 16)], [(data, SECTOR + 1)])
    status = memory.read(data + SECTOR, 1)[0]
    check(status == 0, "status 0 in the last byte", f"{status}")


@area.case(2142, "Requests in indirect tables are served", device="blk", spec="virtio 1.3, 2.7.5.3")
def indirect(be: BackEnd) -> None:
    be.read_features()
    if not be.features >> VIRTIO_RING_F_INDIRECT_DESC & 1:
        unsupported("VIRTIO_F_INDIRECT_DESC is not offered")
    be.negotiate(features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | 1 << VIRTIO_RING_F_INDIRECT_DESC)
    ring = be.ring(be.memory(), 0)
    be.start(ring)
    for _ in range(70):
        _, status = _do(be, ring, BLK_IN, 0, write=SECTOR, indirect=True)
        check(status == 0, "status 0", f"status {status}")


@area.case(2143, "Each of many simultaneous requests is completed once", device="blk")
def many(be: BackEnd) -> None:
    ring = _disk(be, size=256)
    jobs = [be.disk.request(ring.memory, ring, BLK_IN, n, write=SECTOR) for n in range(64)]
    ring.kick()
    be.await_used(ring, 64)
    done = [ring.driver.pop() for _ in jobs]
    heads = sorted(entry[0] for entry in done if entry is not None)
    check(heads == sorted(job.head for job in jobs), "each request once", f"heads {heads}")


@area.case(
    2144, "The used element of a read has the number of bytes that were written", device="blk"
)
def written_length(be: BackEnd) -> None:
    be.serve(_disk(be))


def _header(memory: Memory, kind: int, sector: int) -> int:
    gpa = memory.allocate(16)
    memory.write(gpa, struct.pack("<IIQ", kind, 0, sector))
    return gpa


def _submit(
    be: BackEnd,
    ring: TestRing,
    readable: list[tuple[int, int]],
    writable: list[tuple[int, int]],
) -> None:
    index = ring.used_index + 1
    ring.driver.add(readable, writable)
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, index)
    ring.driver.pop()


_BAD = {
    "a chain that loops": ({0: (0, 16, NEXT, 1), 1: (0, 16, NEXT, 0)}, 0),
    "a chain that leaves the descriptor table": ({0: (0, 16, NEXT, 9999)}, 0),
    "a head beyond the descriptor table": ({}, 9999),
    "a buffer outside of memory": ({0: (1 << 50, 16, NEXT, 1), 1: (1 << 50, 513, WRITE, 0)}, 0),
    "a buffer of 4 GiB": ({0: (MIB, 0xFFFFFFFF, 0, 0)}, 0),
    "a chain of a short header only": ({0: (MIB, 3, 0, 0)}, 0),
    "a chain without a status byte": ({0: (MIB, 16, 0, 0)}, 0),
    "an indirect table outside of memory": ({0: (1 << 50, 64, INDIRECT, 0)}, 0),
    "an indirect table of 7 bytes": ({0: (MIB, 7, INDIRECT, 0)}, 0),
}


@area.each(2160, _BAD, "{} does not crash the back-end", device="blk", severity=Severity.SHOULD)
def bad_chains(be: BackEnd, name: str) -> None:
    ring = _disk(be)
    entries, head = _BAD[name]
    spoil(ring, entries, head)
    survives(be, ring, name)


@area.case(2180, "An available index that is far ahead does not crash the back-end", device="blk")
def index_far_ahead(be: BackEnd) -> None:
    ring = _disk(be)
    ring.memory.write(ring.avail + 2, struct.pack("<H", 40000))
    ring.kick()
    survives(be, ring, "an available index of 40000")
