"""VU-B-0355 and up: odd offsets, and tables that change while rings run, rest or are busy."""

from __future__ import annotations

from vhost_user.payloads import MemTable
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.cases.memory import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed
from vhost_user_conformance.peer.device_work import SECTOR
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory
from vhost_user_conformance.peer.wire import Closed


@area.each(
    355,
    (512, PAGE + 2048, MIB + 64),
    "A region that begins {} bytes into its file, which is not at a page, is mapped there",
    works=True,
    severity=Severity.SHOULD,
)
def odd_offsets(be: BackEnd, offset: int) -> None:
    be.negotiate()
    memory = be.memory(4 * MIB, offset=offset, share=False)
    try:
        be.share(memory)
        be.barrier()
    except (Failed, Closed):
        observed("it refuses a region whose offset is not a multiple of a page")
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    for _ in range(3):
        be.serve(ring)


@area.case(358, "The regions of a table may be in any order", works=True, severity=Severity.SHOULD)
def any_order(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(MIB, MIB, MIB, share=False)
    order = (2, 0, 1)
    regions = tuple(memory.regions[at].on_wire for at in order)
    fds = tuple(memory.regions[at].fd for at in order)
    be.accepted(F.SET_MEM_TABLE, MemTable(regions).pack(), fds=fds)
    ring = be.ring(memory, be.work.ring, region=1)
    be.start(ring)
    for _ in range(3):
        be.serve(ring)
    if be.device == "blk":
        for region in (0, 1, 2, 0):
            index = ring.used_index + 1
            job = be.disk.request(memory, ring, 0, 0, write=SECTOR, region=region)
            ring.kick()
            be.await_used(ring, index)
            be.check_completed(ring, job)


@area.case(
    359,
    "Requests in flight while a table is sent are completed, each once",
    device="blk",
    spec="VHOST_USER_SET_MEM_TABLE",
)
def table_while_busy(be: BackEnd) -> None:
    ring = be.working_ring(size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    be.serve(ring)
    more = Memory((MIB,))
    be.own(more.close)
    parts = [*ring.memory.regions, more.regions[0]._replace(gpa=1 << 32)]
    tables = [MemTable(tuple(part.on_wire for part in parts[:count])).pack() for count in (2, 1)]
    fds = [tuple(part.fd for part in parts[:count]) for count in (2, 1)]
    for turn in range(slow_requests.TURNS):
        jobs = slow_requests.post_slow(be, ring)
        be.accepted(F.SET_MEM_TABLE, tables[turn % 2], fds=fds[turn % 2])
        slow_requests.all_completed(be, ring, jobs)
    be.check_idle(ring)


@area.case(
    360,
    "Addresses that are set again while requests are in flight have none served twice",
    device="blk",
    spec="VHOST_USER_SET_VRING_ADDR",
)
def address_while_busy(be: BackEnd) -> None:
    ring = be.working_ring(size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    be.serve(ring)
    for _ in range(slow_requests.TURNS):
        jobs = slow_requests.post_slow(be, ring)
        be.send(F.SET_VRING_ADDR, be.address(ring))
        slow_requests.all_completed(be, ring, jobs)
    be.check_idle(ring)


@area.each(
    361,
    ("not kicked", "kicked"),
    "A ring whose region was removed, and {} meanwhile, continues when the region is back",
    works=True,
    severity=Severity.SHOULD,
    spec="VHOST_USER_SET_MEM_TABLE; Ring states",
)
def away_and_back(be: BackEnd, how: str) -> None:
    kicked = how == "kicked"
    be.negotiate()
    memory = be.memory(MIB, MIB)
    ring = be.ring(memory, be.work.ring, region=1)
    be.start(ring)
    be.serve(ring)
    where = memory.regions[1]
    try:
        alone = MemTable((memory.regions[0].on_wire,)).pack()
        be.accepted(F.SET_MEM_TABLE, alone, fds=memory.fds[:1])
        # The buffers are in the region that stays.
        be.work.post(memory, ring)
        if kicked:
            ring.kick()
        be.barrier()
        if ring.await_progress(1, QUIET):
            raise Failed("no write to the region that was removed", "its used index changed")
        back = Memory((MIB, MIB))
        be.own(back.close)
        back.write(where.gpa, memory.read(where.gpa, where.size))
        table = MemTable((memory.regions[0].on_wire, back.regions[1].on_wire)).pack()
        be.accepted(F.SET_MEM_TABLE, table, fds=(memory.fds[0], back.fds[1]))
        if not kicked:
            ring.kick()
        be.barrier()
        if not ring.await_used(2, QUIET, back):
            # No rule has a ring be served again without a set-up.
            be.send(F.SET_VRING_ADDR, be.address(ring))
            be.enable(ring)
            ring.kick()
            be.barrier()
    except Closed:
        observed("it closes the connection")
    served = ring.await_used(2, be.timeout / 2, back)
    check(ring.used_index == 1, "no write to the region that was removed", "there was one")
    if not served:
        observed("the ring is not served again")


@area.case(
    363,
    "Buffers are used in the region that replaced theirs while the ring was stopped",
    device="blk",
    spec="VHOST_USER_SET_MEM_TABLE",
)
def buffers_replaced(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(MIB, MIB)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    job = be.disk.request(memory, ring, 0, 0, write=SECTOR, region=1)
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)
    base = be.stop(ring)
    old = memory.regions[1]
    fresh = Memory((MIB, MIB))
    be.own(fresh.close)
    # One region more: DPDK ignores a table with the same addresses as the current one.
    more = fresh.regions[0]._replace(gpa=1 << 32)
    parts = (memory.regions[0], fresh.regions[1], more)
    table = MemTable(tuple(part.on_wire for part in parts)).pack()
    be.accepted(F.SET_MEM_TABLE, table, fds=tuple(part.fd for part in parts))
    be.start(ring, base=base)
    job = be.disk.request(memory, ring, 0, 0, write=SECTOR, region=1, publish=False)
    fresh.write(old.gpa, memory.read(old.gpa, old.size))
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, 2)
    status = fresh.read(job.status or 0, 1)[0]
    check(status == 0, "status 0 in the region that is shared now", f"status {status}")
    before = memory.read(job.status or 0, 1)[0]
    check(before == slow_requests.UNWRITTEN, "no write to the one before", "there was one")
