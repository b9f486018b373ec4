"""VU-B-1821 and up: descriptors of refused requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import LogArea, MemTable
from vhost_user_conformance.back_end.cases.resources import area
from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.resource_counts import no_more_descriptors
from vhost_user_conformance.model.verdict import Failed, observed
from vhost_user_conformance.peer.memory import MIB
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from collections.abc import Callable


def _refusals(be: BackEnd, offend: Callable[[BackEnd], object]) -> None:
    """Send refused requests; on a new connection each time where the back-end closes it.

    The specification says only of REM_MEM_REG that unexpected descriptors are closed.
    """
    last = [be.negotiate()]

    def refuse() -> None:
        try:
            offend(last[0])
            last[0].barrier()
        except Closed:
            last[0] = last[0].reconnect().negotiate()

    try:
        no_more_descriptors(be, refuse)
    except Failed as failed:
        observed(f"they stay open: {failed.seen} descriptors, expected {failed.expected}")


@area.case(1821, "Descriptors of an unknown request are closed", spec="Header")
def unknown(be: BackEnd) -> None:
    fd = be.spare_fd()
    _refusals(be, lambda other: other.send(199, u64(0), fds=(fd, fd)))


@area.case(1822, "Descriptors with a request that takes none are closed", spec="Header")
def stray(be: BackEnd) -> None:
    fd = be.spare_fd()
    _refusals(be, lambda other: other.send(F.SET_VRING_NUM, vring_state(0, 64), fds=(fd, fd)))


@area.case(1823, "Descriptors of an invalid table are closed")
def bad_tables(be: BackEnd) -> None:
    memory = be.memory(MIB, share=False)
    region = memory.regions[0].on_wire._replace(size=1 << 62)
    table = MemTable((region,)).pack()
    _refusals(be, lambda other: other.send(F.SET_MEM_TABLE, table, fds=memory.fds))


@area.case(1824, "Descriptors of a log that cannot be mapped are closed", needs=("LOG_SHMFD",))
def bad_logs(be: BackEnd) -> None:
    fd = be.spare_fd()
    payload = LogArea(1 << 62, 1 << 62).pack()
    _refusals(be, lambda other: other.ask(F.SET_LOG_BASE, payload, fds=(fd,)))
