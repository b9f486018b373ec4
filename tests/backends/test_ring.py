"""What a ring is told, and when it can be found in memory."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os

import pytest

from backends.ring import Ring
from vhost_user.errors import FrontendError
from vhost_user.memory import PAGE_SIZE, MemoryTable
from vhost_user.payloads import MemoryRegion, VringAddr

USER = 0x7000_0000


@pytest.fixture
def memory() -> MemoryTable:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 4 * PAGE_SIZE)
    table = MemoryTable()
    table.replace([MemoryRegion(0, 4 * PAGE_SIZE, USER, 0)], [fd])
    return table


def addr(desc: int = 0, avail: int = PAGE_SIZE, used: int = 2 * PAGE_SIZE) -> VringAddr:
    return VringAddr(3, 0, USER + desc, USER + used, USER + avail, 0)


@pytest.mark.parametrize("size", [1, 2, 128, 32768])
def test_sizes(size: int) -> None:
    ring = Ring(3)
    ring.resize(size)
    assert ring.size == size


@pytest.mark.parametrize("size", [0, 3, 100, 65536])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(FrontendError, match="ring 3"):
        Ring(3).resize(size)


def test_is_mapped_once_until_the_memory_changes(memory: MemoryTable) -> None:
    ring = Ring(3)
    ring.resize(64)
    ring.addr = addr()
    views = ring.map(memory, event_idx=True)
    assert [len(v) for v in views[:3]] == [1024, 6 + 128, 6 + 512]
    assert ring.map(memory, event_idx=True) is views
    memory.close()
    with pytest.raises(FrontendError):
        ring.map(memory, event_idx=True)


def test_without_event_index_the_event_fields_need_not_be_there(memory: MemoryTable) -> None:
    ring = Ring(3)
    ring.resize(64)
    ring.addr = addr(used=4 * PAGE_SIZE - (4 + 8 * 64))
    with pytest.raises(FrontendError):
        ring.map(memory, event_idx=True)
    assert len(ring.map(memory, event_idx=False).used) == 4 + 8 * 64


@pytest.mark.parametrize(
    "wrong", [addr(desc=8), addr(avail=PAGE_SIZE + 1), addr(used=2 * PAGE_SIZE + 2)]
)
def test_addresses_must_be_aligned(memory: MemoryTable, wrong: VringAddr) -> None:
    ring = Ring(3)
    ring.resize(64)
    ring.addr = wrong
    with pytest.raises(FrontendError, match="aligned"):
        ring.map(memory, event_idx=True)


def test_not_configured_yet(memory: MemoryTable) -> None:
    ring = Ring(3)
    with pytest.raises(FrontendError, match="no size"):
        ring.map(memory, event_idx=True)


def test_a_full_call_counter_is_a_pending_call() -> None:
    ring = Ring(0)
    ring.call()
    ring.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(ring.call_fd, (1 << 64) - 2)
    ring.call()
    assert os.eventfd_read(ring.call_fd) == (1 << 64) - 2
    os.close(ring.call_fd)
