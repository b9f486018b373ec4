"""The event loop: descriptors, callbacks from other threads, timers, the control plane."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from backends import loop as loop_module
from backends.blocking_call import BlockingCall
from backends.io_pool import IoPool
from backends.loop import Loop
from tests.descriptors import HIGH, high_descriptors
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop("test") as running:
        yield running


def on_loop(loop: Loop, function: Callable[[], object]) -> None:
    done = threading.Event()

    def run() -> None:
        function()
        done.set()

    loop.post(run)
    assert done.wait(TIMEOUT)


def test_kick_is_delivered_until_it_is_unwatched(loop: Loop) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    kicks: list[int] = []
    seen = threading.Event()

    def on_kick() -> None:
        kicks.append(os.eventfd_read(fd))
        seen.set()

    on_loop(loop, lambda: loop.watch_kick(fd, on_kick))
    os.eventfd_write(fd, 1)
    assert seen.wait(TIMEOUT)
    on_loop(loop, lambda: loop.unwatch_kick(fd))
    os.eventfd_write(fd, 1)
    on_loop(loop, lambda: None)
    on_loop(loop, lambda: None)
    assert kicks == [1]
    os.close(fd)


def test_kick_unwatched_in_the_same_turn_is_not_delivered() -> None:
    """A ring that another handler has stopped must not be polled."""
    loop = Loop("by hand")
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(2)]
    seen: list[int] = []

    def handler(mine: int, other: int) -> None:
        seen.append(mine)
        loop.unwatch_kick(other)

    loop.watch_kick(fds[0], lambda: handler(0, fds[1]))
    loop.watch_kick(fds[1], lambda: handler(1, fds[0]))
    loop._turn()
    assert len(seen) == 1
    loop.close()
    for fd in fds:
        os.close(fd)


def test_control_comes_before_kicks_and_between_them() -> None:
    loop = Loop("by hand")
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(12)]
    control = os.eventfd(0, os.EFD_NONBLOCK)
    order: list[str] = []

    def on_kick(fd: int) -> None:
        os.eventfd_read(fd)
        order.append("kick")
        if order.count("kick") == 2:
            os.eventfd_write(control, 1)

    def on_control(_events: int) -> None:
        os.eventfd_read(control)
        order.append("control")

    for fd in fds:
        loop.watch_kick(fd, partial(on_kick, fd))
    loop.watch(control, on_control)
    os.eventfd_write(control, 1)
    loop._turn()
    assert order[0] == "control"
    assert order.index("control", 1) < 6, "not after all rings"
    loop.close()
    for fd in (*fds, control):
        os.close(fd)


def test_timers_come_in_order_and_not_early(loop: Loop) -> None:
    begin = time.monotonic_ns()
    fired: list[tuple[str, int]] = []
    done = threading.Event()

    def fire(name: str) -> None:
        fired.append((name, time.monotonic_ns() - begin))
        if name == "late":
            done.set()

    def set_up() -> None:
        loop.at(begin + 30_000_000, lambda: fire("late"))
        loop.at(begin + 10_300_000, lambda: fire("early"))
        loop.at(begin + 20_000_000, lambda: fire("never")).cancel()

    on_loop(loop, set_up)
    assert done.wait(TIMEOUT)
    assert [name for name, _ in fired] == ["early", "late"]
    assert fired[0][1] >= 10_300_000
    assert fired[1][1] >= 30_000_000


def test_a_timer_of_a_loop_with_high_descriptors() -> None:
    """A program with some hundred devices has more than 1024 of them."""
    with high_descriptors():
        loop = Loop("test")
    assert loop._data.fileno() >= HIGH
    with loop:
        called = threading.Event()
        on_loop(loop, lambda: loop.at(time.monotonic_ns() + 300_000, called.set))
        assert called.wait(TIMEOUT)


def test_a_timer_that_is_far_away_costs_no_system_call(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is pending after each change of a descriptor (`backends.deferred_close`)."""
    waits: list[float] = []

    def wait(_descriptors: object, timeout: float) -> list[int]:
        waits.append(timeout)
        return []

    monkeypatch.setattr(loop_module, "readable", wait)
    on_loop(loop, lambda: loop.at(time.monotonic_ns() + 3600_000_000_000, lambda: None))
    for _ in range(10):
        on_loop(loop, lambda: None)
    assert waits == []


def test_again_and_finally(loop: Loop) -> None:
    order: list[str] = []
    done = threading.Event()

    def next_turn() -> None:
        order.append("next turn")
        done.set()

    def turn() -> None:
        loop.again(next_turn)
        loop.finally_(lambda: order.append("end of this turn"))
        order.append("this turn")

    loop.post(turn)
    assert done.wait(TIMEOUT)
    assert order == ["this turn", "end of this turn", "next turn"]


def test_control_plane_is_passed_on_in_order() -> None:
    loop = Loop("by hand")
    order: list[str] = []

    def second() -> None:
        order.append("b")
        loop.take_control("b")

    loop.take_control("a")
    assert not loop.must_wait("a", lambda: None)
    assert loop.must_wait("b", second)
    assert loop.must_wait("c", lambda: order.append("c"))
    loop.give_control("b")
    assert order == [], "only its holder can release it"
    loop.give_control("a")
    assert order == ["b"]
    loop.give_control("b")
    assert order == ["b", "c"]
    loop.close()


def test_stop_ends_the_thread_and_closes(loop: Loop) -> None:
    before = open_fds()
    other = Loop("other")
    other.start()
    assert other.stop(TIMEOUT)
    other.close()
    other.close()
    assert open_fds() <= before
    assert "other" not in {thread.name for thread in threading.enumerate()}


class Blocking:
    """A call that blocks until it is released, and what has followed it."""

    def __init__(self, pool: IoPool) -> None:
        self.begun, self.gate, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.thread = self.finished_in = ""
        self.blocked = False
        self.call = BlockingCall(self._work, self._done, self._failed, pool, self._blocked)

    def _work(self) -> None:
        self.thread = threading.current_thread().name
        self.begun.set()
        assert self.gate.wait(TIMEOUT)

    def _done(self) -> None:
        self.finished_in = threading.current_thread().name
        self.ended.set()

    def _failed(self, error: Exception) -> None:
        self.finished_in = str(error)
        self.ended.set()

    def _blocked(self) -> None:
        self.blocked = True


@pytest.fixture
def pool() -> Iterator[IoPool]:
    made = IoPool(1)
    yield made
    made.close()


def test_a_short_call_is_made_and_finished_by_the_loops_thread(loop: Loop, pool: IoPool) -> None:
    made = Blocking(pool)
    made.gate.set()
    loop.post(lambda: loop.call_blocking(made.call))
    assert made.ended.wait(TIMEOUT)
    assert made.thread == made.finished_in == "test"
    assert not made.blocked


def test_while_a_call_blocks_another_thread_has_the_loop(loop: Loop, pool: IoPool) -> None:
    """Again and again: each time the other thread, and never a third one."""
    threads = []
    for _ in range(4):
        made = Blocking(pool)
        loop.post(partial(loop.call_blocking, made.call))
        assert made.begun.wait(TIMEOUT)
        on_loop(loop, lambda: threads.append(threading.current_thread().name))
        assert made.thread != threads[-1]
        assert not made.ended.is_set()
        made.gate.set()
        assert made.ended.wait(TIMEOUT)
        assert made.blocked
        assert made.finished_in == threads[-1]
        wait_until(lambda: loop._spare_is_free, "the thread that was blocked is the spare one")
    assert set(threads) == {"test", "test-spare"}


def test_a_second_call_that_would_block_is_one_for_the_pool(loop: Loop, pool: IoPool) -> None:
    first, second = Blocking(pool), Blocking(pool)
    loop.post(lambda: loop.call_blocking(first.call))
    assert first.begun.wait(TIMEOUT)
    loop.post(lambda: loop.call_blocking(second.call))
    assert second.begun.wait(TIMEOUT)
    assert second.thread == "io-0"
    second.gate.set()
    assert second.ended.wait(TIMEOUT)
    assert not second.blocked
    first.gate.set()
    assert first.ended.wait(TIMEOUT)


def test_calls_of_one_turn_behind_one_that_blocks(loop: Loop, pool: IoPool) -> None:
    first, second = Blocking(pool), Blocking(pool)

    def both() -> None:
        loop.call_blocking(first.call)
        loop.call_blocking(second.call)

    loop.post(both)
    second.gate.set()
    assert second.ended.wait(TIMEOUT)
    assert not first.ended.is_set()
    first.gate.set()
    assert first.ended.wait(TIMEOUT)


def refuse_threads(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Threads of these names cannot be started."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name in names:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_without_a_thread_to_spare_the_pool_makes_the_call(
    loop: Loop, pool: IoPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Blocking(pool)
    made.gate.set()

    refuse_threads(monkeypatch, "test-spare")
    loop.post(lambda: loop.call_blocking(made.call))
    assert made.ended.wait(TIMEOUT)
    assert made.thread == "io-0"


def test_without_any_thread_the_call_has_failed(
    loop: Loop, pool: IoPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Blocking(pool)

    refuse_threads(monkeypatch, "test-spare", "io-0")
    loop.post(lambda: loop.call_blocking(made.call))
    assert made.ended.wait(TIMEOUT)
    assert made.finished_in == "can't start new thread"


def test_a_loop_ends_while_a_call_blocks(pool: IoPool) -> None:
    loop = Loop("test")
    made = Blocking(pool)
    with loop:
        loop.post(lambda: loop.call_blocking(made.call))
        assert made.begun.wait(TIMEOUT)
        on_loop(loop, lambda: None)
        assert loop.stop(TIMEOUT)
    made.gate.set()
    wait_until(lambda: not loop._thread.is_alive(), "the thread that was blocked has ended")
    assert not made.ended.is_set()


def test_a_quiet_spare_thread_sleeps_and_wakes_up(
    loop: Loop, pool: IoPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_QUIET_PERIODS", 2)
    for _ in range(3):
        made = Blocking(pool)
        loop.post(partial(loop.call_blocking, made.call))
        assert made.begun.wait(TIMEOUT)
        on_loop(loop, lambda: None)
        made.gate.set()
        assert made.ended.wait(TIMEOUT)
        wait_until(lambda: loop._spare_is_free, "the thread that was blocked is the spare one")
        wait_until(lambda: not loop._spare_awake.is_set(), "it sleeps")


def test_calls_are_made_where_the_caller_turns_the_loop(pool: IoPool) -> None:
    loop = Loop("by hand")
    made = Blocking(pool)
    made.gate.set()
    loop.call_blocking(made.call)
    loop.post(lambda: None)
    assert loop._turn()
    assert made.ended.is_set()
    loop.close()
