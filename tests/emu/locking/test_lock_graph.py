"""Waits of threads, and the cycles among them."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from emu.locking import lock_graph
from emu.locking.lock_graph import Wait, call_site, describe_cycle, find_cycle
from tests.timeouts import TIMEOUT


def _wait_in_threads(stack: ExitStack, edges: dict[int, int]) -> list[threading.Thread]:
    """Threads each of which waits for the thread of another index, until the stack is closed."""
    over = threading.Event()
    waiting = threading.Barrier(len(edges) + 1)
    threads: list[threading.Thread] = []

    def run(index: int) -> None:
        other = edges[index]
        with lock_graph.waiting_for(f"thread {other}", lambda: [threads[other].ident or 0]):
            waiting.wait(TIMEOUT)
            over.wait(TIMEOUT)

    threads += [threading.Thread(target=run, args=(index,), name=f"t{index}") for index in edges]
    for thread in threads:
        thread.start()
        stack.callback(thread.join, TIMEOUT)
    stack.callback(over.set)
    waiting.wait(TIMEOUT)
    return threads


@pytest.mark.parametrize(
    ("edges", "members"),
    [
        ({0: 1, 1: 0}, {"t0", "t1"}),
        ({0: 1, 1: 2, 2: 0}, {"t0", "t1", "t2"}),
        ({0: 1, 1: 2, 2: 1}, {"t1", "t2"}),
        ({0: 0}, {"t0"}),
    ],
)
def test_a_cycle_of_waits_is_found(edges: dict[int, int], members: set[str]) -> None:
    """Without the threads that only wait for one of its members."""
    with ExitStack() as stack:
        _wait_in_threads(stack, edges)
        cycle = find_cycle()
    assert {wait.thread for wait in cycle} == members
    assert len(describe_cycle(cycle).splitlines()) == len(members)
    assert find_cycle() == []


def test_a_chain_of_waits_is_not_a_cycle() -> None:
    """The last thread waits for one that does not wait."""
    with ExitStack() as stack:
        threads = _wait_in_threads(stack, {0: 1, 1: 2, 2: 3, 3: 3})
        last = lock_graph._waits[threads[3].ident or 0]
        lock_graph._waits[threads[3].ident or 0] = last._replace(on=lambda: ())
        assert find_cycle() == []


def test_a_call_site_is_outside_of_the_lock_modules() -> None:
    """It is the line of the caller, also through a context manager."""
    with lock_graph.waiting_for("a test", list):
        (wait,) = lock_graph.waits()
    assert isinstance(wait, Wait)
    here = call_site()
    assert (wait.site.file, wait.site.function) == (__file__, here.function)
    assert str(here).startswith("test_lock_graph.py:")
