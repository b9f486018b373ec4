"""Times of threads, as the kernel counts them."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.waiting import wait_until
from vhost_user_conformance.peer.processor_time import per_thread, waits_for_disk

#: In a process of its own: threads of other tests end at any time.
_TWO_THREADS = """
import os, threading
from vhost_user_conformance.peer.processor_time import per_thread
end = threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
times = per_thread(os.getpid())
end.set()
print(len(times), max((time.ran for time in times), default=0), *(time.waited for time in times))
"""


def test_each_thread_is_counted() -> None:
    argv = [sys.executable, "-c", _TWO_THREADS]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    count, ran, *waited = map(int, done.stdout.split())
    if not count:
        pytest.skip("the kernel counts no times of threads (CONFIG_SCHED_INFO)")
    assert count == 2
    assert ran > 0
    assert min(waited) >= 0


def test_a_process_that_has_ended_is_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError, match="No such file"):
        per_thread(process.pid)


#: After vfork(2) the parent is in an uninterruptible wait until its child ends. Its name is not
#: text.
_UNINTERRUPTIBLE = """
import ctypes
libc = ctypes.CDLL(None)
libc.prctl(15, b"\\xff) R", 0, 0, 0)
libc.vfork() or libc.pause()
"""


def test_an_uninterruptible_wait_is_seen() -> None:
    assert not waits_for_disk(os.getpid())
    argv = [sys.executable, "-c", _UNINTERRUPTIBLE]
    with subprocess.Popen(argv, start_new_session=True) as process:
        try:
            wait_until(lambda: waits_for_disk(process.pid), "the parent waits")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert not waits_for_disk(process.pid)
