"""Times of threads, as the kernel counts them."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from vhost_user_conformance.peer.processor_time import per_thread


def test_each_thread_is_counted() -> None:
    before = len(per_thread(os.getpid()))
    if not before:
        pytest.skip("the kernel counts no times of threads (CONFIG_SCHED_INFO)")
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        times = per_thread(os.getpid())
    finally:
        end.set()
        thread.join()
    assert len(times) > before
    assert max(time.ran for time in times) > 0
    assert min(time.waited for time in times) >= 0


def test_a_process_that_has_ended_is_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError, match="No such file"):
        per_thread(process.pid)
