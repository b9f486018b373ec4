"""VU-B-18xx: descriptors, mappings and threads that a back-end holds and releases.

They are counted from outside, so that the suite has to have started the program. A back-end may
release them a little later, and may keep some for the next time: the number may not grow with each
repetition.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING

from vhost_user.codec import VERSION
from vhost_user.payloads import Inflight, LogArea, MemTable, SingleRegion
from vhost_user_conformance.back_end.connection import LOG_ALL, BackEnd, F, u64, vring
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, check, observed, unsupported
from vhost_user_conformance.peer.memory import MIB
from vhost_user_conformance.peer.wire import HEADER, Closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.peer.program import PeerProgram

area = Area("resources", BACK_END, "Memory region description")

#: How often an action is repeated, and how many more it may hold then than after the first time.
_TIMES, _SPARE = 20, 8
_INTERVAL_MS = 20


def _program(be: BackEnd) -> PeerProgram:
    if be.program is None:
        unsupported("resources can only be counted of a program that --exec started")
    return be.program


def _no_growth(be: BackEnd, what: str, count: Callable[[], int], do: Callable[[], None]) -> None:
    """Do it once, count, repeat it, and check that the count returns to the first one."""
    do()
    before = _settled(count)
    for _ in range(_TIMES):
        do()
    until = time.monotonic() + be.patience
    while (after := count()) > before + _SPARE:
        if time.monotonic() > until:
            raise Failed(f"about {before} {what} after {_TIMES} more times", f"{after}")
        select.poll().poll(_INTERVAL_MS)


def _settled(count: Callable[[], int]) -> int:
    """The count, once it has been constant for a while."""
    last, same = count(), 0
    while same < 5:
        select.poll().poll(_INTERVAL_MS)
        now = count()
        same = same + 1 if now == last else 0
        last = now
    return last


def _descriptors(be: BackEnd, do: Callable[[], None]) -> None:
    program = _program(be)
    _no_growth(be, "descriptors", lambda: program.descriptors, do)


def _connections(be: BackEnd, visit: Callable[[BackEnd], None]) -> Callable[[], None]:
    """A front-end that connects, does something, and disconnects."""
    last = [be]

    def come_and_go() -> None:
        other = last[0].again()
        visit(other)
        other.barrier()
        last[0] = other

    return come_and_go


def _work_once(be: BackEnd) -> None:
    be.serve(be.working_ring())


@area.case(1801, "Repeated connections leave no open descriptors", works=True)
def connections(be: BackEnd) -> None:
    _descriptors(be, _connections(be, _work_once))


@area.case(1802, "Repeated connections leave no mappings", works=True)
def connection_mappings(be: BackEnd) -> None:
    program = _program(be)
    _no_growth(be, "mappings", lambda: program.mappings, _connections(be, _work_once))


@area.case(1803, "Repeated connections leave no threads", works=True)
def connection_threads(be: BackEnd) -> None:
    program = _program(be)
    _no_growth(be, "threads", lambda: program.threads, _connections(be, _work_once))


@area.case(1804, "After its front-end has disconnected a back-end maps none of its memory")
def nothing_mapped(be: BackEnd) -> None:
    program = _program(be)
    be.agree()
    be.memory(MIB, MIB)
    be.barrier()
    other = be.again()
    until = time.monotonic() + be.patience
    while program.mappings and time.monotonic() < until:
        select.poll().poll(_INTERVAL_MS)
    other.barrier()
    check(
        not program.mappings,
        "no mapping of the memory of a former front-end",
        str(program.mappings),
    )


@area.case(1805, "Connections that end within a memory table leave no open descriptors")
def cut_connections(be: BackEnd) -> None:
    memory = be.memory(MIB, MIB, share=False)
    last = [be]

    def cut_off() -> None:
        last[0] = last[0].again().agree()
        last[0].barrier()
        head = HEADER.pack(F.SET_MEM_TABLE, VERSION, len(memory.table))
        last[0].wire.send_bytes(head + memory.table[:20], memory.fds)

    _descriptors(be, cut_off)


@area.case(1806, "Call descriptors that are replaced are closed", works=True)
def calls(be: BackEnd) -> None:
    ring = be.working_ring()
    _descriptors(be, lambda: be.accepted(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,)))
    be.serve(ring)


@area.case(1807, "Error descriptors that are replaced are closed", works=True)
def errors(be: BackEnd) -> None:
    ring = be.working_ring()
    fd = be.spare_fd()
    _descriptors(be, lambda: be.accepted(F.SET_VRING_ERR, u64(ring.index), fds=(fd,)))


@area.case(
    1808,
    "The descriptors of a ring are closed when it stops, or when it is set up again",
    works=True,
)
def restarts(be: BackEnd) -> None:
    ring = be.working_ring()

    def restart() -> None:
        be.serve(ring)
        be.start(ring, base=be.stop(ring))

    _descriptors(be, restart)


@area.case(1809, "Kick descriptors of a ring that was never started are closed", works=True)
def kicks(be: BackEnd) -> None:
    be.agree()
    ring = be.ring(be.memory(), be.work.ring)
    be.set_up(ring)
    be.barrier()

    def again() -> None:
        be.stop(ring)
        be.set_up(ring)
        be.barrier()

    _descriptors(be, again)


@area.case(1810, "Tables that are replaced while a ring runs leave no open descriptors", works=True)
def tables(be: BackEnd) -> None:
    ring = be.working_ring()
    _descriptors(be, lambda: be.share(ring.memory))
    be.serve(ring)


@area.case(1811, "Tables that are replaced while a ring runs leave no mappings", works=True)
def table_mappings(be: BackEnd) -> None:
    program = _program(be)
    ring = be.working_ring()
    _no_growth(be, "mappings", lambda: program.mappings, lambda: be.share(ring.memory))
    be.serve(ring)


def _logs(be: BackEnd) -> Callable[[], None]:
    be.agree()
    memory = be.memory()

    def replace() -> None:
        be.log(memory)

    return replace


@area.case(1812, "Logs that are replaced leave no open descriptors", needs=("LOG_SHMFD",))
def logs(be: BackEnd) -> None:
    _descriptors(be, _logs(be))


@area.case(1813, "Logs that are replaced leave no mappings", needs=("LOG_SHMFD",))
def log_mappings(be: BackEnd) -> None:
    program = _program(be)
    _no_growth(be, "mappings", lambda: program.mapped("vhost-log"), _logs(be))


@area.case(1814, "Repeated SET_LOG_FD leaves no open descriptors", spec="VHOST_USER_SET_LOG_FD")
def log_fds(be: BackEnd) -> None:
    be.agree()
    fd = be.spare_fd()

    def again() -> None:
        be.tell(F.SET_LOG_FD, fds=(fd,))
        be.barrier()

    _descriptors(be, again)


@area.case(1815, "Repeated GET_INFLIGHT_FD leaves no open descriptors", needs=("INFLIGHT_SHMFD",))
def inflight(be: BackEnd) -> None:
    be.agree()

    def ask() -> None:
        be.ask(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 64).pack())

    _descriptors(be, ask)


def _inflight_region(be: BackEnd) -> Callable[[], None]:
    be.agree()
    fd = os.memfd_create("conformance-inflight", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, 4096)
    payload = Inflight(4096, 0, 1, 64).pack()
    return lambda: be.accepted(F.SET_INFLIGHT_FD, payload, fds=(fd,))


@area.case(1816, "Repeated SET_INFLIGHT_FD leaves no open descriptors", needs=("INFLIGHT_SHMFD",))
def inflight_fds(be: BackEnd) -> None:
    _descriptors(be, _inflight_region(be))


@area.case(1817, "Repeated SET_INFLIGHT_FD leaves no mappings", needs=("INFLIGHT_SHMFD",))
def inflight_mappings(be: BackEnd) -> None:
    program = _program(be)
    again = _inflight_region(be)
    _no_growth(be, "mappings", lambda: program.mapped("conformance-inflight"), again)


def _slots(be: BackEnd) -> Callable[[], None]:
    be.agree("CONFIGURE_MEM_SLOTS")
    memory = be.memory(MIB, share=False)
    payload = SingleRegion(memory.regions[0].on_wire).pack()

    def add_and_remove() -> None:
        be.accepted(F.ADD_MEM_REG, payload, fds=memory.fds)
        be.accepted(F.REM_MEM_REG, payload)

    return add_and_remove


@area.case(
    1818,
    "Regions that are added and removed leave no open descriptors",
    needs=("CONFIGURE_MEM_SLOTS",),
    spec="VHOST_USER_REM_MEM_REG",
)
def slots(be: BackEnd) -> None:
    _descriptors(be, _slots(be))


@area.case(
    1819,
    "Regions that are added and removed leave no mappings",
    needs=("CONFIGURE_MEM_SLOTS",),
    spec="VHOST_USER_REM_MEM_REG",
)
def slot_mappings(be: BackEnd) -> None:
    program = _program(be)
    _no_growth(be, "mappings", lambda: program.mappings, _slots(be))


@area.case(
    1820,
    "A descriptor that comes with REM_MEM_REG is closed",
    needs=("CONFIGURE_MEM_SLOTS",),
    spec="VHOST_USER_REM_MEM_REG",
)
def removal_with_fd(be: BackEnd) -> None:
    be.agree("CONFIGURE_MEM_SLOTS")
    memory = be.memory(MIB, share=False)
    payload = SingleRegion(memory.regions[0].on_wire).pack()

    def add_and_remove() -> None:
        be.accepted(F.ADD_MEM_REG, payload, fds=memory.fds)
        be.accepted(F.REM_MEM_REG, payload, fds=memory.fds)

    _descriptors(be, add_and_remove)


def _refusals(be: BackEnd, offend: Callable[[BackEnd], object]) -> None:
    """Send refused requests; on a new connection each time where the back-end closes it.

    The specification says only of REM_MEM_REG that unexpected descriptors are closed.
    """
    last = [be.agree()]

    def refuse() -> None:
        try:
            offend(last[0])
            last[0].barrier()
        except Closed:
            last[0] = last[0].again().agree()

    try:
        _descriptors(be, refuse)
    except Failed as failed:
        observed(f"they stay open: {failed.seen} descriptors, expected {failed.expected}")


@area.case(1821, "Descriptors of an unknown request are closed", spec="Header")
def unknown(be: BackEnd) -> None:
    fd = be.spare_fd()
    _refusals(be, lambda other: other.tell(199, u64(0), fds=(fd, fd)))


@area.case(1822, "Descriptors with a request that takes none are closed", spec="Header")
def stray(be: BackEnd) -> None:
    fd = be.spare_fd()
    _refusals(be, lambda other: other.tell(F.SET_VRING_NUM, vring(0, 64), fds=(fd, fd)))


@area.case(1823, "Descriptors of an invalid table are closed")
def bad_tables(be: BackEnd) -> None:
    memory = be.memory(MIB, share=False)
    region = memory.regions[0].on_wire._replace(size=1 << 62)
    table = MemTable((region,)).pack()
    _refusals(be, lambda other: other.tell(F.SET_MEM_TABLE, table, fds=memory.fds))


@area.case(1824, "Descriptors of a log that cannot be mapped are closed", needs=("LOG_SHMFD",))
def bad_logs(be: BackEnd) -> None:
    fd = be.spare_fd()
    payload = LogArea(1 << 62, 1 << 62).pack()
    _refusals(be, lambda other: other.ask(F.SET_LOG_BASE, payload, fds=(fd,)))


@area.case(
    1825,
    "A back-end channel that is replaced is closed",
    needs=("BACKEND_REQ",),
    spec="VHOST_USER_SET_BACKEND_REQ_FD",
)
def channels(be: BackEnd) -> None:
    be.agree()
    fd = _socket(be)
    _descriptors(be, lambda: be.accepted(F.SET_BACKEND_REQ_FD, fds=(fd,)))


def _socket(be: BackEnd) -> int:
    one, other = socket.socketpair()
    be.own(one.close)
    be.own(other.close)
    return other.fileno()


@area.case(1826, "Logging that is switched on and off leaves no open descriptors", works=True)
def migrations(be: BackEnd) -> None:
    ring = be.working_ring("LOG_SHMFD")
    if not be.features & LOG_ALL:
        unsupported("feature bit 26 (VHOST_F_LOG_ALL) is not offered")

    def once() -> None:
        be.log(ring.memory)
        be.tell(F.SET_FEATURES, u64(be.driver_features | LOG_ALL))
        be.tell(F.SET_VRING_ADDR, be.address(ring, log=True))
        be.serve(ring)
        be.tell(F.SET_VRING_ADDR, be.address(ring))
        be.tell(F.SET_FEATURES, u64(be.driver_features))
        be.barrier()

    _descriptors(be, once)


@area.case(1827, "Kick descriptors that are replaced while a ring runs are closed", works=True)
def running_kicks(be: BackEnd) -> None:
    ring = be.working_ring()
    _descriptors(be, lambda: be.accepted(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,)))
    be.serve(ring)


@area.case(1828, "Repeated connections leave no open error descriptors", works=True)
def connection_errors(be: BackEnd) -> None:
    fd = be.spare_fd()

    def visit(other: BackEnd) -> None:
        other.agree()
        for index in range(other.rings):
            other.tell(F.SET_VRING_ERR, u64(index), fds=(fd,))

    _descriptors(be, _connections(be, visit))


@area.case(
    1829,
    "Repeated connections with POSTCOPY_ADVISE leave no open descriptors",
    needs=("PAGEFAULT",),
    spec="Postcopy live migration",
)
def advised(be: BackEnd) -> None:
    def visit(other: BackEnd) -> None:
        other.agree("PAGEFAULT").ask(F.POSTCOPY_ADVISE)

    _descriptors(be, _connections(be, visit))
