"""The big lock, and locks whose order is checked.

The machine has one big lock: a thread that changes the machine holds it, and so does a vCPU whose
write no ioeventfd takes. A thread that is marked as a *worker* never takes it: its coordinator may
hold the lock and wait for the worker, which would be an occasional deadlock. An attempt of a worker
to take it is always an error, which names both threads.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.locking.lock_graph import (
    Held,
    LockBrokenError,
    LockOrderError,
    Site,
    call_site,
    held_by_thread,
    inner_files,
    record_acquired,
    record_released,
    waiting_for,
)
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = [
    "BigLock",
    "LockBrokenError",
    "LockOrderError",
    "OrderedLock",
    "enable_checking",
    "is_worker",
    "worker",
]

TIMEOUT = 30.0
#: Seconds between two checks of a waiting thread whether its wait was ended.
POLL = 0.05


class _Mark(threading.local):
    """Where a thread was marked as a worker. Not by identifier: those are reused."""

    site: Site | None = None


_mark = _Mark()
inner_files.add(__file__)
_checking = False
#: (lock taken first, lock taken while it was held) -> where both were taken, and the thread.
_order: dict[tuple[str, str], tuple[Held, Site, str]] = {}
_after: dict[str, set[str]] = {}


def enable_checking(enabled: bool) -> None:  # noqa: FBT001  it is a switch
    """Enable or disable the check of the lock order; the orders seen so far are cleared."""
    global _checking
    _checking = enabled
    _order.clear()
    _after.clear()


@contextmanager
def worker() -> Iterator[None]:
    """Mark this thread as a worker, for the length of the block."""
    before = _mark.site
    _mark.site = call_site()
    try:
        yield
    finally:
        _mark.site = before


def is_worker() -> bool:
    """Whether this thread is marked as a worker."""
    return _mark.site is not None


class OrderedLock:
    """A lock whose order relative to other locks is checked.

    The check works as Linux's lockdep does: with every lock taken while another one is held, an
    edge is added to a graph of lock names; an edge that would close a cycle is an error, even if
    no thread waits this time. Locks of one name are one class. Not re-entrant.

    Args:
        name: of the lock, or of the class of locks that it belongs to.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._holder: Held | None = None
        self._depth = 0
        self._waiting: dict[int, str | None] = {}

    def acquire(self, timeout: float = TIMEOUT) -> None:
        """Acquire it.

        Args:
            timeout: seconds.

        Raises:
            LockOrderError: taking it here can deadlock, or this thread holds it already.
            DeadlineError: the timeout has expired; names the holder, and where it took the lock.
            LockBrokenError: the wait was part of a deadlock and was ended.
        """
        self._acquire(timeout, call_site(), 1)

    def _acquire(self, timeout: float, site: Site, depth: int) -> None:
        if self._holder is not None and self._holder.ident == threading.get_ident():
            raise LockOrderError(
                f"{threading.current_thread().name} takes {self.name} at {site}, and holds it: "
                f"{self._holder}"
            )
        if _checking:
            _check_order(self.name, site)
        if not self._lock.acquire(blocking=False):
            self._wait(timeout, site)
        self._holder = record_acquired(self.name, site)
        self._depth = depth

    def _wait(self, timeout: float, site: Site) -> None:
        """Wait for the holder to release the lock, and take it."""
        ident = threading.get_ident()
        deadline = time.monotonic() + timeout
        self._waiting[ident] = None
        try:
            with waiting_for(self.name, self._holders, site=site, break_off=self._breaker(ident)):
                left = timeout
                while not self._lock.acquire(timeout=max(0.0, min(left, POLL))):
                    reason = self._waiting[ident]
                    if reason is not None:
                        raise LockBrokenError(reason)
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise DeadlineError(f"{self.name}, {self.held_by()}", timeout)
        finally:
            del self._waiting[ident]

    def _holders(self) -> tuple[int, ...]:
        holder = self._holder
        return () if holder is None else (holder.ident,)

    def _breaker(self, ident: int) -> Callable[[str], None]:
        def break_off(reason: str) -> None:
            if ident in self._waiting:
                self._waiting[ident] = reason

        return break_off

    def release(self) -> None:
        """Release it.

        Raises:
            LockOrderError: this thread does not hold it.
        """
        self.assert_held()
        self._release()

    def _release(self) -> int:
        holder, depth = self._holder, self._depth
        assert holder is not None  # noqa: S101  the callers have checked
        record_released(holder)
        self._holder = None
        self._depth = 0
        self._lock.release()
        return depth

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def holder(self) -> Held | None:
        """The thread that holds it, since when, and where it was taken."""
        return self._holder

    @property
    def held(self) -> bool:
        """Whether this thread holds it."""
        holder = self._holder
        return holder is not None and holder.ident == threading.get_ident()

    def assert_held(self) -> None:
        """Check that this thread holds it.

        Raises:
            LockOrderError: this thread does not hold it.
        """
        if not self.held:
            name = threading.current_thread().name
            raise LockOrderError(f"{name} needs {self.name} for this, which is {self.held_by()}")

    def held_by(self) -> str:
        """Human-readable: the holder, where it took the lock, and the threads that wait for it."""
        holder = self._holder
        if holder is None:
            return "held by no thread"
        seconds = (time.monotonic_ns() - holder.since_ns) / 1e9
        text = f"held by {holder.thread} for {seconds:.2f} s, taken at {holder.site}"
        names = [thread.name for thread in threading.enumerate() if thread.ident in self._waiting]
        return f"{text}, awaited by {', '.join(names)}" if names else text


class BigLock(OrderedLock):
    """The machine's one lock: re-entrant for its holder, an error for workers.

    Args:
        enforce: a worker that takes it is an error. Without that the deadlock can occur.
    """

    def __init__(self, name: str = "the big lock", *, enforce: bool = True) -> None:
        super().__init__(name)
        self.enforce = enforce

    def acquire(self, timeout: float = TIMEOUT) -> None:
        """Acquire it, or acquire it once more.

        Args:
            timeout: seconds.

        Raises:
            LockOrderError: this thread is a worker, or taking it here can deadlock.
            DeadlineError: the timeout has expired; names the holder, and where it took the lock.
            LockBrokenError: the wait was part of a deadlock and was ended.
        """
        if self.held:
            self._depth += 1
            return
        site = call_site()
        if self.enforce and is_worker():
            raise LockOrderError(self._describe_worker(site))
        self._acquire(timeout, site, 1)

    def _describe_worker(self, site: Site) -> str:
        name = threading.current_thread().name
        mine = ", ".join(str(held) for held in held_by_thread()) or "no lock"
        text = (
            f"{name}, a worker since {_mark.site}, holds {mine} and takes "
            f"{self.name} at {site}: a thread that waits for the worker may hold it"
        )
        holder = self._holder
        if holder is None:
            return f"{text} (no thread holds it now)"
        theirs = ", ".join(str(held) for held in held_by_thread(holder.ident))
        return f"{text}; {holder.thread} holds {theirs or holder}"

    def release(self) -> None:
        """Release it, or undo one of several acquisitions.

        Raises:
            LockOrderError: this thread does not hold it.
        """
        self.assert_held()
        if self._depth > 1:
            self._depth -= 1
        else:
            self._release()

    @contextmanager
    def released(self, timeout: float = TIMEOUT) -> Iterator[None]:
        """Release the lock for the length of the block, however often this thread holds it.

        For a wait for threads that may need the lock, such as vCPUs that leave guest code.
        """
        if not self.held:
            yield
            return
        site = call_site()
        depth = self._release()
        try:
            yield
        finally:
            self._acquire(timeout, site, depth)


def _check_order(name: str, site: Site) -> None:
    """Add an edge from every lock that this thread holds; one that closes a cycle is an error."""
    for held in held_by_thread():
        if held.lock == name:
            raise LockOrderError(
                f"{held.thread} takes {name} at {site} while it holds another of the kind: {held}"
            )
        if (held.lock, name) in _order:
            continue
        path = _path(name, held.lock)
        if path:
            first, second, thread = _order[path[0], path[1]]
            raise LockOrderError(
                f"{held.thread} takes {name} at {site} while it holds {held}; the other way "
                f"round, {thread} held {first} and took {path[1]} at {second}"
            )
        _order[held.lock, name] = (held, site, held.thread)
        _after.setdefault(held.lock, set()).add(name)


def _path(start: str, end: str) -> list[str]:
    """Lock names from ``start`` to ``end`` along the edges seen so far; empty without a path."""
    paths = [[start]]
    seen = {start}
    while paths:
        path = paths.pop(0)
        for following in _after.get(path[-1], set()).copy() - seen:
            if following == end:
                return [*path, end]
            seen.add(following)
            paths.append([*path, following])
    return []
