"""The split ring: both sides of it, direct and indirect, with and without event index.

A request is a header, a page of data and a status byte, as a disk has it: three descriptors, or
one with an indirect table. A round is a ring's worth of requests.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from vhost_user.memory import MemoryTable
from vhost_user.payloads import MemoryRegion
from vhost_user.virtqueue import DeviceQueue, DriverQueue, split_offsets
from vhost_user.virtqueue.split_driver import STATE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.figures import Figure

SIZE = 256
DEPTH = 64
MEMORY = 1 << 20
#: The layout of memory: the ring at 0, then driver state, indirect tables and buffers.
STATE = 0x4000
TABLES = 0x8000
BUFFERS = 0x10000
TABLE_BYTES = 64
HEADER, DATA, STATUS = 16, 4096, 1
#: A buffer's place: header and status in one page, data in the next one.
PLACE = 0x2000

_kinds = pytest.mark.parametrize(
    ("indirect", "event_idx"),
    [
        pytest.param(False, False, id="direct", marks=[pytest.mark.smoke]),
        pytest.param(False, True, id="direct-event"),
        pytest.param(True, False, id="indirect"),
        pytest.param(True, True, id="indirect-event", marks=[pytest.mark.smoke]),
    ],
)


class Ring:
    """One ring in shared memory, with its driver's side and its device's side."""

    def __init__(self, *, indirect: bool, event_idx: bool) -> None:
        fd = os.memfd_create("ring", os.MFD_CLOEXEC)
        os.ftruncate(fd, MEMORY)
        self.memory = MemoryTable()
        self.memory.replace([MemoryRegion(0, MEMORY, 1 << 52, 0)], [fd])
        view = self.memory.view
        at = split_offsets(SIZE)
        parts = (
            view(at.desc, at.avail),
            view(at.avail, 6 + 2 * SIZE),
            view(at.used, 6 + 8 * SIZE),
        )
        self.driver = DriverQueue(SIZE, *parts, view(STATE, STATE_SIZE), event_idx=event_idx)
        self.driver.reset()
        self.device = DeviceQueue(
            SIZE, *parts, self.memory, last_avail=0, event_idx=event_idx, ring=0
        )
        self.requests = [self._request(number, indirect=indirect) for number in range(DEPTH)]

    def _request(self, number: int, *, indirect: bool) -> tuple[Any, ...]:
        at = BUFFERS + number % 16 * PLACE
        table = TABLES + number * TABLE_BYTES
        return (
            [(at, HEADER)],
            [(at + 0x1000, DATA), (at + HEADER, STATUS)],
            (table, self.memory.view(table, TABLE_BYTES)) if indirect else None,
        )

    def add(self) -> bool:
        """Driver: a ring's worth of requests; whether to kick."""
        add = self.driver.add
        for request in self.requests:
            add(*request)
        return self.driver.publish()

    def serve(self) -> bool:
        """Device: complete all available requests; returns whether to signal the call eventfd."""
        pop, push = self.device.pop, self.device.push
        while (chain := pop()) is not None:
            push(chain.head, DATA + STATUS)
        self.device.arm()
        return self.device.publish()

    def reap(self) -> int:
        """Driver: handle all completions."""
        done = 0
        while self.driver.pop() is not None:
            done += 1
        self.driver.arm()
        return done

    def one_by_one(self) -> int:
        """Complete each request before the next one is added, and check all notifications."""
        add, publish = self.driver.add, self.driver.publish
        done = 0
        for request in self.requests:
            add(*request)
            publish()
            self.serve()
            done += self.reap()
        return done


@pytest.fixture
def ring(indirect: bool, event_idx: bool) -> Iterator[Ring]:
    """An empty ring."""
    ring = Ring(indirect=indirect, event_idx=event_idx)
    yield ring
    ring.memory.close()


def _time(
    benchmark: Any, figure: Figure, part: Callable[[], Any], setup: Callable[[], Any]
) -> None:
    figure.unit, figure.units = "request", DEPTH
    benchmark.pedantic(part, setup=setup, rounds=500, warmup_rounds=20)


@_kinds
def test_driver_add(benchmark: Any, figure: Figure, ring: Ring) -> None:
    """Driver's side: make requests available."""

    def empty() -> None:
        ring.serve()
        ring.reap()

    _time(benchmark, figure, ring.add, empty)


@_kinds
def test_device(benchmark: Any, figure: Figure, ring: Ring) -> None:
    """Device's side: take requests, check and translate them, give them back."""

    def fill() -> None:
        ring.reap()
        ring.add()

    _time(benchmark, figure, ring.serve, fill)
    assert ring.reap() == DEPTH


@_kinds
def test_driver_reap(benchmark: Any, figure: Figure, ring: Ring) -> None:
    """Driver's side: handle completions."""

    def complete() -> None:
        ring.add()
        ring.serve()

    _time(benchmark, figure, ring.reap, complete)


@_kinds
def test_one_by_one(benchmark: Any, figure: Figure, ring: Ring) -> None:
    """Both sides, one request at a time: a round trip without a wake-up."""
    figure.unit, figure.units = "request", DEPTH
    assert benchmark(ring.one_by_one) == DEPTH
