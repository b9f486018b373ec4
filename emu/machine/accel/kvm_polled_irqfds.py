"""Masked interrupts: a thread of this process polls the eventfds of irqfds.

The kernel's irqfds consume a signal at any time, also while the vCPUs are paused, and deassigning
hundreds of them takes tens of milliseconds. So a machine that will hand over its eventfds deassigns
them in advance: from then on a thread of this process raises the interrupts.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from vhost_user import eventfd
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds for the thread to end.
TIMEOUT = 5.0
#: Signals that one iteration reads: a pause waits for the end of an iteration.
BATCH = 16


class PolledIrqfds:
    """Eventfds that a thread polls.

    Args:
        fds: the eventfds; the caller closes them.
        raise_interrupt: called with an eventfd that was signalled, after the signal was read.
        paused: whether the vCPUs are paused.
    """

    def __init__(
        self, fds: Iterable[int], raise_interrupt: Callable[[int], None], *, paused: bool
    ) -> None:
        self._raise = raise_interrupt
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self.add(fds)
        # Held from the read of a signal until its interrupt is raised: in between, the state of
        # the vCPUs must not be saved.
        self._changed = threading.Condition()
        self._paused = paused
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="irqfds", daemon=True)
        self._thread.start()

    def add(self, fds: Iterable[int]) -> None:
        """Poll these eventfds as well."""
        for fd in fds:
            self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fds: Iterable[int]) -> None:
        """Stop polling these eventfds. Closing one has removed it from the epoll set already."""
        for fd in fds:
            with suppress(OSError):
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            ready = self._epoll.poll(maxevents=BATCH)
            with self._changed:
                self._changed.wait_for(lambda: self._closing or not self._paused)
                if self._closing:
                    return
                for fd, _ in ready:
                    if eventfd.take(fd) and fd != self._wake_fd:
                        self._raise(fd)

    def pause(self) -> None:
        """Do not read later signals; when it returns, no interrupt is being raised."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Raise interrupts again, first for the signals during the pause."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; signals that it has not read stay in the eventfds.

        Raises:
            DeadlineError: the thread does not end.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join(TIMEOUT)
        if self._thread.is_alive():
            raise DeadlineError("the thread that polls irqfds to end", TIMEOUT)
        self._epoll.close()
        os.close(self._wake_fd)
