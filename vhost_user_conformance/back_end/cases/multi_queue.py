"""VU-B-11xx: several rings of one device."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from vhost_user.codec import VERSION
from vhost_user.features import VIRTIO_F_VERSION_1, ProtocolFeature
from vhost_user.payloads import VringState
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.dirty_log import (
    check_logged,
    check_used_logged,
    switched_on,
)
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.device_work import BLK_F_MQ, BLK_FLUSH, NET_F_MQ
from vhost_user_conformance.peer.memory import MIB, PAGE
from vhost_user_conformance.peer.wire import HEADER, Closed

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("multi_queue", BACK_END, "Multiple queue support", needs=("MQ",))

#: Of busy rings.
_STOPS = 16
#: By class of device: the feature bit of several queues.
_SEVERAL = {"blk": 1 << BLK_F_MQ, "net": 1 << NET_F_MQ}


def _rings(
    be: BackEnd, count: int, *names: str, size: int = 64, memory: int = 4 * MIB
) -> list[TestRing]:
    """This many rings that take requests, all started, with these protocol features."""
    work = be.work
    # A driver that uses several queues has acknowledged it: without it DPDK keeps the first pair.
    several = _SEVERAL.get(be.device, 0)
    be.negotiate(*names, features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | several)
    step = be.device_class.rings_per_queue
    indexes = list(range(work.ring, be.rings, step))[:count]
    if len(indexes) < count:
        unsupported(f"it has fewer than {count} rings that take requests")
    shared = be.memory(memory)
    rings = []
    for index in indexes:
        if step == 2:
            be.start(be.ring(shared, index - 1))
        ring = be.ring(shared, index, size)
        be.start(ring)
        rings.append(ring)
    return rings


@area.case(1101, "GET_QUEUE_NUM is answered with at least one queue", severity=Severity.SHOULD)
def at_least_one(be: BackEnd) -> None:
    be.negotiate()
    queues = be.ask_u64(F.GET_QUEUE_NUM)
    check(queues >= 1, "one queue or more", str(queues))


@area.case(1102, "GET_QUEUE_NUM gives the same answer each time", severity=Severity.SHOULD)
def stable(be: BackEnd) -> None:
    be.negotiate()
    first, again = be.ask_u64(F.GET_QUEUE_NUM), be.ask_u64(F.GET_QUEUE_NUM)
    check(first == again, f"{first} again", str(again))


@area.case(1103, "The last ring that the back-end reports can be set up", spec="GET_QUEUE_NUM")
def last_ring(be: BackEnd) -> None:
    be.negotiate()
    last = min(be.rings, 256) - 1
    be.send(F.SET_VRING_NUM, vring_state(last, 64))
    be.check_responds(f"after SET_VRING_NUM of ring {last}")


@area.case(1104, "Two rings serve at the same time", works=True)
def two_serve(be: BackEnd) -> None:
    for ring in _rings(be, 2):
        be.serve(ring)
        be.serve(ring)


@area.case(1105, "Stopping a ring does not stop the others", works=True, spec="Ring states")
def others_go_on(be: BackEnd) -> None:
    one, other = _rings(be, 2)
    be.serve(one)
    be.stop(one)
    be.serve(other)
    be.check_ignored(one)


@area.case(1106, "Each ring has a base of its own", works=True)
def own_bases(be: BackEnd) -> None:
    one, other = _rings(be, 2)
    be.serve(one)
    be.serve(one)
    be.serve(other)
    bases = be.stop(one), be.stop(other)
    check(bases == (2, 1), "bases 2 and 1", f"{bases}")


@area.case(1107, "Each ring is called on its own eventfd", works=True)
def own_calls(be: BackEnd) -> None:
    one, other = _rings(be, 2)
    be.serve(one)
    other.calls()
    be.serve(one)
    check(not other.await_call(QUIET), "no call of the other ring", "it was called")


@area.case(1108, "A kick of one ring does not start another", works=True)
def own_kicks(be: BackEnd) -> None:
    one, other = _rings(be, 2)
    be.serve(one)
    be.serve(other)
    # Until it has looked at the ring once more, it serves what it finds there without a kick.
    be.barrier()
    be.barrier()
    be.work.post(other.memory, other)
    one.kick()
    polled = other.await_used(2, QUIET)
    other.kick()
    be.await_used(other, 2)
    if polled:
        observed("it serves rings that were not kicked, as a polling back-end does")


@area.case(1109, "Rings may be stopped in any order", works=True)
def any_order(be: BackEnd) -> None:
    rings = _rings(be, 2)
    for ring in rings:
        be.serve(ring)
    for ring in reversed(rings):
        base = be.stop(ring)
        check(base == 1, "base 1", f"base {base}")


@area.case(
    1110, "Several GET_VRING_BASE may be in flight at once", works=True, spec="Communication"
)
def pipelined_stop(be: BackEnd) -> None:
    rings = _rings(be, 2)
    for ring in rings:
        be.serve(ring)
    for ring in rings:
        be.send(F.GET_VRING_BASE, vring_state(ring.index, 0))
    for ring in rings:
        reply = be.reply_to(F.GET_VRING_BASE)
        wanted = vring_state(ring.index, 1)
        check(reply.payload == wanted, f"base 1 of ring {ring.index}", reply.payload.hex())


@area.case(1111, "A ring index beyond the reported number is refused", needs=("REPLY_ACK",))
def beyond(be: BackEnd) -> None:
    be.negotiate()
    if be.rings >= 256:
        unsupported("it offers as many rings as an index can address")
    try:
        code = be.acked_with(F.SET_VRING_NUM, vring_state(1 << 20, 64))
        be.barrier()
    except Closed:
        return
    if not code:
        observed("acknowledged with 0, as if the ring existed; no rule says what to do")


@area.each(
    1128,
    ("the number of rings", "256", "65536"),
    "A message with the index of a ring plus {}, for which there is no ring, changes no ring",
    works=True,
    spec="Ring states",
)
def beyond_changes_nothing(be: BackEnd, by: str) -> None:
    ring = be.working_ring()
    be.serve(ring)
    step = be.rings if by == "the number of rings" else int(by)
    if ring.index + step < be.rings:
        unsupported(f"it has {be.rings} rings, so that ring {ring.index + step} is there")
    wrong = vring_state(ring.index + step, 0)
    try:
        for number in (F.SET_VRING_ENABLE, F.SET_VRING_BASE):
            be.send(number, wrong)
        be.barrier()
    except Closed:
        return
    be.serve(ring)


@area.case(1112, "Rings that are set up together have sizes and bases of their own", works=True)
def set_up_together(be: BackEnd) -> None:
    work = be.work
    be.negotiate()
    step = be.device_class.rings_per_queue
    indexes = list(range(work.ring, be.rings, step))[:2]
    if len(indexes) < 2:
        unsupported("it has fewer than 2 rings that take requests")
    memory = be.memory()
    rings = [
        be.ring(memory, index, size, start=start)
        for index, size, start in zip(indexes, (16, 64), (7, 300), strict=True)
    ]
    everyone = [
        *rings,
        *(be.ring(memory, index) for index in range(indexes[-1]) if index not in indexes),
    ]
    for number, payload in (
        (F.SET_VRING_NUM, lambda ring: vring_state(ring.index, ring.size)),
        (F.SET_VRING_BASE, lambda ring: vring_state(ring.index, ring.start)),
        (F.SET_VRING_ADDR, be.address),
    ):
        for ring in everyone:
            be.send(number, payload(ring))
    for ring in everyone:
        be.send(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,))
        be.send(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))
        be.enable(ring)
    be.barrier()
    for ring in rings:
        # More requests than the smaller ring's size.
        for _ in range(20):
            be.serve(ring)


def _slow_rings(be: BackEnd, size: int = 4 * MIB) -> list[TestRing]:
    """Two rings of a disk, which serve, with room for slow requests in memory of this size."""
    rings = _rings(be, 2, size=slow_requests.SIZE, memory=size)
    slow_requests.need_slow(be)
    for ring in rings:
        be.serve(ring)
    return rings


@area.each(
    1113,
    (0, 1),
    "Slow requests of two rings complete on their own ring: {} was kicked first",
    device="blk",
)
def own_completions(be: BackEnd, first: int) -> None:
    rings = _slow_rings(be)
    if first:
        rings.reverse()
    jobs = [slow_requests.post_slow(be, ring) for ring in rings]
    for ring, its in zip(rings, jobs, strict=True):
        slow_requests.all_completed(be, ring, its)


@area.each(1115, (0, 1), "Slow requests of ring {} are followed by its own call", device="blk")
def own_late_calls(be: BackEnd, which: int) -> None:
    rings = _slow_rings(be)
    slow_requests.all_completed(be, rings[0], slow_requests.post_slow(be, rings[0]))
    one, other = rings[which], rings[1 - which]
    for ring in rings:
        ring.await_last_call(QUIET)
    be.disk.request(one.memory, one, BLK_FLUSH, 0)
    one.kick()
    check(one.await_call(be.timeout), f"a call of ring {one.index}", "none came")
    check(not other.await_call(QUIET), f"no call of ring {other.index}", "it was called")


@area.each(
    1117,
    (0, 1),
    "Slow requests of ring {} are completed before its GET_VRING_BASE is answered",
    device="blk",
    spec="VHOST_USER_GET_VRING_BASE; e7985b6a56",
)
def own_stop(be: BackEnd, which: int) -> None:
    ring = _slow_rings(be)[which]
    for _ in range(slow_requests.TURNS):
        slow_requests.post_slow(be, ring)
        base = be.stop(ring)
        used = ring.used_index
        check(base == used, f"a used index of {base}, the base", f"the used index is {used}")
        be.resume(ring, base)


@area.case(
    1119,
    "Several GET_VRING_BASE are answered in their order, also while requests are in flight",
    device="blk",
    spec="Communication",
)
def stops_in_order(be: BackEnd) -> None:
    rings = _slow_rings(be, 32 * MIB)
    for turn in range(_STOPS):
        # In every other turn the first ring alone is busy.
        busy = rings[: 1 + turn % 2]
        before = [ring.used_index for ring in busy]
        for ring in busy:
            slow_requests.make_slow(be, ring, 12, size=64 << 10)
        for ring in busy:
            ring.kick()
        for ring, index in zip(busy, before, strict=True):
            check(ring.await_progress(index, be.timeout), "a completion", "none came")
        states = (vring_state(ring.index, 0) for ring in rings)
        head = HEADER.pack(F.GET_VRING_BASE, VERSION, len(vring_state(0, 0)))
        be.wire.send_bytes(b"".join(head + each for each in states))
        bases = []
        for ring in rings:
            state = VringState.unpack(be.reply_to(F.GET_VRING_BASE).payload)
            check(state.ring == ring.index, f"a reply about ring {ring.index}", f"{state.ring}")
            bases.append(state.num)
        for ring, base in zip(rings, bases, strict=True):
            be.resume(ring, base)


@area.each(
    1120,
    ("RESET_DEVICE", "STATUS"),
    "A reset by {} stops all rings",
    works=True,
    spec="VHOST_USER_RESET_DEVICE; virtio 1.3, 2.4.1",
)
def all_reset(be: BackEnd, how: str) -> None:
    rings = _rings(be, 2, how)
    if how == "STATUS":
        for status in (1, 3, 11, 15):
            be.send(F.SET_STATUS, u64(status))
    for ring in rings:
        be.serve(ring)
    if how == "STATUS":
        be.accepted(F.SET_STATUS, u64(0))
    else:
        be.accepted(F.RESET_DEVICE)
    for ring in rings:
        be.check_ignored(ring)


@area.case(1122, "All rings continue in the memory that replaces theirs", works=True)
def all_moved(be: BackEnd) -> None:
    rings = _rings(be, 2)
    for ring in rings:
        be.serve(ring)
    before = rings[0].memory
    # With one more region: DPDK ignores a table with the same addresses as the current one.
    memory = be.memory(before.regions[0].size, 1 << 20, share=False)
    memory.copy_region(before, 0)
    moved = [ring.moved_to(memory) for ring in rings]
    be.share(memory)
    for ring in moved:
        be.serve(ring)
    for ring in rings:
        check(ring.used_index == 1, "no write to the memory that was replaced", "it was")


@area.case(
    1123,
    "Each ring has an error descriptor of its own",
    works=True,
    spec="VHOST_USER_SET_VRING_ERR",
    severity=Severity.SHOULD,
)
def own_errors(be: BackEnd) -> None:
    one, other = _rings(be, 2)
    errors = []
    for ring in (one, other):
        be.serve(ring)
        errors.append(be.spare_fd())
        be.send(F.SET_VRING_ERR, u64(ring.index), fds=(errors[-1],))
    be.barrier()
    # More requests than the ring has descriptors: it cannot be served.
    ahead = one.avail_index + 3 * one.size & 0xFFFF
    one.memory.write(one.avail + 2, ahead.to_bytes(2, "little"))
    one.kick()
    poll = select.poll()
    for fd in errors:
        poll.register(fd, select.POLLIN)
    signalled = [fd for fd, _ in poll.poll(be.timeout * 1000 / 4)]
    if not signalled:
        observed("no error descriptor is signalled")
    check(signalled == errors[:1], "a signal on the ring's own error descriptor", "on another")
    be.serve(other)


@area.case(
    1124,
    "The last ring that the back-end reports serves",
    works=True,
    spec="VHOST_USER_GET_QUEUE_NUM",
    severity=Severity.SHOULD,
)
def last_serves(be: BackEnd) -> None:
    work = be.work
    be.negotiate()
    step = be.device_class.rings_per_queue
    last = min(be.rings, 256) - 1
    if last < work.rings or not be.device_class.joint:
        unsupported("is about several queues, and it has one")
    memory = be.memory()
    for index in range(last - step + 1, last):
        be.start(be.ring(memory, index))
    ring = be.ring(memory, last)
    be.start(ring)
    be.serve(ring)


@area.case(1125, "The used ring of each of several rings is logged", works=True, spec="Migration")
def all_logged(be: BackEnd) -> None:
    rings = _rings(be, 2)
    if ProtocolFeature.LOG_SHMFD not in be.acked:
        unsupported("LOG_SHMFD is not offered")
    for ring in rings:
        be.serve(ring)
        ring.memory.allocate(PAGE, align=PAGE)
    log = switched_on(be, *rings)
    for ring in rings:
        job = be.serve(ring)
        dirty = check_used_logged(be, log, ring)
        if job.status is not None and job.status >> 12 not in dirty:
            check_logged(be, log, {job.status >> 12})


@area.each(
    1126,
    ("RESET_DEVICE", "STATUS"),
    "A reset by {} is acknowledged when no request of ring 1 writes memory any more",
    needs=("REPLY_ACK",),
    device="blk",
    spec="VHOST_USER_RESET_DEVICE; virtio 1.3, 2.4.1",
)
def all_reset_then_acknowledged(be: BackEnd, how: str) -> None:
    for _ in range(slow_requests.TURNS):
        ring = _rings(be, 2, how, size=slow_requests.SIZE)[1]
        slow_requests.need_slow(be)
        jobs = slow_requests.post_slow(be, ring)
        if how == "STATUS":
            be.accepted(F.SET_STATUS, u64(0))
        else:
            be.accepted(F.RESET_DEVICE)
        late = slow_requests.unwritten(ring, jobs)
        be.check_idle(ring)
        written = len(late) - len(slow_requests.unwritten(ring, jobs))
        check(not written, "no write of a request after the reset", f"{written} status bytes")
        if late:
            return
        be = be.reconnect()
