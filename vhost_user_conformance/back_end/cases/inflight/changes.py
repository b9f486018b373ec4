"""VU-B-1226 and up: indices that wrap, and a region whose ring moves, or restarts."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from vhost_user.payloads import Inflight, MemTable
from vhost_user_conformance.back_end.cases.inflight import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.inflight_region import (
    SIZE,
    Region,
    get_region,
    mapped,
    noted_ring,
    set_region,
)
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing


def _recorded(be: BackEnd, ring: TestRing, region: Region) -> None:
    """Serve requests, and check that the region follows."""
    for _ in range(3):
        be.serve(ring)
    wanted, limit = ring.used_index, be.wire.limit()
    # It follows the used index of the ring, and may be behind it for a while.
    while (used := region.header()[4]) != wanted and not limit.over:
        be.barrier()
    check(used == wanted, f"used_idx {wanted} in the region", f"used_idx {used}")


@area.case(
    1226, "Requests are recorded also after a table that was sent while the ring runs", device="blk"
)
def after_a_table(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    be.serve(ring)
    more = Memory((MIB,))
    be.own(more.close)
    parts = [*ring.memory.regions, more.regions[0]._replace(gpa=1 << 32)]
    for count in (2, 1, 2):
        some = parts[:count]
        table = MemTable(tuple(part.on_wire for part in some)).pack()
        be.accepted(F.SET_MEM_TABLE, table, fds=tuple(part.fd for part in some))
        _recorded(be, ring, region)


@area.case(
    1227,
    "Requests are recorded also after SET_VRING_ADDR while the ring runs",
    device="blk",
)
def after_addresses(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    be.serve(ring)
    be.send(F.SET_VRING_ADDR, be.address(ring))
    be.barrier()
    _recorded(be, ring, region)


@area.case(
    1228,
    "The region may be set before the memory table, as QEMU sends them",
    device="blk",
    spec="QEMU vhost_dev_set_inflight",
)
def before_the_table(be: BackEnd) -> None:
    be.negotiate()
    region = get_region(be)
    set_region(be, region)
    memory = be.memory()
    ring = be.ring(memory, 0, SIZE)
    be.start(ring)
    _recorded(be, ring, region)


@area.case(1229, "A region is used again after its ring was stopped and started", device="blk")
def over_a_stop(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    for _ in range(3):
        _recorded(be, ring, region)
        base = be.stop(ring)
        set_region(be, region)
        be.start(ring, base=base)


@area.each(
    1243,
    (65534, 65535),
    "No request of a batch is served again where the used index has wrapped: from {} on",
    device="blk",
)
def batch_across_the_wrap(be: BackEnd, start: int) -> None:
    be.negotiate()
    memory, region = be.memory(), get_region(be)
    ring = be.ring(memory, 0, SIZE, start=start)
    jobs = [be.work.post(memory, ring) for _ in range(4)]
    heads = [job.head for job in jobs]
    region.note({head: count for count, head in enumerate(heads)}, used=start, batch=heads[2])
    for head, before in ((heads[2], heads[1]), (heads[1], heads[0])):
        region.link(head, before)
    for number, head in enumerate(heads[:3]):
        at = ring.used + 4 + 8 * ((start + number) % SIZE)
        memory.write(at, struct.pack("<II", head, 1))
    memory.write(ring.used + 2, struct.pack("<H", start + 3 & 0xFFFF))
    while ring.driver.pop() is not None:
        pass
    set_region(be, region)
    be.start(ring, base=start + 4 & 0xFFFF)
    ring.kick()
    be.await_used(ring, start + 4)
    served = []
    while (done := ring.driver.pop()) is not None:
        served.append(done[0])
    check(served == heads[3:], f"chain {heads[3]} alone served again", f"chains {served}")
    be.check_idle(ring)
    base = be.stop(ring)
    check(base == (start + 4) & 0xFFFF, f"base {start + 4 & 0xFFFF}", f"base {base}")


@area.case(
    1245, "Requests that are served again are taken up to the index where they wrap", device="blk"
)
def again_across_the_wrap(be: BackEnd) -> None:
    be.negotiate()
    memory, region = be.memory(), get_region(be)
    ring = be.ring(memory, 0, SIZE, start=65534)
    heads = [be.work.post(memory, ring).head for _ in range(4)]
    region.note({head: count for count, head in enumerate(heads)}, used=65534)
    set_region(be, region)
    be.start(ring, base=2)
    ring.kick()
    ring.await_progress(65534, be.timeout)
    deadline = time.monotonic() + QUIET
    while time.monotonic() < deadline:
        # A device that does not stop at its index comes past it again.
        count = ring.used_index - ring.start & 0xFFFF
        check(count <= 4, "4 completions at most", f"{count}")
        ring.await_call(0.001)
    be.await_used(ring, 2)
    served = []
    while (done := ring.driver.pop()) is not None:
        served.append(done[0])
    check(sorted(served) == sorted(heads), f"chains {heads}, each once", f"chains {served}")
    base = be.stop(ring)
    check(base == 2, "base 2", f"base {base:#x}")


@area.case(
    1246,
    "A region may begin anywhere in its file",
    device="blk",
    severity=Severity.SHOULD,
)
def at_an_odd_offset(be: BackEnd) -> None:
    be.negotiate()
    memory, offset = be.memory(), PAGE + 64
    size = get_region(be).message.mmap_size
    message = Inflight(size, offset, 1, SIZE)
    fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, offset + size)
    region = Region(message, fd, mapped(fd, message))
    try:
        set_region(be, region)
    except (Failed, Closed):
        observed("it refuses a region whose offset is not a multiple of a page")
    ring = be.ring(memory, 0, SIZE)
    be.start(ring)
    _recorded(be, ring, region)
    check(not any(os.pread(fd, offset, 0)), "nothing before the offset", "something is written")
