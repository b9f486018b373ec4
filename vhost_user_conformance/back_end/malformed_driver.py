"""A driver at the edges of what one may do, whatever the device: it spares kicks, or errs."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import observed
from vhost_user_conformance.peer.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import TestRing

#: A descriptor: guest address, bytes, flags, and which one is next.
Entry = tuple[int, int, int, int]
NEXT, WRITE, INDIRECT = 1, 2, 4
_DESC = struct.Struct("<QIHH")
#: How often a second request comes after a first one: each time that much later, up to the latest.
_HURRIED_TURNS, _LATER_NS, _LATEST_NS = 4000, 509, 20_000
#: Requests that are made one after the other.
_TURNS = 100


def kick_if_asked(
    be: BackEnd, ring: TestRing, add: Callable[[], int], took: Callable[[int], object]
) -> None:
    """Make request after request, with a kick only where the back-end asks for one.

    Args:
        be: the back-end.
        ring: it runs, from 0 on.
        add: puts a request into it, and tells the head of its chain; it does not publish it.
        took: takes the completion, which is to be of this chain.

    Raises:
        Failed: one is not completed.
        Observed: it asked for none.
    """
    kicks = 0
    for turn in range(1, _TURNS + 1):
        head = add()
        if ring.driver.publish():
            kicks += 1
            ring.kick()
        be.await_used(ring, turn)
        took(head)
    if not kicks:
        observed("it never asks for a kick: it polls")


def kick_if_late(be: BackEnd, ring: TestRing, add: Callable[[], int]) -> None:
    """Make a second request just after a first one is completed, and kick only if it is asked for.

    A device that has seen that there is no more asks for a kick, and has to look again then (virtio
    1.3, 2.7.10): so the second one comes a little later in each turn.

    Args:
        be: the back-end.
        ring: it runs, from 0 on.
        add: puts a request into it; it does not publish it.

    Raises:
        Failed: one is not completed.
    """
    for turn in range(_HURRIED_TURNS):
        add()
        ring.driver.publish()
        add()
        ring.driver.arm()  # a call takes time, in which the device has not yet asked for a kick
        ring.kick()
        deadline = time.monotonic() + be.patience
        while ring.used_index != 2 * turn + 1 and time.monotonic() < deadline:
            pass
        until = time.perf_counter_ns() + turn * _LATER_NS % _LATEST_NS
        while time.perf_counter_ns() < until:
            pass
        if ring.driver.publish():
            ring.kick()
        be.await_used(ring, 2 * turn + 2)
        while ring.driver.pop() is not None:
            pass


def spoil(ring: TestRing, entries: Mapping[int, Entry], head: int = 0) -> None:
    """Write descriptors by hand, and make ``head`` available."""
    for index, entry in entries.items():
        ring.memory.write(ring.desc + 16 * index, _DESC.pack(*entry))
    at = ring.avail_index
    ring.memory.write(ring.avail + 4 + 2 * (at % ring.size), struct.pack("<H", head))
    ring.memory.write(ring.avail + 2, struct.pack("<H", (at + 1) & 0xFFFF))
    ring.kick()


def write_table(ring: TestRing, gpa: int, entries: Sequence[Entry]) -> None:
    """Write an indirect table by hand."""
    ring.memory.write(gpa, b"".join(_DESC.pack(*entry) for entry in entries))


def survives(be: BackEnd, ring: TestRing, what: str) -> None:
    """It may complete, ignore, or close; the runner sees whether it died.

    Raises:
        Observed: which of them.
    """
    completed = ring.await_used(ring.start + 1, QUIET)
    try:
        be.barrier()
    except WireError:
        observed(f"it closed the connection over {what}")
    observed(f"it {'completed' if completed else 'left'} {what}, and went on")
