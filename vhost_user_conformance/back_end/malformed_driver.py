"""Drivers at the limits of the rules, for any device: few kicks, or invalid chains."""

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

#: A descriptor: guest address, bytes, flags, and index of the next one.
Entry = tuple[int, int, int, int]
NEXT, WRITE, INDIRECT = 1, 2, 4
_DESC = struct.Struct("<QIHH")
#: Rounds of a second request after a first one, each later by this much, up to the latest.
_HURRIED_TURNS, _LATER_NS, _LATEST_NS = 4000, 509, 20_000
#: Seconds after which no further round begins: a slow device is given fewer of them.
_HURRIED_SECONDS = 5.0
#: Number of requests, one after the other.
_TURNS = 100


def kick_if_asked(
    be: BackEnd, ring: TestRing, add: Callable[[], int], took: Callable[[int], object]
) -> None:
    """Make requests one after the other, with a kick only where the back-end needs one.

    Args:
        be: the back-end.
        ring: it runs, from index 0 on.
        add: adds a request, and returns the head of its chain; it does not publish it.
        took: takes the completion, which must be that of this chain.

    Raises:
        Failed: one is not completed.
        Observed: it never needed a kick.
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
        observed("it never enables kicks: it polls")


def kick_if_late(be: BackEnd, ring: TestRing, add: Callable[[], int]) -> None:
    """Make a second request just after a first one is completed; kick only if kicks are enabled.

    A device that finds no more requests enables kicks, and has to check the ring again then (virtio
    1.3, 2.7.10): the second request is made a little later in each round.

    Args:
        be: the back-end.
        ring: it runs, from index 0 on.
        add: adds a request; it does not publish it.

    Raises:
        Failed: one is not completed.
    """
    begin = time.monotonic()
    for turn in range(_HURRIED_TURNS):
        if turn and time.monotonic() - begin > _HURRIED_SECONDS:
            break
        add()
        ring.driver.publish()
        add()
        ring.driver.arm()  # a call takes time, during which the device has not enabled kicks yet
        ring.kick()
        deadline = time.monotonic() + be.timeout
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
    """It may complete, ignore, or close the connection; the runner checks whether it crashed.

    Raises:
        Observed: which of these.
    """
    completed = ring.await_used(ring.start + 1, QUIET)
    try:
        be.barrier()
    except WireError:
        observed(f"it closed the connection at {what}")
    observed(f"it {'completed' if completed else 'ignored'} {what}, and continued")
