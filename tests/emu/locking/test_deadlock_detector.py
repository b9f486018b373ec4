"""The watchdog ends deadlocks, and nothing else."""

from __future__ import annotations

import threading

from emu.locking.deadlock_detector import MIN_AGE, Watchdog
from emu.locking.lock_graph import LockBrokenError, waiting_for
from emu.locking.locks import BigLock
from tests.timeouts import TIMEOUT


def test_describes_and_ends_a_deadlock() -> None:
    """A thread joins another one while it holds the lock that the other needs."""
    lock, ready = BigLock(), threading.Event()
    errors: list[str] = []

    def work() -> None:
        ready.wait(TIMEOUT)
        try:
            lock.acquire(TIMEOUT)
        except LockBrokenError as error:
            errors.append(str(error))

    worker = threading.Thread(target=work, name="needs-it")
    worker.start()
    with Watchdog(), lock, waiting_for("the worker", lambda: [worker.ident or 0]):
        ready.set()
        worker.join(TIMEOUT)
    (drawn,) = errors
    me = threading.current_thread().name
    assert "2 threads" in drawn
    for part in (
        f"{me} waits for the worker at test_deadlock_detector.py",
        "the big lock (taken at test_",
    ):
        assert part in drawn
    assert "needs-it waits for the big lock at test_deadlock_detector.py" in drawn
    assert not lock.held_by().startswith(me)


def test_a_slow_holder_is_not_a_deadlock() -> None:
    """A thread may wait for any time for a lock that will be released."""
    lock, over = BigLock(), threading.Event()
    taken: list[bool] = []

    def work() -> None:
        with lock:
            taken.append(True)

    waiter = threading.Thread(target=work)
    with Watchdog():
        with lock:
            waiter.start()
            over.wait(2 * MIN_AGE)
        waiter.join(TIMEOUT)
    assert taken == [True]
