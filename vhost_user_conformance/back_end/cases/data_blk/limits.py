"""VU-B-2700 and up: sectors that overflow, large ranges, and where the parts of a request lie."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end import config_space
from vhost_user_conformance.back_end.cases.data_blk import area
from vhost_user_conformance.back_end.disk import (
    AT,
    disk_ring,
    fill,
    finish,
    need_writable,
    read,
    sector,
    status_of,
)
from vhost_user_conformance.model.verdict import Severity, check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_WRITE_ZEROES,
    BLK_IN,
    BLK_OUT,
    BLK_WRITE_ZEROES,
    SECTOR,
    Job,
)
from vhost_user_conformance.peer.memory import MIB

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import TestRing

_SEGMENT = struct.Struct("<QII")
#: Offsets in struct virtio_blk_config (virtio 1.3, 5.2.4).
_CAPACITY, _MAX_WRITE_ZEROES_SECTORS = 0, 48
#: The offset in bytes of this sector needs 65 bits, and has 64 zeroes at its end.
_OVERFLOW = 1 << 55
_MARK = 0xA5


def _served(be: BackEnd, ring: TestRing, job: Job) -> tuple[int, int]:
    """Have one request served; its status, and the length in its used element."""
    ring.kick()
    be.await_used(ring, ring.avail_index)
    done = ring.driver.pop()
    return status_of(ring, job), 0 if done is None else done[1]


def _laid_out(ring: TestRing, readable: list[bytes], writable: list[int]) -> tuple[Job, list[int]]:
    """A request with these parts, the last byte of which is the status; where they are written."""
    memory = ring.memory
    parts = []
    for data in readable:
        gpa = memory.allocate(len(data))
        memory.write(gpa, data)
        parts.append((gpa, len(data)))
    places = [memory.allocate(size) for size in writable]
    for gpa, size in zip(places, writable, strict=True):
        memory.write(gpa, bytes([_MARK]) * size)
    status = places[-1] + writable[-1] - 1
    memory.write(status, b"\xff")
    head = ring.driver.add(parts, list(zip(places, writable, strict=True)))
    ring.driver.publish()
    return Job(head, None, status), places


@area.each(
    2700,
    (0, AT),
    "A write to a sector whose offset has more than 64 bits changes no other: 2^55 and {}",
    device="blk",
    spec="virtio 1.3, 5.2.6",
)
def overflow(be: BackEnd, at: int) -> None:
    ring = disk_ring(be)
    need_writable(be)
    data = sector(77)
    job = be.disk.request(ring.memory, ring, BLK_OUT, _OVERFLOW + at, read=data)
    status, _ = _served(be, ring, job)
    there = read(be, ring, at)
    finish(be, ring, [there])
    seen = be.disk.data_of(ring.memory, there, SECTOR)
    check(seen != data, f"sector {at} unchanged", "it was written to")
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")


@area.case(
    2702,
    "A read of a sector whose offset has more than 64 bits fails",
    device="blk",
    spec="virtio 1.3, 5.2.6",
)
def overflow_read(be: BackEnd) -> None:
    ring = disk_ring(be)
    for at in (_OVERFLOW, _OVERFLOW + AT, _OVERFLOW << 1, (1 << 64) - 1):
        status, _ = _served(be, ring, read(be, ring, at))
        check(status not in (0, 0xFF), f"an error for sector {at:#x}", f"status {status}")


@area.case(
    2703,
    "WRITE_ZEROES of a range whose offset has more than 64 bits zeroes nothing",
    device="blk",
    spec="virtio 1.3, 5.2.6",
)
def overflow_zeroes(be: BackEnd) -> None:
    ring = disk_ring(be, BLK_F_WRITE_ZEROES)
    fill(be, ring, 2)
    segment = _SEGMENT.pack(_OVERFLOW + AT, 2, 0)
    job = be.disk.request(ring.memory, ring, BLK_WRITE_ZEROES, 0, read=segment)
    status, _ = _served(be, ring, job)
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")
    there = read(be, ring, AT)
    finish(be, ring, [there])
    seen = be.disk.data_of(ring.memory, there, SECTOR)
    check(seen == sector(1), f"sector {AT} unchanged", "it was zeroed")


@area.case(
    2704,
    "A read that was refused does not report data as written that was not",
    device="blk",
    spec="virtio 1.3, 2.7.8.2",
    severity=Severity.SHOULD,
)
def refused(be: BackEnd) -> None:
    ring = disk_ring(be)
    header = struct.pack("<IIQ", BLK_IN, 0, 1 << 50)
    job, places = _laid_out(ring, [header], [SECTOR, 1])
    status, written = _served(be, ring, job)
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")
    left = ring.memory.read(places[0], SECTOR) == bytes([_MARK]) * SECTOR
    check(
        written <= 1 or not left,
        "a used length of 1 or 0, as no data was written",
        f"{written} bytes",
    )


@area.each(
    2705,
    (SECTOR, 1, SECTOR - 1),
    "The data of a write may follow the header in its descriptor, {} bytes of it",
    device="blk",
    spec="virtio 1.3, 2.7.4",
)
def behind_the_header(be: BackEnd, joined: int) -> None:
    ring = disk_ring(be)
    need_writable(be)
    data = sector(100 + joined)
    header = struct.pack("<IIQ", BLK_OUT, 0, AT + 9)
    pieces = [header + data[:joined], data[joined:]]
    job, _ = _laid_out(ring, [piece for piece in pieces if piece], [1])
    status, _ = _served(be, ring, job)
    check(status == 0, "status 0", f"status {status}")
    there = read(be, ring, AT + 9)
    finish(be, ring, [there])
    seen = be.disk.data_of(ring.memory, there, SECTOR)
    check(seen == data, "the sector as it was written", "other bytes")


@area.case(
    2708,
    "A range behind the header in one descriptor is zeroed",
    device="blk",
    spec="virtio 1.3, 2.7.4",
)
def range_behind_the_header(be: BackEnd) -> None:
    ring = disk_ring(be, BLK_F_WRITE_ZEROES)
    fill(be, ring, 3)
    header = struct.pack("<IIQ", BLK_WRITE_ZEROES, 0, 0)
    job, _ = _laid_out(ring, [header + _SEGMENT.pack(AT + 1, 1, 0)], [1])
    status, _ = _served(be, ring, job)
    check(status == 0, "status 0", f"status {status}")
    for number, wanted in ((0, sector(1)), (1, bytes(SECTOR)), (2, sector(3))):
        there = read(be, ring, AT + number)
        finish(be, ring, [there])
        seen = be.disk.data_of(ring.memory, there, SECTOR)
        check(seen == wanted, f"sector {AT + number} as it should be", "other bytes")


@area.each(
    2709,
    (1, 3, 5),
    "WRITE_ZEROES of {} MiB and a sector zeroes all of them",
    device="blk",
    spec="virtio 1.3, 5.2.6",
)
def large_zeroes(be: BackEnd, mib: int) -> None:
    ring = disk_ring(be, BLK_F_WRITE_ZEROES)
    count = mib * MIB // SECTOR + 1
    space = config_space.read(be, 0, _MAX_WRITE_ZEROES_SECTORS + 4)
    capacity = int.from_bytes(space[_CAPACITY:8], "little")
    limit = int.from_bytes(space[_MAX_WRITE_ZEROES_SECTORS:], "little")
    if AT + count + 1 > capacity or count > limit:
        unsupported(f"is about {count} sectors: it has {capacity}, and {limit} in a range at most")
    probes = (0, count // 2, MIB // SECTOR, count - 1, count)
    for at in probes:
        finish(
            be, ring, [be.disk.request(ring.memory, ring, BLK_OUT, AT + at, read=sector(at + 1))]
        )
    segment = _SEGMENT.pack(AT, count, 0)
    finish(be, ring, [be.disk.request(ring.memory, ring, BLK_WRITE_ZEROES, 0, read=segment)])
    for at in probes:
        there = read(be, ring, AT + at)
        finish(be, ring, [there])
        seen = be.disk.data_of(ring.memory, there, SECTOR)
        wanted = sector(at + 1) if at == count else bytes(SECTOR)
        check(seen == wanted, f"sector {AT} + {at} as it should be", "other bytes")


@area.each(
    2712,
    (1, 2, 3),
    "A write of {} MiB and a sector is read back",
    device="blk",
)
def large_write(be: BackEnd, mib: int) -> None:
    ring = disk_ring(be, memory=be.memory(4 * MIB, 8 * MIB, share=False))
    need_writable(be)
    length = mib * MIB + SECTOR
    capacity = int.from_bytes(config_space.read(be, 0, 8), "little")
    if AT + length // SECTOR > capacity:
        unsupported(f"is about {length // SECTOR} sectors from {AT} on: it has {capacity}")
    data = b"".join(sector(number + 5) for number in range(length // SECTOR))
    memory = ring.memory
    header, status = memory.allocate(16), memory.allocate(1)
    buffer = memory.allocate(length, region=1)
    for kind in (BLK_OUT, BLK_IN):
        memory.write(header, struct.pack("<IIQ", kind, 0, AT))
        memory.write(status, b"\xff")
        memory.write(buffer, data if kind == BLK_OUT else bytes(length))
        out = [(buffer, length)] if kind == BLK_OUT else []
        back = [(buffer, length)] if kind == BLK_IN else []
        job = Job(ring.driver.add([(header, 16), *out], [*back, (status, 1)]), None, status)
        ring.driver.publish()
        seen, _ = _served(be, ring, job)
        check(seen == 0, "status 0", f"status {seen}")
    check(memory.read(buffer, length) == data, "the bytes that were written", "other bytes")


@area.case(
    2715,
    "A request whose type has other upper bits than a read is not served as one",
    device="blk",
    spec="virtio 1.3, 5.2.6",
)
def upper_bits(be: BackEnd) -> None:
    ring = disk_ring(be)
    for bit in (8, 16, 30):
        job = be.disk.request(ring.memory, ring, 1 << bit | BLK_IN, 0, write=SECTOR)
        status, _ = _served(be, ring, job)
        check(status == 2, f"VIRTIO_BLK_S_UNSUPP of type {1 << bit:#x}", f"status {status}")
