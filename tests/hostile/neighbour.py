"""A healthy front-end of the neighbour device, which works throughout."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.backends.rig import MIB, Rig
from tests.hostile.cell import ANSWER, NotOk
from vhost_user.errors import VhostUserError
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request

if TYPE_CHECKING:
    from tests.backends.served import Kind
    from tests.hostile.process import Process

#: Seconds between two rounds.
_PAUSE = 0.004
#: Rounds until buffers are used again.
_SLOTS = 64
_SLOT_BYTES = 16 << 10


class Worker:
    """A front-end that has a device do one piece of work after another."""

    def __init__(self, kind: Kind, path: str) -> None:
        self._kind = kind
        self.rig = Rig(FrontendConnection.connect(path, name=f"neighbour {kind.name}"), kind.rings)
        self.rig.start()
        kind.prepare(self.rig)
        self._base = self.rig._bump
        self._rounds = 0

    def round(self) -> None:
        """One message and one request."""
        self.rig.call(Request(F.GET_FEATURES))
        slot = self._rounds % _SLOTS
        self.rig._bump = self._base + slot * _SLOT_BYTES
        self._kind.work(self.rig, self._rounds % 1024)
        self._kind.replenish(self.rig)
        self._rounds += 1
        assert self._base + _SLOTS * _SLOT_BYTES < 4 * MIB

    def close(self) -> None:
        """Disconnect."""
        self.rig.close()


class Neighbour:
    """Works in a thread, and measures how long each round takes.

    The time that the program's threads or this thread waited for a processor is not counted: it is
    that of other programs on the machine.
    """

    def __init__(self, kind: Kind, path: str, process: Process) -> None:
        self._worker = Worker(kind, path)
        self._process = process
        self._lock = threading.Condition()
        self._begun = 0
        self._done = 0
        self._longest = 0.0
        self._failure = ""
        self._ending = False
        self._resting = False
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ending:
                if not self._resting:
                    self._round()
                time.sleep(_PAUSE)
        except (VhostUserError, OSError, AssertionError, TimeoutError) as error:
            with self._lock:
                self._failure = str(error) or type(error).__name__
                self._lock.notify_all()
        self._worker.close()

    def _round(self) -> None:
        with self._lock:
            self._begun += 1
        waited, start = self._waited(), time.monotonic()
        self._worker.round()
        took = time.monotonic() - start - (self._waited() - waited)
        with self._lock:
            self._done += 1
            self._longest = max(self._longest, took)
            self._lock.notify_all()

    def _waited(self) -> float:
        own = float(_schedstat()) / 1e9
        try:
            return own + self._process.waited_for_processor()
        except OSError:
            return own

    def take_longest(self) -> float:
        """Seconds of the longest round since the last call."""
        with self._lock:
            longest, self._longest = self._longest, 0.0
        return longest

    def check(self) -> None:
        """Return when a round that has begun after this call is done.

        Raises:
            NotOk: that does not happen.
        """
        with self._lock:
            target = self._begun + 1
            answered = self._lock.wait_for(lambda: self._failure or self._done >= target, ANSWER)
        if self._failure:
            raise NotOk(f"the neighbour fails: {self._failure}")
        if not answered:
            raise NotOk(f"the neighbour waits for more than {ANSWER:g} s")

    def rest(self, resting: bool) -> None:
        """Pause, so that the program is idle but for what the hostile peer makes it do."""
        self._resting = resting
        if resting:
            with self._lock:
                self._lock.wait_for(lambda: self._failure or self._done == self._begun, ANSWER)

    def close(self) -> None:
        """Stop working; the thread ends with its round."""
        self._ending = True
        self._thread.join(ANSWER)


def _schedstat() -> str:
    path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    return path.read_text().split()[1]
