"""VU-B-0340 and up: invalid tables, and what is released when a table is replaced."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.cases.memory import area
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import Severity, check, unsupported
from vhost_user_conformance.peer.memory import MIB, Memory
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.peer.program import PeerProgram

_HEAD = struct.Struct("<II")


def _refusing(be: BackEnd) -> Memory:
    be.negotiate()
    return be.memory(MIB, MIB, share=False)


@area.case(
    340,
    "A table with fewer descriptors than regions is refused",
    needs=("REPLY_ACK",),
    spec="VHOST_USER_SET_MEM_TABLE",
)
def too_few_fds(be: BackEnd) -> None:
    memory = _refusing(be)
    be.not_done(F.SET_MEM_TABLE, memory.table, fds=memory.fds[:1])


@area.case(
    341,
    "A table without a descriptor is refused",
    needs=("REPLY_ACK",),
    spec="VHOST_USER_SET_MEM_TABLE",
)
def no_fds(be: BackEnd) -> None:
    memory = _refusing(be)
    be.not_done(F.SET_MEM_TABLE, memory.table)


@area.case(
    342, "A table of 9 regions is refused", needs=("REPLY_ACK",), spec="VHOST_USER_SET_MEM_TABLE"
)
def nine(be: BackEnd) -> None:
    memory = _refusing(be)
    region = memory.regions[0].on_wire
    payload = _HEAD.pack(9, 0) + region.pack() * 9
    be.not_done(F.SET_MEM_TABLE, payload, fds=(memory.fds[0],) * 9)


@area.case(
    343,
    "A table with a descriptor that cannot be mapped is refused",
    needs=("REPLY_ACK",),
    spec="VHOST_USER_SET_MEM_TABLE",
)
def not_mappable(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(MIB, share=False)
    reading, writing = os.pipe()
    be.own(lambda: os.close(reading))
    be.own(lambda: os.close(writing))
    be.not_done(F.SET_MEM_TABLE, memory.table, fds=(reading,))


@area.case(
    344,
    "A truncated table is survived",
    severity=Severity.SHOULD,
    spec="VHOST_USER_SET_MEM_TABLE",
)
def cut_short(be: BackEnd) -> None:
    memory = _refusing(be)
    try:
        be.send(F.SET_MEM_TABLE, memory.table[:-8], fds=memory.fds)
        be.barrier()
    except Closed:
        return


def _replace_tables(be: BackEnd, count: Callable[[PeerProgram], int], what: str) -> None:
    """Replace the table often, and check that what the program has for it does not grow."""
    be.negotiate()
    if be.program is None:
        unsupported(f"{what} can only be counted of a program that --exec started")
    be.memory(MIB, MIB)
    be.barrier()
    before = count(be.program)
    for _ in range(8):
        be.memory(MIB, MIB)
    be.barrier()
    after = count(be.program)
    check(after <= before, f"{before} {what}, as before", f"{after}")


@area.case(350, "The descriptors of a table are closed when it is replaced", spec="SET_MEM_TABLE")
def descriptors_closed(be: BackEnd) -> None:
    _replace_tables(be, lambda program: program.descriptors, "open files")


@area.case(351, "The regions of a table are unmapped when it is replaced", spec="SET_MEM_TABLE")
def mappings_gone(be: BackEnd) -> None:
    _replace_tables(be, lambda program: program.mappings, "mappings")
