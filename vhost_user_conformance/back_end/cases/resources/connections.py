"""VU-B-1801 and up: what connections leave behind."""

from __future__ import annotations

import select
import socket

from vhost_user.codec import VERSION
from vhost_user_conformance.back_end.cases.resources import area
from vhost_user_conformance.back_end.connection import BackEnd, F, u64
from vhost_user_conformance.back_end.resource_counts import (
    _INTERVAL_MS,
    no_growth,
    no_more_descriptors,
    program_of,
    repeated,
    work_once,
)
from vhost_user_conformance.model.verdict import check
from vhost_user_conformance.peer.memory import MIB
from vhost_user_conformance.peer.wire import HEADER


@area.case(1801, "Repeated connections leave no open descriptors", works=True)
def connections(be: BackEnd) -> None:
    no_more_descriptors(be, repeated(be, work_once))


@area.case(1802, "Repeated connections leave no mappings", works=True)
def connection_mappings(be: BackEnd) -> None:
    program = program_of(be)
    no_growth(be, "mappings", lambda: program.mappings, repeated(be, work_once))


@area.case(1803, "Repeated connections leave no threads", works=True)
def connection_threads(be: BackEnd) -> None:
    program = program_of(be)
    no_growth(be, "threads", lambda: program.threads, repeated(be, work_once))


@area.case(1804, "After its front-end has disconnected a back-end maps none of its memory")
def nothing_mapped(be: BackEnd) -> None:
    program = program_of(be)
    be.negotiate()
    be.memory(MIB, MIB)
    be.barrier()
    other = be.reconnect()
    limit = other.wire.limit()
    while program.mappings and not limit.over:
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
        last[0] = last[0].reconnect().negotiate()
        last[0].barrier()
        head = HEADER.pack(F.SET_MEM_TABLE, VERSION, len(memory.table))
        last[0].wire.send_bytes(head + memory.table[:20], memory.fds)

    no_more_descriptors(be, cut_off)


@area.case(
    1825,
    "A back-end channel that is replaced is closed",
    needs=("BACKEND_REQ",),
    spec="VHOST_USER_SET_BACKEND_REQ_FD",
)
def channels(be: BackEnd) -> None:
    be.negotiate()
    fd = _socket(be)
    no_more_descriptors(be, lambda: be.accepted(F.SET_BACKEND_REQ_FD, fds=(fd,)))


def _socket(be: BackEnd) -> int:
    one, other = socket.socketpair()
    be.own(one.close)
    be.own(other.close)
    return other.fileno()


@area.case(1828, "Repeated connections leave no open error descriptors", works=True)
def connection_errors(be: BackEnd) -> None:
    fd = be.spare_fd()

    def visit(other: BackEnd) -> None:
        other.negotiate()
        for index in range(other.rings):
            other.send(F.SET_VRING_ERR, u64(index), fds=(fd,))

    no_more_descriptors(be, repeated(be, visit))


@area.case(
    1829,
    "Repeated connections with POSTCOPY_ADVISE leave no open descriptors",
    needs=("PAGEFAULT",),
    spec="Postcopy live migration",
)
def advised(be: BackEnd) -> None:
    def visit(other: BackEnd) -> None:
        other.negotiate("PAGEFAULT").ask(F.POSTCOPY_ADVISE)

    no_more_descriptors(be, repeated(be, visit))
