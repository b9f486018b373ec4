"""VU-B-05xx: kicks, calls, and how either side suppresses them."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX
from vhost_user.payloads import VRING_NO_FD
from vhost_user.readiness import readable
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("notifications", BACK_END, "VHOST_USER_SET_VRING_CALL")


@area.case(501, "A completion is followed by a call", works=True)
def calls(be: BackEnd) -> None:
    ring = be.working_ring()
    ring.calls()
    be.work.post(ring.memory, ring)
    ring.kick()
    check(ring.await_call(be.timeout), "a call", "none came")
    be.await_used(ring, 1)


@area.case(502, "The used index has moved when the call comes", works=True)
def index_before_call(be: BackEnd) -> None:
    ring = be.working_ring()
    for turn in range(1, 20):
        ring.calls()
        be.work.post(ring.memory, ring)
        ring.kick()
        check(ring.await_call(be.timeout), "a call", "none came")
        # A spurious call is allowed; the call for the completion must still come.
        be.await_used(ring, turn)
        ring.driver.pop()


@area.case(503, "VIRTQ_AVAIL_F_NO_INTERRUPT: no calls", works=True, severity=Severity.SHOULD)
def no_interrupt(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    ring.await_last_call(QUIET)
    ring.driver.disarm()
    be.work.post(ring.memory, ring)
    ring.kick()
    while_waiting = ring.await_call(QUIET)
    be.await_used(ring, ring.avail_index)
    check(not while_waiting, "no call", "there was a call")


@area.case(504, "Several kicks at once count as one", works=True)
def several_kicks(be: BackEnd) -> None:
    ring = be.working_ring()
    job = be.work.post(ring.memory, ring)
    os.eventfd_write(ring.kick_fd, 9)
    be.await_used(ring, 1)
    be.check_completed(ring, job)
    be.check_idle(ring)


@area.case(505, "A kick without a request does nothing", works=True)
def empty_kick(be: BackEnd) -> None:
    ring = be.working_ring()
    ring.kick()
    be.check_idle(ring)
    be.serve(ring)


@area.case(506, "One kick is enough for many requests", works=True)
def one_kick_for_many(be: BackEnd) -> None:
    ring = be.working_ring(size=128)
    for _ in range(20):
        be.work.post(ring.memory, ring)
    ring.kick()
    be.await_used(ring, 20)


@area.case(
    507,
    "A kick that is pending when the eventfd is passed counts",
    works=True,
    spec="Ring states",
)
def pending_kick(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    ring = be.ring(memory, be.work.ring)
    job = be.work.post(memory, ring)
    ring.kick()
    # A back-end that serves it at once has a completion before it has received SET_VRING_CALL.
    be.start(ring, before_call=lambda: ring.await_used(1, QUIET))
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.case(508, "A call eventfd may be replaced while the ring runs", works=True)
def call_replaced(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    other = _other_eventfd(be)
    be.send(F.SET_VRING_CALL, u64(ring.index), fds=(other,))
    be.barrier()
    be.work.post(ring.memory, ring)
    ring.calls()
    ring.kick()
    be.await_used(ring, 2)
    # The call follows the update of the index.
    poll = select.poll()
    poll.register(other, select.POLLIN)
    check(poll.poll(be.timeout * 1000), "a call on the new eventfd", "none came")


@area.case(
    509,
    "A kick eventfd may be replaced while the ring is stopped",
    works=True,
    spec="VHOST_USER_SET_VRING_KICK",
)
def kick_replaced(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    base = be.stop(ring)
    os.dup2(_other_eventfd(be), ring.kick_fd, inheritable=False)
    be.start(ring, base=base)
    be.serve(ring)


@area.case(510, "SET_VRING_CALL without a descriptor is accepted: the driver polls", works=True)
def call_without_fd(be: BackEnd) -> None:
    ring = be.working_ring()
    be.send(F.SET_VRING_CALL, u64(ring.index | VRING_NO_FD))
    be.barrier()
    be.serve(ring)
    be.serve(ring)
    be.check_responds("after a completion without a call")


@area.case(
    536,
    "After SET_VRING_CALL without a descriptor the one before it is not called any more",
    works=True,
    severity=Severity.SHOULD,
)
def old_call_dropped(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.send(F.SET_VRING_CALL, u64(ring.index | VRING_NO_FD))
    be.barrier()
    ring.calls()
    old = os.dup(ring.call_fd)
    be.own(lambda: os.close(old))
    # Waiting for a completion reads the ring's own descriptor.
    os.dup2(be.spare_fd(), ring.call_fd, inheritable=False)
    try:
        be.serve(ring)
        be.serve(ring)
    except Failed:
        unsupported("it serves no ring without a call descriptor: see VU-B-0510")
    called = readable([old], QUIET)
    check(not called, "no call, as the driver polls", "the old one was called")


@area.case(511, "SET_VRING_ERR is accepted, with a descriptor and without")
def err(be: BackEnd) -> None:
    be.negotiate()
    be.send(F.SET_VRING_ERR, u64(0), fds=(be.spare_fd(),))
    be.send(F.SET_VRING_ERR, u64(0 | VRING_NO_FD))
    be.check_responds("after SET_VRING_ERR")


@area.case(512, "SET_VRING_CALL before the ring has a size or an address is accepted")
def call_first(be: BackEnd) -> None:
    be.negotiate()
    be.send(F.SET_VRING_CALL, u64(0), fds=(be.spare_fd(),))
    be.check_responds("after SET_VRING_CALL alone")


@area.case(513, "CALL and KICK may come in either order", works=True)
def call_before_kick(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory()
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    be.stop(ring)
    be.send(F.SET_VRING_NUM, vring_state(ring.index, ring.size))
    be.send(F.SET_VRING_BASE, vring_state(ring.index, 0))
    be.send(F.SET_VRING_ADDR, be.address(ring))
    be.send(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))
    be.send(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,))
    be.enable(ring)
    be.barrier()
    be.serve(ring)


def _event_ring(be: BackEnd, *, start: int = 0) -> TestRing:
    """A ring on which both sides use the event index."""
    be.read_features()
    if not be.features >> VIRTIO_RING_F_EVENT_IDX & 1:
        unsupported("VIRTIO_F_EVENT_IDX is not offered")
    be.negotiate(features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | 1 << VIRTIO_RING_F_EVENT_IDX)
    ring = be.ring(be.memory(), be.work.ring, start=start, event_idx=True)
    be.start(ring)
    return ring


def _serve_events(be: BackEnd, ring: TestRing, *, called: bool) -> None:
    """One request; whether a call follows it."""
    ring.calls()
    index = ring.used_index + 1
    be.work.post(ring.memory, ring)
    ring.kick()
    if called:
        check(ring.await_call(be.timeout), "a call at the event index", "none came")
        be.await_used(ring, index)
    else:
        came = ring.await_call(QUIET)
        be.await_used(ring, index)
        check(not came, "no call before the event index", "it called")
    ring.driver.pop()


@area.case(
    520, "With VIRTIO_F_EVENT_IDX the completion at used_event is followed by a call", works=True
)
def event_called(be: BackEnd) -> None:
    ring = _event_ring(be)
    for _ in range(5):
        ring.driver.arm()
        _serve_events(be, ring, called=True)


@area.case(
    521,
    "With VIRTIO_F_EVENT_IDX a completion before used_event is not followed by a call",
    works=True,
    severity=Severity.SHOULD,
)
def event_not_called(be: BackEnd) -> None:
    ring = _event_ring(be)
    ring.driver.arm()
    _serve_events(be, ring, called=True)
    _serve_events(be, ring, called=False)


@area.case(522, "With VIRTIO_F_EVENT_IDX request after request is served", works=True)
def event_kicked(be: BackEnd) -> None:
    ring = _event_ring(be)
    for turn in range(1, 8):
        ring.driver.arm()
        be.work.post(ring.memory, ring)
        ring.kick()
        be.await_used(ring, turn)
        ring.driver.pop()


@area.case(
    523, "With VIRTIO_F_EVENT_IDX a driver that only kicks at avail_event is served", works=True
)
def event_kicks(be: BackEnd) -> None:
    _kick_at_event(be, _event_ring(be))


def _kick_at_event(be: BackEnd, ring: TestRing) -> None:
    for turn in range(ring.start + 1, ring.start + 12):
        be.work.post(ring.memory, ring)
        # virtio 1.3, 2.7.10: the index after which the device wants a kick.
        event = struct.unpack("<H", ring.memory.read(ring.used + 4 + 8 * ring.size, 2))[0]
        if event == turn - 1 & 0xFFFF:
            ring.kick()
        be.await_used(ring, turn)
        ring.driver.pop()


@area.case(
    524,
    "A kick eventfd may be replaced while the ring runs; the new one takes effect",
    works=True,
    spec="Ring states",
    severity=Severity.SHOULD,
)
def kick_replaced_running(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    other = _other_eventfd(be)
    be.accepted(F.SET_VRING_KICK, u64(ring.index), fds=(other,))
    job = be.work.post(ring.memory, ring)
    os.eventfd_write(other, 1)
    be.await_used(ring, 2)
    be.check_completed(ring, job)


@area.case(
    525,
    "With VIRTIO_F_EVENT_IDX used_event applies, and not VIRTQ_AVAIL_F_NO_INTERRUPT",
    works=True,
    spec="virtio 1.3, 2.7.7.2",
)
def flags_ignored(be: BackEnd) -> None:
    ring = _event_ring(be)
    ring.memory.write(ring.avail, struct.pack("<H", 1))
    for _ in range(3):
        ring.driver.arm()
        _serve_events(be, ring, called=True)


@area.case(
    526,
    "With VIRTIO_F_EVENT_IDX completions are followed by calls where the index wraps at 65535",
    works=True,
    spec="virtio 1.3, 2.7.7.2",
)
def event_wraps(be: BackEnd) -> None:
    ring = _event_ring(be, start=65533)
    for _ in range(6):
        ring.driver.arm()
        _serve_events(be, ring, called=True)


@area.each(
    527,
    (250, 65530),
    "With VIRTIO_F_EVENT_IDX avail_event follows the index from {} on",
    works=True,
    spec="virtio 1.3, 2.7.10",
)
def avail_event_goes_on(be: BackEnd, start: int) -> None:
    _kick_at_event(be, _event_ring(be, start=start))


def _other_eventfd(be: BackEnd) -> int:
    return be.spare_fd()


#: Requests, each with its kick at another moment after the completion before.
_KICKS = 1200
#: Seconds after which no further one is made: a slow device is given fewer of them.
_KICKS_SECONDS = 10.0


def _spin(be: BackEnd, ring: TestRing, index: int) -> None:
    """As `await_used`, without sleep: for a while it looks without a break."""
    view, wanted = ring.memory.view(ring.used + 2, 2), index.to_bytes(2, "little")
    for _ in range(20_000):
        if view == wanted:
            return
    be.await_used(ring, index)


@area.case(
    530,
    "No request waits for a second kick, at whatever moment its kick comes",
    works=True,
    spec="virtio 1.3, 2.7.13; Ring states",
)
def no_kick_lost(be: BackEnd) -> None:
    ring = be.working_ring()
    memory = ring.memory
    begin = time.monotonic()
    for turn in range(1, 2 * _KICKS, 2):
        if time.monotonic() - begin > _KICKS_SECONDS:
            break
        be.work.post(memory, ring)
        be.work.post(memory, ring, publish=False)
        ring.kick()
        _spin(be, ring, turn)
        # The next kick has to come while the device is between this completion and its next look.
        for _ in range(turn // 2 % 24):
            memory.read(ring.used, 1)
        ring.driver.publish()
        ring.kick()
        _spin(be, ring, turn + 1)
        ring.driver.pop()
        ring.driver.pop()


@area.case(
    531,
    "SET_VRING_ERR does not replace the call: completions signal the call, and not the error",
    works=True,
    spec="VHOST_USER_SET_VRING_ERR",
)
def error_is_no_call(be: BackEnd) -> None:
    ring = be.working_ring()
    err = _other_eventfd(be)
    be.send(F.SET_VRING_ERR, u64(ring.index), fds=(err,))
    be.barrier()
    for _ in range(3):
        ring.calls()
        be.work.post(ring.memory, ring)
        ring.kick()
        check(ring.await_call(be.timeout), "a call on the call descriptor", "none came")
        be.await_used(ring, ring.avail_index)
        ring.driver.pop()
    poll = select.poll()
    poll.register(err, select.POLLIN)
    check(not poll.poll(0), "no signal on the error descriptor", "it was signalled")


@area.case(
    532,
    "An error of a ring is signalled on its error descriptor, not on its call",
    works=True,
    spec="VHOST_USER_SET_VRING_ERR",
    severity=Severity.SHOULD,
)
def error_signalled(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    err = _other_eventfd(be)
    be.send(F.SET_VRING_ERR, u64(ring.index), fds=(err,))
    be.barrier()
    ring.await_last_call(QUIET)
    # More requests than the ring has descriptors: it cannot be served.
    ahead = ring.avail_index + 3 * ring.size & 0xFFFF
    ring.memory.write(ring.avail + 2, struct.pack("<H", ahead))
    ring.kick()
    poll = select.poll()
    poll.register(err, select.POLLIN)
    poll.register(ring.call_fd, select.POLLIN)
    if not poll.poll(be.timeout * 1000 / 4):
        observed("neither descriptor is signalled")
    poll.unregister(ring.call_fd)
    if poll.poll(QUIET * 1000):
        return
    check(ring.used_index != 1, "a signal on the error descriptor", "the call was signalled")
    observed("it serves such a ring")


@area.case(
    533,
    "A completion signals the call descriptor that is set when it completes",
    device="blk",
)
def call_of_completion(be: BackEnd) -> None:
    ring = be.working_ring(size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    be.serve(ring)
    for _ in slow_requests.attempts(be, ring):
        another = be.spare_fd()
        be.send(F.SET_VRING_CALL, u64(ring.index), fds=(another,))
        be.barrier()
        os.dup2(another, ring.call_fd, inheritable=False)
        ring.calls()
        before = ring.used_index
        if slow_requests.outstanding(ring) and ring.await_progress(before, QUIET):
            check(ring.await_call(be.timeout), "a call on the new descriptor", "none came")
            be.await_used(ring, ring.avail_index)
            return


@area.case(535, "A request that is kicked while others are in flight is served", device="blk")
def kicked_while_busy(be: BackEnd) -> None:
    ring = be.working_ring(size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    for _ in range(slow_requests.TURNS):
        jobs = slow_requests.post_slow(be, ring)
        jobs += slow_requests.make_slow(be, ring, 1)
        ring.kick()
        slow_requests.all_completed(be, ring, jobs)
