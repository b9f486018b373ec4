"""Counts of what a back-end holds, which may not grow with repetitions."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from vhost_user_conformance.model.verdict import Failed, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.program import PeerProgram

#: How often an action is repeated, and how many more it may hold then than after the first time.
_TIMES, _SPARE = 20, 8
_INTERVAL_MS = 20


def program_of(be: BackEnd) -> PeerProgram:
    """The program under test. Raises `Unsupported` if the suite has not started it."""
    if be.program is None:
        unsupported("resources can only be counted of a program that --exec started")
    return be.program


def no_growth(be: BackEnd, what: str, count: Callable[[], int], do: Callable[[], None]) -> None:
    """Do it once, count, repeat it, and check that the count returns to the first one."""
    do()
    before = settled(count)
    for _ in range(_TIMES):
        do()
    limit = be.wire.limit()
    while (after := count()) > before + _SPARE:
        if limit.over:
            raise Failed(f"about {before} {what} after {_TIMES} more times", f"{after}")
        select.poll().poll(_INTERVAL_MS)


def settled(count: Callable[[], int]) -> int:
    """The count, once it has been constant for a while."""
    last, same = count(), 0
    while same < 5:
        select.poll().poll(_INTERVAL_MS)
        now = count()
        same = same + 1 if now == last else 0
        last = now
    return last


def no_more_descriptors(be: BackEnd, do: Callable[[], None]) -> None:
    """Check that repeating this leaves no open descriptors. Raises `Failed`."""
    program = program_of(be)
    no_growth(be, "descriptors", lambda: program.descriptors, do)


def repeated(be: BackEnd, visit: Callable[[BackEnd], None]) -> Callable[[], None]:
    """A front-end that connects, sends messages, and disconnects."""
    last = [be]

    def come_and_go() -> None:
        other = last[0].reconnect()
        visit(other)
        other.barrier()
        last[0] = other

    return come_and_go


def work_once(be: BackEnd) -> None:
    """Have one request served on a new ring."""
    be.serve(be.working_ring())
