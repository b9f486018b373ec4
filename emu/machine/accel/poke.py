"""How other threads wake the thread that runs guest code for a whole machine."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.machine.run_gate import RunGate

_NS_PER_MS = 1_000_000


class Poke:
    """An eventfd that any thread signals, and for which one thread waits.

    Attributes:
        fd: the eventfd, for an epoll set; `drain` resets it.

    Raises:
        OSError: out of descriptors.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)

    def signal(self) -> None:
        """Wake the thread, or have its next wait return at once."""
        os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        """All signals so far have been seen."""
        with suppress(BlockingIOError):  # it was drained together with an earlier signal
            os.eventfd_read(self.fd)

    def wait_for_gate(self, gate: RunGate, vcpu: int) -> None:
        """Park that vCPU until the gate is open, or the threads are to end."""
        if not gate.park(vcpu):
            return
        while gate.paused and not gate.stopping:
            self._poll.poll()
            self.drain()
        gate.unpark(vcpu)

    def wait(self, ns: int) -> bool:
        """Wait for ``ns`` nanoseconds, rounded up to a millisecond, as a throttled guest does.

        Returns:
            Whether there was a signal meanwhile, for a pause, the threads' end, or a new throttle.
        """
        if not ns or not self._poll.poll(-(-ns // _NS_PER_MS)):
            return False
        self.drain()
        return True

    def close(self) -> None:
        """Close the eventfd."""
        os.close(self.fd)
