"""VU-B-03xx: valid tables, regions, and rings and buffers in them."""

from __future__ import annotations

from vhost_user.payloads import MemoryRegion, MemTable
from vhost_user_conformance.back_end.cases.memory import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import Severity, check
from vhost_user_conformance.peer.device_work import BLK_IN, SECTOR, Job
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory, TestRing


def _work_in(be: BackEnd, memory: Memory, region: int) -> None:
    """Serve with the ring in that region; the buffers lie in the first."""
    ring = be.ring(memory, be.work.ring, region=region)
    be.start(ring)
    be.serve(ring)


def _read_into(memory: Memory, ring: TestRing, gpa: int, size: int) -> Job:
    """Read a disk's first sectors to this guest address."""
    header, status = memory.allocate(16), memory.allocate(1)
    memory.write(header, bytes(16))
    memory.write(status, b"\xff")
    head = ring.driver.add([(header, 16)], [(gpa, size), (status, 1)])
    ring.driver.publish()
    return Job(head, size + 1, status)


@area.each(301, range(1, 9), "A table of {} regions is accepted")
def regions(be: BackEnd, count: int) -> None:
    be.negotiate()
    be.memory(*[MIB] * count)
    be.check_responds(f"with {count} regions")


@area.each(
    311,
    (1, 3, 7),
    "A ring in region {} of 8 is served, with its buffers in another region",
    works=True,
)
def ring_in_region(be: BackEnd, region: int) -> None:
    be.negotiate()
    memory = be.memory(*[MIB] * 8)
    _work_in(be, memory, region)


@area.each(
    315,
    (PAGE, 2 * MIB, 2 * MIB + 3 * PAGE, 1 << 32),
    "A region that begins {} bytes into its file is mapped there",
    works=True,
)
def offsets(be: BackEnd, offset: int) -> None:
    be.negotiate()
    memory = be.memory(4 * MIB, offset=offset)
    _work_in(be, memory, 0)


@area.case(320, "Sending the same table again changes nothing", works=True)
def same_again(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    be.share(memory)
    _work_in(be, memory, 0)


@area.case(321, "A table replaces the one before as a whole", works=True)
def replaced(be: BackEnd) -> None:
    be.negotiate()
    be.memory(MIB, MIB)
    memory = be.memory()
    _work_in(be, memory, 0)


@area.case(322, "The same table may be sent again while a ring runs", works=True)
def same_while_running(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.share(ring.memory)
    be.serve(ring)


@area.case(323, "A larger table may be sent while a ring runs, and the ring continues", works=True)
def grown_while_running(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    more = Memory((MIB,))
    be.own(more.close)
    extra = more.regions[0]._replace(gpa=1 << 32)
    parts = [*ring.memory.regions, extra]
    table = MemTable(tuple(part.on_wire for part in parts)).pack()
    be.accepted(F.SET_MEM_TABLE, table, fds=tuple(part.fd for part in parts))
    be.serve(ring)


@area.case(
    324,
    "A ring can be started again after its memory was replaced",
    works=True,
    spec="VHOST_USER_SET_MEM_TABLE",
)
def restart_elsewhere(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop_all()
    memory = be.memory()
    _work_in(be, memory, 0)


@area.case(325, "Guest addresses and user addresses are distinguished", works=True)
def addresses(be: BackEnd) -> None:
    # The suite's user addresses are far from its guest addresses: neither is valid as the other.
    be.serve(be.working_ring())


@area.case(326, "Two regions of one file are both mapped", works=True)
def one_file(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(4 * MIB, share=False)
    whole = memory.regions[0]
    half = whole.size // 2
    parts = [
        MemoryRegion(whole.gpa, half, whole.on_wire.user_addr, 0),
        MemoryRegion(whole.gpa + half, half, whole.on_wire.user_addr + half, half),
    ]
    be.accepted(F.SET_MEM_TABLE, MemTable(tuple(parts)).pack(), fds=(whole.fd, whole.fd))
    _work_in(be, memory, 0)


@area.case(327, "A region may be at guest address 0")
def at_zero(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(share=False)
    region = memory.regions[0].on_wire
    table = MemTable((region._replace(gpa=0),)).pack()
    be.accepted(F.SET_MEM_TABLE, table, fds=memory.fds)


@area.case(328, "A region may be above 4 GiB")
def above_4g(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(share=False)
    region = memory.regions[0].on_wire
    table = MemTable((region._replace(gpa=1 << 40),)).pack()
    be.accepted(F.SET_MEM_TABLE, table, fds=memory.fds)


@area.case(329, "The second region of a file is mapped from its offset", works=True)
def second_half(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(4 * MIB, share=False)
    whole = memory.regions[0]
    half = whole.size // 2
    user = whole.on_wire.user_addr
    parts = [
        MemoryRegion(whole.gpa, half, user, 0),
        MemoryRegion(whole.gpa + half, half, user + half, half),
    ]
    be.accepted(F.SET_MEM_TABLE, MemTable(tuple(parts)).pack(), fds=(whole.fd, whole.fd))
    memory.allocate(half)
    _work_in(be, memory, 0)


@area.case(330, "A buffer may end where its region does", device="blk")
def at_the_end(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(MIB, MIB)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    end = memory.regions[1].gpa + memory.regions[1].size
    job = _read_into(memory, ring, end - SECTOR, SECTOR)
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.each(
    331,
    (1, 3, 7),
    "A buffer in region {} of 8 is used, with its ring in the first region",
    device="blk",
)
def buffer_in_region(be: BackEnd, region: int) -> None:
    be.negotiate()
    memory = be.memory(*[MIB] * 8)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    job = be.disk.request(memory, ring, BLK_IN, 0, write=SECTOR, region=region)
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.case(334, "A buffer may span two adjacent regions", severity=Severity.SHOULD, device="blk")
def across_regions(be: BackEnd) -> None:
    be.negotiate()
    memory = Memory((MIB, MIB), gap=0)
    be.own(memory.close)
    be.share(memory)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    border = memory.regions[1].gpa
    for gpa in (border - SECTOR, border):
        memory.write(gpa, b"\xa5" * SECTOR)
    job = _read_into(memory, ring, border - SECTOR, 2 * SECTOR)
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)
    parts = [memory.read(gpa, SECTOR) for gpa in (border - SECTOR, border)]
    check(b"\xa5" * SECTOR not in parts, "both sectors in memory", "one was not written")


@area.case(335, "A buffer above 4 GiB is used, with its ring below", device="blk")
def buffer_above_4g(be: BackEnd) -> None:
    be.negotiate()
    memory = Memory((4 * MIB, MIB), gap=1 << 32)
    be.own(memory.close)
    be.share(memory)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    for region in (1, 0, 1):
        index = ring.used_index + 1
        job = be.disk.request(memory, ring, BLK_IN, 0, write=SECTOR, region=region)
        ring.kick()
        be.await_used(ring, index)
        be.check_completed(ring, job)


@area.case(336, "A ring may end where its region does", works=True)
def ring_at_the_end(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    ring = be.ring(memory, be.work.ring, at_end=True)
    be.start(ring)
    for _ in range(3):
        be.serve(ring)


@area.case(337, "A buffer may begin where its region does", device="blk")
def at_the_start(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(MIB, MIB, MIB)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    for turn, region in enumerate((1, 2, 1), 1):
        job = _read_into(memory, ring, memory.regions[region].gpa, SECTOR)
        ring.kick()
        be.await_used(ring, turn)
        be.check_completed(ring, job)


@area.case(338, "A running ring continues in the memory that replaces its own", works=True)
def moved_while_running(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    where = ring.memory.regions[0]
    # With one more region: DPDK ignores a table with the same addresses as the current one.
    memory = be.memory(where.size, MIB, share=False)
    memory.copy_region(ring.memory, 0)
    moved = ring.moved_to(memory)
    be.share(memory)
    for _ in range(3):
        be.serve(moved)
    check(ring.used_index == 1, "no write to the memory that was replaced", "it was")


@area.each(
    345,
    (0, 1, 2),
    "User addresses may be in another order than guest addresses: the ring is in region {} of 3",
    works=True,
)
def other_order(be: BackEnd, region: int) -> None:
    be.negotiate()
    memory = be.memory(MIB, MIB, MIB, share=False)
    on_wire = [each.on_wire for each in memory.regions]
    users = [on_wire[at].user_addr for at in (2, 0, 1)]
    parts = [each._replace(user_addr=user) for each, user in zip(on_wire, users, strict=True)]
    be.accepted(F.SET_MEM_TABLE, MemTable(tuple(parts)).pack(), fds=memory.fds)
    ring = be.ring(memory, be.work.ring, region=region)
    ring.user_offset = parts[region].user_addr - parts[region].gpa
    be.start(ring)
    for _ in range(3):
        be.serve(ring)
