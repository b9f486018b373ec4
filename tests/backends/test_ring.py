"""A ring: how it is set up, where it is mapped, what it reports."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.device import BackendDevice
from backends.isolation import describe
from backends.loop import Loop
from backends.virtio_device import VirtioDevice
from tests.waiting import wait_until
from vhost_user.errors import FrontendError
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.memory import PAGE_SIZE
from vhost_user.payloads import MemoryRegion, VringAddr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backends.ring import Ring

USER = 0x7000_0000
EVENT_IDX = 1 << VIRTIO_RING_F_EVENT_IDX


class Events:
    """Records what a device reports."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def ring_started(self, ring: int) -> None:
        self.seen.append(("started", ring))

    def ring_idle(self, ring: int) -> None:
        self.seen.append(("idle", ring))

    def ring_failed(self, ring: int, error: Exception) -> None:
        self.seen.append((describe(error), ring))

    def device_failed(self, error: Exception) -> None:
        self.seen.append((describe(error), -1))

    def config_changed(self) -> None:
        self.seen.append(("config", -1))


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def device(events: Events) -> Iterator[BackendDevice]:
    """Four rings, and four pages of guest memory."""
    loop = Loop("ring")
    made = BackendDevice(VirtioDevice("device", loop, 4), events)
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 4 * PAGE_SIZE)
    made.memory.replace([MemoryRegion(0, 4 * PAGE_SIZE, USER, 0)], [fd])
    yield made
    made.close()
    loop.close()


@pytest.fixture
def ring(device: BackendDevice) -> Ring:
    return device.rings[3]


def addr(desc: int = 0, avail: int = PAGE_SIZE, used: int = 2 * PAGE_SIZE) -> VringAddr:
    return VringAddr(3, 0, USER + desc, USER + used, USER + avail, 0)


@pytest.mark.parametrize("size", [1, 2, 128, 32768])
def test_sizes(ring: Ring, size: int) -> None:
    ring.set_size(size)
    assert ring.memory.size == size


@pytest.mark.parametrize("size", [0, 3, 100, 65536])
def test_invalid_sizes(ring: Ring, size: int) -> None:
    with pytest.raises(FrontendError, match="ring 3"):
        ring.set_size(size)


def test_is_mapped_once_until_the_memory_changes(device: BackendDevice, ring: Ring) -> None:
    device.set_features(EVENT_IDX)
    ring.set_size(64)
    ring.set_addr(addr())
    views = ring.memory.map()
    assert [len(v) for v in views[:3]] == [1024, 6 + 128, 6 + 512]
    assert ring.memory.map() is views
    device.memory.close()
    with pytest.raises(FrontendError):
        ring.memory.map()


def test_without_event_index_the_event_fields_need_not_be_mapped(
    device: BackendDevice, ring: Ring
) -> None:
    ring.set_size(64)
    last = addr(used=4 * PAGE_SIZE - (4 + 8 * 64))
    device.set_features(EVENT_IDX)
    with pytest.raises(FrontendError):
        ring.set_addr(last)
    device.set_features(0)
    ring.set_addr(last)
    assert len(ring.memory.map().used) == 4 + 8 * 64


@pytest.mark.parametrize(
    "wrong", [addr(desc=8), addr(avail=PAGE_SIZE + 1), addr(used=2 * PAGE_SIZE + 2)]
)
def test_addresses_must_be_aligned(ring: Ring, wrong: VringAddr) -> None:
    ring.set_size(64)
    with pytest.raises(FrontendError, match="aligned"):
        ring.set_addr(wrong)


def test_not_configured_yet(ring: Ring) -> None:
    with pytest.raises(FrontendError, match="no size"):
        ring.memory.map()
    assert ring.activate() is None


def test_a_full_call_counter_is_a_pending_interrupt(ring: Ring) -> None:
    ring.interrupt()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    ring.set_call(fd)
    os.eventfd_write(fd, (1 << 64) - 2)
    ring.interrupt()
    assert os.eventfd_read(fd) >= (1 << 64) - 2


@pytest.mark.parametrize("setter", ["set_call", "set_err"])
def test_a_descriptor_that_would_block_is_signalled_without_waiting(
    ring: Ring, setter: str
) -> None:
    fd = os.eventfd(0, 0)
    os.eventfd_write(fd, (1 << 64) - 2)
    getattr(ring, setter)(fd)
    ring.interrupt()
    ring.signal_error()
    assert os.get_blocking(fd)


@pytest.mark.parametrize("pending", [b"", bytes(8)])
def test_a_kick_that_hangs_up_fails_its_ring_and_is_not_delivered_again(
    device: BackendDevice, ring: Ring, events: Events, pending: bytes
) -> None:
    reader, writer = os.pipe()
    ring.set_kick(reader)
    os.write(writer, pending)
    os.close(writer)
    with device.loop.base:
        wait_until(lambda: ring.broken)
        assert any("kick" in what for what, _ in events.seen)
        watched = Path("/proc/self/fd", str(reader))
        wait_until(lambda: not watched.exists(), "the kick is closed")


def test_reports_its_start_its_failure_and_its_last_completion(ring: Ring, events: Events) -> None:
    ring.set_kick(-1)
    ring.begin_async()
    ring.begin_stop()
    ring.abort(FrontendError("broken"))
    assert events.seen == [("started", 3), ("broken", 3), ("idle", 3)]


def test_a_completion_of_a_running_ring_is_not_reported(ring: Ring, events: Events) -> None:
    ring.begin_async()
    ring.complete(0, 0)
    assert events.seen == []
