"""VU-B-20xx: what must be answered in time, and what a back-end may not wait for.

No rule names a time limit: the suite's is --timeout.
"""

from __future__ import annotations

import time

from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed
from vhost_user_conformance.peer.wire import Silent

area = Area("timing", BACK_END, "Ring states")
_ROUNDS = 200
#: Requests that may be in flight.
_MOST = 16


@area.case(2001, "A request is answered while rings are busy", works=True)
def answers_while_busy(be: BackEnd) -> None:
    ring = be.working_ring()
    for _ in range(_ROUNDS):
        be.work.post(ring.memory, ring)
        ring.kick()
        be.barrier()
        if ring.driver.in_flight >= _MOST:
            be.await_used(ring, ring.avail_index)
        while ring.driver.pop() is not None:
            pass
    # A front-end that disconnects with requests in flight is another case.
    be.await_used(ring, ring.avail_index)


@area.case(2002, "GET_VRING_BASE right after a kick is answered", works=True)
def stop_behind_kick(be: BackEnd) -> None:
    ring = be.working_ring()
    be.work.post(ring.memory, ring)
    ring.kick()
    base = be.stop(ring)
    check(base in (0, 1), "base 0 or 1 after one request", f"base {base}")
    be.resume(ring, base)


@area.case(
    2003,
    "Each request taken is completed before GET_VRING_BASE is answered: base and used index agree",
    spec="VHOST_USER_GET_VRING_BASE; e7985b6a56",
    works=True,
)
def taken_is_completed(be: BackEnd) -> None:
    ring = be.working_ring()
    # Which of the two is handled first differs each time, so they are sent as close as possible:
    # the kick before the stop, and in the middle of it.
    for turn in range(_ROUNDS):
        for _ in range(8):
            be.work.post(ring.memory, ring)
        if turn % 2:
            base = be.stop(ring, after_header=ring.kick)
        else:
            ring.kick()
            base = be.stop(ring)
        used = ring.used_index
        check(base == used, f"base {used}, as the used index", f"base {base}")
        be.resume(ring, base)


@area.case(2004, "No request is completed after the reply to GET_VRING_BASE", works=True)
def nothing_later(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    for _ in range(8):
        be.work.post(ring.memory, ring)
    ring.kick()
    be.stop(ring)
    be.check_idle(ring)


@area.case(2005, "No call comes after all rings have stopped", works=True)
def no_late_call(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop(ring)
    ring.calls()
    check(not ring.await_call(QUIET), "no call on a stopped ring", "the call was signalled")


@area.case(
    2006,
    "A back-end sends nothing unsolicited on the main channel",
    spec="Communication",
    works=True,
)
def nothing_unsolicited(be: BackEnd) -> None:
    be.serve(be.working_ring())
    try:
        message = be.wire.receive(QUIET)
    except Silent:
        return
    message.close()
    check(holds=False, expected="no unsolicited message", seen=f"id {message.id}")


@area.case(2007, "A front-end may be silent", spec="Communication")
def waits(be: BackEnd) -> None:
    be.negotiate()
    be.barrier()
    check(not be.wire.hangs_up(4 * QUIET), "the connection to stay", "it was closed")
    be.check_responds("after a pause")


@area.case(2008, "Half a message does not block the rings", works=True)
def half_a_message(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.wire.send_bytes(b"\x01\x00\x00\x00")
    before = ring.used_index
    be.work.post(ring.memory, ring)
    ring.kick()
    if not ring.await_used(before + 1, be.timeout):
        observed("rings are not served until the rest of the message has arrived")


@area.case(2009, "How long a request and its reply take", severity=Severity.MAY)
def round_trip(be: BackEnd) -> None:
    be.negotiate()
    started = time.monotonic()
    for _ in range(_ROUNDS):
        be.ask_u64(F.GET_FEATURES)
    each = (time.monotonic() - started) / _ROUNDS * 1e6
    observed(f"{each:.0f} us for GET_FEATURES, the mean of {_ROUNDS}")


@area.case(2010, "How long stopping and starting a ring takes", severity=Severity.MAY, works=True)
def restart_time(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    started = time.monotonic()
    base = be.stop(ring)
    stopped = time.monotonic()
    be.start(ring, base=base)
    took = time.monotonic() - stopped
    be.serve(ring)
    observed(f"stopped in {(stopped - started) * 1e6:.0f} us, set up in {took * 1e6:.0f} us")


@area.case(2011, "A ring that is stopped and started many times still serves", works=True)
def again_and_again(be: BackEnd) -> None:
    ring = be.working_ring()
    for count in range(1, 21):
        be.serve(ring)
        base = be.stop(ring)
        check(base == count, f"base {count}", f"base {base}")
        be.start(ring, base=base)


@area.case(
    2012,
    "SET_VRING_ENABLE is in effect once it is acknowledged",
    needs=("REPLY_ACK",),
    device="net",
)
def enabled_in_time(be: BackEnd) -> None:
    be.negotiate()
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    for on in (0, 1):
        code = be.acked_with(F.SET_VRING_ENABLE, vring_state(ring.index, on))
        check(code == 0, "acknowledged with 0", f"acknowledged with {code}")
    be.serve(ring)


@area.case(
    2014,
    "A kick descriptor that replaces another while the ring runs takes effect",
    severity=Severity.SHOULD,
    works=True,
)
def replaced_kick(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    spare = be.spare_fd()
    be.accepted(F.SET_VRING_KICK, u64(ring.index), fds=(spare,))
    be.accepted(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,))
    be.serve(ring)
