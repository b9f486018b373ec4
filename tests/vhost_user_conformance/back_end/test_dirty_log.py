"""The pages that a dirty log marks, and those of a used ring."""

from __future__ import annotations

from vhost_user.dirty_log import DirtyLog
from vhost_user_conformance.back_end.dirty_log import pages_of, used_pages
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory, TestRing


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
