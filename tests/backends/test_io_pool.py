"""Threads for calls that may block."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import threading
import weakref
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from backends.io_pool import IoPool, Job
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    import pytest

#: Of the jobs, none of which raises where a test does not say so.
failures: list[Exception] = []


def test_a_job_that_blocks_does_not_delay_others() -> None:
    pool = IoPool(2)
    gate, passed = threading.Event(), threading.Event()
    pool.submit(partial(gate.wait, TIMEOUT), failures.append)
    pool.submit(passed.set, failures.append)
    assert passed.wait(TIMEOUT)
    gate.set()
    pool.close()


class Slow(SimpleQueue[Job | None]):
    """Jobs whose thread stops for a while between its return from `get` and its next step."""

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.go_on = threading.Event(), threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Job | None:
        """See the class."""
        job = super().get(block, timeout)
        self.taken.set()
        assert self.go_on.wait(TIMEOUT)
        return job


def test_a_job_does_not_wait_for_a_thread_that_has_just_taken_another() -> None:
    pool = IoPool(2)
    pool._jobs = jobs = Slow()
    jobs.go_on.set()
    first = threading.Event()
    pool.submit(first.set, failures.append)
    assert first.wait(TIMEOUT)
    wait_until(lambda: not pool._unfinished, "its thread is idle")
    jobs.taken.clear()
    jobs.go_on.clear()
    pool.submit(partial(threading.Event().wait, TIMEOUT), failures.append)
    assert jobs.taken.wait(TIMEOUT)
    assert len(pool._threads) == 1
    passed = threading.Event()
    pool.submit(passed.set, failures.append)
    assert len(pool._threads) == 2
    jobs.go_on.set()
    assert passed.wait(TIMEOUT)


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
    pool.submit(partial(held.work, done), failures.append)
    assert done.wait(TIMEOUT)
    del held
    assert gone.wait(TIMEOUT), "an idle thread holds an object of its last job"
    pool.close()


def test_close_runs_submitted_jobs_and_ends_the_threads() -> None:
    pool = IoPool(3)
    assert not pool._threads, "no thread before the first job"
    done: list[int] = []
    for number in range(50):
        pool.submit(partial(done.append, number), failures.append)
    pool.close()
    assert sorted(done) == list(range(50))
    assert not any(thread.is_alive() for thread in pool._threads)


class Buffer:
    """An argument of a job."""


def test_arguments_of_a_finished_job_are_released() -> None:
    pool = IoPool(1)
    buffer, dropped = Buffer(), threading.Event()
    weakref.finalize(buffer, dropped.set)
    pool.submit(partial(id, buffer), failures.append)
    del buffer
    assert dropped.wait(TIMEOUT), "the thread still holds the argument"
    pool.close()


def test_what_a_job_raises_is_reported_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where the report raises."""
    pool = IoPool(1)
    raised: list[Exception] = []
    done = threading.Event()

    def fail() -> None:
        raise KeyError("a mistake")

    def fail_again(error: Exception) -> None:
        raise ValueError("another") from error

    pool.submit(fail, raised.append)
    pool.submit(fail, fail_again)
    pool.submit(done.set, raised.append)
    assert done.wait(TIMEOUT)
    pool.close()
    assert [type(error) for error in raised] == [KeyError]
    assert "a request is lost: ValueError: another" in caplog.text


def test_threads_are_started_as_they_are_needed() -> None:
    """One that waits for a job takes the next one."""
    pool = IoPool(4)
    for _ in range(3):
        done = threading.Event()
        pool.submit(done.set, failures.append)
        assert done.wait(TIMEOUT)
        wait_until(lambda: not pool._unfinished)
    assert len(pool._threads) == 1
    gate = threading.Event()
    for _ in range(8):
        pool.submit(partial(gate.wait, TIMEOUT), failures.append)
    assert len(pool._threads) == 4
    gate.set()
    pool.close()
    assert not failures
