"""VU-F-21xx: requests in a front-end's rings."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.front_end.device import DISK_BYTES
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.request_scripts import FOR_A_WHILE, ONE_AT_A_TIME
from vhost_user_conformance.front_end.ring import FaultKind
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, unsupported
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
#: virtio 1.3, 5.2.6: request types and the feature bits that they require.
BLK_TYPES = {
    BLK_FLUSH: BLK_F_FLUSH,
    BLK_DISCARD: BLK_F_DISCARD,
    BLK_WRITE_ZEROES: BLK_F_WRITE_ZEROES,
}


def _chains(recording: Recording) -> list[Chain]:
    recording.started()
    if not recording.chains:
        unsupported("no request came in a ring that the suite serves")
    return recording.chains


def _check_chain(chain: Chain, expected: str, *kinds: FaultKind) -> None:
    bad = [fault.text for fault in chain.faults if fault.kind in kinds]
    check(not bad, expected, f"ring {chain.ring}, chain {chain.head}: {', '.join(bad)}")


def _check_chains(fe: FrontEnd, expected: str, *kinds: FaultKind) -> None:
    for chain in _chains(fe.plain()):
        _check_chain(chain, expected, *kinds)


@area.case(2101, "All buffers lie in shared guest memory")
def in_memory(fe: FrontEnd) -> None:
    expected = "buffers and tables in a region"
    _check_chains(fe, expected, FaultKind.BUFFER_OUTSIDE, FaultKind.TABLE_OUTSIDE)


@area.case(2102, "In a chain device-readable descriptors come before device-writable ones")
def order(fe: FrontEnd) -> None:
    _check_chains(fe, "device-readable descriptors first", FaultKind.ORDER)


@area.case(2103, "The indices of a chain are within its table, and it has no loop")
def table(fe: FrontEnd) -> None:
    _check_chains(fe, "indices below the table's size", FaultKind.INDEX)
    _check_chains(fe, "a chain that ends", FaultKind.LOOP)


@area.case(2104, "There are never more available requests than the ring has descriptors")
def available(fe: FrontEnd) -> None:
    _check_chains(fe, "at most as many available requests as descriptors", FaultKind.AVAILABLE)


@area.case(2105, "Indirect tables are well formed")
def indirect(fe: FrontEnd) -> None:
    """A driver may use them for some requests only, so it is made to have many in flight."""
    used = False
    for chain in (*_chains(fe.plain()), *_chains(fe.session(ONE_AT_A_TIME))):
        expected = "one table of whole descriptors, not chained further"
        _check_chain(chain, expected, FaultKind.INDIRECT, FaultKind.TABLE_OUTSIDE)
        used = used or chain.indirect
    if not used:
        unsupported("the front-end uses no indirect tables")


@area.case(2106, "Indirect tables are not used when they are not offered")
def no_indirect(fe: FrontEnd) -> None:
    without = 1 << VIRTIO_RING_F_INDIRECT_DESC
    name = "without indirect descriptors"
    recording = fe.session(ONE_AT_A_TIME._replace(name=name, without=without))
    used = [chain for chain in _chains(recording) if chain.indirect]
    check(not used, "no indirect table", f"{used[:1]}")


@area.case(2107, "A chain has a descriptor, and no descriptor is empty")
def not_empty(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        sizes = [part.size for part in chain.parts]
        check(
            sizes and min(sizes) > 0,
            "descriptors that are not empty",
            f"chain {chain.head}: {sizes}",
        )


@area.case(
    2108, "The available ring's flags are 0, or 1 without EVENT_IDX", spec="virtio 1.3, 2.7.7.1"
)
def available_flags(fe: FrontEnd) -> None:
    """They are checked at each poll, since a ring with a misread index has no requests."""
    recording = fe.plain()
    recording.started()
    bad = sorted(recording.flag_faults)
    check(not bad, "flags 0, or 1 without EVENT_IDX", ", ".join(bad[:3]))


@area.case(
    2109, "No descriptor is used again before its request is completed", spec="virtio 1.3, 2.7.13"
)
def free_descriptors(fe: FrontEnd) -> None:
    for recording in (fe.plain(), fe.session(ONE_AT_A_TIME)):
        for chain in _chains(recording):
            _check_chain(chain, "free descriptors", FaultKind.IN_FLIGHT)


@area.case(2110, "A disk request begins with 16 device-readable bytes", device="blk")
def blk_header(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        size = sum(part.size for part in chain.parts if not part.writable)
        check(size >= BLK_HEADER, "16 device-readable bytes", f"{size}")


@area.case(2111, "A disk request ends with a device-writable byte", device="blk")
def blk_status(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        last = chain.parts[-1:]
        ends = last and last[0].writable
        check(ends, "a device-writable descriptor at the end", f"{chain.parts}")


def _disk_requests(recording: Recording) -> Iterator[tuple[Chain, int, int, int]]:
    """The requests of a disk: chain, type, sector, and number of bytes of data."""
    for chain in _chains(recording):
        if len(chain.header) < BLK_HEADER or not chain.parts[-1].writable:
            continue  # cases 2110 and 2111 fail
        kind, _, sector = struct.unpack("<IIQ", chain.header)
        readable = sum(part.size for part in chain.parts if not part.writable) - BLK_HEADER
        writable = sum(part.size for part in chain.parts if part.writable) - 1
        yield chain, kind, sector, writable if kind == BLK_IN else readable


def _request_text(chain: Chain, kind: int, sector: int, data: int) -> str:
    return f"ring {chain.ring}, chain {chain.head}: type {kind}, sector {sector}, {data} bytes"


@area.case(
    2113,
    "A disk is not read or written beyond its capacity",
    spec="virtio 1.3, 5.2.6.1",
    device="blk",
)
def within_capacity(fe: FrontEnd) -> None:
    fe.plain().some(F.GET_CONFIG)  # the reply has the capacity
    for request in _disk_requests(fe.plain()):
        _, kind, sector, data = request
        inside = sector * SECTOR + data <= DISK_BYTES or kind not in (BLK_IN, BLK_OUT)
        check(inside, f"bytes within {DISK_BYTES // SECTOR} sectors", _request_text(*request))


@area.case(
    2114,
    "Reads and writes of a disk have whole sectors of 512 bytes",
    spec="virtio 1.3, 5.2.6.1",
    device="blk",
)
def whole_sectors(fe: FrontEnd) -> None:
    for request in _disk_requests(fe.plain()):
        _, kind, _, data = request
        whole = (data > 0 and not data % SECTOR) or kind not in (BLK_IN, BLK_OUT)
        check(whole, "a multiple of 512 bytes of data", _request_text(*request))


@area.case(
    2115, "A disk request has a type that the device offers", spec="virtio 1.3, 5.2.6", device="blk"
)
def offered_types(fe: FrontEnd) -> None:
    acked = 0
    for each in fe.plain().some(F.SET_FEATURES):
        acked |= each.u64
    for request in _disk_requests(fe.plain()):
        _, kind, _, _ = request
        bit = BLK_TYPES.get(kind)
        known = kind in (BLK_IN, BLK_OUT, BLK_GET_ID) or (bit is not None and acked >> bit & 1)
        check(known, "a type whose feature is acknowledged", _request_text(*request))


@area.case(
    2119, "FLUSH is not sent where it is not offered", spec="virtio 1.3, 5.2.6", device="blk"
)
def no_flush(fe: FrontEnd) -> None:
    recording = fe.session(FOR_A_WHILE._replace(name="without FLUSH", without=1 << BLK_F_FLUSH))
    for request in _disk_requests(recording):
        check(request[1] != BLK_FLUSH, "no FLUSH", _request_text(*request))


@area.case(2116, "FLUSH has sector 0", spec="virtio 1.3, 5.2.6.1", device="blk")
def flush_sector(fe: FrontEnd) -> None:
    for request in _disk_requests(fe.plain()):
        _, kind, sector, _ = request
        check(kind != BLK_FLUSH or not sector, "sector 0", _request_text(*request))


@area.case(
    2112, "A transmitted frame has a header of 12 bytes, and is device-readable", device="net"
)
def net_header(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        size = sum(part.size for part in chain.parts)
        readable = not any(part.writable for part in chain.parts)
        check(
            size >= NET_HEADER and readable,
            "12 bytes and a frame, device-readable",
            f"{chain.parts}",
        )


@area.case(
    2117,
    "A frame's header requests no offload that was not negotiated",
    spec="virtio 1.3, 5.1.6.2.1",
    device="net",
)
def net_offloads(fe: FrontEnd) -> None:
    """The suite offers neither checksum nor segmentation offload, so both fields are 0."""
    for chain in _chains(fe.plain()):
        flags, gso = (*chain.header[:2], 0, 0)[:2]
        seen = f"ring {chain.ring}, chain {chain.head}: flags {flags:#x}, gso_type {gso:#x}"
        check(not flags and not gso, "flags and gso_type 0", seen)


@area.case(
    2118,
    "A receive buffer is device-writable and has room for a header",
    spec="virtio 1.3, 5.1.6.3",
    device="net",
)
def receive_buffers(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    if not recording.offered:
        unsupported("no receive buffer was kicked for")
    for chain in recording.offered:
        size = sum(part.size for part in chain.parts)
        fit = size >= NET_HEADER and all(part.writable for part in chain.parts)
        check(
            fit,
            "at least 12 bytes, device-writable",
            f"ring {chain.ring}, chain {chain.head}: {chain}",
        )


@area.case(
    2120,
    "A request for random bytes has buffers that the device writes, and no others",
    spec="virtio 1.3, 5.4.6.1",
    device="rng",
)
def rng_buffers(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        right = chain.parts and all(part.writable for part in chain.parts)
        check(right, "descriptors that the device writes, and no others", f"{chain.parts}")


@area.case(
    2121,
    "A driver of an entropy device uses its request queue, and no other",
    spec="virtio 1.3, 5.4.2",
    device="rng",
    severity=Severity.SHOULD,
)
def rng_queue(fe: FrontEnd) -> None:
    others = sorted({chain.ring for chain in _chains(fe.plain())} - {0})
    check(not others, "requests in ring 0 only", f"in rings {others}")
