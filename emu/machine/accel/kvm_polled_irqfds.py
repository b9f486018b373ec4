"""Calls that wait while the vCPUs are paused: irqfds of this process, in place of the kernel's.

The kernel's take a signal at any moment, and keep it from everybody else; and to take some hundred
of them away costs tens of milliseconds. So a machine that is about to hand its eventfds over does
that ahead: for the moments that are left a thread of this process raises the interrupts.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds for the thread to end.
PATIENCE = 5.0
#: Signals that are taken in one turn: a pause waits for the end of that.
BATCH = 16


class PolledCalls:
    """Eventfds that are watched.

    Args:
        fds: the eventfds, which stay the caller's.
        raise_interrupt: called with the eventfd that was signalled; the signal has been taken.
        paused: the vCPUs are.
    """

    def __init__(
        self, fds: Iterable[int], raise_interrupt: Callable[[int], None], *, paused: bool
    ) -> None:
        self._raise = raise_interrupt
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self.watch(fds)
        # Between a signal's taking and its interrupt nobody may save the vCPUs' state.
        self._turn = threading.Condition()
        self._paused = paused
        self._over = False
        self._thread = threading.Thread(target=self._run, name="calls", daemon=True)
        self._thread.start()

    def watch(self, fds: Iterable[int]) -> None:
        """Watch these as well."""
        for fd in fds:
            self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fds: Iterable[int]) -> None:
        """Watch these no longer. One that was closed has gone by itself."""
        for fd in fds:
            with suppress(OSError):
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            ready = self._epoll.poll(maxevents=BATCH)
            with self._turn:
                self._turn.wait_for(lambda: self._over or not self._paused)
                if self._over:
                    return
                for fd, _ in ready:
                    with suppress(BlockingIOError):
                        os.eventfd_read(fd)
                        if fd != self._bell:
                            self._raise(fd)

    def pause(self) -> None:
        """What is signalled from now on waits. When this returns nothing is on its way."""
        with self._turn:
            self._paused = True

    def resume(self) -> None:
        """Go on, with what has waited."""
        with self._turn:
            self._paused = False
            self._turn.notify_all()

    def close(self) -> None:
        """End; what has not been taken stays in the eventfds.

        Raises:
            DeadlineError: the thread does not end.
        """
        with self._turn:
            self._over = True
            self._turn.notify_all()
        os.eventfd_write(self._bell, 1)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise DeadlineError("the thread that watches calls to end", PATIENCE)
        self._epoll.close()
        os.close(self._bell)
