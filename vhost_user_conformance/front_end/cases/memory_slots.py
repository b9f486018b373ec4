"""VU-F-10xx: memory regions that are shared one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.payloads import SingleRegion
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import SLOTS
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, unsupported
from vhost_user_conformance.peer.memory import overlap

if TYPE_CHECKING:
    from vhost_user.payloads import MemoryRegion
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("memory_slots", FRONT_END, "VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS")

STARTING = (F.SET_VRING_ADDR, F.SET_VRING_KICK)


def _slots(fe: FrontEnd) -> Recording:
    recording = fe.session(SLOTS)
    if not recording.messages or not (
        recording.messages[-1].protocol & ProtocolFeature.CONFIGURE_MEM_SLOTS
    ):
        unsupported("the front-end does not acknowledge CONFIGURE_MEM_SLOTS")
    return recording


def _single(each: Received) -> MemoryRegion:
    return SingleRegion.unpack(each.payload[:40].ljust(40, b"\0")).region


@area.case(1001, "GET_MAX_MEM_SLOTS comes before the first ADD_MEM_REG")
def ask_slots(fe: FrontEnd) -> None:
    recording = _slots(fe)
    first = recording.first(F.ADD_MEM_REG)
    asked = [each for each in recording.of(F.GET_MAX_MEM_SLOTS) if each.at < first.at]
    check(asked, "GET_MAX_MEM_SLOTS before ADD_MEM_REG", f"{first} came first")


@area.case(1002, "Regions are added one by one, and SET_MEM_TABLE is not sent")
def no_table(fe: FrontEnd) -> None:
    all_of(_slots(fe).messages, lambda each: each.id != F.SET_MEM_TABLE, "no SET_MEM_TABLE")


@area.case(1003, "ADD_MEM_REG has one descriptor")
def one_descriptor(fe: FrontEnd) -> None:
    all_of(_slots(fe).some(F.ADD_MEM_REG), lambda each: len(each.fds) == 1, "one descriptor")


@area.case(1004, "An added region lies inside its file and can be mapped")
def added_mappable(fe: FrontEnd) -> None:
    recording = _slots(fe)
    for each in recording.some(F.ADD_MEM_REG):
        region = _single(each)
        end = region.mmap_offset + region.size
        check(each.fds and end <= each.fds[0].size, f"a file of {end:#x} bytes", f"{each}")
    for table in recording.tables:
        check(not table.unmapped, "all regions mapped", f"unmapped: {table.unmapped}")


@area.case(1005, "No region is added that overlaps another one or is present already")
def added_disjoint(fe: FrontEnd) -> None:
    recording = _slots(fe)
    for each in recording.some(F.ADD_MEM_REG):
        new = _single(each)
        before = recording.table_at(each.at - 1)
        clash = [old for old in before if overlap((old.gpa, old.size), (new.gpa, new.size))]
        check(not clash, "a region that overlaps no other", f"{each}: {new} overlaps {clash}")


@area.case(1006, "Only regions that were added are removed")
def removed_known(fe: FrontEnd) -> None:
    recording = _slots(fe)
    for each in recording.some(F.REM_MEM_REG):
        gone = _single(each)
        before = [(old.gpa, old.size, old.user_addr) for old in recording.table_at(each.at - 1)]
        check(
            (gone.gpa, gone.size, gone.user_addr) in before,
            "a region that was added, with the same addresses and size",
            f"{each}: {gone}",
        )


@area.each(1007, STARTING, "A region is added before {0.name}")
def added_before_rings(fe: FrontEnd, number: F) -> None:
    recording = _slots(fe)
    first, added = recording.first(number), recording.first(F.ADD_MEM_REG)
    check(added.at < first.at, f"ADD_MEM_REG before {number.name}", f"{first} came first")


@area.case(1009, "There are never more regions than slots", severity=Severity.SHOULD)
def few_regions(fe: FrontEnd) -> None:
    script = SLOTS._replace(name="one memory slot", slots=1, acts=("start",))
    recording = fe.session(script)
    recording.some(F.GET_MAX_MEM_SLOTS)
    for table in recording.tables:
        count = len(table.regions)
        check(count <= 1, "at most 1 region, for 1 slot", f"{count} regions")


@area.case(1010, "No ring is started on a region that the back-end has refused")
def refused_region(fe: FrontEnd) -> None:
    script = SLOTS._replace(name="a region is refused", refuses=F.ADD_MEM_REG, acts=("start",))
    recording = fe.session(script)
    first = recording.first(F.ADD_MEM_REG)
    if not first.need_reply:
        unsupported("the front-end requests no acknowledgement of its memory")
    kicks = [each for each in recording.after(first) if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK after the refusal", f"{kicks[:1]}")


@area.each(
    1012,
    ("desc", "avail", "used"),
    "A ring's {} part lies in a region that was added",
    spec="A vring address description",
)
def ring_inside(fe: FrontEnd, part: str) -> None:
    recording = _slots(fe)
    for each in recording.some(F.SET_VRING_ADDR):
        at, regions = getattr(each.address, part), recording.table_at(each.at)
        inside = any(one.user_addr <= at < one.user_addr + one.size for one in regions)
        check(inside, f"a region with user address {at:#x}", f"{each}: {regions}")


@area.case(1015, "Added regions do not overlap in the front-end's address space")
def users_disjoint(fe: FrontEnd) -> None:
    recording = _slots(fe)
    for each in recording.some(F.ADD_MEM_REG):
        new, before = _single(each), recording.table_at(each.at - 1)
        clash = [
            old for old in before if overlap((old.user_addr, old.size), (new.user_addr, new.size))
        ]
        check(not clash, "user addresses that do not overlap", f"{each}: {new} and {clash}")


@area.case(
    1016,
    "REM_MEM_REG has no descriptor",
    spec="VHOST_USER_REM_MEM_REG",
    severity=Severity.SHOULD,
)
def removed_without_descriptor(fe: FrontEnd) -> None:
    all_of(_slots(fe).some(F.REM_MEM_REG), lambda each: not each.fds, "no descriptor")


@area.case(1017, "No region is removed in which a ring runs", spec="Memory access")
def not_under_a_ring(fe: FrontEnd) -> None:
    recording = _slots(fe)
    for each in recording.some(F.REM_MEM_REG):
        gone = _single(each)
        last = {
            one.ring: one.address
            for one in recording.messages[: each.at]
            if one.id == F.SET_VRING_ADDR
        }
        inside = [
            ring
            for ring in recording.running(each.at)
            if ring in last and gone.user_addr <= last[ring].desc < gone.user_addr + gone.size
        ]
        check(not inside, "a region without a running ring", f"{each}: rings {inside}")


@area.case(1011, "Regions that the back-end has are not added again when the VM continues")
def not_again(fe: FrontEnd) -> None:
    recording = _slots(fe)
    recording.did("cont")
    present: set[tuple[int, int]] = set()
    for each in recording.of(F.ADD_MEM_REG, F.REM_MEM_REG):
        region = _single(each)
        key = (region.gpa, region.size)
        if each.id == F.REM_MEM_REG:
            present.discard(key)
            continue
        check(key not in present, "new regions only", f"{each}: {region}")
        present.add(key)
