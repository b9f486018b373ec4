"""A call that may block, as the thread of a loop makes it: see `Loop.call_blocking`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Pool(Protocol):
    """Threads for calls that may block: `backends.io_pool.IoPool`."""

    def submit(self, run: Callable[[], object], failed: Callable[[Exception], object], /) -> None:
        """Have a thread call ``run()``, and ``failed()`` if it raises."""


class BlockingCall:
    """A call that may block, and what follows it.

    Args:
        work: the call, which has no part in what the loop's thread changes.
        done: is called in the loop's thread after it.
        failed: is called in the loop's thread instead, with what ``work`` raises.
        pool: makes the call where the loop's thread cannot.
        blocked: is called before ``done`` if the call took so long that another thread has taken
            the loop over.

    Attributes:
        late: that was so.
        outcome: what ``work`` has raised, or None.
    """

    __slots__ = ("_blocked", "_done", "_failed", "_pool", "_work", "late", "outcome")

    def __init__(
        self,
        work: Callable[[], object],
        done: Callable[[], None],
        failed: Callable[[Exception], None],
        pool: Pool,
        blocked: Callable[[], None],
    ) -> None:
        self._work = work
        self._done = done
        self._failed = failed
        self._pool = pool
        self._blocked = blocked
        self.late = False
        self.outcome: Exception | None = None

    def make(self) -> None:
        """Call it, in any thread."""
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  it is the request's outcome
            self.outcome = error

    def finish(self) -> None:
        """In the loop's thread, after `make`; the call has ended, whatever is raised on the way."""
        try:
            self._finish()
        except Exception as error:  # noqa: BLE001  a request waits for it
            self._failed(error)

    def _finish(self) -> None:
        if self.late:
            self._blocked()
        if self.outcome is None:
            self._done()
        else:
            self._failed(self.outcome)

    def make_in_pool(self, post: Callable[[Callable[[], None]], None]) -> None:
        """Have the pool make it, and ``post`` `finish`.

        Raises:
            RuntimeError: the system has no thread for it.
        """

        def run() -> None:
            self.make()
            post(self.finish)

        self._pool.submit(run, lambda error: post(partial(self._failed, error)))
