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
from backends.loop import Loop
from tests.descriptors import HIGH, high_descriptors
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds

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
