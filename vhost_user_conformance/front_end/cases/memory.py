"""VU-F-03xx: the memory table that a front-end shares."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.payloads import MemTable
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import MIGRATED, Script, refusing
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check, unsupported
from vhost_user_conformance.peer.memory import overlap

if TYPE_CHECKING:
    from vhost_user.payloads import MemoryRegion
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.tester import FrontEnd


area = Area("memory", FRONT_END, "Multiple Memory regions description")

STARTING = (F.SET_VRING_ADDR, F.SET_VRING_KICK)


def _tables(recording: Recording) -> list[tuple[Received, tuple[MemoryRegion, ...]]]:
    return [
        (each, MemTable.unpack(each.payload).regions) for each in recording.some(F.SET_MEM_TABLE)
    ]


@area.case(313, "Memory is shared with the destination of a migration before a ring starts there")
def at_destination(fe: FrontEnd) -> None:
    there = fe.session(MIGRATED).arrived()
    for each in there.some(F.SET_VRING_KICK):
        check(there.table_at(each.at), f"guest memory before {each}", "none was shared")


@area.case(301, "A memory table has 1 to 8 regions", spec="VHOST_USER_SET_MEM_TABLE")
def region_count(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_MEM_TABLE),
        lambda each: 1 <= int.from_bytes(each.payload[:4], "little") <= 8,
        "1 to 8 regions",
    )


@area.case(302, "Each region has a descriptor", spec="VHOST_USER_SET_MEM_TABLE")
def descriptor_each(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_MEM_TABLE),
        lambda each: len(each.fds) == int.from_bytes(each.payload[:4], "little"),
        "as many descriptors as regions",
    )


@area.case(303, "Each region lies inside its file")
def inside_file(fe: FrontEnd) -> None:
    for message, regions in _tables(fe.plain()):
        for region, fd in zip(regions, message.fds, strict=False):
            end = region.mmap_offset + region.size
            check(
                end <= fd.size,
                f"a file of at least {end:#x} bytes for the region at {region.gpa:#x}",
                f"{message}: {fd.size:#x} bytes ({fd.kind})",
            )


@area.case(304, "Each region can be mapped shared and writable")
def mappable(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.first(F.SET_MEM_TABLE)
    for table in recording.tables:
        check(not table.unmapped, "all regions mapped", f"unmapped: {table.unmapped}")


@area.case(305, "Regions do not overlap in guest memory")
def gpa_disjoint(fe: FrontEnd) -> None:
    for message, regions in _tables(fe.plain()):
        for one, other in combinations(regions, 2):
            apart = not overlap((one.gpa, one.size), (other.gpa, other.size))
            check(apart, "guest addresses that do not overlap", f"{message}: {one} and {other}")


@area.case(306, "Regions do not overlap in the front-end's address space")
def user_disjoint(fe: FrontEnd) -> None:
    for message, regions in _tables(fe.plain()):
        for one, other in combinations(regions, 2):
            apart = not overlap((one.user_addr, one.size), (other.user_addr, other.size))
            check(apart, "user addresses that do not overlap", f"{message}: {one} and {other}")


@area.case(307, "No region is empty or wraps around")
def not_empty(fe: FrontEnd) -> None:
    for message, regions in _tables(fe.plain()):
        for region in regions:
            ends = (region.gpa + region.size, region.user_addr + region.size)
            check(
                region.size and max(ends) <= 1 << 64,
                "a size above 0 that does not wrap around",
                f"{message}: {region}",
            )


@area.each(308, STARTING, "Memory is shared before {0.name}")
def before_rings(fe: FrontEnd, number: F) -> None:
    recording = fe.plain()
    first = recording.first(number)
    shared = [each for each in recording.tables if each.at < first.at]
    check(shared, f"guest memory before {number.name}", f"{first} came first")


@area.each(310, ("desc", "avail", "used"), "A ring's {} part lies entirely in guest memory")
def ring_inside(fe: FrontEnd, part: str) -> None:
    recording = fe.plain()
    sizes: dict[int, int] = {}
    recording.first(F.SET_VRING_ADDR)
    for each in recording.of(F.SET_VRING_NUM, F.SET_VRING_ADDR):
        if each.id == F.SET_VRING_NUM:
            sizes[each.state.ring] = each.state.num
            continue
        size = sizes.get(each.address.ring, 1)
        length = {"desc": 16 * size, "avail": 4 + 2 * size, "used": 4 + 8 * size}[part]
        start = getattr(each.address, part)
        check(
            any(
                region.user_addr <= start and start + length <= region.user_addr + region.size
                for region in recording.table_at(each.at)
            ),
            f"{length} bytes at user address {start:#x} inside of a region",
            f"{each}: the regions are {recording.table_at(each.at)}",
        )


GUEST_ADDRESSES = Script(
    "guest addresses for rings", protocol_offering=int(ProtocolFeature.GPA_ADDRESSES)
)


def _with_guest_addresses(fe: FrontEnd) -> Recording:
    recording = fe.session(GUEST_ADDRESSES)
    if not recording.messages or not (
        recording.messages[-1].protocol & ProtocolFeature.GPA_ADDRESSES
    ):
        unsupported("the front-end does not acknowledge GPA_ADDRESSES")
    return recording


@area.case(
    321,
    "With GPA_ADDRESSES a region's user address is its guest address",
    spec="Memory region description",
)
def user_is_guest(fe: FrontEnd) -> None:
    recording = _with_guest_addresses(fe)
    check(recording.tables, "a region", "no memory was shared")
    for table in recording.tables:
        for region in table.regions:
            check(region.user_addr == region.gpa, f"{region.gpa:#x} as user address", f"{region}")


@area.each(
    322,
    ("desc", "avail", "used"),
    "With GPA_ADDRESSES a ring's {} part is at a guest address",
    spec="A vring address description",
)
def ring_at_guest_address(fe: FrontEnd, part: str) -> None:
    recording = _with_guest_addresses(fe)
    for each in recording.some(F.SET_VRING_ADDR):
        at = getattr(each.address, part)
        regions = recording.table_at(each.at)
        inside = any(region.gpa <= at < region.gpa + region.size for region in regions)
        check(inside, "a guest address in a region", f"{each}: {at:#x}, with {regions}")


@area.case(320, "No ring is started on memory that the back-end has refused", spec="REPLY_ACK")
def refused(fe: FrontEnd) -> None:
    recording = fe.session(refusing(F.SET_MEM_TABLE))
    first = recording.first(F.SET_MEM_TABLE)
    if not first.need_reply:
        unsupported("the front-end requests no acknowledgement of its memory")
    kicks = [each for each in recording.after(first) if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK after the refusal", f"{kicks[:1]}")
