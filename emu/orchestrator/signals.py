"""What ends a run's waits: signals, and programs that end."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Self

from emu.errors import ProgramError, SignalError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from emu.orchestrator.managed_process import ManagedProcess

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class SignalWatcher:
    """Turns signals and the end of programs into errors, at the places where a run waits.

    A signal is not raised wherever the interpreter happens to be: it is noted, and raised by the
    next `wait` (which it ends). So nothing is ever half started when the run is given up, and
    what gives it up again runs undisturbed. Use it as a context manager, in the main thread;
    outside of the main thread it watches programs only.
    """

    def __init__(self) -> None:
        # Written to by the interpreter's own handler, in whatever thread a signal comes: one that
        # comes in another thread does not interrupt the main one's poll.
        self._awake, self._wake = -1, -1
        self._before = -1
        self._signum: int | None = None
        self._programs: dict[int, ManagedProcess] = {}
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._awake, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
            for signum in _SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup means it
                    self._previous[signum] = signal.signal(signum, self._note)
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
        """From now on the end of this program is an error."""
        self._programs[program.pidfd] = program

    def forget(self, program: ManagedProcess) -> None:
        """This program may end now."""
        self._programs.pop(program.pidfd, None)

    def check(self) -> None:
        """Raise what has been noted.

        Raises:
            SignalError: the user wants this to end.
            ProgramError: a watched program has ended.
        """
        self.wait((), 0.0)

    def wait(self, fds: Iterable[int], timeout: float) -> list[int]:
        """The readable ones of ``fds``; empty when ``timeout`` seconds have passed.

        Raises:
            SignalError: the user wants this to end.
            ProgramError: a watched program has ended.
        """
        self._raise_signal()
        poll = select.poll()
        wanted = set(fds)
        for fd in (*wanted, *self._programs, self._awake):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + max(0.0, timeout)
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready = [fd for fd, _events in poll.poll(left * 1000)]
            if self._awake in ready:
                os.read(self._awake, 4096)  # the handler of whatever it was runs here at the latest
                self._raise_signal()
            if ready != [self._awake]:
                break  # else it was a signal that another handler serves
        for fd in ready:
            if fd in self._programs:
                raise ProgramError(self._programs[fd].exit_description())
        return [fd for fd in ready if fd in wanted]

    def pause(self, seconds: float) -> None:
        """Let time pass, watchfully."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.wait((), left)

    def rearm(self) -> None:
        """The signal that was raised has been dealt with: the next one counts anew."""
        self._signum = None

    def _raise_signal(self) -> None:
        if self._signum is not None:
            raise SignalError(self._signum, signal.Signals(self._signum).name)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum is None:
            self._signum = signum
