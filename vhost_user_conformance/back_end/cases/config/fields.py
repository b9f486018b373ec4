"""VU-B-0985 and up: a device does what its configuration reports."""

from __future__ import annotations

import struct
from typing import NamedTuple

from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user_conformance.back_end.cases.config import area
from vhost_user_conformance.back_end.config_space import asked, contents, read
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F
from vhost_user_conformance.model.verdict import Failed, Severity, check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_BLK_SIZE,
    BLK_F_CONFIG_WCE,
    BLK_F_FLUSH,
    BLK_F_MQ,
    BLK_F_SEG_MAX,
    BLK_FLUSH,
    BLK_IN,
    NET_F_MAC,
    NET_F_MQ,
    NET_F_MTU,
    SECTOR,
)
from vhost_user_conformance.peer.wire import Closed


class Field(NamedTuple):
    """A field: the feature bit that it needs, or None; its offset, and how it is packed."""

    feature: int | None
    offset: int
    layout: struct.Struct


_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
#: virtio 1.3, 5.2.4: of a disk.
_CAPACITY = Field(None, 0, _U64)
_SEG_MAX = Field(BLK_F_SEG_MAX, 12, _U32)
_BLK_SIZE = Field(BLK_F_BLK_SIZE, 20, _U32)
_NUM_QUEUES = Field(BLK_F_MQ, 34, _U16)
_WRITEBACK = 32
#: virtio 1.3, 5.1.4: of a NIC.
_MAC_BYTES = 6
_PAIRS = Field(NET_F_MQ, 8, _U16)
_MTU = Field(NET_F_MTU, 10, _U16)

_DISK, _NIC = "virtio 1.3, 5.2.4", "virtio 1.3, 5.1.4"


def _value(be: BackEnd, field: Field) -> int:
    """The value of a field; all bytes up to it are read, as QEMU does, so that no offset is needed.

    Raises:
        Unsupported: the feature that it belongs to is not offered.
    """
    if field.feature is not None and not be.features >> field.feature & 1:
        unsupported(f"feature bit {field.feature} is not offered")
    space = read(be, 0, field.offset + field.layout.size)
    value: int = field.layout.unpack_from(space, field.offset)[0]
    return value


def _status(be: BackEnd, sector: int) -> int:
    """The status of reading a sector, on a ring of its own."""
    ring = be.ring(be.memory(), 0)
    be.start(ring)
    job = be.disk.request(ring.memory, ring, BLK_IN, sector, write=SECTOR)
    ring.kick()
    be.await_used(ring, 1)
    be.stop(ring)
    assert job.status is not None  # noqa: S101  a disk's job has one
    return ring.memory.read(job.status, 1)[0]


@area.case(985, "The last sector of a disk's capacity can be read", device="blk")
def last_sector(be: BackEnd) -> None:
    be.negotiate()
    capacity = _value(be, _CAPACITY)
    check(capacity > 0, "a capacity", "0 sectors")
    status = _status(be, capacity - 1)
    check(status == 0, f"status 0 of sector {capacity - 1}", f"status {status}")


@area.case(986, "A read beyond a disk's capacity fails", device="blk", spec=_DISK)
def capacity(be: BackEnd) -> None:
    be.negotiate()
    sectors = _value(be, _CAPACITY)
    status = _status(be, sectors)
    check(status not in (0, 0xFF), f"an error of sector {sectors}", f"status {status}")


@area.case(987, "A disk's num_queues is at most the number of queues", device="blk", spec=_DISK)
def num_queues(be: BackEnd) -> None:
    be.negotiate("MQ")
    queues = _value(be, _NUM_QUEUES)
    there = be.ask_u64(F.GET_QUEUE_NUM)
    check(1 <= queues <= there, f"1 to {there} queues, as by GET_QUEUE_NUM", f"{queues}")


@area.case(
    988,
    "A disk's block size is a power of two of 512 bytes or more",
    severity=Severity.SHOULD,
    device="blk",
    spec=_DISK,
)
def block_size(be: BackEnd) -> None:
    be.negotiate()
    size = _value(be, _BLK_SIZE)
    check(size >= SECTOR and not size & (size - 1), "512, 1024, 2048, ...", f"{size}")


@area.case(989, "A request of seg_max segments is served", device="blk", spec=_DISK)
def seg_max(be: BackEnd) -> None:
    be.negotiate()
    segments = _value(be, _SEG_MAX)
    check(segments >= 1, "a segment or more", f"{segments}")
    count = min(segments, 254)
    ring = be.ring(be.memory(), 0, 256)
    be.start(ring)
    memory = ring.memory
    header, status = memory.allocate(16), memory.allocate(1)
    memory.write(status, b"\xff")
    pieces = [(memory.allocate(SECTOR), SECTOR) for _ in range(count)]
    ring.driver.add([(header, 16)], [*pieces, (status, 1)])
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, 1)
    came = memory.read(status, 1)[0]
    check(came == 0, f"status 0 with {count} segments", f"status {came}")


@area.case(
    990,
    "A disk's write cache can be switched where VIRTIO_BLK_F_CONFIG_WCE is offered",
    device="blk",
    spec="virtio 1.3, 5.2.5.2; VHOST_USER_SET_CONFIG",
    needs=("REPLY_ACK",),
)
def write_cache(be: BackEnd) -> None:
    be.read_features()
    if not be.features >> BLK_F_CONFIG_WCE & 1:
        unsupported("VIRTIO_BLK_F_CONFIG_WCE is not offered")
    be.negotiate(
        features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | 1 << BLK_F_CONFIG_WCE | 1 << BLK_F_FLUSH
    )
    ring = be.ring(be.memory(), 0)
    be.start(ring)
    before = read(be, 0, _WRITEBACK + 1)[_WRITEBACK]
    for value in (0, 1, before):
        be.accepted(F.SET_CONFIG, asked(_WRITEBACK, 1, data=bytes([value])))
        now = read(be, 0, _WRITEBACK + 1)[_WRITEBACK]
        check(now == value, f"writeback {value}, which was written", f"{now}")
        be.serve(ring)
        job = be.disk.request(ring.memory, ring, BLK_FLUSH, 0)
        ring.kick()
        be.await_used(ring, ring.avail_index)
        be.check_completed(ring, job)


@area.case(
    991,
    "After a write cache was switched the next connection reads the new mode, or the initial one",
    device="blk",
    spec="VHOST_USER_SET_CONFIG",
)
def write_cache_kept(be: BackEnd) -> None:
    be.negotiate()
    if not be.features >> BLK_F_CONFIG_WCE & 1:
        unsupported("VIRTIO_BLK_F_CONFIG_WCE is not offered")
    before = read(be, 0, _WRITEBACK + 1)
    be.accepted(F.SET_CONFIG, asked(_WRITEBACK, 1, data=bytes([1 - before[_WRITEBACK]])))
    other = be.reconnect().negotiate()
    try:
        after = read(other, 0, _WRITEBACK + 1)
        check(after[:_WRITEBACK] == before[:_WRITEBACK], "all other fields unchanged", after.hex())
        check(after[_WRITEBACK] in (0, 1), "writeback 0 or 1", f"{after[_WRITEBACK]}")
    finally:
        other.send(F.SET_CONFIG, asked(_WRITEBACK, 1, data=before[_WRITEBACK:]))
        other.barrier()


@area.case(995, "A NIC's MAC address is a unicast address other than 0", device="net", spec=_NIC)
def mac(be: BackEnd) -> None:
    be.negotiate()
    if not be.features >> NET_F_MAC & 1:
        unsupported("VIRTIO_NET_F_MAC is not offered")
    address = read(be, 0, _MAC_BYTES)
    check(any(address), "an address", "zeroes")
    check(not address[0] & 1, "a unicast address", address.hex(":"))


@area.case(
    996, "A NIC's max_virtqueue_pairs is at most the number of queue pairs", device="net", spec=_NIC
)
def pairs(be: BackEnd) -> None:
    be.negotiate("MQ")
    count = _value(be, _PAIRS)
    there = be.ask_u64(F.GET_QUEUE_NUM)
    check(1 <= count <= there, f"1 to {there} pairs, as by GET_QUEUE_NUM", f"{count}")


@area.case(997, "A NIC's MTU is from 68 to 65535", device="net", spec=_NIC)
def mtu(be: BackEnd) -> None:
    be.negotiate()
    value = _value(be, _MTU)
    check(68 <= value <= 65535, "68 to 65535", f"{value}")


@area.case(
    998, "A file system has a tag, and request queues", device="fs", spec="virtio 1.3, 5.11.4"
)
def file_system(be: BackEnd) -> None:
    be.negotiate()
    try:
        space = contents(be.ask(F.GET_CONFIG, asked(0, 40)), 0, 40)
    except Closed as error:
        raise Failed("40 bytes of configuration", str(error)) from None
    check(space, "40 bytes of configuration", "an empty reply")
    check(space[0], "a tag", "an empty one")
    queues: int = _U32.unpack_from(space, 36)[0]
    check(queues >= 1, "a request queue or more", f"{queues}")
