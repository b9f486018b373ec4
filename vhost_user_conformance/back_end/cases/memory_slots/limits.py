"""VU-B-1023 and up: invalid regions, the number of regions, and their lifetime."""

from __future__ import annotations

import contextlib
import os

from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user.payloads import MemoryRegion
from vhost_user_conformance.back_end.cases.memory_slots import area
from vhost_user_conformance.back_end.connection import (
    LOG_ALL,
    PROTOCOL_BIT,
    BackEnd,
    F,
    vring_state,
)
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
from vhost_user_conformance.model.verdict import (
    Failed,
    Observed,
    Severity,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.memory import GPA_BASE, MIB, PAGE, USER_OFFSET
from vhost_user_conformance.peer.wire import Closed, Silent

#: Cases do not fill more slots than this one by one.
_MOST = 4096


def _is_gone(be: BackEnd, region: MemoryRegion) -> None:
    """Check that there is no such region; closing after an acknowledgement counts, too."""
    with contextlib.suppress(Observed):
        be.not_done(F.REM_MEM_REG, packed(region))


@area.case(1023, "REM_MEM_REG ignores the mmap offset", spec=REM, needs=("REPLY_ACK",))
def offset_ignored(be: BackEnd) -> None:
    memory = slotted(be)
    region = memory.regions[0].on_wire
    be.accepted(F.REM_MEM_REG, packed(region._replace(mmap_offset=12345 * PAGE)))
    _is_gone(be, region)


_OTHERS = {
    "guest address": {"gpa": 1 << 40},
    "user address": {"user_addr": 1 << 40},
    "size": {"size": MIB},
}


@area.each(
    1024,
    _OTHERS,
    "REM_MEM_REG with another {} is refused",
    spec=REM,
    needs=("REPLY_ACK",),
    severity=Severity.SHOULD,
)
def another(be: BackEnd, name: str) -> None:
    memory = slotted(be, 2 * MIB)
    region = memory.regions[0].on_wire
    be.not_done(F.REM_MEM_REG, packed(region._replace(**_OTHERS[name])))


@area.case(
    1027,
    "A refused REM_MEM_REG does not remove the region",
    spec=REM,
    works=True,
    needs=("REPLY_ACK",),
)
def left(be: BackEnd) -> None:
    memory = slotted(be, MIB)
    ring = ring_in(be, memory)
    be.serve(ring)
    wrong = memory.regions[0].on_wire._replace(size=MIB // 2)
    if be.not_done(F.REM_MEM_REG, packed(wrong)) == "closed":
        observed("it closed the connection")
    be.serve(ring)


@area.case(
    1028,
    "REM_MEM_REG of an unknown region is refused",
    spec=REM,
    needs=("REPLY_ACK",),
    severity=Severity.SHOULD,
)
def nothing_there(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    be.not_done(F.REM_MEM_REG, packed(memory.regions[0].on_wire))


@area.case(
    1029,
    "A second REM_MEM_REG of the same region is refused",
    spec=REM,
    needs=("REPLY_ACK",),
    severity=Severity.SHOULD,
)
def removed_twice(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    remove(be, memory.regions[0])
    be.not_done(F.REM_MEM_REG, packed(memory.regions[0].on_wire))


@area.each(
    1030,
    (0, 2),
    "ADD_MEM_REG with {} descriptors instead of one is refused",
    needs=("REPLY_ACK",),
)
def descriptors(be: BackEnd, count: int) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    be.not_done(F.ADD_MEM_REG, packed(region.on_wire), fds=(region.fd,) * count)


@area.each(
    1032,
    (1, 2),
    "REM_MEM_REG with {} descriptors is survived",
    spec=REM,
    needs=("REPLY_ACK",),
)
def rem_descriptors(be: BackEnd, count: int) -> None:
    memory = slotted(be)
    region = memory.regions[0]
    try:
        code = be.acked_with(F.REM_MEM_REG, packed(region.on_wire), fds=(region.fd,) * count)
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed(f"acknowledged with {code}")


def _unmappable(be: BackEnd) -> int:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    be.own(lambda: os.close(reading))
    be.own(lambda: os.close(writing))
    return reading


@area.case(
    1034, "ADD_MEM_REG with a descriptor that cannot be mapped is refused", needs=("REPLY_ACK",)
)
def not_mappable(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    be.not_done(F.ADD_MEM_REG, packed(memory.regions[0].on_wire), fds=(_unmappable(be),))


@area.case(1035, "A region of 0 bytes is refused", severity=Severity.SHOULD, needs=("REPLY_ACK",))
def no_bytes(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    be.not_done(F.ADD_MEM_REG, packed(region.on_wire._replace(size=0)), fds=(region.fd,))


@area.case(1036, "A region whose end exceeds 64 bits is refused", needs=("REPLY_ACK",))
def wraps(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    wire = region.on_wire._replace(gpa=(1 << 64) - PAGE)
    try:
        be.not_done(F.ADD_MEM_REG, packed(wire), fds=(region.fd,))
    except Failed:
        observed("acknowledged with 0, although no guest has such memory")


_IRREGULAR = {
    "that is not aligned": {"gpa": GPA_BASE + 8 * PAGE + 100},
    "whose size is not aligned": {"size": MIB + 100},
    "that overlaps another's guest addresses": {"gpa": GPA_BASE + MIB // 2},
    "that overlaps another's user addresses": {"user_addr": GPA_BASE + USER_OFFSET + MIB // 2},
    "that was added already": {},
}


@area.each(
    1037, _IRREGULAR, "ADD_MEM_REG of a region {}", severity=Severity.MAY, needs=("REPLY_ACK",)
)
def irregular(be: BackEnd, name: str) -> None:
    memory = slotted(be, MIB, MIB, added=False)
    add(be, memory.regions[0])
    other = memory.regions[0 if name == "that was added already" else 1]
    try:
        wire = other.on_wire._replace(**_IRREGULAR[name])
        code = be.acked_with(F.ADD_MEM_REG, packed(wire), fds=(other.fd,))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed(f"acknowledged with {code}")


@area.case(1042, "A payload of a region without the 8 bytes before it is survived")
def without_padding(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    try:
        be.send(F.ADD_MEM_REG, region.on_wire.pack(), fds=(region.fd,))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed("it ignored it, or took it for another region")


class _Slices:
    """Regions of one page each, all in one file."""

    def __init__(self, be: BackEnd, count: int) -> None:
        self.fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
        be.own(lambda: os.close(self.fd))
        os.ftruncate(self.fd, count * PAGE)

    def payload(self, number: int) -> bytes:
        """The payload of one; guest addresses are far above other memory."""
        gpa = (1 << 41) + 2 * number * PAGE
        return packed(MemoryRegion(gpa, PAGE, gpa + USER_OFFSET, number * PAGE))


def _full(be: BackEnd, keep: int = 0) -> tuple[_Slices, int]:
    """Fill all slots but ``keep``; the regions and their number."""
    be.negotiate(FEATURE)
    count = slots(be) - keep
    if count > _MOST:
        unsupported(f"it has {count} slots, and this case fills {_MOST} at most")
    slices = _Slices(be, count + 1)
    for number in range(count):
        be.send(F.ADD_MEM_REG, slices.payload(number), fds=(slices.fd,))
        if number % 16 == 15:
            be.barrier()  # the kernel limits the number of descriptors in flight
    be.check_responds(f"with {count} regions")
    return slices, count


@area.case(1043, "As many regions as GET_MAX_MEM_SLOTS returns can be added", spec=MAX, works=True)
def as_many(be: BackEnd) -> None:
    _full(be, keep=1)
    memory = be.memory(share=False)
    add(be, memory.regions[0])
    be.serve(ring_in(be, memory))


@area.case(
    1044,
    "One more region than GET_MAX_MEM_SLOTS is refused",
    spec=MAX,
    severity=Severity.MAY,
    needs=("REPLY_ACK",),
)
def one_more(be: BackEnd) -> None:
    slices, count = _full(be)
    try:
        be.not_done(F.ADD_MEM_REG, slices.payload(count), fds=(slices.fd,))
    except Failed as failed:
        observed(f"it takes more regions than it announces: {failed.seen}")


@area.case(
    1059,
    "A region beyond the maximum that is refused leaves the others as they are",
    spec=MAX,
    works=True,
    needs=("REPLY_ACK",),
)
def refused_beyond(be: BackEnd) -> None:
    slices, count = _full(be, keep=1)
    memory = be.memory(share=False)
    add(be, memory.regions[0])
    ring = ring_in(be, memory)
    be.serve(ring)
    took = ""
    try:
        how = be.not_done(F.ADD_MEM_REG, slices.payload(count), fds=(slices.fd,))
    except Failed as failed:
        how, took = "", f"it takes more regions than it announces: {failed.seen}"
    if how == "closed":
        observed("it closed the connection")
    be.serve(ring)
    if took:
        observed(took)


@area.case(1045, "A slot can be reused after REM_MEM_REG", spec=REM, needs=("REPLY_ACK",))
def freed(be: BackEnd) -> None:
    slices, count = _full(be)
    be.accepted(F.REM_MEM_REG, slices.payload(count // 2))
    be.accepted(F.ADD_MEM_REG, slices.payload(count), fds=(slices.fd,))


@area.case(1046, "Each of several pipelined ADD_MEM_REG is acknowledged", needs=("REPLY_ACK",))
def in_flight(be: BackEnd) -> None:
    memory = slotted(be, *[MIB] * 8, added=False)
    for region in memory.regions:
        payload, fds = packed(region.on_wire), (region.fd,)
        be.wire.send(F.ADD_MEM_REG, payload, flags=VERSION | NEED_REPLY, fds=fds)
    for _ in memory.regions:
        code = be.reply_to(F.ADD_MEM_REG).u64
        check(code == 0, "acknowledged with 0", f"acknowledged with {code}")


@area.case(1047, "Pipelined ADD_MEM_REG are each mapped with their own descriptor", works=True)
def bound(be: BackEnd) -> None:
    memory = slotted(be, *[MIB] * 8, added=False)
    for region in memory.regions:
        be.send(F.ADD_MEM_REG, packed(region.on_wire), fds=(region.fd,))
    for number in (6, 3):
        ring = ring_in(be, memory, number)
        be.serve(ring)
        be.stop_all()


@area.case(
    1048, "A region that is added, removed and added by pipelined requests is mapped", works=True
)
def back_and_forth(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    region = memory.regions[0]
    payload, fds = packed(region.on_wire), (region.fd,)
    be.send(F.ADD_MEM_REG, payload, fds=fds)
    be.send(F.REM_MEM_REG, payload)
    be.send(F.ADD_MEM_REG, payload, fds=fds)
    be.serve(ring_in(be, memory))


@area.case(
    1049,
    "A ring in a region that was added later is logged once the log was enlarged",
    spec="Migration",
    works=True,
    needs=("LOG_SHMFD",),
)
def logged(be: BackEnd) -> None:
    be.negotiate(FEATURE, features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | LOG_ALL)
    if not be.features & LOG_ALL:
        unsupported("feature bit 26 (VHOST_F_LOG_ALL) is not offered")
    memory = be.memory(MIB, MIB, share=False)
    add(be, memory.regions[0])
    log = be.log(memory)  # for the memory including the new region
    add(be, memory.regions[1])
    ring = be.ring(memory, be.work.ring, region=1)
    be.start(ring, log=True)
    be.serve(ring)
    be.stop(ring)
    runs = log.harvest()
    logged_there = any(gpa <= ring.used < gpa + size for gpa, size in runs)
    check(logged_there, f"the used ring at {ring.used:#x} in the log", f"{runs}")


@area.case(
    1050, "The regions of a connection are removed at its end", works=True, needs=("REPLY_ACK",)
)
def gone(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    ring = ring_in(be, memory)
    be.serve(ring)
    other = be.reconnect().negotiate(FEATURE)
    _is_gone(other, memory.regions[0].on_wire)


@area.case(1051, "The next connection may add the same regions", works=True)
def next_connection(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    be.serve(ring_in(be, memory))
    other = be.reconnect().negotiate(FEATURE)
    for region in memory.regions:
        add(other, region)
    other.serve(ring_in(other, memory, 1))


@area.case(1052, "Regions stay mapped when all rings are stopped", works=True)
def stay(be: BackEnd) -> None:
    memory = slotted(be, MIB, MIB)
    ring = ring_in(be, memory, 1)
    be.serve(ring)
    be.stop_all()
    be.start(ring, base=ring.used_index)
    be.serve(ring)


@area.case(
    1053,
    "SET_MEM_TABLE where CONFIGURE_MEM_SLOTS was negotiated",
    severity=Severity.MAY,
    works=True,
)
def whole_table(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    try:
        be.send(F.SET_MEM_TABLE, memory.table, fds=memory.fds)
        be.barrier()
        ring = ring_in(be, memory)
        be.work.post(memory, ring)
        ring.kick()
        served = ring.await_used(1, be.timeout / 2)
    except Closed:
        observed("it closed the connection")
    observed("it is accepted" if served else "it is ignored")


@area.case(
    1054,
    "GET_MAX_MEM_SLOTS where CONFIGURE_MEM_SLOTS was not negotiated",
    severity=Severity.MAY,
    spec=MAX,
)
def not_agreed(be: BackEnd) -> None:
    be.negotiate()
    try:
        reply = be.ask(F.GET_MAX_MEM_SLOTS)
    except (Closed, Silent) as error:
        observed(str(error))
    observed(f"it answers with {reply.u64}")


@area.case(1055, "A ring that is set up before its memory is added is survived", works=True)
def too_soon(be: BackEnd) -> None:
    memory = slotted(be, added=False)
    ring = be.ring(memory, be.work.ring)
    try:
        be.send(F.SET_VRING_NUM, vring_state(ring.index, ring.size))
        be.send(F.SET_VRING_ADDR, be.address(ring))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    add(be, memory.regions[0])
    be.start(ring)
    be.serve(ring)
