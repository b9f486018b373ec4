"""VU-B-10xx: memory that is added and removed region by region."""

from __future__ import annotations

from vhost_user.payloads import MemoryRegion
from vhost_user_conformance.back_end.cases.memory_slots import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.memory_slots import (
    FEATURE,
    MAX,
    REM,
    add,
    packed,
    remove,
    ring_in,
    slots,
    slotted,
)
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.memory import MIB, PAGE, USER_OFFSET
from vhost_user_conformance.peer.wire import Closed


@area.case(1001, "GET_MAX_MEM_SLOTS is answered with 8 bytes: one slot or more", spec=MAX)
def max_slots(be: BackEnd) -> None:
    be.negotiate(FEATURE)
    slots(be)


@area.case(1002, "GET_MAX_MEM_SLOTS returns the same while slots are in use", spec=MAX)
def same_number(be: BackEnd) -> None:
    be.negotiate(FEATURE)
    first = slots(be)
    memory = be.memory(MIB, MIB, share=False)
    for region in memory.regions:
        add(be, region)
    again = slots(be)
    check(again == first, f"{first} slots", f"{again}")


@area.case(
    1003,
    "GET_MAX_MEM_SLOTS with need_reply is answered once, by its own reply",
    spec=MAX,
    needs=("REPLY_ACK",),
)
def own_reply(be: BackEnd) -> None:
    be.negotiate(FEATURE)
    reply = be.ask(F.GET_MAX_MEM_SLOTS, need_reply=True)
    check(len(reply.payload) == 8, "8 bytes", f"{len(reply.payload)} bytes")
    be.check_responds("with no acknowledgement in addition to the reply")


@area.case(1004, "A region can be added and removed", needs=("REPLY_ACK",))
def acknowledged(be: BackEnd) -> None:
    memory = slotted(be)
    be.check_responds("with no second acknowledgement")
    remove(be, memory.regions[0])
    be.check_responds("with no second acknowledgement")


@area.case(1005, "ADD_MEM_REG and REM_MEM_REG without need_reply are not answered")
def unanswered(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    be.send(F.ADD_MEM_REG, packed(region.on_wire), fds=(region.fd,))
    be.check_responds("with no unsolicited reply")
    be.send(F.REM_MEM_REG, packed(region.on_wire))
    be.check_responds("with no unsolicited reply")


@area.each(1006, (1, 2, 8, 32), "A ring in the last of {} regions is served", works=True)
def many_regions(be: BackEnd, count: int) -> None:
    be.negotiate(FEATURE)
    if slots(be) < count:
        unsupported(f"it has fewer than {count} slots")
    memory = be.memory(*[MIB] * count, share=False)
    for region in memory.regions:
        add(be, region)
    be.serve(ring_in(be, memory, count - 1))


@area.each(
    1010, (PAGE, 2 * MIB), "A region that begins {} bytes into its file is mapped there", works=True
)
def file_offset(be: BackEnd, offset: int) -> None:
    be.serve(ring_in(be, slotted(be, 2 * MIB, offset=offset)))


@area.case(1012, "Regions may be added from the highest to the lowest", works=True)
def backwards(be: BackEnd) -> None:
    memory = slotted(be, *[MIB] * 4, added=False)
    for region in reversed(memory.regions):
        add(be, region)
    be.serve(ring_in(be, memory, 2))


@area.case(1013, "Two regions of one file are both mapped", works=True)
def one_file(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    whole = memory.regions[0]
    half = whole.size // 2
    for part in (0, 1):
        at = part * half
        gpa = whole.gpa + at
        wire = MemoryRegion(gpa, half, gpa + USER_OFFSET, at)
        be.accepted(F.ADD_MEM_REG, packed(wire), fds=(whole.fd,))
    memory.allocate(half)  # later allocations are in the second half
    be.serve(ring_in(be, memory))


@area.each(1014, (0, 1 << 40), "A region may be at guest address {}")
def anywhere(be: BackEnd, gpa: int) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    be.accepted(F.ADD_MEM_REG, packed(region.on_wire._replace(gpa=gpa)), fds=(region.fd,))


@area.case(1016, "A region that is added while a ring runs is used", works=True)
def added_while_running(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB, added=False)
    buffers, rings = memory.regions
    add(be, rings)
    ring = ring_in(be, memory, 1)
    add(be, buffers)
    for _ in range(3):
        be.serve(ring)


@area.case(1017, "An unused region may be added and removed while a ring runs", works=True)
def others_change(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB, MIB)
    ring = ring_in(be, memory, 1)
    for _ in range(4):
        be.serve(ring)
        remove(be, memory.regions[2])
        be.serve(ring)
        add(be, memory.regions[2])


@area.case(1018, "Nothing is written to a region after it was removed", works=True, spec=REM)
def nothing_written(be: BackEnd) -> None:
    if not be.device_class.writes:
        unsupported("is about a device that writes to guest memory")
    memory = slotted(be, MIB, MIB)
    buffers = memory.regions[0]
    ring = ring_in(be, memory, 1)
    be.serve(ring)
    remove(be, buffers)
    be.work.post(memory, ring, publish=False)
    before = memory.read(buffers.gpa, buffers.size)
    ring.driver.publish()
    ring.kick()
    ring.await_used(ring.avail_index, QUIET)
    after = memory.read(buffers.gpa, buffers.size)
    check(after == before, "the removed region unchanged", "it was written to")


@area.case(1019, "A region that was removed may be added again, and serves", works=True, spec=REM)
def added_again(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    ring = ring_in(be, memory, 1)
    be.serve(ring)
    for _ in range(3):
        remove(be, memory.regions[0])
        add(be, memory.regions[0])
        be.serve(ring)


@area.case(
    1020,
    "The region of a stopped ring may be removed and added again, and the ring continues",
    works=True,
    spec=REM,
)
def ring_region_again(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    ring = ring_in(be, memory, 1)
    be.serve(ring)
    base = be.stop(ring)
    remove(be, memory.regions[1])
    add(be, memory.regions[1])
    be.start(ring, base=base)
    be.serve(ring)


@area.case(
    1021,
    "Removing the region of a running ring is survived",
    works=True,
    spec=REM,
    severity=Severity.SHOULD,
)
def ring_region_gone(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    ring = ring_in(be, memory, 1)
    be.serve(ring)
    try:
        be.send(F.REM_MEM_REG, packed(memory.regions[1].on_wire))
        be.barrier()
        ring.kick()
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed("it continued without the ring")


@area.case(
    1022,
    "Whether a running ring continues when its region is removed and added again",
    works=True,
    spec=REM,
)
def ring_region_back(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    ring = ring_in(be, memory, 1)
    be.serve(ring)
    be.send(F.REM_MEM_REG, packed(memory.regions[1].on_wire))
    region = memory.regions[1]
    be.send(F.ADD_MEM_REG, packed(region.on_wire), fds=(region.fd,))
    be.work.post(memory, ring)
    try:
        be.barrier()
        ring.kick()
        served = ring.await_used(2, be.timeout / 2)
    except Closed:
        observed("it closed the connection")
    observed("continues" if served else "stops until it is set up again")
