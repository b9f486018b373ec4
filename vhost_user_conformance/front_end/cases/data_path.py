"""VU-F-21xx: requests as they lie in a front-end's rings."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.front_end.device import DISK_BYTES
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.request_scripts import FOR_A_WHILE, ONE_AT_A_TIME
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_DISCARD,
    BLK_F_DISCARD,
    BLK_F_FLUSH,
    BLK_F_WRITE_ZEROES,
    BLK_FLUSH,
    BLK_GET_ID,
    BLK_IN,
    BLK_OUT,
    BLK_WRITE_ZEROES,
    NET_HEADER,
    SECTOR,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.ring import Chain
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("data_path", FRONT_END, "virtio 1.3, 2.7 (split virtqueues)")
BLK_HEADER = 16
#: virtio 1.3, 5.2.6: types of requests, and the feature bit that each needs.
BLK_TYPES = {
    BLK_FLUSH: BLK_F_FLUSH,
    BLK_DISCARD: BLK_F_DISCARD,
    BLK_WRITE_ZEROES: BLK_F_WRITE_ZEROES,
}


def _chains(recording: Recording) -> list[Chain]:
    recording.started()
    if not recording.chains:
        unsupported("no request came that the suite looks at")
    return recording.chains


def _faultless(fe: FrontEnd, word: str, expected: str) -> None:
    for chain in _chains(fe.plain()):
        bad = [fault for fault in chain.faults if word in fault]
        check(not bad, expected, f"ring {chain.ring}, chain {chain.head}: {', '.join(bad)}")


@area.case(2101, "Buffers lie in guest memory that is shared, all of them")
def in_memory(fe: FrontEnd) -> None:
    _faultless(fe, "in no region", "buffers and tables in a region")


@area.case(2102, "In a chain what the device reads stands before what it writes")
def order(fe: FrontEnd) -> None:
    _faultless(fe, "stands behind", "readable descriptors first")


@area.case(2103, "A chain names descriptors of its table only, and has no loop")
def table(fe: FrontEnd) -> None:
    _faultless(fe, "descriptor ", "indexes below the table's size")
    _faultless(fe, "loop", "a chain that ends")


@area.case(2104, "Never do more requests wait than the ring has descriptors")
def available(fe: FrontEnd) -> None:
    _faultless(fe, "wait in a ring", "an index of the available ring at most its size ahead")


@area.case(2105, "Indirect tables are well formed")
def indirect(fe: FrontEnd) -> None:
    """A driver may use them for some of its requests only: it is made to have many under way."""
    used = False
    for chain in (*_chains(fe.plain()), *_chains(fe.session(ONE_AT_A_TIME))):
        bad = [fault for fault in chain.faults if "indirect" in fault.lower()]
        used = used or chain.indirect or bool(bad)
        expected = "one table, of whole descriptors, and not chained further"
        check(not bad, expected, f"ring {chain.ring}, chain {chain.head}: {', '.join(bad)}")
    if not used:
        unsupported("the front-end's requests lie in no indirect table")


@area.case(2106, "Indirect tables are not used when they are not offered")
def no_indirect(fe: FrontEnd) -> None:
    without = 1 << VIRTIO_RING_F_INDIRECT_DESC
    name = "without indirect descriptors"
    recording = fe.session(ONE_AT_A_TIME._replace(name=name, without=without))
    used = [chain for chain in _chains(recording) if chain.indirect]
    check(not used, "no indirect table", f"{used[:1]}")


@area.case(2107, "A chain has a descriptor, and none of them is empty")
def not_empty(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        sizes = [part.size for part in chain.parts]
        check(sizes and min(sizes) > 0, "descriptors with bytes", f"chain {chain.head}: {sizes}")


@area.case(
    2108, "The available ring's flags are 0, or 1 without EVENT_IDX", spec="virtio 1.3, 2.7.7.1"
)
def available_flags(fe: FrontEnd) -> None:
    """They are looked at whenever a ring is, as one whose index is misread has no requests."""
    recording = fe.plain()
    recording.started()
    bad = sorted(recording.flag_faults)
    check(not bad, "flags 0, or 1 without EVENT_IDX", ", ".join(bad[:3]))


@area.case(
    2109, "No descriptor is used again before its request has come back", spec="virtio 1.3, 2.7.13"
)
def free_descriptors(fe: FrontEnd) -> None:
    for recording in (fe.plain(), fe.session(ONE_AT_A_TIME)):
        for chain in _chains(recording):
            bad = [fault for fault in chain.faults if "in flight" in fault]
            check(not bad, "free descriptors", f"ring {chain.ring}, chain {chain.head}: {bad[:1]}")


@area.case(2110, "A disk's request begins with 16 bytes to read", device="blk")
def blk_header(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        size = sum(part.size for part in chain.parts if not part.writable)
        check(size >= BLK_HEADER, "16 bytes that the device reads", f"{size}")


@area.case(2111, "A disk's request ends with a byte to write", device="blk")
def blk_status(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        last = chain.parts[-1:]
        ends = last and last[0].writable
        check(ends, "a descriptor that the device writes", f"{chain.parts}")


def _disk_requests(recording: Recording) -> Iterator[tuple[Chain, int, int, int]]:
    """Each of a disk: its chain, type, sector, and bytes of data that go either way."""
    for chain in _chains(recording):
        if len(chain.header) < BLK_HEADER or not chain.parts[-1].writable:
            continue  # 2110 and 2111 tell
        kind, _, sector = struct.unpack("<IIQ", chain.header)
        readable = sum(part.size for part in chain.parts if not part.writable) - BLK_HEADER
        writable = sum(part.size for part in chain.parts if part.writable) - 1
        yield chain, kind, sector, writable if kind == BLK_IN else readable


def _told(chain: Chain, kind: int, sector: int, data: int) -> str:
    return f"ring {chain.ring}, chain {chain.head}: type {kind}, sector {sector}, {data} bytes"


@area.case(
    2113, "A disk is not read or written behind its end", spec="virtio 1.3, 5.2.6.1", device="blk"
)
def within_capacity(fe: FrontEnd) -> None:
    fe.plain().some(F.GET_CONFIG)  # which tells the capacity
    for request in _disk_requests(fe.plain()):
        _, kind, sector, data = request
        inside = sector * SECTOR + data <= DISK_BYTES or kind not in (BLK_IN, BLK_OUT)
        check(inside, f"bytes within {DISK_BYTES // SECTOR} sectors", _told(*request))


@area.case(
    2114,
    "A disk reads and writes whole sectors of 512 bytes",
    spec="virtio 1.3, 5.2.6.1",
    device="blk",
)
def whole_sectors(fe: FrontEnd) -> None:
    for request in _disk_requests(fe.plain()):
        _, kind, _, data = request
        whole = (data > 0 and not data % SECTOR) or kind not in (BLK_IN, BLK_OUT)
        check(whole, "a multiple of 512 bytes of data", _told(*request))


@area.case(2115, "A disk is asked only for what it offers", spec="virtio 1.3, 5.2.6", device="blk")
def offered_types(fe: FrontEnd) -> None:
    acked = 0
    for each in fe.plain().some(F.SET_FEATURES):
        acked |= each.u64
    for request in _disk_requests(fe.plain()):
        _, kind, _, _ = request
        bit = BLK_TYPES.get(kind)
        known = kind in (BLK_IN, BLK_OUT, BLK_GET_ID) or (bit is not None and acked >> bit & 1)
        check(known, "a type whose feature was acknowledged", _told(*request))


@area.case(
    2119, "FLUSH is not sent where it is not offered", spec="virtio 1.3, 5.2.6", device="blk"
)
def no_flush(fe: FrontEnd) -> None:
    recording = fe.session(FOR_A_WHILE._replace(name="without FLUSH", without=1 << BLK_F_FLUSH))
    for request in _disk_requests(recording):
        check(request[1] != BLK_FLUSH, "no FLUSH", _told(*request))


@area.case(2116, "FLUSH has sector 0", spec="virtio 1.3, 5.2.6.1", device="blk")
def flush_sector(fe: FrontEnd) -> None:
    for request in _disk_requests(fe.plain()):
        _, kind, sector, _ = request
        check(kind != BLK_FLUSH or not sector, "sector 0", _told(*request))


@area.case(2112, "A frame to send has a header of 12 bytes, and nothing to write", device="net")
def net_header(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        size = sum(part.size for part in chain.parts)
        readable = not any(part.writable for part in chain.parts)
        check(size >= NET_HEADER and readable, "12 bytes and a frame, to read", f"{chain.parts}")


@area.case(
    2117,
    "A frame's header asks for nothing that was not agreed on",
    spec="virtio 1.3, 5.1.6.2.1",
    device="net",
)
def net_offloads(fe: FrontEnd) -> None:
    """The suite offers neither checksums nor segmentation, so that both fields are 0."""
    for chain in _chains(fe.plain()):
        flags, gso = (*chain.header[:2], 0, 0)[:2]
        seen = f"ring {chain.ring}, chain {chain.head}: flags {flags:#x}, gso_type {gso:#x}"
        check(not flags and not gso, "flags and gso_type 0", seen)


@area.case(
    2118,
    "A buffer to receive into can be written, and has room for a header",
    spec="virtio 1.3, 5.1.6.3",
    device="net",
)
def receive_buffers(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    if not recording.offered:
        unsupported("no buffer to receive into was kicked for")
    for chain in recording.offered:
        size = sum(part.size for part in chain.parts)
        fit = size >= NET_HEADER and all(part.writable for part in chain.parts)
        check(fit, "12 bytes at least, to write", f"ring {chain.ring}, chain {chain.head}: {chain}")
