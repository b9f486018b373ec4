"""The big lock, and the check of the lock order."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

import pytest

from emu.locking import lock_graph
from emu.locking.lock_graph import (
    Held,
    describe_cycle,
    find_cycle,
    held_by_thread,
    waiting_for,
)
from emu.locking.locks import (
    BigLock,
    LockBrokenError,
    LockOrderError,
    OrderedLock,
    enable_checking,
    is_worker,
    worker,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Args = ParamSpec("Args")
Result = TypeVar("Result")


class Call(Protocol):
    """Runs a call on another thread, and returns its result."""

    def __call__(
        self, call: Callable[Args, Result], /, *args: Args.args, **kwargs: Args.kwargs
    ) -> Result:
        """Run it; raises what the call raises."""
        ...


@pytest.fixture
def checked() -> Iterator[None]:
    enable_checking(True)
    yield
    enable_checking(False)


@contextmanager
def other_thread(name: str = "other") -> Iterator[Call]:
    """A function that runs a call on a thread of that name, one call after the other."""
    with ThreadPoolExecutor(1, thread_name_prefix=name) as pool:

        def run(call: Callable[Args, Result], /, *args: Args.args, **kwargs: Args.kwargs) -> Result:
            return pool.submit(call, *args, **kwargs).result(TIMEOUT)

        yield run


@contextmanager
def waiter(
    lock: OrderedLock, name: str = "waiter"
) -> Iterator[tuple[threading.Thread, list[Exception]]]:
    """A thread that waits for `lock`, and a list that has its error in the end."""
    errors: list[Exception] = []

    def wait() -> None:
        try:
            with lock:
                pass
        except (LockBrokenError, DeadlineError) as error:
            errors.append(error)

    thread = threading.Thread(target=wait, name=name)
    thread.start()
    wait_until(lambda: lock._waiting)
    yield thread, errors
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def _holder(lock: OrderedLock) -> Held:
    holder = lock.holder
    assert holder is not None
    return holder


def test_one_at_a_time() -> None:
    lock, inside, most = BigLock(), [], []

    def visit() -> None:
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert max(most) == 1
    assert len(most) == 800


def test_the_big_lock_is_re_entrant() -> None:
    lock = BigLock()
    with lock, lock:
        pass
    assert not lock.held
    with other_thread() as call:
        call(lock.acquire, 0.1)
        call(lock.release)


def test_an_ordered_lock_is_not_re_entrant() -> None:
    lock = OrderedLock("leaf")
    with lock, pytest.raises(LockOrderError, match=r"takes leaf at .* and holds it"):
        lock.acquire()


def test_the_holder_and_the_site_are_known() -> None:
    lock = BigLock()
    with other_thread("holder") as call:
        call(lock.acquire)
        assert _holder(lock).thread.startswith("holder")
        assert "taken at" in lock.held_by()
        assert not lock.held
        call(lock.release)
    assert lock.holder is None
    assert lock.held_by() == "held by no thread"
    with lock:
        assert _holder(lock).site.function == "test_the_holder_and_the_site_are_known"


def test_a_wait_that_times_out_names_the_holder() -> None:
    lock = BigLock()
    with other_thread("holder") as call:
        call(lock.acquire)
        with pytest.raises(DeadlineError, match=r"the big lock, held by holder.*taken at"):
            lock.acquire(0.01)
        call(lock.release)


def test_release_by_another_thread() -> None:
    lock = BigLock()
    with other_thread("holder") as call:
        call(lock.acquire)
        with pytest.raises(LockOrderError, match=r"MainThread needs the big lock.*held by holder"):
            lock.release()
        call(lock.release)


def test_released_releases_it_for_the_block_at_any_depth() -> None:
    lock = BigLock()
    with other_thread() as call, lock, lock:
        with lock.released():
            call(lock.acquire, 1)
            call(lock.release)
        assert lock.held
        with pytest.raises(DeadlineError):
            call(lock.acquire, 0.01)
    assert lock.holder is None


def test_released_without_the_lock_has_no_effect() -> None:
    lock = BigLock()
    with lock.released():
        assert not lock.held
    assert not lock.held


def test_a_worker_that_takes_it_is_an_error_that_names_both_threads() -> None:
    lock, leaf = BigLock(), OrderedLock("the worker's own")

    def work() -> str:
        with worker(), leaf:
            assert is_worker()
            with pytest.raises(LockOrderError) as caught:
                lock.acquire()
        assert not is_worker()
        return str(caught.value)

    with lock, other_thread("pool") as call:
        text = call(work)
    assert "pool" in text
    assert "holds the worker's own (taken at test_locks.py" in text
    assert "takes the big lock at test_locks.py" in text
    assert "MainThread holds the big lock (taken at test_locks.py" in text


def test_a_worker_that_takes_a_free_lock_is_an_error() -> None:
    lock = BigLock()
    with worker(), pytest.raises(LockOrderError, match="no thread holds it now"):
        lock.acquire()
    with lock:
        pass


def test_a_worker_is_one_thread() -> None:
    lock = BigLock()
    with other_thread() as call, worker():
        assert not call(is_worker)
        call(lock.acquire)
        call(lock.release)
        assert is_worker()


def test_nested_workers() -> None:
    with worker():
        with worker():
            pass
        assert is_worker()
    assert not is_worker()


def test_without_enforcement_a_worker_gets_it() -> None:
    lock = BigLock(enforce=False)
    with worker(), lock:
        assert lock.held


def test_two_orders_of_two_locks(checked: None) -> None:
    first, second = OrderedLock("first"), OrderedLock("second")
    with first, second:
        pass
    with other_thread("backwards") as call:
        call(second.acquire)
        with pytest.raises(LockOrderError) as caught:
            call(first.acquire)
        call(second.release)
    text = str(caught.value)
    assert "takes first at" in text
    assert "while it holds second (taken at" in text
    assert "MainThread held first (taken at test_locks.py" in text
    assert "took second at test_locks.py" in text


def test_a_cycle_over_three_locks(checked: None) -> None:
    one, two, three = OrderedLock("one"), OrderedLock("two"), BigLock("three")
    with one, two:
        pass
    with two, three:
        pass
    with three, pytest.raises(LockOrderError):
        one.acquire()


def test_two_locks_of_one_class(checked: None) -> None:
    with (
        OrderedLock("device"),
        pytest.raises(LockOrderError, match="holds another of the kind"),
        OrderedLock("device"),
    ):
        pass


def test_the_order_is_not_checked_by_default() -> None:
    crossed = "from emu.locking.locks import OrderedLock as Lock\na, b = Lock('a'), Lock('b')\n"
    crossed += "with a, b: pass\nwith b, a: pass"
    subprocess.run([sys.executable, "-c", crossed], check=True)
    enable_checking(False)
    first, second = OrderedLock("first"), OrderedLock("second")
    with first, second:
        pass
    with second, first:
        pass


def test_held_by_thread_lists_the_locks_of_a_thread() -> None:
    lock, leaf = BigLock(), OrderedLock("leaf")
    with lock, leaf:
        assert [held.lock for held in held_by_thread()] == ["the big lock", "leaf"]
    assert held_by_thread() == []


def test_waiting_threads_are_listed() -> None:
    lock = BigLock()
    with lock, waiter(lock, "patient"):
        assert "awaited by patient" in lock.held_by()
        (wait,) = lock_graph.waits()
        assert (wait.what, wait.thread) == ("the big lock", "patient")
        lock.release()
        wait_until(lambda: not lock_graph.waits())
        lock.acquire()


def test_a_deadlock_is_a_cycle_that_can_be_broken() -> None:
    lock = BigLock()
    lock.acquire()
    with waiter(lock, "pool-1") as (thread, errors):
        ident = thread.ident
        assert ident is not None
        assert find_cycle() == []
        with waiting_for("the workers", lambda: [ident]):
            cycle = find_cycle()
            text = describe_cycle(cycle)
            (break_off,) = [wait.break_off for wait in cycle if wait.break_off]
            break_off("a deadlock was found")
        thread.join(TIMEOUT)
    lock.release()
    assert {wait.thread for wait in cycle} == {"MainThread", "pool-1"}
    assert "MainThread waits for the workers" in text
    assert "holds the big lock (taken at test_locks.py" in text
    assert "pool-1 waits for the big lock" in text
    assert [str(error) for error in errors] == ["a deadlock was found"]


def test_a_lock_works_after_a_wait_was_broken() -> None:
    lock = BigLock()
    with lock, waiter(lock) as (thread, errors):
        break_off = lock_graph.waits()[0].break_off
        assert break_off is not None
        break_off("enough")
        thread.join(TIMEOUT)
    assert errors
    with lock:
        pass
    assert lock_graph.waits() == []


def test_waiting_for_nests() -> None:
    with waiting_for("outer", list):
        with waiting_for("inner", list):
            assert [wait.what for wait in lock_graph.waits()] == ["inner"]
        assert [wait.what for wait in lock_graph.waits()] == ["outer"]
    assert lock_graph.waits() == []
