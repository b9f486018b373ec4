"""VU-B-17xx: invalid messages, and front-ends that disconnect.

A back-end may refuse with a code and continue, or close the connection. It may not acknowledge
what it cannot have done, and no message may end the program or affect the next front-end.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from vhost_user import eventfd
from vhost_user.payloads import VRING_NO_FD, LogArea, VringAddr
from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Severity, observed
from vhost_user_conformance.peer.memory import MIB, USER_OFFSET
from vhost_user_conformance.peer.wire import Closed, Silent, WireError

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("errors", BACK_END, "Communication")


class Wrong(NamedTuple):
    """An invalid request: id, payload, and number of descriptors."""

    number: int
    payload: bytes
    fds: int = 0


def _address(**wrong: int) -> bytes:
    right = {"desc": MIB, "used": MIB + 4096, "avail": MIB + 2048}
    parts = {name: wrong.get(name, gpa) + USER_OFFSET for name, gpa in right.items()}
    return VringAddr(ring=0, flags=0, log=0, **parts).pack()


#: Requests that can only be refused, as the back-end could not have done anything.
_IMPOSSIBLE = {
    "SET_VRING_KICK without its descriptor": Wrong(F.SET_VRING_KICK, u64(0)),
    "SET_VRING_CALL without its descriptor": Wrong(F.SET_VRING_CALL, u64(0)),
    "SET_VRING_ERR without its descriptor": Wrong(F.SET_VRING_ERR, u64(0)),
}
#: Requests that are invalid too, but no rule says when the back-end has to detect that.
_DOUBTFUL = {
    "an unknown request": Wrong(200, u64(0)),
    "SET_VRING_NUM of 0": Wrong(F.SET_VRING_NUM, vring_state(0, 0)),
    "SET_VRING_NUM of 3": Wrong(F.SET_VRING_NUM, vring_state(0, 3)),
    "SET_VRING_NUM of 65536": Wrong(F.SET_VRING_NUM, vring_state(0, 65536)),
    "SET_VRING_NUM of 2^32 - 1": Wrong(F.SET_VRING_NUM, vring_state(0, 0xFFFFFFFF)),
    "SET_VRING_BASE of 2^32 - 1": Wrong(F.SET_VRING_BASE, vring_state(0, 0xFFFFFFFF)),
    "SET_VRING_ADDR with a table that is not aligned": Wrong(
        F.SET_VRING_ADDR, _address(desc=MIB + 1)
    ),
    "SET_VRING_ADDR with a used ring that is not aligned": Wrong(
        F.SET_VRING_ADDR, _address(used=MIB + 4098)
    ),
    "SET_VRING_ADDR at the end of the address space": Wrong(
        F.SET_VRING_ADDR, _address(avail=(1 << 64) - 16 - USER_OFFSET)
    ),
    "SET_VRING_ENABLE of 2": Wrong(F.SET_VRING_ENABLE, vring_state(0, 2)),
    "SET_MEM_TABLE of no region": Wrong(F.SET_MEM_TABLE, bytes(8)),
    "SET_VRING_KICK with two descriptors": Wrong(F.SET_VRING_KICK, u64(0), 2),
    "SET_VRING_CALL with no-fd and a descriptor": Wrong(F.SET_VRING_CALL, u64(VRING_NO_FD), 1),
}


def _fds(be: BackEnd, wrong: Wrong) -> tuple[int, ...]:
    return tuple(be.spare_fd() for _ in range(wrong.fds))


@area.each(
    1701,
    _IMPOSSIBLE,
    "{} is not acknowledged with 0, and a refusal with a code changes nothing",
    needs=("REPLY_ACK",),
    works=True,
)
def impossible(be: BackEnd, name: str) -> None:
    be.negotiate()
    ring = be.ring(be.memory(), be.work.ring)
    wrong = _IMPOSSIBLE[name]
    how = be.not_done(wrong.number, wrong.payload, fds=_fds(be, wrong))
    if how != "closed":
        be.start(ring)
        be.serve(ring)


@area.each(1710, _DOUBTFUL, "{} is survived", severity=Severity.SHOULD, needs=("REPLY_ACK",))
def doubtful(be: BackEnd, name: str) -> None:
    be.negotiate()
    be.memory()
    wrong = _DOUBTFUL[name]
    how = "the connection was closed"
    try:
        code = be.acked_with(wrong.number, wrong.payload, fds=_fds(be, wrong))
        how = f"acknowledged with {code}"
        be.barrier()
    except Closed:
        how += ", at once" if "ack" not in how else ", and the connection closed after it"
    observed(how)


@area.each(1730, _IMPOSSIBLE, "{} does not affect the next connection", works=True)
def next_connection(be: BackEnd, name: str) -> None:
    ring = be.working_ring()
    be.serve(ring)
    wrong = _IMPOSSIBLE[name]
    be.send(wrong.number, wrong.payload, fds=_fds(be, wrong))
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(1740, "Front-ends that connect and send nothing do not affect later ones", works=True)
def say_nothing(be: BackEnd) -> None:
    last = be.reconnect()
    for _ in range(20):
        last.wire.close()
        last = last.connect_another()
    last = last.reconnect()
    last.serve(last.working_ring())


@area.case(1741, "A second front-end does not disturb the first", works=True)
def beside(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    try:
        other = be.connect_another()
        other.wire.send(F.GET_FEATURES)
        other.wire.receive(QUIET).close()
        how = "the second one is answered"
    except Silent:
        how = "the second one waits"
    except (WireError, PeerError):
        how = "the second one is disconnected"
    for _ in range(3):
        be.serve(ring)
    be.check_responds("with a second front-end")
    observed(how)


@area.case(
    1742,
    "A front-end that disconnects with requests on its rings does not affect later ones",
    works=True,
)
def goes_with_requests(be: BackEnd) -> None:
    ring = be.working_ring()
    for _ in range(16):
        be.work.post(ring.memory, ring)
    ring.kick()
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(1743, "No request is completed after the front-end has disconnected", works=True)
def completed_afterwards(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    other = be.reconnect()
    other.working_ring()
    be.check_ignored(ring)


@area.case(1745, "A connection that is shut down for writing is closed", works=True)
def shut_down(be: BackEnd) -> None:
    be.serve(be.working_ring())
    with socket.socket(fileno=os.dup(be.wire.fileno())) as sock:
        sock.shutdown(socket.SHUT_WR)
    if not be.wire.hangs_up():
        observed("it keeps a connection on which no further request can arrive")


@area.case(
    1746,
    "A front-end that disconnects without reading its replies does not affect later ones",
    works=True,
)
def unread(be: BackEnd) -> None:
    be.negotiate()
    for _ in range(100):
        be.send(F.GET_FEATURES)
    be.wire.close()
    other = be.reconnect()
    other.serve(other.working_ring())


_STRANGE = ("/dev/null", "/dev/zero", "a memfd", "a pipe")


def _strange_fd(be: BackEnd, kind: str) -> int:
    if kind == "a memfd":
        fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
    elif kind == "a pipe":
        fd, writing = os.pipe2(os.O_CLOEXEC)
        be.own(lambda: os.close(writing))
    else:
        fd = os.open(kind, os.O_RDWR | os.O_CLOEXEC)
    be.own(lambda: os.close(fd))
    return fd


@area.each(
    1750, _STRANGE, "A kick descriptor that is {} instead of an eventfd is survived", works=True
)
def strange_kick(be: BackEnd, kind: str) -> None:
    be.negotiate()
    ring = be.ring(be.memory(), be.work.ring)
    for number, payload in (
        (F.SET_VRING_NUM, vring_state(ring.index, ring.size)),
        (F.SET_VRING_BASE, vring_state(ring.index, 0)),
        (F.SET_VRING_ADDR, be.address(ring)),
    ):
        be.send(number, payload)
    try:
        be.send(F.SET_VRING_KICK, u64(ring.index), fds=(_strange_fd(be, kind),))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed("it accepted it, and still answers")


@area.case(1755, "A call eventfd whose counter is full does not stop the ring", works=True)
def full_call(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    ring.calls()
    os.set_blocking(ring.call_fd, False)  # the peer has it, too
    os.eventfd_write(ring.call_fd, (1 << 64) - 2)
    turn = ring.used_index
    try:
        for ahead in (1, 2):
            be.work.post(ring.memory, ring)
            ring.kick()
            # Not `await_used`, which would reset the counter.
            _await(be, ring, turn + ahead & 0xFFFF)
    except Closed:
        observed("it closed the connection when the call could not be signalled")
    if ring.used_index != turn + 2 & 0xFFFF:
        observed("the ring stops when its call cannot be signalled")


def _await(be: BackEnd, ring: TestRing, index: int) -> None:
    deadline = time.monotonic() + be.timeout / 2
    while ring.used_index != index and time.monotonic() < deadline:
        be.barrier()


@area.each(
    1760,
    ("memory", "a size", "an address", "a call", "anything"),
    "A ring that is kicked before it has {} is survived",
)
def kicked_too_soon(be: BackEnd, lacks: str) -> None:
    be.negotiate()
    memory = be.memory(share=lacks not in ("memory", "anything"))
    ring = be.ring(memory, 0)
    steps = {
        "a size": (F.SET_VRING_NUM, vring_state(0, ring.size), ()),
        "an address": (F.SET_VRING_ADDR, be.address(ring), ()),
        "a kick": (F.SET_VRING_KICK, u64(0), (ring.kick_fd,)),
        "a call": (F.SET_VRING_CALL, u64(0), (ring.call_fd,)),
    }
    try:
        for what, (number, payload, fds) in steps.items():
            if what != lacks and (lacks != "anything" or what == "a kick"):
                be.send(number, payload, fds=fds)
        be.enable(ring)
        ring.kick()
        be.barrier()
    except Closed:
        observed("it closed the connection")


@area.case(1766, "A table without a running ring's memory is survived", works=True)
def memory_gone(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    other = be.memory(MIB, share=False)
    region = other.regions[0]
    other.regions[0] = region._replace(gpa=1 << 40)
    try:
        be.send(F.SET_MEM_TABLE, other.table, fds=other.fds)
        ring.kick()
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed("it continued without the ring")


@area.case(
    1767, "A ring whose memory was removed is served again once it is set up again", works=True
)
def memory_back(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.stop_all()
    memory = be.memory(2 * MIB)
    another = be.ring(memory, be.work.ring)
    be.start(another)
    be.serve(another)
    be.stop_all()
    be.share(ring.memory)
    be.start(ring, base=ring.used_index)
    be.serve(ring)


def _break(ring: TestRing) -> None:
    """Make a head available that is not in the descriptor table."""
    at = ring.avail_index
    ring.memory.write(ring.avail + 4 + 2 * (at % ring.size), struct.pack("<H", 0xFFF0))
    ring.memory.write(ring.avail + 2, struct.pack("<H", at + 1 & 0xFFFF))
    ring.kick()


@area.case(1770, "A ring with an invalid head is reported on its error descriptor", works=True)
def reported(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    fd = be.spare_fd()
    be.send(F.SET_VRING_ERR, u64(ring.index), fds=(fd,))
    be.barrier()
    _break(ring)
    ring.await_used(ring.used_index + 1, QUIET)
    if not eventfd.take(fd):
        observed("it does not report it")


@area.case(1771, "A ring with an invalid head serves again after it was stopped", works=True)
def mended(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    _break(ring)
    try:
        ring.await_used(ring.used_index + 1, QUIET)
        be.stop_all()
        another = be.ring(ring.memory, ring.index)
        be.start(another)
        be.serve(another)
    except (WireError, Failed) as error:
        observed(f"it does not: {error}")


@area.case(1772, "A ring with an invalid head does not affect the next connection", works=True)
def broken_and_gone(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    _break(ring)
    ring.await_used(ring.used_index + 1, QUIET)
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(1780, "SET_LOG_BASE without its descriptor is survived", needs=("LOG_SHMFD",))
def log_without_fd(be: BackEnd) -> None:
    be.negotiate()
    try:
        reply = be.ask(F.SET_LOG_BASE, LogArea(4096, 0).pack())
    except Closed:
        return
    except Silent:
        observed("it does not answer any more")
    observed(f"it answered with {reply.u64 if reply.payload else 'nothing'}")
