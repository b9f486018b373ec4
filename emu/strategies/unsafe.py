"""The RFC's first attempt, as a demonstration: the migration fails and is rolled back."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import nullcontext, suppress
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Self

from devices.notifiers import HostNotifier, Ioeventfd
from devices.procedure import Ask, AwaitSwitchover, Change
from emu.errors import EmuError
from emu.locking.lock_graph import Site, call_site, waiting_for
from emu.machine.accel.base import NotifierError
from emu.machine.machine import Machine
from emu.strategies.lockstep import answer_in_lockstep
from emu.strategies.split import commit_together
from emu.strategies.threads import Threads
from vhost_user.errors import DeadlineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.base import Halt, StrategyOptions
    from emu.strategies.task import Stage, Task

EITHER, DOUBLE_DISABLE, DEADLOCK = MODES = ("either", "double-disable", "deadlock")
#: A part of the error's text if the failure of a mode occurred.
_ERROR_TEXTS = {
    DOUBLE_DISABLE: ("was disabled by two threads",),
    DEADLOCK: ("deadlock: ",),
    EITHER: ("was disabled by two threads", "deadlock: "),
}
#: The failure that each mode demonstrates.
_FAILURES = {
    DOUBLE_DISABLE: "a notifier disabled by two threads",
    DEADLOCK: "the deadlock",
    EITHER: "one of the RFC's two failures",
}
#: Seconds for which the first worker waits for a second one to reach the same point.
RENDEZVOUS = 1.0


class DoubleDisableError(EmuError):
    """Two threads disabled the same notifier."""


class _Disabled(NamedTuple):
    """Which thread disabled a notifier, and where."""

    thread: str
    site: Site


class UnsafeThreads(Threads):
    """Workers disable host notifiers themselves; the coordinator joins them under the big lock.

    The coordinator commits edits that assign, and those of guest notifiers, as in `Threads`.

    Args:
        workers: size of the pool.
        mode: one of `MODES`. With ``double-disable`` two workers compare with the old list before
            either changes it; with ``deadlock`` one worker commits at a time, as with the RFC's
            extra lock, so that the first failure cannot occur; with ``either`` the failure depends
            on the kernel's scheduler.

    Raises:
        ValueError: the mode is unknown.
    """

    def __init__(self, workers: int, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"unsafe is one of {', '.join(MODES)}, not {mode!r}")
        # The failures need two threads at the same time.
        super().__init__(max(workers, 2))
        self._mode = mode

    @classmethod
    def from_options(cls, options: StrategyOptions) -> Self:
        """See `Strategy.from_options`."""
        return cls(options.threads, options.unsafe)

    def missed(self, error: str | None) -> str:
        """See `Strategy.missed`."""
        if error is not None and any(text in error for text in _ERROR_TEXTS[self._mode]):
            return ""
        failure = _FAILURES[self._mode]
        return f"--unsafe {self._mode} is meant to demonstrate {failure}, which did not occur"

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """See `Strategy.drive`.

        Raises:
            DoubleDisableError: names the notifier, and both threads.
            LockBrokenError: a watchdog found the deadlock and broke it.
        """
        machine = stage.machine
        if self._pool is None or not isinstance(machine, Machine):
            raise UsageError("this strategy needs its pool and a Machine")
        running = list(tasks)
        with machine.big_lock:
            while running:
                shared = _Globals(machine, self._mode, len(running))
                try:
                    self._join([self._pool.submit(_work, t, stage, shared, halt) for t in running])
                finally:
                    shared.restore()
                running = [task for task in running if isinstance(task.step, Change)]
                if halt is Change:
                    return
                commit_together(running, stage)

    def _join(self, futures: list[Future[None]]) -> None:
        """Wait for all workers while holding the big lock: this is the RFC's mistake."""
        workers = self._idents
        timeout = 300.0
        with waiting_for("the workers, to join them", workers):
            done, pending = wait(futures, timeout=timeout, return_when=FIRST_EXCEPTION)
            for future in pending:
                future.cancel()
            _, hanging = wait(pending, timeout=timeout)
        if hanging:
            raise DeadlineError("a worker of the pool", timeout)
        # The first error is the cause; later ones may result from it.
        for future in [*done, *pending]:
            if not future.cancelled():
                future.result()

    def _idents(self) -> list[int]:
        threads = () if self._pool is None else self._pool._threads  # noqa: SLF001  no other way
        return [thread.ident for thread in threads if thread.ident is not None]


class _Globals:
    """State that the workers share without a lock, as QEMU's regions and list of ioeventfds."""

    def __init__(self, machine: Machine, mode: str, tasks: int) -> None:
        self._machine = machine
        self._mode = mode
        self._assigned = frozenset(machine.address_space.ioeventfds())
        self._wanted = self._assigned
        self._disabled: dict[Ioeventfd, _Disabled] = {}
        self._extra: threading.Lock | nullcontext[None] = (
            threading.Lock() if mode == DEADLOCK else nullcontext()
        )
        self._failed = False
        self._arrivals = count()
        self._pair = threading.Barrier(2) if mode == DOUBLE_DISABLE and tasks > 1 else None
        self._pair_over = threading.Event()

    def disable(self, edits: Sequence[HostNotifier]) -> None:
        """A worker's own commit, then a notification of each ring.

        Raises:
            DoubleDisableError: another worker has disabled one of them.
            LockBrokenError: the kick was part of a deadlock.
        """
        if self._failed:
            return
        try:
            with self._extra:
                self._commit({edit.ioeventfd for edit in edits})
            if self._mode != DOUBLE_DISABLE:
                self._kick(edits)
        except BaseException:
            self._failed = True
            raise

    def _commit(self, removed: set[Ioeventfd]) -> None:
        """Compare the wanted ioeventfds with the old list, and deassign the difference.

        With ``double-disable`` the first two workers do it at the same time, the others later.
        """
        paired = self._pair is not None and next(self._arrivals) < 2
        if self._pair is not None and not paired:
            self._pair_over.wait(2 * RENDEZVOUS)
        old = self._assigned
        self._wanted -= removed
        self._rendezvous(paired=paired)
        difference = sorted(old - self._wanted)
        self._rendezvous(paired=paired)
        try:
            for entry in difference:
                self._disable(entry)
            self._assigned = self._wanted
        finally:
            self._pair_over.set()

    def _kick(self, edits: Sequence[HostNotifier]) -> None:
        """Kick each ring, so that a kick from just before the commit is not lost.

        Without ioeventfds the writes need the big lock. This thread makes them, as the vCPUs are
        paused.
        """
        for edit in edits:
            self._machine.write_without_ioeventfd(edit.ioeventfd.address, edit.ring)

    def _rendezvous(self, *, paired: bool) -> None:
        """Wait for the other worker of the pair at the same point, for a limited time."""
        if self._pair is not None and paired:
            with suppress(threading.BrokenBarrierError):
                self._pair.wait(RENDEZVOUS)

    def _disable(self, entry: Ioeventfd) -> None:
        site = call_site()
        thread = threading.current_thread().name
        try:
            self._machine.accel.change_ioeventfds([entry], ())
        except NotifierError as error:
            first = self._disabled.get(entry)
            if first is None:
                raise
            raise DoubleDisableError(
                f"the host notifier of {entry.owner} was disabled by two threads:\n"
                f"{first.thread} disabled it at {first.site}\n"
                f"{thread} disabled it again at {site}: {error}\n"
                "both compared with the same old list of ioeventfds"
            ) from error
        self._disabled[entry] = _Disabled(thread, site)

    def restore(self) -> None:
        """Assign the ioeventfds again that workers deassigned; no worker runs.

        The coordinator then commits the edits to the address space, so that machine and devices
        agree.
        """
        self._machine.accel.change_ioeventfds((), sorted(self._disabled))


def _work(task: Task, stage: Stage, shared: _Globals, halt: Halt) -> None:
    """In a thread of the pool, which is not marked as a worker: it acquires the big lock."""
    while task.step is not None and not (halt is not None and isinstance(task.step, halt)):
        if isinstance(task.step, Ask):
            task.resume(answer_in_lockstep(task, task.step, stage))
        elif isinstance(task.step, AwaitSwitchover):
            task.resume(None)
        else:
            host = [edit for edit in task.step.edits if isinstance(edit, HostNotifier)]
            disabled = [edit for edit in host if not edit.assign]
            if disabled:
                shared.disable(disabled)
            return
