"""A driver at the edges of what one may do, whatever the device: it spares kicks, or errs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.conformance.back_end.tester import QUIET
from emu.conformance.verdict import observed
from emu.conformance.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from emu.conformance.back_end.tester import BackEnd
    from emu.conformance.memory import TestRing

#: A descriptor: guest address, bytes, flags, and which one is next.
Entry = tuple[int, int, int, int]
NEXT, WRITE, INDIRECT = 1, 2, 4
_DESC = struct.Struct("<QIHH")
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
