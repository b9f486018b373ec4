"""VU-B-07xx: which requests are acknowledged, how often, and with what code."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.dirty_log import DirtyLog
from vhost_user.payloads import Inflight, LogArea, VringAddr
from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed, unsupported
from vhost_user_conformance.peer.memory import PAGE
from vhost_user_conformance.peer.wire import Closed, Silent

if TYPE_CHECKING:
    from collections.abc import Callable

area = Area("reply_ack", BACK_END, "VHOST_USER_PROTOCOL_F_REPLY_ACK", needs=("REPLY_ACK",))

RING = 0
#: Id, payload and descriptors of a request.
Request = tuple[int, bytes, tuple[int, ...]]


def _set_features(be: BackEnd) -> Request:
    return F.SET_FEATURES, u64(be.driver_features), ()


def _mem_table(be: BackEnd) -> Request:
    memory = be.memory(share=False)
    return F.SET_MEM_TABLE, memory.table, memory.fds


def _num(_be: BackEnd) -> Request:
    return F.SET_VRING_NUM, vring_state(RING, 64), ()


def _base(_be: BackEnd) -> Request:
    return F.SET_VRING_BASE, vring_state(RING, 0), ()


def _addr(be: BackEnd) -> Request:
    ring = be.ring(be.memory(), RING)
    be.send(F.SET_VRING_NUM, vring_state(RING, ring.size))
    return F.SET_VRING_ADDR, be.address(ring), ()


def _kick(be: BackEnd) -> Request:
    return F.SET_VRING_KICK, u64(RING), (be.spare_fd(),)


def _call(be: BackEnd) -> Request:
    return F.SET_VRING_CALL, u64(RING), (be.spare_fd(),)


def _err(be: BackEnd) -> Request:
    return F.SET_VRING_ERR, u64(RING), (be.spare_fd(),)


def _enable(_be: BackEnd) -> Request:
    return F.SET_VRING_ENABLE, vring_state(RING, 0), ()


def _owner(_be: BackEnd) -> Request:
    return F.SET_OWNER, b"", ()


_PLAIN: dict[str, Callable[[BackEnd], Request]] = {
    "SET_FEATURES": _set_features,
    "SET_MEM_TABLE": _mem_table,
    "SET_VRING_NUM": _num,
    "SET_VRING_BASE": _base,
    "SET_VRING_ADDR": _addr,
    "SET_VRING_KICK": _kick,
    "SET_VRING_CALL": _call,
    "SET_VRING_ERR": _err,
    "SET_VRING_ENABLE": _enable,
    "SET_OWNER": _owner,
}


def _negotiated(be: BackEnd, name: str) -> None:
    """Negotiate; a connection has one SET_OWNER, so where the case is about it none is sent."""
    be.negotiate(owner=name != "SET_OWNER")


@area.each(701, _PLAIN, "{} with need_reply is acknowledged with 0, once")
def acknowledged(be: BackEnd, name: str) -> None:
    _negotiated(be, name)
    number, payload, fds = _PLAIN[name](be)
    code = be.acked_with(number, payload, fds=fds)
    check(code == 0, "code 0", f"code {code}")
    be.check_responds("with no second acknowledgement")


@area.each(721, _PLAIN, "{} without need_reply is not acknowledged")
def not_acknowledged(be: BackEnd, name: str) -> None:
    _negotiated(be, name)
    number, payload, fds = _PLAIN[name](be)
    be.send(number, payload, fds=fds)
    be.check_responds("with no unsolicited acknowledgement")


def _optional(be: BackEnd, name: str) -> Request:
    """A request that depends on more than REPLY_ACK.

    Raises:
        Unsupported: a feature that it depends on is not offered.
    """
    feature, *names = _NEEDS[name]
    if feature and be.mask(feature) not in be.read_features().protocol:
        unsupported(f"{feature} is not offered")
    be.negotiate(*names)
    if name == "SET_PROTOCOL_FEATURES":
        return F.SET_PROTOCOL_FEATURES, u64(int(be.acked)), ()
    if name == "SET_BACKEND_REQ_FD":
        one, other = socket.socketpair()
        be.own(one.close)
        be.own(other.close)
        return F.SET_BACKEND_REQ_FD, b"", (other.fileno(),)
    if name == "SET_INFLIGHT_FD":
        fd = os.memfd_create("conformance-inflight", os.MFD_CLOEXEC)
        be.own(lambda: os.close(fd))
        os.ftruncate(fd, PAGE)
        return F.SET_INFLIGHT_FD, Inflight(PAGE, 0, 1, 64).pack(), (fd,)
    payload = {"SEND_RARP": u64(0x0100_4F4D_C002), "SET_STATUS": u64(1)}.get(name, b"")
    return F.__members__[name], payload, (be.spare_fd(),) if name == "SET_LOG_FD" else ()


#: Optional and deprecated messages, which the front-ends in use do not send.
_NOT_IN_USE = ("SET_LOG_FD", "RESET_OWNER")
#: The protocol feature that it depends on, and the features to negotiate besides the usual ones.
_NEEDS = {
    "SET_PROTOCOL_FEATURES": ("",),
    "RESET_OWNER": ("",),
    "SET_LOG_FD": ("",),
    "SEND_RARP": ("RARP",),
    "SET_BACKEND_REQ_FD": ("BACKEND_REQ",),
    "SET_INFLIGHT_FD": ("INFLIGHT_SHMFD",),
    "SET_STATUS": ("STATUS", "STATUS"),
    "RESET_DEVICE": ("RESET_DEVICE",),
}


def _may_be_refused(name: str, how: str) -> None:
    """End the case as OBSERVED for a message that a back-end need not implement."""
    if name in _NOT_IN_USE:
        observed(f"{name} is refused: {how}")


@area.each(761, _NEEDS, "{} with need_reply is acknowledged with 0, once")
def optional_acknowledged(be: BackEnd, name: str) -> None:
    number, payload, fds = _optional(be, name)
    try:
        code = be.acked_with(number, payload, fds=fds)
    except Closed:
        _may_be_refused(name, "the connection is closed")
        raise
    if code:
        _may_be_refused(name, f"acknowledged with {code}")
    check(code == 0, "code 0", f"code {code}")
    be.check_responds("with no second acknowledgement")


@area.each(771, _NEEDS, "{} without need_reply is not acknowledged")
def optional_not_acknowledged(be: BackEnd, name: str) -> None:
    number, payload, fds = _optional(be, name)
    be.send(number, payload, fds=fds)
    try:
        be.check_responds("with no unsolicited acknowledgement")
    except Failed as failed:
        if be.wire.abandoned:
            _may_be_refused(name, failed.seen)
        raise


@area.each(
    741,
    ("GET_FEATURES", "GET_PROTOCOL_FEATURES", "GET_VRING_BASE"),
    "{} with need_reply has its own reply, and no acknowledgement in addition",
)
def own_reply_only(be: BackEnd, name: str) -> None:
    be.negotiate()
    payload = vring_state(0, 0) if name == "GET_VRING_BASE" else b""
    _answered_once(be, F.__members__[name], payload)


def _answered_once(
    be: BackEnd, number: F, payload: bytes = b"", *, fds: tuple[int, ...] = ()
) -> None:
    be.ask(number, payload, fds=fds, need_reply=True)
    be.check_responds("with no acknowledgement in addition to the reply")


@area.case(
    744,
    "GET_QUEUE_NUM with need_reply has its own reply, and no acknowledgement in addition",
    needs=("MQ",),
)
def queue_num_only(be: BackEnd) -> None:
    _answered_once(be.negotiate(), F.GET_QUEUE_NUM)


@area.case(
    745,
    "SET_LOG_BASE with need_reply has its own reply, and no acknowledgement in addition",
    needs=("LOG_SHMFD",),
)
def log_base_only(be: BackEnd) -> None:
    be.negotiate()
    log = DirtyLog.create(-(-be.memory().end // PAGE))
    be.own(log.close)
    _answered_once(be, F.SET_LOG_BASE, LogArea(log.size, 0).pack(), fds=(log.fd,))


@area.case(750, "Acknowledgements come in the order of the requests")
def in_order(be: BackEnd) -> None:
    be.negotiate()
    asked = [(F.SET_VRING_NUM, vring_state(0, 64)), (F.SET_VRING_BASE, vring_state(0, 3))] * 8
    for number, payload in asked:
        be.wire.send(number, payload, flags=VERSION | NEED_REPLY)
    for number, _ in asked:
        reply = be.reply_to(number)
        check(reply.u64 == 0, "code 0", f"code {reply.u64}")


@area.case(751, "Requests with and without need_reply may alternate")
def alternating(be: BackEnd) -> None:
    be.negotiate()
    for turn in range(16):
        wanted = turn % 2 == 0
        flags = VERSION | (NEED_REPLY if wanted else 0)
        be.wire.send(F.SET_VRING_BASE, vring_state(0, turn), flags=flags)
        if wanted:
            be.reply_to(F.SET_VRING_BASE)
    be.check_responds("with each reply to its request")


@area.case(752, "need_reply where REPLY_ACK was not negotiated", severity=Severity.MAY)
def not_negotiated(be: BackEnd) -> None:
    be.negotiate(without=("REPLY_ACK",))
    be.wire.send(F.SET_VRING_BASE, vring_state(0, 0), flags=VERSION | NEED_REPLY)
    be.send(F.GET_FEATURES)
    try:
        first = be.wire.receive()
    except (Closed, Silent) as error:
        observed(str(error))
    first.close()
    if first.id == F.SET_VRING_BASE:
        observed("it acknowledges although REPLY_ACK was not negotiated")
    observed("it does not acknowledge")


@area.case(
    753, "SET_MEM_TABLE that cannot be mapped is refused with a code, or by closing the connection"
)
def bad_table(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(share=False)
    be.not_done(F.SET_MEM_TABLE, memory.table, fds=(be.spare_fd(),))


@area.case(754, "SET_VRING_ADDR outside of memory is refused, at once or at the first kick")
def bad_address(be: BackEnd) -> None:
    be.negotiate()
    be.memory()
    be.send(F.SET_VRING_NUM, vring_state(0, 64))
    where = VringAddr(0, 0, 1 << 40, 1 << 40, 1 << 40, 0).pack()
    try:
        be.acked_with(F.SET_VRING_ADDR, where)
        be.send(F.SET_VRING_KICK, u64(0), fds=(be.spare_fd(),))
        be.enable(be.ring(be.memory(), 0))
        be.barrier()
    except Closed:
        return
