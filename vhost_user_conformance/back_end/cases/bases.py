"""VU-B-06xx: SET_VRING_BASE, GET_VRING_BASE, and what is completed before it is answered."""

from __future__ import annotations

from vhost_user.features import VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX
from vhost_user.payloads import VringState
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_FLUSH,
    BLK_F_RO,
    BLK_FLUSH,
    BLK_OUT,
    SECTOR,
)

area = Area("bases", BACK_END, "VHOST_USER_GET_VRING_BASE")

MANY = 24
#: How often slow requests are tried: all of them may be complete by chance.
TURNS = 16


@area.each(601, (0, 1, 7, 63, 64), "The base after {} requests is that number", works=True)
def base_counts(be: BackEnd, count: int) -> None:
    ring = be.working_ring()
    for _ in range(count):
        be.serve(ring)
    base = be.stop(ring)
    check(base == count, f"base {count}", f"base {base}")
    be.start(ring, base=base)
    be.serve(ring)


@area.case(610, "The reply has the index of the requested ring", works=True)
def base_names_ring(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    reply = be.ask(F.GET_VRING_BASE, vring_state(ring.index, 0))
    state = VringState.unpack(reply.payload)
    check(state.ring == ring.index, f"index {ring.index}", f"index {state.ring}")


@area.case(611, "The base of a split ring has 16 bits: the upper ones of num are zero", works=True)
def base_has_16_bits(be: BackEnd) -> None:
    ring = be.working_ring(start=65535)
    be.serve(ring)
    be.serve(ring)
    base = be.stop(ring)
    check(base == 1, "base 1 after 65535 and two requests", f"base {base:#x}")


@area.case(
    612, "GET_VRING_BASE returns the base that was set when there was no request", works=True
)
def base_comes_back(be: BackEnd) -> None:
    ring = be.working_ring(start=1234)
    base = be.stop(ring)
    check(base == 1234, "base 1234", f"base {base}")


@area.case(
    613,
    "When GET_VRING_BASE is answered each request taken is completed: base and used index agree",
    works=True,
    spec="VHOST_USER_GET_VRING_BASE; e7985b6a56",
)
def nothing_in_flight(be: BackEnd) -> None:
    ring = be.working_ring(size=128)
    be.serve(ring)
    for _ in range(MANY):
        be.work.post(ring.memory, ring)

    def kick() -> None:
        # The moment at which it is hardest to know which requests were taken: a back-end with a
        # thread for rings sees the kick, and receives the stop before it has read the requests.
        ring.kick()
        ring.await_heard(QUIET)

    base = be.stop(ring, after_header=kick)
    used = ring.used_index
    check(base == used, f"a used index of {base}, the base", f"the used index is {used}")


@area.case(614, "After the reply no further request is completed", works=True)
def nothing_completed_after(be: BackEnd) -> None:
    ring = be.working_ring(size=128)
    be.serve(ring)
    for _ in range(MANY):
        be.work.post(ring.memory, ring)
    ring.kick()
    be.stop(ring)
    be.check_idle(ring)


@area.case(615, "After the reply the used ring is not written any more", works=True)
def used_ring_untouched(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop(ring)
    before = ring.memory.read(ring.used, 4 + 8 * ring.size)
    be.work.post(ring.memory, ring)
    ring.kick()
    ring.await_used(ring.used_index + 1, QUIET)
    after = ring.memory.read(ring.used, 4 + 8 * ring.size)
    check(before == after, "the same bytes in the used ring", "they changed")


@area.case(616, "After the reply there is no call", works=True)
def no_call_after(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop(ring)
    ring.calls()
    be.work.post(ring.memory, ring)
    ring.kick()
    check(not ring.await_call(QUIET), "no call of a stopped ring", "there was a call")


@area.case(
    617, "A request that was not taken before the stop is served after the start", works=True
)
def rest_is_served(be: BackEnd) -> None:
    ring = be.working_ring(size=128)
    jobs = [be.work.post(ring.memory, ring) for _ in range(MANY)]
    ring.kick()
    base = be.stop(ring)
    ring.unkick()  # what VU-B-0507 is about
    be.start(ring, base=base)
    ring.kick()
    be.await_used(ring, MANY)
    done = [ring.driver.pop() for _ in range(MANY)]
    heads = sorted(entry[0] for entry in done if entry is not None)
    check(heads == sorted(job.head for job in jobs), "each request once", f"heads {heads}")


@area.case(618, "Ten stops and starts lose no request and repeat none", works=True)
def ten_times(be: BackEnd) -> None:
    ring = be.working_ring()
    for turn in range(10):
        be.serve(ring)
        base = be.stop(ring)
        check(base == turn + 1, f"base {turn + 1}", f"base {base}")
        be.start(ring, base=base)


@area.case(619, "A ring may be started from an earlier base, as after a roll-back", works=True)
def from_zero_again(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop(ring)
    fresh = be.ring(ring.memory, ring.index, ring.size)
    be.start(fresh)
    be.serve(fresh)
    base = be.stop(fresh)
    check(base == 1, "base 1 of the new ring", f"base {base}")


@area.case(
    620,
    "GET_VRING_BASE is answered although its reserved number is not 0",
    severity=Severity.SHOULD,
    works=True,
    spec="VHOST_USER_GET_VRING_BASE; c7f2181661",
)
def reserved_number(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    reply = be.ask(F.GET_VRING_BASE, vring_state(ring.index, 77))
    state = VringState.unpack(reply.payload)
    check(state.num == 1, "base 1", f"base {state.num}")


@area.case(
    621,
    "GET_VRING_BASE with need_reply is answered once, by its own reply",
    needs=("REPLY_ACK",),
    spec="VHOST_USER_PROTOCOL_F_REPLY_ACK",
)
def need_reply(be: BackEnd) -> None:
    be.negotiate()
    reply = be.ask(F.GET_VRING_BASE, vring_state(0, 0), need_reply=True)
    check(len(reply.payload) == 8, "a vring state", f"{len(reply.payload)} bytes")
    be.check_responds("with no second reply")


@area.case(
    622,
    "Slow requests are completed before GET_VRING_BASE is answered",
    device="blk",
    spec="VHOST_USER_GET_VRING_BASE; e7985b6a56",
)
def slow_ones_completed(be: BackEnd) -> None:
    ring = be.working_ring(size=256)
    if be.features >> BLK_F_RO & 1 or not be.features >> BLK_F_FLUSH & 1:
        unsupported("it accepts no writes or has no flush, and reads may complete at once")
    for _ in range(TURNS):
        before = ring.used_index
        for sector in range(MANY):
            be.disk.request(ring.memory, ring, BLK_OUT, sector, read=bytes(SECTOR))
            be.disk.request(ring.memory, ring, BLK_FLUSH, 0)
        ring.kick()
        # The first completion shows that the ring is being served.
        check(ring.await_progress(before, be.timeout), "a completion", "none came")
        base = be.stop(ring)
        used = ring.used_index
        check(base == used, f"a used index of {base}, the base", f"the used index is {used}")
        be.resume(ring, base)
    be.stop(ring)
    be.check_idle(ring)


#: Bits 0 to 14 next available, 15 its wrap counter, 16 to 30 next used, 31 its wrap counter.
_PACKED_BASES = {"at the beginning": 0x8000_8000, "in the second round": 0x0005_0005}


@area.each(
    630,
    _PACKED_BASES,
    "GET_VRING_BASE returns a packed ring's base {} as it was set",
    works=True,
    spec="Vring descriptor indices for packed virtqueues; c7f2181661",
)
def packed(be: BackEnd, when: str) -> None:
    be.read_features()
    if not be.features >> VIRTIO_F_RING_PACKED & 1:
        unsupported("VIRTIO_F_RING_PACKED is not offered")
    be.negotiate(features=1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_RING_PACKED | PROTOCOL_BIT)
    wanted = _PACKED_BASES[when]
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring, base=wanted)
    base = be.stop(ring)
    check(base == wanted, f"base {wanted:#x}", f"base {base:#x}")


@area.case(
    623,
    "Requests that a stop waits for are followed by a call, before the stop or after the restart",
    device="blk",
    severity=Severity.SHOULD,
)
def stop_calls(be: BackEnd) -> None:
    be.negotiate_bits(VIRTIO_RING_F_EVENT_IDX)
    slow_requests.need_slow(be)
    ring = be.ring(be.memory(), 0, slow_requests.SIZE, event_idx=True)
    be.start(ring)
    be.serve(ring)
    for _ in slow_requests.attempts(be, ring):
        # Of all completions only the last one is to be followed by a call.
        last = ring.avail_index - 1 & 0xFFFF
        ring.memory.write(ring.avail + 4 + 2 * ring.size, last.to_bytes(2, "little"))
        be.barrier()
        ring.calls()
        late = slow_requests.outstanding(ring)
        base = be.stop(ring)
        if late and ring.used_index == ring.avail_index:
            check(ring.await_call(QUIET), "a call for what was completed meanwhile", "none came")
            return
        be.resume(ring, base)
