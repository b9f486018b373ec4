"""What a stopped ring leaves, closed a little later.

The front-end waits for the replies of all rings, of this device and of others, and not for
descriptors to be closed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from backends.limits import CLOSING
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.isolation import GuardedLoop
    from backends.loop import Loop, Timer
    from vhost_user.virtqueue import DeviceQueue

#: Nanoseconds until what a stopped ring leaves is closed: longer than a blackout lasts.
DELAY_NS = 250_000_000


class DeferredClose:
    """Descriptors and queues of one device that are not needed any more.

    Args:
        loop: the loop that serves the device.
    """

    def __init__(self, loop: Loop | GuardedLoop) -> None:
        self._loop = loop
        self._fds: list[int] = []
        self._kicks: list[int] = []
        self._queues: list[DeviceQueue] = []
        self._timer: Timer | None = None
        self._full = False  # everything is closed at the end of this turn
        self._batch = eventfd.default()

    def add_fds(self, fds: Sequence[int]) -> None:
        """Close these descriptors later."""
        self._fds.extend(fds)
        self._schedule()

    def add_kicks(self, fds: Sequence[int]) -> None:
        """Deliver no event of these kicks any more, and close them later."""
        self._loop.mute_kicks(fds)
        self._kicks.extend(fds)
        self._schedule()

    def add_queues(self, queues: Sequence[DeviceQueue]) -> None:
        """Release the queues' views of guest memory with the next descriptors."""
        self._queues.extend(queues)

    def run(self) -> None:
        """Close and release everything now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._full = False
        self._queues.clear()
        kicks, self._kicks = self._kicks, []
        for fd in kicks:
            self._loop.unwatch_kick(fd)
        fds, self._fds = self._fds + kicks, []
        if fds:
            self._batch.close(fds)

    def _schedule(self) -> None:
        # At the end of a turn: the turn may hold an event of a kick that is closed here.
        if self._timer is None:
            run = partial(self._loop.finally_, self.run)
            self._timer = self._loop.at(time.monotonic_ns() + DELAY_NS, run)
        elif not self._full and len(self._fds) + len(self._kicks) > CLOSING:
            self._full = True
            self._loop.finally_(self.run)
