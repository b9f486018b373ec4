"""VU-B-14xx: device reset, and the device status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("status", BACK_END, "VHOST_USER_RESET_DEVICE")

#: virtio 1.3, 2.1: bits of the device's status.
_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK = 1, 2, 4, 8
_RESET = ("RESET_DEVICE",)
_STATUS = ("STATUS",)


def _reset(be: BackEnd) -> None:
    be.accepted(F.RESET_DEVICE)


def _served(be: BackEnd) -> TestRing:
    ring = be.working_ring("RESET_DEVICE")
    for _ in range(3):
        be.serve(ring)
    return ring


def _anew(be: BackEnd, ring: TestRing, *, share: bool = True) -> TestRing:
    """A ring as after a driver's reset: features and memory are set again, indices begin at 0."""
    be.send(F.SET_FEATURES, u64(be.driver_features))
    if share:
        be.share(ring.memory)
    be.forget_rings()
    another = be.ring(ring.memory, ring.index)
    be.start(another)
    return another


@area.case(1401, "RESET_DEVICE is accepted by a device that is idle", needs=_RESET)
def idle(be: BackEnd) -> None:
    be.negotiate("RESET_DEVICE")
    _reset(be)


@area.case(
    1402, "RESET_DEVICE stops the rings: a request after it is not served", needs=_RESET, works=True
)
def stops(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    be.check_ignored(ring)


@area.case(
    1403, "After RESET_DEVICE rings can be set up again, and serve", needs=_RESET, works=True
)
def anew(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    be.serve(_anew(be, ring))


@area.case(
    1404, "RESET_DEVICE keeps the connection and the negotiated features", needs=_RESET, works=True
)
def keeps(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    be.accepted(F.SET_VRING_NUM, vring_state(ring.index, ring.size))
    offered = be.ask_u64(F.GET_PROTOCOL_FEATURES)
    check(offered == int(be.protocol), f"{int(be.protocol):#x} still offered", f"{offered:#x}")


@area.case(1405, "RESET_DEVICE twice is accepted", needs=_RESET, works=True)
def twice(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    _reset(be)
    be.serve(_anew(be, ring))


@area.case(1406, "A device serves after RESET_DEVICE many times", needs=_RESET, works=True)
def many_times(be: BackEnd) -> None:
    ring = _served(be)
    for _ in range(10):
        _reset(be)
        ring = _anew(be, ring)
        be.serve(ring)


@area.case(1407, "GET_VRING_BASE after RESET_DEVICE is answered", needs=_RESET, works=True)
def base_after(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    base = be.stop(ring)
    if base:
        observed(f"the base is still {base}")


@area.case(
    1408, "After RESET_DEVICE with requests on the ring none is completed", needs=_RESET, works=True
)
def with_requests(be: BackEnd) -> None:
    ring = _served(be)
    for _ in range(16):
        be.work.post(ring.memory, ring)
    ring.kick()
    _reset(be)
    be.check_idle(ring)
    ring.calls()
    check(not ring.await_call(QUIET), "no call after the reset", "the call was signalled")


@area.case(1409, "RESET_DEVICE of a stopped device is accepted", needs=_RESET, works=True)
def after_a_stop(be: BackEnd) -> None:
    ring = _served(be)
    be.stop_all()
    _reset(be)
    be.serve(_anew(be, ring))


@area.case(
    1410,
    "RESET_DEVICE disables rings: a ring that is set up is not served until it is enabled",
    needs=_RESET,
    works=True,
)
def disables(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    be.send(F.SET_FEATURES, u64(be.driver_features))
    be.share(ring.memory)
    another = be.ring(ring.memory, ring.index)
    be.set_up(another)
    be.barrier()
    be.work.post(another.memory, another)
    another.kick()
    served = another.await_used(1, QUIET)
    if served and be.device_class.drops:
        observed("it is served, or dropped as a NIC drops the frames of a disabled ring")
    check(not served, "nothing served before SET_VRING_ENABLE", "it was served")


@area.case(
    1411, "The memory table after RESET_DEVICE", needs=_RESET, works=True, severity=Severity.MAY
)
def memory_after(be: BackEnd) -> None:
    ring = _served(be)
    _reset(be)
    another = _anew(be, ring, share=False)
    be.work.post(another.memory, another)
    another.kick()
    kept = another.await_used(1, be.timeout / 2)
    observed(f"the table is {'kept' if kept else 'forgotten'}")


@area.case(
    1412,
    "RESET_DEVICE with need_reply is acknowledged once",
    needs=(*_RESET, "REPLY_ACK"),
    works=True,
)
def acked_once(be: BackEnd) -> None:
    _served(be)
    code = be.acked_with(F.RESET_DEVICE)
    check(code == 0, "acknowledged with 0", f"acknowledged with {code}")
    be.barrier()


@area.case(1413, "Messages right after RESET_DEVICE are handled after it", needs=_RESET, works=True)
def right_behind(be: BackEnd) -> None:
    ring = _served(be)
    for _ in range(4):
        be.work.post(ring.memory, ring)
    ring.kick()
    be.send(F.RESET_DEVICE)
    be.serve(_anew(be, ring))


@area.case(
    1420,
    "RESET_OWNER is ignored, or disables the rings",
    spec="VHOST_USER_RESET_OWNER",
    severity=Severity.MAY,
    works=True,
)
def reset_owner(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    try:
        be.send(F.RESET_OWNER)
        be.barrier()
    except Closed:
        observed("it closed the connection")
    be.work.post(ring.memory, ring)
    ring.kick()
    served = ring.await_used(2, QUIET)
    observed(f"{'ignored' if served else 'rings are disabled'}")


def _set(be: BackEnd, status: int) -> int:
    """Send SET_STATUS, and return the reply to GET_STATUS; QEMU reads, then sets one more bit."""
    be.send(F.SET_STATUS, u64(status))
    return be.ask_u64(F.GET_STATUS)


@area.case(1430, "GET_STATUS is answered with 8 bytes, of which 8 bits are used", needs=_STATUS)
def asked(be: BackEnd) -> None:
    be.negotiate("STATUS")
    status = be.ask_u64(F.GET_STATUS)
    check(status < 256, "a status of 8 bits", f"{status:#x}")


@area.case(1431, "The initial status of a device is 0", needs=_STATUS)
def begins(be: BackEnd) -> None:
    be.negotiate("STATUS")
    status = be.ask_u64(F.GET_STATUS)
    check(status == 0, "status 0", f"status {status:#x}")


@area.each(1432, (1, 3, 11, 15), "GET_STATUS returns status {} after it was set", needs=_STATUS)
def said(be: BackEnd, status: int) -> None:
    be.negotiate("STATUS")
    for bits in (1, 3, 11, 15):
        seen = _set(be, bits)
        check(seen == bits, f"status {bits}", f"status {seen}")
        if bits == status:
            return


@area.case(1436, "GET_STATUS returns 0 after status 0 was set, also after DRIVER_OK", needs=_STATUS)
def zero(be: BackEnd) -> None:
    be.negotiate("STATUS")
    for bits in (1, 3, 11, 15):
        _set(be, bits)
    seen = _set(be, 0)
    check(seen == 0, "status 0", f"status {seen}")


@area.case(
    1437,
    "GET_STATUS with need_reply is answered once, by its own reply",
    needs=(*_STATUS, "REPLY_ACK"),
)
def own_reply(be: BackEnd) -> None:
    be.negotiate("STATUS")
    reply = be.ask(F.GET_STATUS, need_reply=True)
    check(len(reply.payload) == 8, "8 bytes", f"{len(reply.payload)} bytes")
    be.barrier()


@area.case(1438, "SET_STATUS is acknowledged with 0", needs=(*_STATUS, "REPLY_ACK"))
def acknowledged(be: BackEnd) -> None:
    be.negotiate("STATUS")
    be.accepted(F.SET_STATUS, u64(_ACKNOWLEDGE))


def _with_status(be: BackEnd) -> TestRing:
    """A ring that runs, started as QEMU does with STATUS: the status comes last."""
    be.negotiate("STATUS")
    _set(be, _ACKNOWLEDGE)
    _set(be, _ACKNOWLEDGE | _DRIVER)
    _set(be, _ACKNOWLEDGE | _DRIVER | _FEATURES_OK)
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    _set(be, _ACKNOWLEDGE | _DRIVER | _FEATURES_OK | _DRIVER_OK)
    return ring


@area.case(1440, "Rings serve after the status has reached DRIVER_OK", needs=_STATUS, works=True)
def serves(be: BackEnd) -> None:
    ring = _with_status(be)
    for _ in range(3):
        be.serve(ring)


@area.case(
    1441,
    "Status 0 resets all rings: they are stopped",
    needs=_STATUS,
    works=True,
    spec="VHOST_USER_SET_STATUS; virtio 1.3, 2.4.1",
)
def reset_by_status(be: BackEnd) -> None:
    ring = _with_status(be)
    be.serve(ring)
    _set(be, 0)
    be.check_ignored(ring)


@area.case(
    1442, "After status 0 a driver may initialise the device again", needs=_STATUS, works=True
)
def begins_again(be: BackEnd) -> None:
    ring = _with_status(be)
    be.serve(ring)
    be.stop_all()
    _set(be, 0)
    for status in (1, 3, 11):
        _set(be, status)
    another = be.ring(ring.memory, ring.index)
    be.start(another)
    _set(be, 15)
    be.serve(another)


@area.case(
    1443, "Whether rings serve before DRIVER_OK", needs=_STATUS, works=True, severity=Severity.MAY
)
def before_driver_ok(be: BackEnd) -> None:
    be.negotiate("STATUS")
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.work.post(ring.memory, ring)
    ring.kick()
    served = ring.await_used(1, QUIET)
    observed(f"a ring {'serves' if served else 'does not serve'} before DRIVER_OK")


@area.case(1444, "A status of more than 8 bits is survived", needs=(*_STATUS, "REPLY_ACK"))
def too_many_bits(be: BackEnd) -> None:
    be.negotiate("STATUS")
    try:
        code = be.acked_with(F.SET_STATUS, u64(0x10F))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed(f"acknowledged with {code}")


@area.case(1445, "The status ends with the connection: the next one begins with 0", needs=_STATUS)
def ends_with_it(be: BackEnd) -> None:
    be.negotiate("STATUS")
    for status in (1, 3, 11, 15):
        be.send(F.SET_STATUS, u64(status))
    be.barrier()
    other = be.reconnect().negotiate("STATUS")
    status = other.ask_u64(F.GET_STATUS)
    check(status == 0, "status 0", f"status {status:#x}")


@area.case(
    1446, "A driver may set ACKNOWLEDGE and DRIVER before it acknowledges features", needs=_STATUS
)
def before_features(be: BackEnd) -> None:
    be.negotiate("STATUS", set_features=False)
    for status in (_ACKNOWLEDGE, _ACKNOWLEDGE | _DRIVER):
        be.send(F.SET_STATUS, u64(status))
        seen = be.ask_u64(F.GET_STATUS)
        check(seen == status, f"status {status}", f"status {seen:#x}")


def _nothing_written(be: BackEnd, how: tuple[str, int, bytes]) -> None:
    """Reset while slow requests are in flight; after the answer none may write memory."""
    ring = be.working_ring(how[0], size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    be.serve(ring)
    for _ in range(slow_requests.TURNS):
        jobs = slow_requests.post_slow(be, ring)
        be.accepted(how[1], how[2])
        late = slow_requests.unwritten(ring, jobs)
        used = ring.used_index
        be.check_idle(ring)
        written = len(late) - len(slow_requests.unwritten(ring, jobs))
        check(not written, "no write of a request after the reset", f"{written} status bytes")
        check(ring.used_index == used, "no completion after the reset", "there was one")
        be.send(F.SET_FEATURES, u64(be.driver_features))
        be.share(ring.memory)
        be.forget_rings()
        ring = be.ring(ring.memory, ring.index, slow_requests.SIZE)
        be.start(ring)
        if late:
            return


@area.case(
    1414,
    "RESET_DEVICE is acknowledged when no earlier request writes memory any more",
    needs=(*_RESET, "REPLY_ACK"),
    device="blk",
)
def done_then_acknowledged(be: BackEnd) -> None:
    _nothing_written(be, ("RESET_DEVICE", F.RESET_DEVICE, b""))


@area.case(
    1447,
    "Status 0 is acknowledged when no earlier request writes memory any more",
    needs=(*_STATUS, "REPLY_ACK"),
    device="blk",
    spec="VHOST_USER_SET_STATUS; virtio 1.3, 2.4.1",
)
def done_then_zero(be: BackEnd) -> None:
    _nothing_written(be, ("STATUS", F.SET_STATUS, u64(0)))


@area.each(1448, (64 | 15, 128 | 3), "GET_STATUS returns status {}: 8 bits are kept", needs=_STATUS)
def upper_bits(be: BackEnd, status: int) -> None:
    be.negotiate("STATUS")
    for bits in (1, 3, status):
        seen = _set(be, bits)
        check(seen == bits, f"status {bits}", f"status {seen}")


@area.case(
    1450,
    "A request that was kicked before DRIVER_OK is served after it, without another kick",
    needs=_STATUS,
    works=True,
    spec="Ring states; VHOST_USER_SET_STATUS",
)
def kicked_before_driver_ok(be: BackEnd) -> None:
    be.negotiate("STATUS")
    for status in (_ACKNOWLEDGE, 3, 11):
        _set(be, status)
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    job = be.work.post(ring.memory, ring)
    ring.kick()
    ring.await_used(1, QUIET)
    _set(be, 15)
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.each(
    1451,
    ("RESET_DEVICE", "STATUS"),
    "After a reset by {} a ring that runs again neither serves nor completes earlier requests",
    works=True,
)
def nothing_left(be: BackEnd, how: str) -> None:
    by_status = how == "STATUS"
    ring = _with_status(be) if by_status else be.working_ring(how)
    be.serve(ring)
    for _ in range(8):
        be.work.post(ring.memory, ring)
    if by_status:
        be.accepted(F.SET_STATUS, u64(0))
    else:
        _reset(be)
    ring.unkick()
    again = _anew(be, ring)
    if by_status:
        for status in (1, 3, 11, 15):
            be.send(F.SET_STATUS, u64(status))
    be.check_idle(again)
    for _ in range(3):
        be.serve(again)
    base = be.stop(again)
    check(base == 3, "base 3 of the ring of after the reset", f"base {base}")
