"""VU-B-2106 and up: the end of a disk, ranges of sectors, and lengths in used elements."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import (
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    ProtocolFeature,
)
from vhost_user_conformance.back_end import config_space
from vhost_user_conformance.back_end.cases.data_blk import area
from vhost_user_conformance.back_end.disk import (
    AT,
    disk_ring,
    fill,
    finish,
    read,
    sector,
    status_of,
)
from vhost_user_conformance.back_end.malformed_driver import kick_if_late
from vhost_user_conformance.model.verdict import (
    Failed,
    Severity,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.device_work import (
    BLK_DISCARD,
    BLK_F_DISCARD,
    BLK_F_FLUSH,
    BLK_F_RO,
    BLK_F_WRITE_ZEROES,
    BLK_FLUSH,
    BLK_GET_ID,
    BLK_IN,
    BLK_OUT,
    BLK_UNSUPP,
    BLK_WRITE_ZEROES,
    SECTOR,
    Job,
)
from vhost_user_conformance.peer.memory import MIB, Memory

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import TestRing

_SEGMENT = struct.Struct("<QII")
#: Offsets in struct virtio_blk_config (virtio 1.3, 5.2.4).
_CAPACITY, _MAX_WRITE_ZEROES_SEG = 0, 52
_UNMAP, _UNDEFINED = 1, 1 << 5


def _one(be: BackEnd, ring: TestRing, job: Job) -> int:
    """Have one request served; its status."""
    ring.kick()
    be.await_used(ring, ring.avail_index)
    ring.driver.pop()
    return status_of(ring, job)


def _fails(be: BackEnd, ring: TestRing, kind: int, at: int, data: bytes) -> None:
    """A request that cannot succeed."""
    status = _one(be, ring, be.disk.request(ring.memory, ring, kind, at, read=data))
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")


def _number(be: BackEnd, offset: int, size: int) -> int:
    """A field of the configuration space. Raises `Unsupported` without CONFIG."""
    if ProtocolFeature.CONFIG not in be.acked:
        unsupported("CONFIG is not offered")
    # From offset 0 on: other cases are about offsets.
    return int.from_bytes(config_space.read(be, 0, offset + size)[offset:], "little")


def _writable_ring(be: BackEnd, *bits: int) -> TestRing:
    ring = disk_ring(be, *bits)
    if be.features >> BLK_F_RO & 1:
        unsupported("the disk is read-only")
    return ring


# -- the end


@area.case(2106, "A write beyond the end of the disk fails", device="blk")
def write_behind(be: BackEnd) -> None:
    ring = _writable_ring(be)
    capacity = _number(be, _CAPACITY, 8)
    _fails(be, ring, BLK_OUT, capacity, bytes(SECTOR))
    _fails(be, ring, BLK_OUT, capacity + 77, bytes(2 * SECTOR))
    after = _number(be, _CAPACITY, 8)
    check(after == capacity, f"a capacity of {capacity} still", f"{after}")


@area.case(2107, "A write across the end of the disk fails", device="blk")
def write_across(be: BackEnd) -> None:
    ring = _writable_ring(be)
    _fails(be, ring, BLK_OUT, _number(be, _CAPACITY, 8) - 1, bytes(2 * SECTOR))


_BEHIND = {
    "WRITE_ZEROES": (BLK_WRITE_ZEROES, BLK_F_WRITE_ZEROES),
    "DISCARD": (BLK_DISCARD, BLK_F_DISCARD),
}


@area.each(
    2138,
    _BEHIND,
    "{} across the end of the disk fails",
    device="blk",
    severity=Severity.SHOULD,
)
def range_across(be: BackEnd, name: str) -> None:
    kind, bit = _BEHIND[name]
    ring = _writable_ring(be, bit)
    capacity = _number(be, _CAPACITY, 8)
    for at in (capacity - 1, capacity):
        _fails(be, ring, kind, 0, _SEGMENT.pack(at, 2, 0))


# -- ranges


@area.case(
    2134, "WRITE_ZEROES of several ranges zeroes all of them, and no other sector", device="blk"
)
def several_ranges(be: BackEnd) -> None:
    ring = disk_ring(be, BLK_F_WRITE_ZEROES)
    if _number(be, _MAX_WRITE_ZEROES_SEG, 4) < 2:
        unsupported("it accepts one range per request only")
    fill(be, ring, 12)
    data = _SEGMENT.pack(AT + 1, 2, 0) + _SEGMENT.pack(AT + 7, 3, 0)
    finish(be, ring, [be.disk.request(ring.memory, ring, BLK_WRITE_ZEROES, 0, read=data)])
    zeroes = {1, 2, 7, 8, 9}
    jobs = [read(be, ring, AT + number) for number in range(12)]
    finish(be, ring, jobs)
    for number, job in enumerate(jobs):
        wanted = bytes(SECTOR) if number in zeroes else sector(number + 1)
        check(
            be.disk.data_of(ring.memory, job, SECTOR) == wanted,
            f"{'zeroes' if number in zeroes else 'what was written'} in sector {AT + number}",
            "something else",
        )


_FLAGS = {
    "A discard with the unmap flag": (BLK_DISCARD, BLK_F_DISCARD, _UNMAP),
    "A discard with an undefined flag": (BLK_DISCARD, BLK_F_DISCARD, _UNDEFINED),
    "WRITE_ZEROES with an undefined flag": (
        BLK_WRITE_ZEROES,
        BLK_F_WRITE_ZEROES,
        _UNDEFINED,
    ),
}


@area.each(
    2135,
    _FLAGS,
    "{} has status VIRTIO_BLK_S_UNSUPP",
    device="blk",
    spec="virtio 1.3, 5.2.6.2",
)
def range_flags(be: BackEnd, name: str) -> None:
    kind, bit, flags = _FLAGS[name]
    ring = disk_ring(be, bit)
    data = _SEGMENT.pack(AT, 8, flags)
    status = _one(be, ring, be.disk.request(ring.memory, ring, kind, 0, read=data))
    check(status == BLK_UNSUPP, f"status {BLK_UNSUPP}", f"status {status}")


@area.case(2108, "DISCARD does not change the sectors around its range", device="blk")
def beside_a_discard(be: BackEnd) -> None:
    ring = disk_ring(be, BLK_F_DISCARD)
    fill(be, ring, 24)
    data = _SEGMENT.pack(AT + 8, 8, 0)
    finish(be, ring, [be.disk.request(ring.memory, ring, BLK_DISCARD, 0, read=data)])
    for number in (7, 16):
        job = read(be, ring, AT + number)
        finish(be, ring, [job])
        seen = be.disk.data_of(ring.memory, job, SECTOR)
        check(seen == sector(number + 1), f"sector {AT + number} as it was", f"{seen[:8].hex()}...")


# -- completions


def _kinds(be: BackEnd) -> dict[str, tuple[int, bytes, int]]:
    """Requests: type, data to read, and bytes that are written besides the status."""
    kinds = {"GET_ID": (BLK_GET_ID, b"", 20)}
    if be.driver_features >> BLK_F_FLUSH & 1:
        kinds["a flush"] = BLK_FLUSH, b"", 0
    if not be.features >> BLK_F_RO & 1:
        kinds["a write"] = BLK_OUT, bytes(SECTOR), 0
    return kinds


def _all_kinds(be: BackEnd) -> TestRing:
    flush = be.read_features().features >> BLK_F_FLUSH & 1
    return disk_ring(be, *([BLK_F_FLUSH] if flush else []))


@area.case(2159, "A request of each kind is followed by a call", device="blk")
def called_for(be: BackEnd) -> None:
    ring = _all_kinds(be)
    for _ in range(3):
        for name, (kind, data, room) in _kinds(be).items():
            ring.calls()
            job = be.disk.request(ring.memory, ring, kind, AT if data else 0, read=data, write=room)
            ring.kick()
            check(ring.await_call(be.timeout), f"a call for {name}", "none came")
            be.await_used(ring, ring.avail_index)
            be.check_completed(ring, job._replace(written=None))


@area.case(
    2193,
    "No used element reports more bytes than were written",
    device="blk",
    spec="virtio 1.3, 2.7.8",
)
def written(be: BackEnd) -> None:
    ring = _all_kinds(be)
    fewer: list[str] = []
    for name, (kind, data, room) in _kinds(be).items():
        job = be.disk.request(ring.memory, ring, kind, AT if data else 0, read=data, write=room)
        ring.kick()
        be.await_used(ring, ring.avail_index)
        done = ring.driver.pop()
        if done is None:
            raise Failed("a completion in the used ring", "there is none")
        check(done[1] <= room + 1, f"{room + 1} bytes written by {name}", f"{done[1]} bytes")
        if done[1] <= room:
            fewer.append(f"{name}: {done[1]} of {room + 1} bytes")
        check(status_of(ring, job) == 0, f"status 0 of {name}", f"status {status_of(ring, job)}")
    if fewer:
        observed(f"fewer bytes than were written: {', '.join(fewer)}")


@area.case(
    2194,
    "An indirect table may span two adjacent regions",
    severity=Severity.SHOULD,
    device="blk",
    spec="virtio 1.3, 2.7.5.3",
)
def table_across(be: BackEnd) -> None:
    memory = Memory((2 * MIB, MIB), gap=0)
    be.own(memory.close)
    ring = disk_ring(be, VIRTIO_RING_F_INDIRECT_DESC, memory=memory)
    header, data, status = memory.allocate(16), memory.allocate(SECTOR), memory.allocate(1)
    memory.write(header, struct.pack("<IIQ", BLK_IN, 0, AT))
    memory.write(status, b"\xff")
    table = bytearray(48)
    head = ring.driver.add(
        [(header, 16)],
        [(data, SECTOR), (status, 1)],
        (memory.regions[1].gpa - 16, memoryview(table)),
    )
    memory.write(memory.regions[1].gpa - 16, bytes(table[:16]))
    memory.write(memory.regions[1].gpa, bytes(table[16:]))
    ring.driver.publish()
    finish(be, ring, [Job(head, None, status)])


@area.case(
    2195,
    "A request that is made just when the device enables kicks is served",
    device="blk",
    spec="virtio 1.3, 2.7.10",
)
def just_then(be: BackEnd) -> None:
    ring = disk_ring(be, VIRTIO_RING_F_EVENT_IDX)
    memory = ring.memory
    header, status = memory.allocate(16), memory.allocate(1)
    data = memory.allocate(SECTOR)
    memory.write(header, struct.pack("<IIQ", BLK_IN, 0, 0))
    kick_if_late(be, ring, lambda: ring.driver.add([(header, 16)], [(data, SECTOR), (status, 1)]))
