"""Eventfds: one at a time and in a batch, alone and with threads that compute.

A call that gives up the interpreter lock must get it back. When a thread that computes has taken
it meanwhile, that lasts a switch interval (5 ms) or several: so each call is a risk, and what a
batch saves is not the price of the calls alone.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bench.figures import duration
from bench.replay import recorded, replay
from vhost_user import native
from vhost_user.eventfd import EventfdBatch, NativeEventfds, PythonEventfds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.figures import Figure

#: The kick eventfd and the call eventfd of each of the RFC's rings.
ALL = 2 * 608
#: Where each call may last a switch interval.
FEW = 64
WORKERS = 4
#: The others come in by chance: seconds to see how often.
LONG_ENOUGH = 0.6


def _os_single(fds: Sequence[int]) -> Callable[[], None]:
    write = os.eventfd_write

    def run() -> None:
        for fd in fds:
            write(fd, 1)

    return run


def _cffi_single(fds: Sequence[int]) -> Callable[[], None]:
    native.require()
    signal = native.lib.vu_eventfd_signal
    arrays = [native.ffi.new("int[]", [fd]) for fd in fds]

    def run() -> None:
        for array in arrays:
            signal(array, 1)

    return run


def _cffi_batch(fds: Sequence[int]) -> Callable[[], None]:
    signal = NativeEventfds().signal
    return lambda: signal(fds)


def _prepared(fds: Sequence[int]) -> Callable[[], None]:
    return NativeEventfds().prepare(fds).signal


WAYS = {
    "os-single": _os_single,
    "cffi-single": _cffi_single,
    "cffi-batch": _cffi_batch,
    "cffi-prepared": _prepared,
}
BATCHES: dict[str, type[EventfdBatch]] = {"os": PythonEventfds, "cffi": NativeEventfds}
_ways = pytest.mark.parametrize(
    "way",
    [pytest.param(name, marks=[pytest.mark.smoke] if "single" in name else []) for name in WAYS],
)
_batches = pytest.mark.parametrize("batch", BATCHES)


@pytest.fixture(autouse=True)
def _needs_extension(request: pytest.FixtureRequest) -> None:
    name = request.node.name
    if "cffi" in name and not native.available:
        pytest.skip("the compiled extension was not built")


@contextmanager
def _eventfds(count: int) -> Iterator[list[int]]:
    batch = PythonEventfds()
    fds = batch.create(count)
    try:
        yield fds
    finally:
        batch.close(fds)


@contextmanager
def _computing() -> Iterator[None]:
    """Threads that do not release the interpreter by themselves, as those of busy vCPUs."""
    stop = threading.Event()

    def compute() -> None:
        for number in itertools.count():
            if not number % 1000 and stop.is_set():
                return

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


@_ways
def test_signal(benchmark: Any, figure: Figure, way: str) -> None:
    """All eventfds of the RFC's VM, without other threads."""
    figure.unit, figure.units = "eventfd", ALL
    with _eventfds(ALL) as fds:
        benchmark(WAYS[way](fds))


@pytest.mark.benchmark(timer=recorded)
@_ways
def test_signal_beside_busy_threads(benchmark: Any, figure: Figure, way: str) -> None:
    """A few eventfds, while other threads compete for the interpreter."""
    figure.unit, figure.units = "eventfd", FEW
    figure.info["switch_interval_ms"] = sys.getswitchinterval() * 1e3
    with _eventfds(FEW) as fds, _computing():
        times = _timed_for(LONG_ENOUGH if benchmark.enabled else 0.0, WAYS[way](fds))
    figure.notes["mean per eventfd"] = duration(statistics.fmean(times) / FEW)
    figure.notes["worst round"] = duration(max(times))
    replay(benchmark, times)


def _timed_for(seconds: float, run: Callable[[], None]) -> list[float]:
    """Run it for so long, at least once; the time of each run."""
    clock = time.perf_counter
    times = []
    end = clock() + seconds
    while True:
        start = clock()
        run()
        times.append(clock() - start)
        if clock() > end:
            return times


@_ways
def test_signal_from_a_pool(benchmark: Any, figure: Figure, way: str) -> None:
    """All eventfds, a part by each thread of a pool, as in the RFC."""
    figure.unit, figure.units = "eventfd", ALL
    with _eventfds(ALL) as fds, ThreadPoolExecutor(WORKERS) as pool:
        parts = [WAYS[way](fds[n::WORKERS]) for n in range(WORKERS)]

        def run() -> None:
            for done in wait([pool.submit(part) for part in parts]).done:
                done.result()

        benchmark(run)


@_batches
def test_drain(benchmark: Any, figure: Figure, batch: str) -> None:
    """Read all eventfds, which were signalled."""
    figure.unit, figure.units = "eventfd", ALL
    with _eventfds(ALL) as fds:
        prepared = BATCHES[batch]().prepare(fds)
        assert sum(benchmark.pedantic(prepared.drain, setup=prepared.signal, rounds=50)) == ALL


@_batches
def test_create_and_close(benchmark: Any, figure: Figure, batch: str) -> None:
    """As a VM's devices do when they are made."""
    figure.unit, figure.units = "eventfd", ALL
    eventfds = BATCHES[batch]()
    benchmark(lambda: eventfds.close(eventfds.create(ALL)))
