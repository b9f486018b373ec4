"""VU-B-1810 and up: tables, logs, in-flight regions and slots that are replaced or removed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.payloads import Inflight, SingleRegion
from vhost_user_conformance.back_end.cases.resources import area
from vhost_user_conformance.back_end.connection import LOG_ALL, BackEnd, F, u64
from vhost_user_conformance.back_end.resource_counts import (
    no_growth,
    no_more_descriptors,
    program_of,
)
from vhost_user_conformance.model.verdict import Severity, observed, unsupported
from vhost_user_conformance.peer.memory import MIB
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from collections.abc import Callable


@area.case(1810, "Tables that are replaced while a ring runs leave no open descriptors", works=True)
def tables(be: BackEnd) -> None:
    ring = be.working_ring()
    no_more_descriptors(be, lambda: be.share(ring.memory))
    be.serve(ring)


@area.case(1811, "Tables that are replaced while a ring runs leave no mappings", works=True)
def table_mappings(be: BackEnd) -> None:
    program = program_of(be)
    ring = be.working_ring()
    no_growth(be, "mappings", lambda: program.mappings, lambda: be.share(ring.memory))
    be.serve(ring)


def _logs(be: BackEnd) -> Callable[[], None]:
    be.negotiate()
    memory = be.memory()

    def replace() -> None:
        be.log(memory)

    return replace


@area.case(1812, "Logs that are replaced leave no open descriptors", needs=("LOG_SHMFD",))
def logs(be: BackEnd) -> None:
    no_more_descriptors(be, _logs(be))


@area.case(1813, "Logs that are replaced leave no mappings", needs=("LOG_SHMFD",))
def log_mappings(be: BackEnd) -> None:
    program = program_of(be)
    no_growth(be, "mappings", lambda: program.mapped("vhost-log"), _logs(be))


@area.case(
    1814,
    "Repeated SET_LOG_FD leaves no open descriptors",
    severity=Severity.SHOULD,
    spec="VHOST_USER_SET_LOG_FD",
)
def log_fds(be: BackEnd) -> None:
    be.negotiate()
    fd = be.spare_fd()

    def again() -> None:
        be.send(F.SET_LOG_FD, fds=(fd,))
        be.barrier()

    try:
        no_more_descriptors(be, again)
    except Closed:
        observed("it closed the connection: the message is optional")


@area.case(1815, "Repeated GET_INFLIGHT_FD leaves no open descriptors", needs=("INFLIGHT_SHMFD",))
def inflight(be: BackEnd) -> None:
    be.negotiate()

    def ask() -> None:
        be.ask(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 64).pack())

    no_more_descriptors(be, ask)


def _inflight_region(be: BackEnd) -> Callable[[], None]:
    be.negotiate()
    fd = os.memfd_create("conformance-inflight", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, 4096)
    payload = Inflight(4096, 0, 1, 64).pack()
    return lambda: be.accepted(F.SET_INFLIGHT_FD, payload, fds=(fd,))


@area.case(1816, "Repeated SET_INFLIGHT_FD leaves no open descriptors", needs=("INFLIGHT_SHMFD",))
def inflight_fds(be: BackEnd) -> None:
    no_more_descriptors(be, _inflight_region(be))


@area.case(1817, "Repeated SET_INFLIGHT_FD leaves no mappings", needs=("INFLIGHT_SHMFD",))
def inflight_mappings(be: BackEnd) -> None:
    program = program_of(be)
    again = _inflight_region(be)
    no_growth(be, "mappings", lambda: program.mapped("conformance-inflight"), again)


def _slots(be: BackEnd) -> Callable[[], None]:
    be.negotiate("CONFIGURE_MEM_SLOTS")
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
    no_more_descriptors(be, _slots(be))


@area.case(
    1819,
    "Regions that are added and removed leave no mappings",
    needs=("CONFIGURE_MEM_SLOTS",),
    spec="VHOST_USER_REM_MEM_REG",
)
def slot_mappings(be: BackEnd) -> None:
    program = program_of(be)
    no_growth(be, "mappings", lambda: program.mappings, _slots(be))


@area.case(
    1820,
    "A descriptor that comes with REM_MEM_REG is closed",
    needs=("CONFIGURE_MEM_SLOTS",),
    spec="VHOST_USER_REM_MEM_REG",
)
def removal_with_fd(be: BackEnd) -> None:
    be.negotiate("CONFIGURE_MEM_SLOTS")
    memory = be.memory(MIB, share=False)
    payload = SingleRegion(memory.regions[0].on_wire).pack()

    refusals = []

    def add_and_remove() -> None:
        be.accepted(F.ADD_MEM_REG, payload, fds=memory.fds)
        if ProtocolFeature.REPLY_ACK not in be.acked:
            be.accepted(F.REM_MEM_REG, payload, fds=memory.fds)
        elif be.acked_with(F.REM_MEM_REG, payload, fds=memory.fds):
            refusals.append("refused")
            be.accepted(F.REM_MEM_REG, payload)

    try:
        no_more_descriptors(be, add_and_remove)
    except Closed:
        observed("it closed the connection: it may accept the descriptor, and need not")
    if refusals:
        observed("the message is refused, and its descriptor closed")


@area.case(1826, "Logging that is switched on and off leaves no open descriptors", works=True)
def migrations(be: BackEnd) -> None:
    ring = be.working_ring("LOG_SHMFD")
    if not be.features & LOG_ALL:
        unsupported("feature bit 26 (VHOST_F_LOG_ALL) is not offered")

    def once() -> None:
        be.log(ring.memory)
        be.send(F.SET_FEATURES, u64(be.driver_features | LOG_ALL))
        be.send(F.SET_VRING_ADDR, be.address(ring, log=True))
        be.serve(ring)
        be.send(F.SET_VRING_ADDR, be.address(ring))
        be.send(F.SET_FEATURES, u64(be.driver_features))
        be.barrier()

    no_more_descriptors(be, once)
