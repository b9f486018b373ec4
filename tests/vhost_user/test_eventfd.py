"""Batches of eventfds: the tests run on both implementations."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import errno
import os
import resource
import select
from typing import TYPE_CHECKING

import pytest

from tests.waiting import open_fds
from vhost_user import eventfd, native
from vhost_user.eventfd import EventfdBatch, NativeEventfds, PythonEventfds

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = 0xFFFF_FFFF_FFFF_FFFE


@pytest.fixture(params=[NativeEventfds, PythonEventfds])
def batch(request: pytest.FixtureRequest) -> EventfdBatch:
    made: EventfdBatch = request.param()
    return made


@pytest.fixture
def fds(batch: EventfdBatch) -> Iterator[list[int]]:
    made = batch.create(70)
    yield made
    batch.close(made)


def test_creates_distinct_nonblocking_private_descriptors(fds: list[int]) -> None:
    assert len(set(fds)) == 70
    for fd in fds:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)


def test_signals_add_up_until_drained(batch: EventfdBatch, fds: list[int]) -> None:
    batch.signal(fds)
    batch.signal(tuple(fds[:3]))
    assert batch.drain(fds) == [2, 2, 2] + [1] * 67
    assert batch.drain(fds) == [0] * 70


def test_a_signal_wakes_who_waits(batch: EventfdBatch, fds: list[int]) -> None:
    batch.signal(fds[5:6])
    assert select.select(fds, [], [], 5)[0] == [fds[5]]


def test_a_full_counter_counts_as_signalled(batch: EventfdBatch, fds: list[int]) -> None:
    os.eventfd_write(fds[1], FULL)
    batch.signal(fds[:3])
    assert batch.drain(fds[:3]) == [1, FULL, 1]


def test_prepared_sets_do_the_same(batch: EventfdBatch, fds: list[int]) -> None:
    prepared = batch.prepare(fds[:4])
    prepared.signal()
    prepared.signal()
    batch.signal(fds[1:2])
    assert prepared.drain() == [2, 3, 2, 2]
    assert prepared.drain() == [0] * 4
    assert batch.drain(fds) == [0] * 70


def test_nothing_is_fine(batch: EventfdBatch) -> None:
    assert batch.create(0) == []
    batch.signal([])
    assert batch.drain([]) == []
    assert batch.prepare([]).drain() == []
    batch.prepare([]).signal()
    batch.close([])


def test_one_bad_descriptor_does_not_keep_the_others(batch: EventfdBatch) -> None:
    good = batch.create(2)
    (closed,) = batch.create(1)
    os.close(closed)
    mixed = [good[0], closed, good[1]]
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        batch.signal(mixed)
    assert batch.drain(good) == [1, 1]
    batch.signal(good)
    prepared = batch.prepare(mixed)
    for drain in (lambda: batch.drain(mixed), prepared.drain, prepared.signal):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            drain()
    assert batch.drain(good) == [
        1,
        1,
    ]  # of prepared.signal; the earlier drains have reset the others
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        batch.close(mixed)
    for fd in good:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)


def test_creates_all_or_none(batch: EventfdBatch) -> None:
    before = open_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, before))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            batch.create(highest + 40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_fds() == before


def test_no_descriptor_is_left_behind(batch: EventfdBatch) -> None:
    before = open_fds()
    made = batch.create(300)
    batch.prepare(made).signal()
    batch.close(made)
    assert open_fds() == before


def test_the_compiled_one_is_the_default_where_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(eventfd.default(), NativeEventfds)
    monkeypatch.setattr(native, "available", False)
    assert isinstance(eventfd.default(), PythonEventfds)
