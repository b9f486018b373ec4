"""VU-B-04xx: the states of a ring, and what may be changed in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import (
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from vhost_user.payloads import VRING_NO_FD
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.connection import (
    BackEnd,
    F,
    severity_of_size,
    u64,
    vring_state,
)
from vhost_user_conformance.back_end.nic import frame_of, looped, set_up_nic
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed, unsupported
from vhost_user_conformance.peer.device_work import BLK_IN, SECTOR

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

#: That leave slow requests behind.
_FRONT_ENDS = 6

area = Area("rings", BACK_END, "Ring states")


@area.case(401, "A ring that is set up, enabled and kicked is served", works=True)
def runs(be: BackEnd) -> None:
    be.serve(be.working_ring())


@area.case(402, "A ring serves many requests, one after the other", works=True)
def runs_on(be: BackEnd) -> None:
    ring = be.working_ring()
    for _ in range(2 * ring.size + 3):
        be.serve(ring)


@area.case(
    403,
    "A request that was available before the first kick is served at the first kick",
    works=True,
)
def made_before(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    ring = be.ring(memory, be.work.ring)
    job = be.work.post(memory, ring)
    be.start(ring)
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.case(404, "GET_VRING_BASE stops the ring: a later request is not served", works=True)
def stops(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop(ring)
    be.check_ignored(ring)


@area.case(405, "A stopped ring continues at its base when it is set up again", works=True)
def goes_on(be: BackEnd) -> None:
    ring = be.working_ring()
    for _ in range(3):
        be.serve(ring)
    base = be.stop(ring)
    check(base == 3, "base 3 after 3 requests", f"base {base}")
    be.start(ring, base=base)
    for _ in range(3):
        be.serve(ring)


@area.case(
    406,
    "A request that was made available while the ring was stopped is served after the start",
    works=True,
)
def made_while_stopped(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    base = be.stop(ring)
    job = be.work.post(ring.memory, ring)
    be.start(ring, base=base)
    ring.kick()
    be.await_used(ring, 2)
    be.check_completed(ring, job)


@area.case(
    407,
    "GET_VRING_BASE of a ring that was never set up is answered",
    spec="Communication; VHOST_USER_GET_VRING_BASE",
)
def stop_of_nothing(be: BackEnd) -> None:
    be.negotiate()
    reply = be.ask(F.GET_VRING_BASE, vring_state(0, 0))
    check(len(reply.payload) == 8, "a vring state of 8 bytes", f"{len(reply.payload)} bytes")


@area.case(408, "GET_VRING_BASE twice gives the same base", works=True)
def stop_twice(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    first, again = be.stop(ring), be.stop(ring)
    check(first == again == 1, "base 1, twice", f"{first}, then {again}")


@area.case(409, "A ring that was set up and never kicked can be stopped", works=True)
def stop_unkicked(be: BackEnd) -> None:
    ring = be.working_ring()
    base = be.stop(ring)
    check(base == 0, "base 0", f"base {base}")
    be.start(ring, base=base)
    be.serve(ring)


@area.case(
    410, "A disabled disk ring may serve or not, but serves once it is enabled", device="blk"
)
def enable_later(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    ring = be.ring(memory)
    be.set_up(ring)
    job = be.work.post(memory, ring)
    be.enable(ring)
    be.barrier()
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.case(
    411, "SET_VRING_ENABLE 0 does not stop a ring: GET_VRING_BASE is answered after it", works=True
)
def disable_then_stop(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    base = be.stop(ring)
    check(base == 1, "base 1", f"base {base}")


@area.case(412, "A ring that is disabled and enabled again serves", works=True)
def disable_enable(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    be.enable(ring)
    be.barrier()
    be.serve(ring)


@area.case(413, "SET_VRING_ENABLE does not start a ring that was stopped", works=True)
def enable_is_no_start(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop(ring)
    be.work.post(ring.memory, ring)
    be.enable(ring, on=False)
    be.enable(ring)
    be.barrier()
    be.check_idle(ring, index=1)


@area.case(
    414,
    "The frames of a transmit ring that is started and disabled are read and dropped",
    spec="Ring states; 0647098d2e",
    device="net",
)
def disabled_is_read(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    be.barrier()
    be.serve(ring)


@area.case(415, "Without bit 30 a ring is enabled from its start", works=True)
def enabled_by_itself(be: BackEnd) -> None:
    be.negotiate(features=1 << VIRTIO_F_VERSION_1)
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.serve(ring)


def _without_kick(be: BackEnd) -> TestRing:
    """A ring that has served, and is started again without a kick descriptor."""
    ring = be.working_ring()
    be.serve(ring)
    base = be.stop(ring)
    be.send(F.SET_VRING_NUM, vring_state(ring.index, ring.size))
    be.send(F.SET_VRING_BASE, vring_state(ring.index, base))
    be.send(F.SET_VRING_ADDR, be.address(ring))
    be.send(F.SET_VRING_KICK, u64(ring.index | VRING_NO_FD))
    be.send(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))
    be.enable(ring)
    return ring


@area.case(
    416,
    "A ring without a kick descriptor is polled",
    works=True,
    severity=Severity.SHOULD,
    spec="VHOST_USER_SET_VRING_KICK",
)
def polled(be: BackEnd) -> None:
    ring = _without_kick(be)
    for _ in range(3):
        # It may poll right after a reply or a call: these barriers come after that.
        be.barrier()
        be.barrier()
        be.serve(ring, kick=False)


@area.case(417, "GET_VRING_BASE does not disable a ring: it serves at its next kick", works=True)
def enabled_over_a_stop(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.set_up(ring, base=be.stop(ring))
    be.barrier()
    be.serve(ring)


@area.case(
    418,
    "Frames that a disabled ring sends are completed, with a call",
    spec="Ring states (0647098d2e)",
    device="net",
)
def disabled_is_called_for(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    be.barrier()
    for _ in range(2):
        ring.calls()
        job = be.work.post(ring.memory, ring)
        ring.kick()
        if not ring.await_progress(ring.avail_index - 1, be.timeout):
            unsupported("it does not read a disabled ring: see VU-B-0414")
        check(ring.await_call(be.timeout), "a call for what was dropped", "none came")
        be.check_completed(ring, job)


@area.case(
    419,
    "A request that was kicked while the ring was disabled is served once it is enabled",
    works=True,
)
def served_once_enabled(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    be.barrier()
    job = be.work.post(ring.memory, ring)
    ring.kick()
    ring.await_used(2, QUIET)
    be.enable(ring)
    be.barrier()
    be.await_used(ring, 2)
    be.check_completed(ring, job)


@area.each(
    420,
    (2, 4, 16, 128, 256, 512, 1024),
    "A ring of {} descriptors serves",
    severity=severity_of_size,
    works=True,
)
def sizes(be: BackEnd, size: int) -> None:
    if size < be.device_class.smallest_ring:
        # A request fits there in an indirect table only.
        be.negotiate_bits(VIRTIO_RING_F_INDIRECT_DESC)
        ring = be.ring(be.memory(), be.work.ring, size)
        be.start(ring)
        for _ in range(5):
            job = be.disk.request(ring.memory, ring, BLK_IN, 0, write=SECTOR, indirect=True)
            ring.kick()
            be.await_used(ring, ring.avail_index)
            be.check_completed(ring, job)
        return
    ring = be.working_ring(size=size)
    for _ in range(5):
        be.serve(ring)


@area.each(
    430,
    (1, 255, 32767, 65533),
    "A ring that starts at base {} serves, also where the index wraps at 65535",
    works=True,
)
def start_base(be: BackEnd, start: int) -> None:
    ring = be.working_ring(start=start)
    for _ in range(6):
        be.serve(ring)
    base = be.stop(ring)
    check(base == (start + 6) & 0xFFFF, f"base {(start + 6) & 0xFFFF}", f"base {base}")


@area.case(440, "A ring is not served after the connection has ended", works=True)
def left_alone(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.wire.close()
    ring.await_used(2, QUIET)  # it detects the end
    be.check_ignored(ring)


@area.case(
    441,
    "A connection begins with rings in their initial state: their base is 0",
    severity=Severity.MAY,
    works=True,
)
def begins_anew(be: BackEnd) -> None:
    ring = be.working_ring(start=77)
    be.serve(ring)
    other = be.reconnect()
    other.negotiate()
    base = other.stop(ring)
    if base:
        observed(f"the base of a ring that was never set up is {base}")


@area.case(
    442,
    "A ring that was never enabled receives nothing, although it was kicked",
    device="net",
)
def begins_disabled(be: BackEnd) -> None:
    looped(be)
    nic = set_up_nic(be.reconnect())
    nic.be.enable(nic.tx)
    frame = frame_of(60, 9)
    buffer = nic.offer(2048)
    # A back-end may handle messages before kicks: after two of them it has seen the kick.
    nic.be.barrier()
    nic.be.barrier()
    try:
        nic.send(frame)
    except Failed:
        unsupported("it starts rings only when both are enabled")
    nic.be.check_idle(nic.rx, index=0)
    nic.be.enable(nic.rx)
    nic.be.barrier()
    nic.send(frame)
    nic.checked(buffer, frame)


@area.case(443, "A ring may be started again with another size", works=True)
def another_size(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    for size in (16, 128, 32):
        be.stop(ring)
        ring = be.ring(ring.memory, ring.index, size)
        be.start(ring)
        # More requests than the smallest size, so that the indices wrap around it.
        for _ in range(size + 3):
            be.serve(ring)


@area.case(
    444,
    "A ring may be started again with VIRTIO_F_EVENT_IDX, and without it",
    works=True,
    spec="VHOST_USER_SET_FEATURES",
)
def another_event_index(be: BackEnd) -> None:
    be.read_features()
    if not be.features >> VIRTIO_RING_F_EVENT_IDX & 1:
        unsupported("VIRTIO_F_EVENT_IDX is not offered")
    ring = be.working_ring()
    be.serve(ring)
    for event_idx in (True, False, True):
        be.stop_all()
        bits = be.driver_features & ~(1 << VIRTIO_RING_F_EVENT_IDX)
        be.send(F.SET_FEATURES, u64(bits | event_idx << VIRTIO_RING_F_EVENT_IDX))
        ring = be.ring(ring.memory, ring.index, event_idx=event_idx)
        be.start(ring)
        be.serve(ring)
        for _ in range(4):
            ring.driver.arm()
            ring.calls()
            be.work.post(ring.memory, ring)
            ring.kick()
            check(ring.await_call(be.timeout), "a call that the driver has asked for", "none came")
            be.await_used(ring, ring.avail_index)
            ring.driver.pop()
        if event_idx:
            event = ring.memory.read(ring.used + 4 + 8 * ring.size, 2)
            # One that polls writes none.
            if event == b"\0\0":
                continue
            at = int.from_bytes(event, "little")
            check(at <= ring.avail_index, f"avail_event of {ring.avail_index} at most", str(at))


@area.case(
    445,
    "A ring that was polled for want of a kick descriptor is not served after its stop",
    works=True,
    spec="Ring states; VHOST_USER_SET_VRING_KICK",
)
def polled_stops(be: BackEnd) -> None:
    ring = _without_kick(be)
    be.barrier()
    be.barrier()
    be.work.post(ring.memory, ring)
    if not ring.await_used(ring.avail_index, be.timeout):
        unsupported("it does not poll a ring without a kick descriptor: VU-B-0416 is about that")
    base = be.stop(ring)
    check(base == ring.avail_index, f"base {ring.avail_index}", f"base {base}")
    be.work.post(ring.memory, ring)
    be.check_idle(ring, index=base)


@area.case(
    446,
    "Requests that were taken before SET_VRING_ENABLE 0 are completed, each with a call",
    device="blk",
    severity=Severity.SHOULD,
)
def disabled_calls(be: BackEnd) -> None:
    ring = be.working_ring(size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    be.serve(ring)
    for _ in slow_requests.attempts(be, ring):
        be.enable(ring, on=False)
        be.barrier()
        ring.calls()
        before = ring.used_index
        # One that completes from here on has its call after the counter was reset.
        if slow_requests.outstanding(ring) and ring.await_progress(before, QUIET):
            check(ring.await_call(be.timeout), "a call for the completion", "none came")
            be.enable(ring)
            be.await_used(ring, ring.avail_index)
            return
        be.enable(ring)


@area.case(
    448,
    "The slow requests of a front-end that has disconnected do not reach the next one",
    device="blk",
    spec="Ring states; Communication",
)
def next_one(be: BackEnd) -> None:
    for _ in range(_FRONT_ENDS):
        ring = be.working_ring(size=1024)
        slow_requests.need_slow(be)
        slow_requests.post_slow(be, ring, 200)
        be = be.reconnect()
        another = be.working_ring()
        for turn in range(1, 9):
            be.serve(another)
            check(another.used_index == turn, f"{turn} completions", f"{another.used_index}")
        be.check_idle(another)
        be = be.reconnect()


@area.case(449, "A frame that a disabled ring sends does not arrive", device="net")
def disabled_sends_nothing(be: BackEnd) -> None:
    nic = looped(be)
    be.enable(nic.tx, on=False)
    be.barrier()
    nic.offer(2048)
    used = nic.rx.used_index
    for _ in range(4):
        be.work.post(nic.memory, nic.tx)
        nic.tx.kick()
    be.check_idle(nic.rx, index=used)


@area.case(
    450,
    "A ring that was disabled before its stop receives nothing after its next start",
    device="net",
)
def disabled_over_a_stop(be: BackEnd) -> None:
    nic = looped(be)
    be.enable(nic.rx, on=False)
    be.set_up(nic.rx, base=be.stop(nic.rx))
    frame = frame_of(60, 9)
    buffer = nic.offer(2048)
    used = nic.rx.used_index
    # A back-end may handle messages before kicks: after two of them it has seen the kick.
    be.barrier()
    be.barrier()
    try:
        nic.send(frame)
    except Failed:
        unsupported("it sends no frame while the other ring is disabled")
    be.check_idle(nic.rx, index=used)
    be.enable(nic.rx)
    be.barrier()
    nic.send(frame)
    nic.checked(buffer, frame)
