"""Which thread holds which lock, which waits for which, and where in the code.

The locks of `emu.locking.locks` report here. A watchdog calls `find_cycle`, which finds a deadlock
as a cycle of threads that wait for each other; a thread that waits for threads and not for a lock
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
    """Two locks are, or one lock is, being taken in an order that can deadlock."""


class LockBrokenError(EmuError):
    """A wait for a lock was part of a deadlock, and was broken off."""


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
        on: gives the identifiers of the threads that could end the wait.
        break_off: ends the wait with `LockBrokenError`, or None where that cannot be done.
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


# One of each for the process: a thread is in one place at a time, whichever lock it is about. Each
# list is changed by its own thread only.
_held: dict[int, list[Held]] = {}
_waits: dict[int, Wait] = {}
#: Files whose frames are no call site. contextlib's stand between a context manager and its caller.
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
    """What a thread (by default this one) holds, in the order in which it was taken."""
    return list(_held.get(threading.get_ident() if ident is None else ident, ()))


def note_taken(lock: str, site: Site) -> Held:
    """This thread has taken a lock."""
    ident = threading.get_ident()
    held = Held(lock, threading.current_thread().name, ident, site, time.monotonic_ns())
    mine = _held.get(ident)
    if mine is None:
        _held[ident] = [held]
    else:
        mine.append(held)
    return held


def note_released(held: Held) -> None:
    """This thread has given it back."""
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
    """This thread waits for something that others are to do.

    Args:
        what: human-readable, such as ``the workers``.
        on: gives the identifiers of the threads that could do it (`threading.get_ident`).
        site: where it waits; by default the caller.
        break_off: ends the wait with an error of that text, from another thread.
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
    """Everything that waits now."""
    return list(_waits.copy().values())


def find_cycle() -> list[Wait]:
    """A deadlock, or nothing.

    Each of the waits can only be ended by the thread of the next one, the last by the first's.
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
    """A line per thread: what it holds, and where it took it; for what it waits, and where."""
    lines = []
    for wait in cycle:
        holds = ", ".join(str(held) for held in held_by_thread(wait.ident)) or "no lock"
        seconds = (time.monotonic_ns() - wait.since_ns) / 1e9
        lines.append(f"{wait} since {seconds:.2f} s, and holds {holds}")
    return "\n".join(lines)
