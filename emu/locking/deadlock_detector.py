"""A thread that finds deadlocks while a migration runs, and ends their waits."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from emu.locking.lock_graph import describe_cycle, find_cycle, waits

if TYPE_CHECKING:
    from collections.abc import Collection

    from emu.locking.lock_graph import Wait

#: Seconds between two checks, and the age from which a cycle counts: while a lock passes from one
#: thread to another there may seem to be one.
INTERVAL = 0.1
MIN_AGE = 0.3


class Watchdog:
    """Finds a cycle of waits, and ends it within a second; a context manager.

    A thread that waits for a lock within the cycle gets a `LockBrokenError` that describes it.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(10 * INTERVAL)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            cycle = find_cycle()
            if cycle and _seconds(cycle) >= MIN_AGE:
                break_cycle(cycle)


def break_cycle(cycle: Collection[Wait]) -> None:
    """End each wait that is part of a cycle with one of these threads, where that is possible."""
    text = f"deadlock: {len(cycle)} threads wait for each other\n{describe_cycle(cycle)}"
    members = {wait.ident: wait for wait in cycle}
    for wait in waits():
        holders = [members[ident] for ident in wait.on() if ident in members]
        closes = wait.ident in members or any(wait.ident in holder.on() for holder in holders)
        if wait.break_off is not None and holders and closes:
            wait.break_off(text)


def _seconds(cycle: Collection[Wait]) -> float:
    """The age of the cycle: that of its latest wait."""
    return (time.monotonic_ns() - max(wait.since_ns for wait in cycle)) / 1e9
