"""Rings of compiled functions: when there is one, and what is handed over."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user.rings import USER_BASE, Ring, guest_memory
from vhost_user import native
from vhost_user.dirty_log import DirtyLog
from vhost_user.inflight import InflightRing, ring_bytes
from vhost_user.memory import MemoryTable
from vhost_user.payloads import MemoryRegion
from vhost_user.virtqueue import DeviceQueue, DriverQueue, batch

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 16
MEMORY = 1 << 16

pytestmark = pytest.mark.skipif(not native.available, reason="the extension was not built")


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring(guest_memory(MEMORY, (0x8000,)), SIZE, event_idx=True)
    yield made
    made.memory.close()


@pytest.fixture
def driver(ring: Ring) -> DriverQueue:
    made = ring.driver()
    made.reset()
    return made


def _offer(ring: Ring, driver: DriverQueue) -> None:
    driver.add([(ring.buffers, 16)], [])
    driver.publish()


def test_there_is_one_from_the_first_request_on(ring: Ring, driver: DriverQueue) -> None:
    queue = ring.device()
    assert queue.batch() is None
    _offer(ring, driver)
    made = queue.batch()
    assert made is not None
    assert queue.pop() is not None
    assert queue.batch() is made


def test_there_is_none_while_something_is_pushed(ring: Ring, driver: DriverQueue) -> None:
    queue = ring.device()
    _offer(ring, driver)
    chain = queue.pop()
    assert chain is not None
    queue.push(chain.head, 0)
    _offer(ring, driver)
    assert queue.batch() is None
    queue.publish()
    assert queue.batch() is not None


def test_there_is_none_while_there_is_something_to_resubmit(
    ring: Ring, driver: DriverQueue
) -> None:
    region = memoryview(bytearray(ring_bytes(SIZE)))
    _offer(ring, driver)
    before = InflightRing(region, SIZE)
    before.resume(0)
    before.taken(0)
    queue = DeviceQueue(
        SIZE,
        *(ring.desc, ring.avail, ring.used, ring.memory),
        last_avail=0,
        event_idx=True,
        inflight=InflightRing(region, SIZE),
    )
    queue.resume()
    assert queue.batch() is None
    assert queue.pop() is not None
    _offer(ring, driver)
    assert queue.batch() is not None


def test_there_is_none_without_compiled_functions(
    ring: Ring, driver: DriverQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "enabled", False)
    queue = ring.device()
    _offer(ring, driver)
    assert queue.batch() is None


def test_there_is_none_for_a_ring_that_is_not_aligned_in_this_process() -> None:
    """The addresses that the front-end sends are aligned, and the region begins at any byte."""
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, MEMORY + 2)
    table = MemoryTable()
    table.replace([MemoryRegion(0, MEMORY, USER_BASE, 2)], [fd])
    ring = Ring(table, SIZE, event_idx=True)
    driver = ring.driver()
    driver.reset()
    queue = ring.device()
    _offer(ring, driver)
    assert queue.batch() is None
    assert queue.pop() is not None
    table.close()


def test_the_state_comes_back_as_it_was_handed_over(ring: Ring, driver: DriverQueue) -> None:
    queue = ring.device()
    _offer(ring, driver)
    made = queue.batch()
    assert made is not None
    assert made.begin(0, None, log_buffers=False)
    assert made.pointer.size == SIZE
    assert made.pointer.region_count == 2
    made.pointer.last_avail = 1
    made.pointer.used_idx = made.pointer.used_start = 7
    made.end()
    assert queue.last_avail == 1
    queue.push(3, 0)
    assert queue.publish()
    assert int.from_bytes(ring.used[2:4], "little") == 8


def test_a_used_ring_beyond_the_log_is_not_handed_over(ring: Ring, driver: DriverQueue) -> None:
    log = DirtyLog.create(16)
    ring.log = log.mark
    queue = ring.device()
    _offer(ring, driver)
    made = queue.batch()
    assert made is not None
    assert made.begin(0, log, log_buffers=True)
    assert made.pointer.log == made.pointer.used_log != native.ffi.NULL
    queue.used_log_gpa = log.size * 8 * 4096 - 16
    assert not made.begin(0, log, log_buffers=True)
    queue.log = queue.used_log_gpa = None
    assert made.begin(0, log, log_buffers=False)
    assert made.pointer.log == made.pointer.used_log == native.ffi.NULL
    log.close()


def test_the_array_of_regions_is_that_of_the_table(ring: Ring) -> None:
    array = ring.memory.array
    assert array is not None
    regions = native.ffi.cast("vu_region *", array.address)
    found = [(regions[n].start, regions[n].length) for n in range(array.length)]
    assert found == [(0, 0x8000), (0x8000, 0x8000)]
    ring.memory.view(0x8000, 1)[0] = 77
    assert regions[1].bytes[0] == 77
    ring.memory.remove(ring.memory.regions[0])
    changed = ring.memory.array
    assert changed is not None
    assert changed.length == 1
