"""How long the suite waits for a peer: it follows the speed of the peer and of the machine."""

from __future__ import annotations

import time
from collections import deque

from vhost_user_conformance.peer.processor_time import per_thread, waits_for_disk

#: The limit is this many times the longest of the recent answers, but not more than `MOST` times
#: the least limit.
FACTOR = 20.0
MOST = 5.0
#: Number of answers that count as recent.
_RECENT = 32
#: Seconds of waiting for a processor that are worth another look at the peer.
_GRAIN = 0.02


class Patience:
    """The time limit for an answer of one peer.

    On an idle machine it is ``least``. It grows with the slowest of the peer's recent answers, as
    all are slow where other programs take the processors.

    Args:
        least: seconds.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self._recent: deque[float] = deque(maxlen=_RECENT)

    @property
    def seconds(self) -> float:
        """The limit for the next answer."""
        slowest = max(self._recent, default=0.0)
        return min(max(self.least, FACTOR * slowest), MOST * self.least)

    def answered(self, seconds: float) -> None:
        """Call it with the time that an answer took."""
        self._recent.append(seconds)


class Limit:
    """The end of one wait.

    Time in which the peer was ready to run and waited for a processor does not count: a peer that
    the machine does not let run is not silent. While a thread of it waits for a disk, as one whose
    code is read again does, the end is put off. All in all a wait takes `MOST` times its limit at
    most.

    Args:
        seconds: to wait.
        pid: of the peer; 0 if it is not known, or if no time is to be added.
    """

    def __init__(self, seconds: float, pid: int = 0) -> None:
        self.seconds = seconds
        self._begin = time.monotonic()
        self._added = 0.0
        self._pid = pid
        self._starved = starved(pid) if pid else 0.0
        self._disk = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at the end."""
        return max(0.0, self._begin + self.seconds + self._added - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the time is up, also when that in which the peer was kept waiting is added."""
        if self.left:
            return False
        if self._pid:
            if waits_for_disk(self._pid):
                self._disk += self.seconds / 4
            waited = starved(self._pid) - self._starved + self._disk
            waited = min(waited, (MOST - 1) * self.seconds)
            if waited > self._added + _GRAIN:
                self._added = waited
        return not self.left


def starved(pid: int) -> float:
    """Seconds that the threads of a process have waited for a processor, the longest of them.

    Returns:
        0 where the kernel does not count it (CONFIG_SCHED_INFO), or the process has ended.
    """
    try:
        return max((thread.waited for thread in per_thread(pid)), default=0) / 1e9
    except OSError:
        return 0.0
