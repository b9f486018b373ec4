"""VU-B-2126 and up: when a disk is kicked and calls, rare requests, and invalid chains."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
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
from vhost_user_conformance.back_end.malformed_driver import (
    INDIRECT,
    NEXT,
    WRITE,
    Entry,
    kick_if_asked,
    spoil,
    survives,
    write_table,
)
from vhost_user_conformance.model.verdict import Severity, check
from vhost_user_conformance.peer.device_work import (
    BLK_DISCARD,
    BLK_F_DISCARD,
    BLK_F_RO,
    BLK_F_WRITE_ZEROES,
    BLK_OUT,
    BLK_WRITE_ZEROES,
    SECTOR,
)
from vhost_user_conformance.peer.memory import MIB

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import TestRing

_SEGMENT = struct.Struct("<QII")


# -- notifications


def _spare_kicks(be: BackEnd, ring: TestRing) -> None:
    memory = ring.memory

    def add() -> int:
        header, data, status = memory.allocate(16), memory.allocate(SECTOR), memory.allocate(1)
        return ring.driver.add([(header, 16)], [(data, SECTOR), (status, 1)])

    kick_if_asked(be, ring, add, lambda _head: ring.driver.pop())


@area.case(
    2187,
    "A driver may kick only while the used ring does not have NO_NOTIFY",
    device="blk",
    spec="virtio 1.3, 2.7.13.4",
)
def kicks_wanted(be: BackEnd) -> None:
    _spare_kicks(be, disk_ring(be))


@area.case(
    2188,
    "With VIRTIO_F_EVENT_IDX a driver may kick only at avail_event",
    device="blk",
    spec="virtio 1.3, 2.7.10",
)
def kicks_at_event(be: BackEnd) -> None:
    _spare_kicks(be, disk_ring(be, VIRTIO_RING_F_EVENT_IDX))


@area.case(
    2189,
    "With VIRTIO_F_EVENT_IDX a batch that passes used_event is followed by a call",
    device="blk",
    spec="virtio 1.3, 2.7.7",
)
def called_in_batch(be: BackEnd) -> None:
    ring = disk_ring(be, VIRTIO_RING_F_EVENT_IDX)
    for turn in range(1, 6):
        ring.calls()
        at = 8 * (turn - 1) + 4
        ring.memory.write(ring.avail + 4 + 2 * ring.size, struct.pack("<H", at))
        jobs = [read(be, ring, number) for number in range(8)]
        ring.kick()
        check(ring.await_call(be.timeout), "a call when used_event is passed", "none came")
        finish(be, ring, jobs)


# -- other requests


@area.case(2126, "Discarded sectors can be read, where DISCARD is offered", device="blk")
def discard(be: BackEnd) -> None:
    ring = disk_ring(be, BLK_F_DISCARD)
    fill(be, ring, 8)
    segment = _SEGMENT.pack(AT, 8, 0)
    finish(be, ring, [be.disk.request(ring.memory, ring, BLK_DISCARD, 0, read=segment)])
    finish(be, ring, [read(be, ring, AT)])


@area.each(2127, (0, 1), "Sectors are zeroes after WRITE_ZEROES, unmap {}", device="blk")
def write_zeroes(be: BackEnd, unmap: int) -> None:
    ring = disk_ring(be, BLK_F_WRITE_ZEROES)
    fill(be, ring, 8)
    segment = _SEGMENT.pack(AT + 2, 4, unmap)
    finish(be, ring, [be.disk.request(ring.memory, ring, BLK_WRITE_ZEROES, 0, read=segment)])
    jobs = [read(be, ring, AT + number) for number in range(8)]
    finish(be, ring, jobs)
    for number, job in enumerate(jobs):
        wanted = bytes(SECTOR) if 2 <= number < 6 else sector(number + 1)
        data = be.disk.data_of(ring.memory, job, SECTOR)
        what = "zeroes" if 2 <= number < 6 else "what was written"
        check(data == wanted, f"{what} in sector {AT + number}", f"{data[:8].hex()}...")


@area.case(2129, "A read-only disk refuses writes", device="blk")
def refuses(be: BackEnd) -> None:
    ring = disk_ring(be, BLK_F_RO)
    job = be.disk.request(ring.memory, ring, BLK_OUT, 0, read=bytes(SECTOR))
    ring.kick()
    be.await_used(ring, 1)
    status = status_of(ring, job)
    check(status not in (0, 0xFF), "an error in the status byte", f"status {status}")


# -- invalid chains

#: Guest address of an indirect table.
_TABLE = MIB + (1 << 20) + (1 << 19)
_HEAD = (MIB, 16, NEXT, 1)
_STATUS = (MIB + 4096, 1, WRITE, 0)
#: Descriptors in the ring, and in the indirect table.
_BAD: dict[str, tuple[dict[int, Entry], list[Entry]]] = {
    "a descriptor of no bytes in a chain": (
        {0: _HEAD, 1: (MIB, 0, NEXT, 2), 2: _STATUS},
        [],
    ),
    "a writable buffer before a readable one": (
        {0: (MIB + 4096, SECTOR, WRITE | NEXT, 1), 1: (MIB, 16, NEXT, 2), 2: _STATUS},
        [],
    ),
    "a chain that points at itself": ({0: (MIB, 16, NEXT, 0)}, []),
    "a long loop": ({n: (MIB, 16, NEXT, (n + 1) % 64) for n in range(64)}, []),
    "an indirect table that loops": (
        {0: (_TABLE, 32, INDIRECT, 0)},
        [(MIB, 16, NEXT, 1), (MIB, 16, NEXT, 0)],
    ),
    "an indirect table whose chain leaves the table": (
        {0: (_TABLE, 32, INDIRECT, 0)},
        [(MIB, 16, NEXT, 77), (MIB, 16, 0, 0)],
    ),
    "an indirect table in an indirect table": (
        {0: (_TABLE, 32, INDIRECT, 0)},
        [(_TABLE, 32, INDIRECT, 0), _STATUS],
    ),
    "an indirect table of no bytes": ({0: (_TABLE, 0, INDIRECT, 0)}, []),
    "an indirect table with NEXT": (
        {0: (_TABLE, 32, INDIRECT | NEXT, 1), 1: _STATUS},
        [_HEAD, _STATUS],
    ),
    "a buffer beyond the end of memory": ({0: _HEAD, 1: (5 * MIB - 100, 513, WRITE, 0)}, []),
    "a buffer whose end exceeds 64 bits": (
        {0: _HEAD, 1: ((1 << 64) - 100, 513, WRITE, 0)},
        [],
    ),
}


@area.each(2169, _BAD, "{} does not crash a disk", device="blk", severity=Severity.SHOULD)
def bad_chains(be: BackEnd, name: str) -> None:
    chain, table = _BAD[name]
    ring = disk_ring(be, *([VIRTIO_RING_F_INDIRECT_DESC] if table or "indirect" in name else []))
    write_table(ring, _TABLE, table)
    spoil(ring, chain)
    survives(be, ring, name)
