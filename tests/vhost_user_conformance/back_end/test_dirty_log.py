"""The pages that a dirty log marks, and those of a used ring."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.connected import connected
from vhost_user.dirty_log import DirtyLog
from vhost_user_conformance.back_end.connection import BackEnd
from vhost_user_conformance.back_end.dirty_log import (
    check_bit,
    check_logged,
    check_used_logged,
    pages_of,
    used_pages,
)
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory, TestRing
from vhost_user_conformance.peer.patience import Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def be(tmp_path: Path) -> Iterator[BackEnd]:
    """A back-end, of which only the connection is used."""
    with connected(tmp_path, "rng") as back_end:
        yield back_end


def at_a_barrier(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do it at the first barrier, which follows the first look at the log."""
    usual, left = BackEnd.barrier, [do]

    def barrier(back_end: BackEnd) -> None:
        if left:
            left.pop()()
        usual(back_end)

    monkeypatch.setattr(BackEnd, "barrier", barrier)


def test_pages_may_be_logged_late(be: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """One before the first look, one after it."""
    log = DirtyLog.create(64)
    log.mark(3 * PAGE, 1)
    at_a_barrier(monkeypatch, lambda: log.mark(5 * PAGE, 1))
    check_logged(be, log, {3, 5})
    log.close()


def test_a_used_ring_may_be_logged_late(be: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result has other pages, too."""
    log, memory = DirtyLog.create(2 * MIB // PAGE), Memory((MIB,))
    ring = TestRing(memory, 0)
    log.mark(3 * PAGE, 1)
    at_a_barrier(monkeypatch, lambda: log.mark(ring.used, 1))
    assert check_used_logged(be, log, ring) == {3, ring.used >> 12}
    ring.close()
    memory.close()
    log.close()


def test_a_bit_may_be_set_late(be: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file that the back-end has mapped at an offset."""
    fd = os.memfd_create("log")
    os.ftruncate(fd, PAGE + 8)
    at_a_barrier(monkeypatch, lambda: os.pwrite(fd, b"\x40", PAGE + 1))
    check_bit(be, fd, PAGE, 14)
    os.close(fd)


def test_pages_that_are_never_logged_fail(be: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the timeout."""
    usual, short = be.wire.limit, [Limit(0.05)]  # of the pages; replies may take as long as ever
    monkeypatch.setattr(be.wire, "limit", lambda: short.pop() if short else usual())
    log = DirtyLog.create(64)
    log.mark(3 * PAGE, 1)
    with pytest.raises(Failed, match="pages"):
        check_logged(be, log, {3, 5})
    log.close()


def test_pages_are_taken_from_the_log() -> None:
    """Each is reported once."""
    log = DirtyLog.create(64)
    log.mark(3 * PAGE + 5, 1)
    log.mark(7 * PAGE, 2 * PAGE)
    assert pages_of(log) == {3, 7, 8}
    assert pages_of(log) == set()
    log.close()


def test_a_large_used_ring_has_several_pages() -> None:
    """All of its elements, and what is before them."""
    memory = Memory((MIB,))
    ring = TestRing(memory, 0, 1024)
    pages = used_pages(ring)
    assert ring.used >> 12 in pages
    assert ring.used + 4 + 8 * 1024 - 1 >> 12 in pages
    assert len(pages) in (3, 4)
    ring.close()
    memory.close()
