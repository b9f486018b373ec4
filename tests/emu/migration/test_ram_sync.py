"""Dirty pages of guest and back-ends, joined."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.machine.ram import GuestRam
from emu.migration.ram_sync import RamSync, joined, runs_of, total
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import BackendError
from vhost_user.memory import PAGE_SIZE


@given(st.sets(st.integers(0, 200)))
def test_runs_are_the_pages(pages: set[int]) -> None:
    """Sorted, in whole pages, and no two runs are adjacent."""
    runs = runs_of(pages)
    assert total(runs) == len(pages) * PAGE_SIZE
    covered = {
        page
        for gpa, length in runs
        for page in range(gpa // PAGE_SIZE, (gpa + length) // PAGE_SIZE)
    }
    assert covered == pages
    assert all(a + length < b for (a, length), (b, _) in itertools.pairwise(runs))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))))
def test_joined_runs_are_the_same_pages(parts: list[tuple[int, int]]) -> None:
    """Runs that overlap, touch, or lie apart, in any order."""
    pages = {page for first, count in parts for page in range(first, first + count)}
    runs = [(first * PAGE_SIZE, count * PAGE_SIZE) for first, count in parts]
    assert joined(runs) == runs_of(pages)


def test_pages_that_were_not_sent_are_dirty_once_more() -> None:
    """Also several times, and those that were written again; each is returned once."""
    ram = GuestRam(64 << 20)
    log = DirtyLog.create(ram.pages)
    try:
        sync = RamSync(ram, log)
        sync.put_back([(PAGE_SIZE, 2 * PAGE_SIZE)])
        sync.put_back([(8 * PAGE_SIZE, PAGE_SIZE)])
        log.mark(2 * PAGE_SIZE, 2 * PAGE_SIZE)
        assert sync.dirty() == [(PAGE_SIZE, 3 * PAGE_SIZE), (8 * PAGE_SIZE, PAGE_SIZE)]
        assert sync.dirty() == []
    finally:
        log.close()
        ram.close()


def test_writes_of_the_guest_are_joined_with_the_dirty_log() -> None:
    """Each page is returned once; adjacent pages are one run."""
    ram = GuestRam(64 << 20)
    log = DirtyLog.create(ram.pages)
    try:
        ram.write(5 * PAGE_SIZE, b"before")
        sync = RamSync(ram, log)
        assert sync.all_pages() == [(5 * PAGE_SIZE, PAGE_SIZE)]
        assert sync.dirty() == []
        ram.write(7 * PAGE_SIZE, b"guest")
        log.mark(8 * PAGE_SIZE + 5, 1)
        log.mark(20 * PAGE_SIZE, 2 * PAGE_SIZE)
        assert sync.dirty() == [(7 * PAGE_SIZE, 2 * PAGE_SIZE), (20 * PAGE_SIZE, 2 * PAGE_SIZE)]
        assert sync.dirty() == []
    finally:
        log.close()
        ram.close()


@pytest.mark.parametrize("gpa", [3 << 30, (4 << 30) - PAGE_SIZE, 5 << 30, 6 << 30])
def test_a_mark_outside_of_memory_is_an_error_of_the_back_end(gpa: int) -> None:
    """In the hole, or beyond the end; the error has the address."""
    ram = GuestRam(4 << 30)
    log = DirtyLog.create(2 << 20)
    try:
        sync = RamSync(ram, log)
        for allowed in (0, (3 << 30) - PAGE_SIZE, 4 << 30, (5 << 30) - PAGE_SIZE):
            log.mark(allowed, 1)
        sync.dirty()
        for also in (0, gpa, (5 << 30) - 2 * PAGE_SIZE):
            log.mark(also, 1)
        with pytest.raises(BackendError, match=f"{gpa:#x}"):
            sync.dirty()
    finally:
        log.close()
        ram.close()


def test_no_pages_are_no_runs() -> None:
    """As of an idle VM."""
    assert runs_of([]) == []
    assert total([]) == 0


@pytest.mark.parametrize("pages", [{0}, {0, 1}, {3, 5}])
def test_page_zero_is_a_page(pages: set[int]) -> None:
    """Alone, with its neighbour, or absent."""
    assert total(runs_of(pages)) == len(pages) * PAGE_SIZE
