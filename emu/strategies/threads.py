"""The RFC's proposal: a thread pool that is started when the migration begins."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Self

from devices.procedure import Ask, AwaitSwitchover, Change
from emu.locking.locks import worker
from emu.strategies.base import DeviceCost, Halt, Strategy
from emu.strategies.lockstep import answer_in_lockstep
from emu.strategies.split import commit_together
from emu.strategies.task import Stage, Task
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.base import StrategyOptions

_Outcome = tuple[Task, "Future[None]"]


class Threads(Strategy):
    """One device per worker at a time, in lock-step; the coordinator commits the edits.

    The coordinator commits all edits that have arrived, so edits of several devices share a commit,
    as in the nested transactions of the RFC. A worker never needs the big lock, and is marked as a
    worker: acquiring the lock then raises an error.

    Args:
        workers: size of the pool.
    """

    NAME = "threads"
    HELP = "a pool of threads, each with one device at a time (the RFC's proposal)"
    ASK = "a pool of threads, each with one device at a time, in lock-step"
    CHANGE = "by the coordinator: all edits that have arrived, in one commit"
    ORIGIN = "the RFC's proposal"

    def __init__(self, workers: int = 8) -> None:
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def from_options(cls, options: StrategyOptions) -> Self:
        """See `Strategy.from_options`."""
        return cls(options.threads)

    def open(self) -> None:
        """Start all of the pool's threads."""
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="migration-worker")
        all_started = threading.Barrier(self._workers)
        for started in [self._pool.submit(all_started.wait, 10.0) for _ in range(self._workers)]:
            started.result()

    def close(self) -> None:
        """End the pool."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None

    def estimate(self, costs: Sequence[DeviceCost]) -> int:
        """The sum shared among the workers, but at least the time of the slowest device."""
        alone = [cost.in_lockstep for cost in costs]
        return max(max(alone, default=0), sum(alone) // self._workers)

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """See `Strategy.drive`."""
        if self._pool is None:
            raise RuntimeError("open() has not been called: there is no pool")
        batch = _Batch(self._pool, stage, halt)
        batch.submit(tasks)
        try:
            while batch.pending:
                returned = batch.gather()
                changing = [task for task in returned if isinstance(task.step, Change)]
                if halt is not Change:
                    commit_together(changing, stage)
                    batch.submit(changing)
        finally:
            batch.drain()


class _Batch:
    """The tasks that the pool works on during one drive."""

    def __init__(self, pool: ThreadPoolExecutor, stage: Stage, halt: Halt) -> None:
        self._pool = pool
        self._stage = stage
        self._halt = halt
        self._returned = queue.SimpleQueue[_Outcome]()
        self.pending = 0

    def submit(self, tasks: Sequence[Task]) -> None:
        """Submit tasks to the pool."""
        for task in tasks:
            future = self._pool.submit(_work, task, self._stage, self._halt)
            self.pending += 1
            future.add_done_callback(partial(self._return, task))

    def _return(self, task: Task, future: Future[None]) -> None:
        self._returned.put((task, future))

    def gather(self) -> list[Task]:
        """Wait for a task to return; return it and all others that have returned as well.

        Raises:
            VhostUserError: a device failed.
        """
        outcomes = [self._next()]
        while not self._returned.empty():
            outcomes.append(self._next())
        for _, future in outcomes:
            future.result()
        return [task for task, _ in outcomes]

    def drain(self) -> None:
        """Wait until all workers are idle: a roll-back must be the only user of the devices."""
        while self.pending:
            self._next()

    def _next(self) -> _Outcome:
        # Each request of a worker has the stage's timeout, and a device has many requests: this
        # longer timeout is for a worker that hangs for another reason.
        timeout = self._stage.timeout * 300
        try:
            outcome = self._returned.get(timeout=timeout)
        except queue.Empty:
            raise DeadlineError("a worker of the pool", timeout) from None
        self.pending -= 1
        return outcome


def _work(task: Task, stage: Stage, halt: Halt) -> None:
    """In a worker: run a task until it needs a commit, reaches ``halt``, or ends."""
    with worker():
        while task.step is not None and not isinstance(task.step, Change):
            if halt is not None and isinstance(task.step, halt):
                return
            if isinstance(task.step, Ask):
                task.resume(answer_in_lockstep(task, task.step, stage))
            elif isinstance(task.step, AwaitSwitchover):
                task.resume(None)
