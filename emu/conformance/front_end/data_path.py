"""VU-F-21xx: requests as they lie in a front-end's rings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.conformance.case import FRONT_END, Area
from emu.conformance.front_end.script import Script
from emu.conformance.verdict import check, unsupported
from vhost_user.features import F_RING_INDIRECT_DESC

if TYPE_CHECKING:
    from emu.conformance.front_end.recording import Recording
    from emu.conformance.front_end.serving import Chain
    from emu.conformance.front_end.tester import FrontEnd

area = Area("data_path", FRONT_END, "virtio 1.3, 2.7 (split virtqueues)")
BLK_HEADER = 16
NET_HEADER = 12


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
    _faultless(fe, "indirect", "one table, of whole descriptors, and not chained further")
    _faultless(fe, "INDIRECT", "one table, of whole descriptors, and not chained further")


@area.case(2106, "Indirect tables are not used when they are not offered")
def no_indirect(fe: FrontEnd) -> None:
    without = 1 << F_RING_INDIRECT_DESC
    recording = fe.session(Script("without indirect descriptors", without=without))
    used = [chain for chain in _chains(recording) if chain.indirect]
    check(not used, "no indirect table", f"{used[:1]}")


@area.case(2107, "A chain has a descriptor, and none of them is empty")
def not_empty(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        sizes = [part.size for part in chain.parts]
        check(sizes and min(sizes) > 0, "descriptors with bytes", f"chain {chain.head}: {sizes}")


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


@area.case(2112, "A frame to send has a header of 12 bytes, and nothing to write", device="net")
def net_header(fe: FrontEnd) -> None:
    for chain in _chains(fe.plain()):
        size = sum(part.size for part in chain.parts)
        readable = not any(part.writable for part in chain.parts)
        check(size >= NET_HEADER and readable, "12 bytes and a frame, to read", f"{chain.parts}")
