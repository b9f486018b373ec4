"""Where a ring is in guest memory: what is refused, and when it is mapped again."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from backends.guest_memory import GuestMemory
from backends.ring_memory import RingMemory
from vhost_user import inflight
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import FrontendError
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.inflight import InflightRegion
from vhost_user.memory import PAGE_SIZE
from vhost_user.payloads import VRING_F_LOG, MemoryRegion, VringAddr

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 16
PAGES = 4096
USER = 0x7000_0000
ADDR = VringAddr(0, 0, USER, USER + 0x2000, USER + 0x1000, 0x2000)


@pytest.fixture
def guest() -> Iterator[GuestMemory]:
    made = GuestMemory()
    add(made)
    yield made
    made.forget()


def add(guest: GuestMemory) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, PAGES * PAGE_SIZE)
    guest.table.replace([MemoryRegion(0, PAGES * PAGE_SIZE, USER, 0)], [fd])


@pytest.fixture
def memory(guest: GuestMemory) -> RingMemory:
    """A ring that is set up."""
    made = RingMemory(0, guest, "device")
    made.set_size(SIZE, active=False)
    made.set_addr(ADDR)
    return made


def test_a_ring_is_configured_with_a_size_and_addresses(guest: GuestMemory) -> None:
    made = RingMemory(0, guest, "device")
    configured = [made.configured]
    made.set_addr(ADDR)
    configured.append(made.configured)
    with pytest.raises(FrontendError, match="no size or no addresses"):
        made.map()
    made.set_size(SIZE, active=False)
    configured.append(made.configured)
    made.forget()
    configured.append(made.configured)
    assert configured == [False, False, True, False]


@pytest.mark.parametrize("size", [0, 3, 1 << 16])
def test_a_size_is_a_power_of_two(memory: RingMemory, size: int) -> None:
    with pytest.raises(FrontendError, match=f"size {size} is not a power of two"):
        memory.set_size(size, active=False)
    assert memory.size == SIZE


def test_the_size_of_an_active_ring_stays(memory: RingMemory) -> None:
    memory.set_size(SIZE, active=True)
    with pytest.raises(FrontendError, match="size changed while the ring is running"):
        memory.set_size(2 * SIZE, active=True)
    memory.set_size(2 * SIZE, active=False)
    assert memory.size == 2 * SIZE


@pytest.mark.parametrize(("event_idx", "more"), [(False, 0), (True, 2)])
def test_the_parts_are_as_long_as_the_ring(
    memory: RingMemory, guest: GuestMemory, event_idx: bool, more: int
) -> None:
    """With an event field behind each of the two rings."""
    guest.set_features(int(event_idx) << VIRTIO_RING_F_EVENT_IDX)
    views = memory.map()
    assert [len(views.desc), len(views.avail), len(views.used)] == [
        16 * SIZE,
        4 + 2 * SIZE + more,
        4 + 8 * SIZE + more,
    ]


def test_views_are_kept_until_memory_changes(memory: RingMemory, guest: GuestMemory) -> None:
    views = memory.map()
    assert memory.map() is views
    add(guest)
    again = memory.map()
    assert again is not views
    assert again.generation == guest.generation
    memory.unmap()
    assert memory.map() is not again


@pytest.mark.parametrize(
    "addr",
    [
        ADDR._replace(desc=USER + 8),
        ADDR._replace(avail=USER + 0x1001),
        ADDR._replace(used=USER + 0x2002),
    ],
)
def test_addresses_that_are_not_aligned_are_refused(memory: RingMemory, addr: VringAddr) -> None:
    memory.set_addr(addr)
    with pytest.raises(FrontendError, match="is not aligned"):
        memory.map()


def test_addresses_outside_of_memory_are_refused(memory: RingMemory, guest: GuestMemory) -> None:
    """Also before the ring is started, if there is memory."""
    memory.set_addr(ADDR._replace(used=USER + PAGES * PAGE_SIZE))
    for early in (memory.map, memory.map_early):
        with pytest.raises(FrontendError):
            early()
    guest.forget()
    memory.map_early()


def test_a_queue_continues_at_the_base(memory: RingMemory) -> None:
    """And writes to the used ring are logged where the ring has the flag."""
    queue = memory.queue(7, None)
    assert queue.last_avail == 7
    assert queue.used_log_gpa is None


def test_the_used_ring_must_be_in_the_log(memory: RingMemory, guest: GuestMemory) -> None:
    """If it is to be logged, and if the log covers guest memory at all."""
    guest.set_log(DirtyLog.create(PAGES))
    logged = ADDR._replace(flags=VRING_F_LOG, log=PAGES * PAGE_SIZE)
    with pytest.raises(FrontendError, match="the used ring is to be logged up to"):
        memory.set_addr(logged)
    memory.set_addr(logged._replace(flags=0))
    memory.set_addr(logged._replace(log=0x2000))
    queue = memory.queue(0, None)
    assert queue.used_log_gpa == 0x2000
    assert queue.log is not None
    guest.set_log(None)
    memory.log_used_ring(queue)
    assert queue.log is None


def _record(guest: GuestMemory, size: int) -> InflightRegion:
    """An inflight region for rings of that size."""
    fd, length = inflight.create(1, size)
    region = InflightRegion(fd, length, 0, 1, size)
    os.close(fd)
    guest.set_inflight(region)
    return region


def test_an_inflight_region_for_smaller_rings_records_nothing(
    memory: RingMemory, guest: GuestMemory, caplog: pytest.LogCaptureFixture
) -> None:
    """One line on stderr reports it; a region for larger rings is used."""
    _record(guest, SIZE // 2)
    assert memory.queue(0, None).inflight is None
    assert memory.queue(0, None).inflight is None
    assert len(caplog.records) == 1
    assert "for rings of 8 descriptors, and ring 0 has 16" in caplog.text
    for size in (SIZE, 2 * SIZE):
        _record(guest, size)
        assert memory.queue(0, None).inflight is not None


def test_requests_in_an_inflight_region_for_smaller_rings_are_not_lost(
    memory: RingMemory, guest: GuestMemory
) -> None:
    part = _record(guest, SIZE // 2).ring(0)
    assert part is not None
    part.resume(0)
    part.taken(3)
    with pytest.raises(FrontendError, match="requests to resubmit"):
        memory.queue(0, None)


def test_a_request_beyond_the_ring_is_not_resubmitted(
    memory: RingMemory, guest: GuestMemory
) -> None:
    part = _record(guest, 2 * SIZE).ring(0)
    assert part is not None
    part.resume(0)
    part.taken(SIZE)
    with pytest.raises(FrontendError, match="request 16 in the inflight region of 16"):
        memory.queue(0, None).resume()
