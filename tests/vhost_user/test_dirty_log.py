"""The dirty log: set by many, read by one, no bit lost."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import open_fds
from vhost_user.dirty_log import DirtyLog, log_size
from vhost_user.errors import FrontendError, UsageError
from vhost_user.memory import PAGE_SIZE


def pages_of(runs: list[tuple[int, int]]) -> set[int]:
    pages: set[int] = set()
    for gpa, length in runs:
        assert gpa % PAGE_SIZE == 0
        assert length % PAGE_SIZE == 0
        pages.update(range(gpa // PAGE_SIZE, (gpa + length) // PAGE_SIZE))
    return pages


@given(
    pages=st.integers(1, 70_000),
    data=st.data(),
)
def test_what_was_marked_is_harvested_once(pages: int, data: st.DataObject) -> None:
    log = DirtyLog.create(pages)
    end = pages * PAGE_SIZE
    extents = data.draw(
        st.lists(
            st.integers(0, end - 1).flatmap(
                lambda at: st.tuples(st.just(at), st.integers(0, min(end - at, 900_000)))
            ),
            max_size=30,
        )
    )
    expected: set[int] = set()
    for gpa, length in extents:
        log.mark(gpa, length)
        if length:
            expected.update(range(gpa // PAGE_SIZE, (gpa + length - 1) // PAGE_SIZE + 1))
    runs = log.harvest()
    assert pages_of(runs) == expected
    starts = [gpa for gpa, _ in runs]
    assert starts == sorted(starts)
    assert all(sum(low) < high[0] for low, high in pairwise(runs))
    assert log.harvest() == []
    log.close()


def test_the_layout_is_the_specifications() -> None:
    log = DirtyLog.create(64)
    log.mark(9 * PAGE_SIZE, 1)
    log.mark(17 * PAGE_SIZE - 1, 2)
    assert os.pread(log.fd, 8, 0) == bytes([0, 0b10, 0b11, 0, 0, 0, 0, 0])
    log.close()


def test_more_runs_than_fit_into_one_harvest_call() -> None:
    log = DirtyLog.create(100_000)
    for page in range(0, 100_000, 2):
        log.mark(page * PAGE_SIZE, 1)
    log.mark(60_001 * PAGE_SIZE, 1)
    runs = log.harvest()
    assert len(runs) == 50_000 - 1
    assert (60_000 * PAGE_SIZE, 3 * PAGE_SIZE) in runs
    log.close()


def test_a_run_that_two_harvest_calls_share_is_one() -> None:
    """32 runs a word for 127 words, one more, and then 4096 results might not be enough."""
    log = DirtyLog.create(10_000)
    for page in (*range(0, 127 * 64, 2), 128 * 64 - 1, 128 * 64):
        log.mark(page * PAGE_SIZE, 1)
    runs = log.harvest()
    assert len(runs) == 127 * 32 + 1
    assert runs[-1] == ((128 * 64 - 1) * PAGE_SIZE, 2 * PAGE_SIZE)
    log.close()


def test_a_large_guests_log_is_sparse() -> None:
    log = DirtyLog.create(180 << 18)  # 180 GiB
    assert log.size == 180 << 15
    log.mark(170 << 30, 3 * PAGE_SIZE)
    log.mark(0, 1)
    assert os.fstat(log.fd).st_blocks <= 16
    assert log.harvest() == [(0, PAGE_SIZE), (170 << 30, 3 * PAGE_SIZE)]
    assert os.fstat(log.fd).st_blocks <= 16
    log.close()


def test_all_dirty_is_one_run() -> None:
    log = DirtyLog.create(1 << 20)
    log.mark(0, 4 << 30)
    assert log.harvest() == [(0, 4 << 30)]
    log.close()


def test_a_log_cannot_change_its_size() -> None:
    log = DirtyLog.create(1000)
    assert log.size == log_size(1000) == 128
    for size in (64, 256):
        with pytest.raises(PermissionError):
            os.ftruncate(log.fd, size)
    assert fcntl.fcntl(log.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
    log.close()


@pytest.mark.parametrize(
    ("gpa", "length"),
    [(64 * PAGE_SIZE, 1), (64 * PAGE_SIZE - 1, 2), ((1 << 64) - 1, 1), ((1 << 64) - 1, 4096)],
)
def test_marks_beyond_the_log_mark_nothing(gpa: int, length: int) -> None:
    log = DirtyLog.create(64)
    with pytest.raises(FrontendError, match="beyond"):
        log.mark(gpa, length)
    assert log.harvest() == []
    log.close()


def test_a_closed_log_is_closed() -> None:
    log = DirtyLog.create(64)
    log.close()
    log.close()
    with pytest.raises(UsageError):
        log.mark(0, 1)
    with pytest.raises(UsageError):
        log.harvest()


def test_a_back_end_maps_the_same_bits() -> None:
    front = DirtyLog.create(1 << 20)
    back = DirtyLog.map(front.fd, front.size, 0)
    back.mark(5 * PAGE_SIZE, PAGE_SIZE)
    assert front.harvest() == [(5 * PAGE_SIZE, PAGE_SIZE)]
    shifted = DirtyLog.map(front.fd, 64, 72)
    shifted.mark(0, 1)
    assert front.harvest() == [(72 * 8 * PAGE_SIZE, PAGE_SIZE)]
    for log in (shifted, back, front):
        log.close()


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (129, 0), (128, 1), (8, 1 << 70)])
def test_a_log_that_is_not_in_its_file(size: int, offset: int) -> None:
    log = DirtyLog.create(1024)
    with pytest.raises(FrontendError, match="SET_LOG_BASE"):
        DirtyLog.map(log.fd, size, offset)
    log.close()


def test_no_descriptor_is_left_behind() -> None:
    before = open_fds()
    log = DirtyLog.create(1 << 20)
    DirtyLog.map(log.fd, log.size, 0).close()
    log.harvest()
    log.close()
    assert open_fds() <= before


MARKER = """
import sys
from vhost_user.dirty_log import DirtyLog
fd, size, bit, rounds = map(int, sys.argv[1:])
log = DirtyLog.map(fd, size, 0)
for page in range(rounds):
    log.mark((8 * page + bit) << 12, 1)
"""
ROUNDS = 20_000


def test_no_mark_is_lost_between_processes() -> None:
    """Every process sets one bit of each byte, while the log is harvested."""
    log = DirtyLog.create(8 * ROUNDS)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MARKER, *map(str, (log.fd, log.size, bit, ROUNDS))],
            pass_fds=[log.fd],
        )
        for bit in range(4)
    ]
    seen: list[tuple[int, int]] = []
    try:
        while any(process.poll() is None for process in processes):
            seen += log.harvest()
    finally:
        for process in processes:
            process.wait(PROGRAM_TIMEOUT)
    assert [process.returncode for process in processes] == [0] * 4
    seen += log.harvest()
    found = [page for gpa, length in seen for page in pages_of([(gpa, length)])]
    assert len(found) == len(set(found)) == 4 * ROUNDS
    log.close()


def test_no_mark_is_lost_between_threads() -> None:
    log = DirtyLog.create(8 * 2000)
    start = threading.Barrier(8)

    def mark(bit: int) -> None:
        start.wait(TIMEOUT)
        for page in range(2000):
            log.mark((8 * page + bit) * PAGE_SIZE, 1)

    threads = [threading.Thread(target=mark, args=(bit,)) for bit in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert log.harvest() == [(0, 16_000 * PAGE_SIZE)]
    log.close()
