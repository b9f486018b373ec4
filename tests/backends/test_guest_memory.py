"""A device's guest memory: when views of it become invalid, and when its writes are logged."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from backends.guest_memory import GuestMemory, check_reach, log_reach
from vhost_user import inflight
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import FrontendError
from vhost_user.features import VHOST_F_LOG_ALL, VIRTIO_RING_F_EVENT_IDX
from vhost_user.inflight import InflightRegion
from vhost_user.memory import PAGE_SIZE, MemoryTable
from vhost_user.payloads import MemoryRegion

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_ALL = 1 << VHOST_F_LOG_ALL
PAGES = 64


@pytest.fixture
def guest() -> Iterator[GuestMemory]:
    made = GuestMemory()
    yield made
    made.forget()


def region(guest: GuestMemory, gpa: int = 0) -> MemoryRegion:
    """Add a region of `PAGES` pages."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, PAGES * PAGE_SIZE)
    made = MemoryRegion(gpa, PAGES * PAGE_SIZE, 0x7000_0000 + gpa, 0)
    guest.table.add(made, fd)
    return made


def inflight_region(rings: int) -> InflightRegion:
    fd, size = inflight.create(rings, 16)
    try:
        return InflightRegion(fd, size, 0, rings, 16)
    finally:
        os.close(fd)


def test_each_change_of_memory_is_another_generation(guest: GuestMemory) -> None:
    seen = [guest.generation]
    added = region(guest)
    seen.append(guest.generation)
    region(guest, 1 << 30)
    seen.append(guest.generation)
    guest.table.remove(added)
    seen.append(guest.generation)
    guest.use_table(MemoryTable())
    seen.append(guest.generation)
    assert seen == sorted(set(seen))
    assert not guest.table.regions


def test_writes_are_logged_with_a_log_and_the_feature_only(guest: GuestMemory) -> None:
    log = DirtyLog.create(PAGES)
    before = [guest.log_mark]
    guest.set_features(LOG_ALL)
    before.append(guest.log_mark)
    assert before == [None, None]
    guest.set_log(log)
    mark = guest.log_mark
    assert mark is not None
    mark(3 * PAGE_SIZE, 1)
    assert list(log.harvest()) == [(3 * PAGE_SIZE, PAGE_SIZE)]
    guest.set_features(0)
    assert guest.log_mark is None


def test_the_event_index_is_a_feature(guest: GuestMemory) -> None:
    assert not guest.event_idx
    guest.set_features(1 << VIRTIO_RING_F_EVENT_IDX)
    assert (guest.event_idx, guest.acked) == (True, 1 << VIRTIO_RING_F_EVENT_IDX)


@pytest.mark.parametrize(("acked", "refused"), [(0, False), (LOG_ALL, True)])
def test_a_log_in_use_must_cover_memory(guest: GuestMemory, acked: int, refused: bool) -> None:
    log = DirtyLog.create(PAGES)
    guest.set_log(log)
    end = log_reach(log)
    assert end >= PAGES * PAGE_SIZE
    guest.check_log(acked, end)
    if refused:
        with pytest.raises(FrontendError, match=f"guest memory ends at {end + 1:#x}"):
            guest.check_log(acked, end + 1)
    else:
        guest.check_log(acked, end + 1)
    with pytest.raises(FrontendError):
        check_reach(end, end + 1)


def test_rings_have_their_part_of_the_inflight_region(guest: GuestMemory) -> None:
    """A new region takes the place of the one before, which is closed."""
    assert guest.inflight_of(0) is None
    guest.set_inflight(inflight_region(2))
    assert guest.inflight_of(0) is not None
    assert guest.inflight_of(1) is not None
    guest.set_inflight(inflight_region(1))
    assert guest.inflight_of(0) is not None


def test_a_front_end_that_disconnects_leaves_nothing(guest: GuestMemory) -> None:
    region(guest)
    guest.set_features(LOG_ALL)
    guest.set_log(DirtyLog.create(PAGES))
    guest.set_inflight(inflight_region(1))
    before = guest.generation
    guest.forget()
    assert (guest.acked, guest.log, guest.inflight_of(0)) == (0, None, None)
    assert not guest.table.regions
    assert guest.generation > before
