"""A call that may block: what follows it, and in which thread it is made."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from backends.blocking_call import BlockingCall
from backends.io_pool import IoPool
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Calls:
    """A call, and what has followed it."""

    def __init__(self, pool: IoPool, work: Callable[[], object]) -> None:
        self.seen: list[object] = []
        self.call = BlockingCall(
            work,
            lambda: self.seen.append("done"),
            self.seen.append,
            pool,
            lambda: self.seen.append("blocked"),
        )


@pytest.fixture
def pool() -> Iterator[IoPool]:
    made = IoPool(1)
    yield made
    made.close()


def test_a_call_that_returns_is_done(pool: IoPool) -> None:
    calls = Calls(pool, lambda: None)
    calls.call.make()
    assert calls.seen == []
    calls.call.finish()
    assert calls.seen == ["done"]


def test_a_call_that_raises_has_failed(pool: IoPool) -> None:
    error = KeyError("work")

    def work() -> None:
        raise error

    calls = Calls(pool, work)
    calls.call.make()
    calls.call.finish()
    assert calls.seen == [error]


def test_a_late_call_has_blocked(pool: IoPool) -> None:
    calls = Calls(pool, lambda: None)
    calls.call.late = True
    calls.call.make()
    calls.call.finish()
    assert calls.seen == ["blocked", "done"]


def test_a_thread_of_the_pool_makes_it(pool: IoPool) -> None:
    posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
    threads: list[str] = []
    calls = Calls(pool, lambda: threads.append(threading.current_thread().name))
    calls.call.make_in_pool(posted.put)
    posted.get(timeout=TIMEOUT)()
    assert calls.seen == ["done"]
    assert threads == ["io-0"]


def test_what_cannot_be_posted_has_failed(pool: IoPool) -> None:
    posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
    error = OSError("no descriptor")
    tries = iter([error])

    def post(callback: Callable[[], None]) -> None:
        for each in tries:
            raise each
        posted.put(callback)

    calls = Calls(pool, lambda: None)
    calls.call.make_in_pool(post)
    posted.get(timeout=TIMEOUT)()
    assert calls.seen == [error]
