"""VU-B-11xx: several rings of one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("multi_queue", BACK_END, "Multiple queue support", needs=("MQ",))


def _rings(be: BackEnd, count: int) -> list[TestRing]:
    """This many rings that take requests, all started."""
    work = be.work
    be.negotiate()
    step = be.device_class.rings_per_queue
    indexes = list(range(work.ring, be.rings, step))[:count]
    if len(indexes) < count:
        unsupported(f"it has fewer than {count} rings that take requests")
    memory = be.memory()
    rings = []
    for index in indexes:
        if step == 2:
            be.start(be.ring(memory, index - 1))
        ring = be.ring(memory, index)
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


@area.case(1104, "Two rings serve side by side", works=True)
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
    check(not other.calls(), "no call of the other ring", "it was called")


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
