"""VU-B-1056 and up: a region that is removed, and added again from another file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.cases.memory_slots import area
from vhost_user_conformance.back_end.memory_slots import FEATURE, add, remove
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Severity, check, observed
from vhost_user_conformance.peer.device_work import SECTOR
from vhost_user_conformance.peer.memory import MIB, Memory
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd


@area.case(
    1056,
    "Buffers are used in the region that was added in place of a removed one",
    device="blk",
)
def buffers(be: BackEnd) -> None:
    be.negotiate(FEATURE)
    memory = be.memory(MIB, MIB, share=False)
    for region in memory.regions:
        add(be, region)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    old = memory.regions[1]
    for turn in range(1, 4):
        job = be.disk.request(memory, ring, 0, 0, write=SECTOR, region=1)
        ring.kick()
        be.await_used(ring, 2 * turn - 1)
        ring.driver.pop()
        status = memory.read(job.status or 0, 1)[0]
        check(status == 0, "status 0 in the first region", f"status {status}")
        remove(be, old)
        fresh = Memory((MIB, MIB))
        be.own(fresh.close)
        add(be, fresh.regions[1])
        job = be.disk.request(memory, ring, 0, 0, write=SECTOR, region=1, publish=False)
        fresh.write(old.gpa, memory.read(old.gpa, old.size))
        ring.driver.publish()
        ring.kick()
        be.await_used(ring, 2 * turn)
        ring.driver.pop()
        status = fresh.read(job.status or 0, 1)[0]
        check(status == 0, "status 0 in the region that was added", f"status {status}")
        left = memory.read(job.status or 0, 1)[0]
        check(left == 0xFF, "no write to the region that was removed", f"status {left}")
        remove(be, fresh.regions[1])
        add(be, old)


@area.case(
    1057,
    "A ring that is set up again is used in the region that was added for it",
    works=True,
    severity=Severity.SHOULD,
)
def rings(be: BackEnd) -> None:
    be.negotiate(FEATURE)
    memory = be.memory(MIB, MIB, share=False)
    for region in memory.regions:
        add(be, region)
    ring = be.ring(memory, be.work.ring, region=1)
    be.start(ring)
    be.serve(ring)
    be.stop_all()
    remove(be, memory.regions[1])
    fresh = Memory((MIB, MIB))
    be.own(fresh.close)
    region = fresh.regions[1]
    add(be, region)
    index = ring.used_index
    be.work.post(memory, ring)
    fresh.write(region.gpa, memory.read(region.gpa, region.size))
    be.start(ring, base=index)
    ring.kick()
    be.barrier()
    ring.await_used(index + 1, be.timeout, fresh)
    seen = ring.used_index_in(fresh)
    check(seen == index + 1, f"used index {index + 1} in the region that was added", f"{seen}")
    check(ring.used_index == index, "no write to the region that was removed", "there was one")


@area.case(
    1058,
    "A ring is not served in its region after that was removed",
    works=True,
    severity=Severity.SHOULD,
    spec="VHOST_USER_REM_MEM_REG; Ring states",
)
def gone(be: BackEnd) -> None:
    be.negotiate(FEATURE)
    memory = be.memory(MIB, MIB, share=False)
    for region in memory.regions:
        add(be, region)
    ring = be.ring(memory, be.work.ring, region=1)
    be.start(ring)
    be.serve(ring)
    fresh = Memory((MIB, MIB))
    be.own(fresh.close)
    where = memory.regions[1]
    try:
        remove(be, where)
        be.work.post(memory, ring)
        fresh.write(where.gpa, memory.read(where.gpa, where.size))
        add(be, fresh.regions[1])
        ring.kick()
        be.barrier()
    except Closed:
        observed("it closes the connection")
    wrong = ring.await_progress(1, QUIET)
    check(not wrong, "no write to the region that was removed", "its used index changed")
