"""Threads for what may block."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import threading
from functools import partial

from backends.io_pool import IoPool


def test_a_job_that_blocks_does_not_keep_the_others() -> None:
    pool = IoPool(2)
    gate, passed = threading.Event(), threading.Event()
    pool.submit(partial(gate.wait, 5))
    pool.submit(passed.set)
    assert passed.wait(5)
    gate.set()
    pool.close()


def test_close_finishes_what_was_submitted_and_ends_the_threads() -> None:
    before = threading.active_count()
    pool = IoPool(3)
    assert threading.active_count() == before, "no thread before the first job"
    done: list[int] = []
    for number in range(50):
        pool.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    pool.close()
    assert sorted(done) == list(range(50))
    assert threading.active_count() == before
