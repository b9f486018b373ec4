"""VU-B-12xx: the region in which a back-end records requests in flight."""

from __future__ import annotations

import os
import time
from itertools import pairwise

from vhost_user.features import ProtocolFeature
from vhost_user.payloads import Inflight
from vhost_user_conformance.back_end.cases.inflight import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.inflight_region import (
    HEADER,
    SIZE,
    STATE,
    Region,
    get_region,
    mapped,
    noted_ring,
    set_region,
)
from vhost_user_conformance.model.verdict import (
    Failed,
    Severity,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.memory import MIB, PAGE

#: Bytes of a slow read, number of such reads at once, and number of attempts.
_LONG, _LONG_ONES, _LOOKS = 4 * MIB, 16, 30


@area.case(
    1201, "GET_INFLIGHT_FD is answered with 24 bytes and a descriptor of a file of that size"
)
def answered(be: BackEnd) -> None:
    be.negotiate()
    get_region(be)


@area.case(1202, "The reply has the requested number of queues and their size")
def repeated(be: BackEnd) -> None:
    be.negotiate()
    asked = (min(be.rings, 2), 128)
    message = get_region(be, *asked).message
    seen = (message.num_queues, message.queue_size)
    check(seen == asked, f"queues and size {asked}", f"{seen}")


@area.each(1203, (2, 64, 256, 1024), "The region holds the states of {} descriptors")
def large_enough(be: BackEnd, size: int) -> None:
    be.negotiate()
    message = get_region(be, 1, size).message
    least = HEADER.size + STATE.size * size
    check(message.mmap_size >= least, f"{least} bytes or more", f"{message.mmap_size} bytes")


@area.case(1207, "The region holds the states of all requested rings")
def all_rings(be: BackEnd) -> None:
    be.negotiate()
    if be.rings < 2:
        unsupported("it has fewer than 2 rings")
    least = 2 * (HEADER.size + STATE.size * SIZE)
    size = get_region(be, 2).message.mmap_size
    check(size >= least, f"{least} bytes or more", f"{size} bytes")


@area.case(1208, "No descriptor is in flight in a new region, and its version is 0 or 1")
def fresh(be: BackEnd) -> None:
    be.negotiate()
    region = get_region(be)
    check(region.header()[1] in (0, 1), "version 0 or 1", f"version {region.header()[1]}")
    check(not region.taken(), "nothing in flight", f"heads {region.taken()}")


@area.case(1209, "Each GET_INFLIGHT_FD gives a new region", severity=Severity.MAY)
def each_new(be: BackEnd) -> None:
    be.negotiate()
    one, other = get_region(be), get_region(be)
    one.view[8] = 77
    if other.view[8] == 77:
        observed("it gives the same file again")


@area.case(
    1210, "GET_INFLIGHT_FD with need_reply is answered once, by its own reply", needs=("REPLY_ACK",)
)
def need_reply(be: BackEnd) -> None:
    be.negotiate()
    payload = Inflight(0, 0, 1, SIZE).pack()
    reply = be.ask(F.GET_INFLIGHT_FD, payload, need_reply=True)
    check(len(reply.payload) == 24, "24 bytes in the reply", f"{len(reply.payload)} bytes")
    be.barrier()


@area.case(1211, "SET_INFLIGHT_FD is acknowledged with 0", needs=("REPLY_ACK",))
def set_accepted(be: BackEnd) -> None:
    be.negotiate()
    set_region(be, get_region(be))


@area.case(1212, "The region has version 1 and the size of a running ring", device="blk")
def version(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    be.serve(ring)
    seen = region.header()[1:3]
    check(seen == (1, SIZE), f"version 1 and {SIZE} descriptors", f"{seen[0]} and {seen[1]}")


@area.case(1213, "A completed request is not recorded as in flight any more", device="blk")
def cleared(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    for _ in range(5):
        be.work.post(ring.memory, ring)
    ring.kick()
    be.await_used(ring, 5)
    be.barrier()
    be.stop(ring)
    check(not region.taken(), "nothing in flight", f"heads {region.taken()}")


@area.case(1214, "The region's used_idx follows the used index", device="blk")
def used_idx(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    for _ in range(7):
        be.serve(ring)
    be.stop(ring)
    check(region.header()[4] == 7, "used_idx 7", f"used_idx {region.header()[4]}")


@area.case(1215, "Counters increase in the order of the available ring", device="blk")
def counted(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    heads = [be.work.post(ring.memory, ring).head for _ in range(6)]
    ring.kick()
    be.await_used(ring, 6)
    be.stop(ring)
    counters = [region.state(head)[2] for head in heads]
    rising = all(one < other for one, other in pairwise(counters))
    check(rising, "increasing counters", f"{counters}")


@area.case(1216, "last_batch_head is the head of the last completion", device="blk")
def batch_head(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    heads = [be.serve(ring).head for _ in range(3)]
    be.stop(ring)
    head = region.header()[3]
    check(head == heads[-1], f"head {heads[-1]}", f"head {head}")


@area.case(1217, "A ring with a used index other than 0 is recorded with it", device="blk")
def from_elsewhere(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    region = get_region(be)
    set_region(be, region)
    ring = be.ring(memory, 0, SIZE, start=65530)
    be.start(ring)
    for _ in range(10):
        be.serve(ring)
    be.stop(ring)
    check(region.header()[4] == 4, "used_idx 4, 10 after 65530", f"used_idx {region.header()[4]}")
    check(not region.taken(), "nothing in flight", f"heads {region.taken()}")


@area.case(1218, "Each ring has a part of the region of its own", device="blk")
def own_part(be: BackEnd) -> None:
    be.negotiate()
    if be.rings < 2:
        unsupported("it has fewer than 2 rings")
    memory = be.memory()
    region = get_region(be, 2)
    set_region(be, region)
    ring = be.ring(memory, 1, SIZE)
    be.start(ring)
    for _ in range(3):
        be.serve(ring)
    be.stop(ring)
    check(region.header(1)[4] == 3, "used_idx 3 of ring 1", f"used_idx {region.header(1)[4]}")
    check(region.header(0)[4] == 0, "used_idx 0 of ring 0", f"used_idx {region.header(0)[4]}")


@area.case(1219, "The region begins at its offset in the file", device="blk")
def at_offset(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    size = get_region(be).message.mmap_size
    message = Inflight(size, PAGE, 1, SIZE)
    fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, PAGE + size)
    region = Region(message, fd, mapped(fd, message))
    set_region(be, region)
    ring = be.ring(memory, 0, SIZE)
    be.start(ring)
    be.serve(ring)
    be.stop(ring)
    check(region.header()[1] == 1, "version 1 at the offset", f"version {region.header()[1]}")
    check(not any(os.pread(fd, PAGE, 0)), "nothing before the offset", "something is written there")


@area.case(
    1220, "A ring without a region serves, although the feature was negotiated", device="blk"
)
def without(be: BackEnd) -> None:
    ring = be.working_ring()
    check(ProtocolFeature.INFLIGHT_SHMFD in be.acked, "INFLIGHT_SHMFD negotiated", "it is not")
    be.serve(ring)


@area.case(
    1221, "The same region again, after a stop and before a start, is accepted", device="blk"
)
def set_again(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    for count in range(1, 4):
        be.serve(ring)
        base = be.stop(ring)
        check(base == count, f"base {count}", f"base {base}")
        set_region(be, region)
        be.start(ring, base=base)
    be.serve(ring)


@area.case(1222, "A request that is being served is recorded as in flight", device="blk")
def noted_meanwhile(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(8 * MIB)
    region = get_region(be)
    set_region(be, region)
    ring = be.ring(memory, 0, SIZE)
    be.start(ring)
    header, status, data = memory.allocate(16), memory.allocate(1), memory.allocate(_LONG)
    for turn in range(1, _LOOKS + 1):
        # So many that they take longer than the suite may have to wait for a CPU.
        for _ in range(_LONG_ONES):
            ring.driver.add([(header, 16)], [(data, _LONG), (status, 1)])
        ring.driver.publish()
        ring.kick()
        deadline = time.monotonic() + be.timeout
        while ring.used_index != turn * _LONG_ONES and time.monotonic() < deadline:
            if region.taken():
                return
        be.await_used(ring, turn * _LONG_ONES)
        while ring.driver.pop() is not None:
            pass
        if memory.read(status, 1) != b"\0":
            unsupported(f"is about reads of {_LONG} bytes, and they fail")
    raise Failed("long reads in flight in the region meanwhile", f"none, in {_LOOKS} attempts")


@area.case(
    1224,
    "At the start of a ring the region's used_idx becomes the used index, whatever it was",
    device="blk",
)
def used_idx_at_start(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    region = get_region(be)
    region.note({}, used=98)
    set_region(be, region)
    ring = be.ring(memory, 0, SIZE, start=100)
    be.start(ring)
    ring.kick()
    be.barrier()
    be.barrier()
    be.stop(ring)
    used = region.header()[4]
    check(used == ring.start, f"used_idx {ring.start}", f"used_idx {used}")


@area.case(1223, "Each completed descriptor is linked to the one completed before it", device="blk")
def linked(be: BackEnd) -> None:
    ring, region = noted_ring(be)
    heads = [be.work.post(ring.memory, ring).head for _ in range(4)]
    ring.kick()
    be.await_used(ring, len(heads))
    be.stop(ring)
    done = [ring.driver.pop() for _ in heads]
    order = [entry[0] for entry in done if entry is not None]
    for head, before in zip(order[1:], order, strict=False):
        link = region.state(head)[1]
        check(link == before, f"chain {head} linked to {before}", f"to {link}")
