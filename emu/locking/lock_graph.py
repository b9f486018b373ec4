"""Which thread holds which lock, which thread waits for which, and where in the code.

The locks of `emu.locking.locks` report here. A watchdog calls `find_cycle`: a deadlock is a cycle
of threads that wait for each other. A thread that waits for other threads, and not for a lock,
reports that with `waiting_for`.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import FrameType


class LockOrderError(EmuError):
    """A lock was about to be taken in an order that can deadlock."""


class LockBrokenError(EmuError):
    """A wait for a lock was part of a deadlock, and was ended."""


class Site(NamedTuple):
    """A place in the code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{PurePath(self.file).name}:{self.line} ({self.function})"


class Held(NamedTuple):
    """A lock that a thread holds.

    Attributes:
        lock: the lock's name.
        thread: the thread's name.
        ident: the thread's identifier.
        site: where it took the lock.
        since_ns: when (CLOCK_MONOTONIC).
    """

    lock: str
    thread: str
    ident: int
    site: Site
    since_ns: int

    def __str__(self) -> str:
        return f"{self.lock} (taken at {self.site})"


class Wait(NamedTuple):
    """A thread that waits.

    Attributes:
        what: a lock's name, or the `what` of `waiting_for`.
        thread: the thread's name.
        ident: the thread's identifier.
        site: where it waits.
        since_ns: since when (CLOCK_MONOTONIC).
        on: returns the identifiers of the threads that could end the wait.
        break_off: ends the wait with `LockBrokenError`; None where that is not possible.
    """

    what: str
    thread: str
    ident: int
    site: Site
    since_ns: int
    on: Callable[[], Collection[int]]
    break_off: Callable[[str], None] | None

    def __str__(self) -> str:
        return f"{self.thread} waits for {self.what} at {self.site}"


# For the whole process, by the thread's identifier: a thread waits in one place at a time. Only the
# thread itself changes its entries.
_held: dict[int, list[Held]] = {}
_waits: dict[int, Wait] = {}
#: Files whose frames are not call sites. contextlib's are between a context manager and its caller.
inner_files = {__file__, contextlib.__file__}


def call_site() -> Site:
    """The place that called into the lock: the first frame that is not in one of its files."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_filename not in inner_files:
            return Site(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return Site("?", 0, "?")


def held_by_thread(ident: int | None = None) -> list[Held]:
    """The locks that a thread (by default this one) holds, in the order of their acquisition."""
    return list(_held.get(threading.get_ident() if ident is None else ident, ()))


def record_acquired(lock: str, site: Site) -> Held:
    """Record that this thread has taken a lock."""
    ident = threading.get_ident()
    held = Held(lock, threading.current_thread().name, ident, site, time.monotonic_ns())
    mine = _held.get(ident)
    if mine is None:
        _held[ident] = [held]
    else:
        mine.append(held)
    return held


def record_released(held: Held) -> None:
    """Record that this thread has released it."""
    mine = _held[held.ident]
    if len(mine) == 1:
        del _held[held.ident]
    else:
        mine.remove(held)


@contextlib.contextmanager
def waiting_for(
    what: str,
    on: Callable[[], Collection[int]],
    *,
    site: Site | None = None,
    break_off: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Record, for the length of the block, that this thread waits for other threads.

    Args:
        what: human-readable, such as ``the workers``.
        on: returns the identifiers of the threads that could end the wait (`threading.get_ident`).
        site: where it waits; by default the caller.
        break_off: called from another thread, ends the wait with an error of that text.
    """
    ident = threading.get_ident()
    name = threading.current_thread().name
    where = site or call_site()
    before = _waits.get(ident)
    _waits[ident] = Wait(what, name, ident, where, time.monotonic_ns(), on, break_off)
    try:
        yield
    finally:
        if before is None:
            _waits.pop(ident, None)
        else:
            _waits[ident] = before


def waits() -> list[Wait]:
    """All threads that wait now."""
    return list(_waits.copy().values())


def find_cycle() -> list[Wait]:
    """The waits of a deadlock; empty if there is none.

    Only the thread of the next wait can end each of them, and the thread of the first the last.
    """
    now = _waits.copy()
    for start in now:
        cycle = _walk(now, start, [])
        if cycle:
            return cycle
    return []


def _walk(now: dict[int, Wait], ident: int, path: list[Wait]) -> list[Wait]:
    for at, wait in enumerate(path):
        if wait.ident == ident:
            return path[at:]
    wait_here = now.get(ident)
    if wait_here is None:
        return []
    for other in wait_here.on():
        cycle = _walk(now, other, [*path, wait_here])
        if cycle:
            return cycle
    return []


def describe_cycle(cycle: Collection[Wait]) -> str:
    """A line per thread: what it waits for and where, the locks it holds and where it took them."""
    lines = []
    for wait in cycle:
        holds = ", ".join(str(held) for held in held_by_thread(wait.ident)) or "no lock"
        seconds = (time.monotonic_ns() - wait.since_ns) / 1e9
        lines.append(f"{wait} since {seconds:.2f} s, and holds {holds}")
    return "\n".join(lines)
