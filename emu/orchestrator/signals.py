"""Waits that signals and the end of programs interrupt."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Self

from emu.errors import ProgramError, SignalError
from vhost_user.deferred_signals import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from emu.orchestrator.managed_process import ManagedProcess


#: Seconds between two looks at the size of the programs' logs.
LOG_INTERVAL = 5.0


class SignalWatcher:
    """Makes a run's waits raise errors for signals and for the end of programs.

    The signal handler only records a signal; the current or next `wait` raises it. So a run is
    never interrupted while it starts or ends a program. Waits also bound the programs' logs
    (`ManagedProcess.trim_log`). Use it as a context manager, in the main
    thread; in another thread it watches programs only.
    """

    def __init__(self) -> None:
        # The interpreter's own handler writes to this pipe: a signal in another thread does not
        # interrupt the main thread's poll.
        self._awake, self._wake = -1, -1
        self._before = -1
        self._signum: int | None = None
        self._programs: dict[int, ManagedProcess] = {}
        self._previous: dict[int, object] = {}
        self._trimmed = time.monotonic()

    def __enter__(self) -> Self:
        self._awake, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # as with nohup
                    self._previous[signum] = signal.signal(signum, self._record)
        return self

    def __exit__(self, *_exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous.clear()
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._before)
        os.close(self._wake)
        os.close(self._awake)

    def watch(self, program: ManagedProcess) -> None:
        """Make waits raise an error when this program ends."""
        self._programs[program.pidfd] = program

    def forget(self, program: ManagedProcess) -> None:
        """Stop watching this program: it may end."""
        self._programs.pop(program.pidfd, None)

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors of which one is readable when `check` may raise, for another loop."""
        return (self._awake, *self._programs)

    @property
    def next_look(self) -> float | None:
        """When `check` is to be called at the latest, on the clock of `time.monotonic`, if ever."""
        return self._trimmed + LOG_INTERVAL if self._programs else None

    def check(self) -> None:
        """Raise an error if there is a reason for one.

        Raises:
            SignalError: a signal arrived.
            ProgramError: a watched program has ended.
        """
        self.wait((), 0.0)

    def wait(self, fds: Iterable[int], timeout: float) -> list[int]:
        """Wait for ``fds``; return the readable ones, or an empty list after ``timeout`` seconds.

        Raises:
            SignalError: a signal arrived.
            ProgramError: a watched program has ended.
        """
        self.raise_signal()
        poll = select.poll()
        wanted = set(fds)
        for fd in (*wanted, *self._programs, self._awake):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + max(0.0, timeout)
        while True:
            self._trim_logs()
            end = min(deadline, self.next_look or deadline)
            left = max(0.0, end - time.monotonic())
            ready = [fd for fd, _events in poll.poll(left * 1000)]
            if self._awake in ready:
                os.read(self._awake, 4096)  # Python runs the signal's handler here at the latest
                self.raise_signal()
            # Not for a signal that another handler handles, or a look at the logs.
            if set(ready) - {self._awake} or (not ready and time.monotonic() >= deadline):
                break
        for fd in ready:
            if fd in self._programs:
                raise ProgramError(self._programs[fd].exit_description())
        return [fd for fd in ready if fd in wanted]

    def pause(self, seconds: float) -> None:
        """Sleep; raises as `check`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.wait((), left)

    def rearm(self) -> None:
        """Forget the signal that was raised, so that the next one is raised again."""
        self._signum = None

    def _trim_logs(self) -> None:
        due = self.next_look
        if due is not None and time.monotonic() >= due:
            for program in self._programs.values():
                program.trim_log()
            self._trimmed = time.monotonic()

    def raise_signal(self) -> None:
        """Raise an error if a signal arrived; also when the block has been left.

        Raises:
            SignalError: one did.
        """
        if self._signum is not None:
            raise SignalError(self._signum, signal.Signals(self._signum).name)

    def _record(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum is None:
            self._signum = signum
