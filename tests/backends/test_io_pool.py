"""Threads for calls that may block."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import threading
import weakref
from functools import partial

from backends.io_pool import IoPool
from tests.timeouts import TIMEOUT


def test_a_job_that_blocks_does_not_delay_others() -> None:
    pool = IoPool(2)
    gate, passed = threading.Event(), threading.Event()
    pool.submit(partial(gate.wait, 5))
    pool.submit(passed.set)
    assert passed.wait(TIMEOUT)
    gate.set()
    pool.close()


class Held:
    """An object that a job uses, as guest memory is."""

    def work(self, done: threading.Event) -> None:
        """Do it."""
        done.set()


def test_a_finished_job_is_released() -> None:
    pool = IoPool(1)
    done, held = threading.Event(), Held()
    gone = threading.Event()
    weakref.finalize(held, gone.set)
    pool.submit(partial(held.work, done))
    assert done.wait(TIMEOUT)
    del held
    assert gone.wait(TIMEOUT), "an idle thread holds an object of its last job"
    pool.close()


def test_close_runs_submitted_jobs_and_ends_the_threads() -> None:
    before = threading.active_count()
    pool = IoPool(3)
    assert threading.active_count() == before, "no thread before the first job"
    done: list[int] = []
    for number in range(50):
        pool.submit(partial(done.append, number))
    pool.close()
    assert sorted(done) == list(range(50))
    assert threading.active_count() == before


class Buffer:
    """An argument of a job."""


def test_arguments_of_a_finished_job_are_released() -> None:
    pool = IoPool(1)
    buffer, dropped = Buffer(), threading.Event()
    weakref.finalize(buffer, dropped.set)
    pool.submit(partial(id, buffer))
    del buffer
    assert dropped.wait(TIMEOUT), "the thread still holds the argument"
    pool.close()
