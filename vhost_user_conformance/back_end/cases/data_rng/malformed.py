"""VU-B-2620 to 2627: requests that no driver of an entropy device may make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.cases.data_rng import area
from vhost_user_conformance.back_end.malformed_driver import INDIRECT, NEXT, WRITE, spoil, survives
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Severity, Unsupported, observed
from vhost_user_conformance.peer.memory import MIB
from vhost_user_conformance.peer.wire import WireError

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd

#: Whether the device may write to each of a request's buffers.
_WRONG = {
    "only a device-readable buffer": (False,),
    "a device-readable buffer before a writable one": (False, True),
    "several device-readable buffers": (False, False, False),
}


@area.each(
    2620,
    _WRONG,
    "A request of {} does not stop the program, which serves the next front-end",
    device="rng",
    severity=Severity.SHOULD,
    spec="virtio 1.3, 5.4.6.1",
)
def wrong_direction(be: BackEnd, name: str) -> None:
    """The driver must not do that; no rule defines what the device does then."""
    ring = be.working_ring()
    pieces = [(ring.memory.allocate(64), 64) for _ in _WRONG[name]]
    by_direction: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for piece, writable in zip(pieces, _WRONG[name], strict=True):
        by_direction[writable].append(piece)
    ring.driver.add(by_direction[False], by_direction[True])
    ring.driver.publish()
    ring.kick()
    completed = ring.await_used(1, QUIET)
    seen = "completed it" if completed else "left it in the ring"
    try:
        be.barrier()
    except WireError:
        seen = "closed the connection"
    try:
        other = be.reconnect()
    except Unsupported:
        observed(f"it {seen}, and ended with its front-end")
    other.serve(other.working_ring())
    observed(f"it {seen}, and served the next front-end")


_BAD = {
    "a chain that loops": ({0: (0, 16, NEXT | WRITE, 1), 1: (0, 16, NEXT | WRITE, 0)}, 0),
    "a head beyond the descriptor table": ({}, 9999),
    "a buffer outside of memory": ({0: (1 << 50, 64, WRITE, 0)}, 0),
    "a buffer of 4 GiB": ({0: (MIB, 0xFFFFFFFF, WRITE, 0)}, 0),
    "an indirect table of 7 bytes": ({0: (MIB, 7, INDIRECT, 0)}, 0),
}


@area.each(
    2623,
    _BAD,
    "{} does not crash an entropy device",
    device="rng",
    severity=Severity.SHOULD,
    spec="virtio 1.3, 2.7",
)
def bad_chains(be: BackEnd, name: str) -> None:
    ring = be.working_ring()
    entries, head = _BAD[name]
    spoil(ring, entries, head)
    survives(be, ring, name)
