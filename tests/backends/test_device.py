"""A back-end device: what it checks, and what it reports."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from backends.device import BackendDevice
from backends.loop import Loop
from backends.virtio_device import VirtioDevice
from tests.backends.test_ring import Events
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import FrontendError
from vhost_user.features import VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES
from vhost_user.memory import PAGE_SIZE
from vhost_user.payloads import MAX_CONFIG, MemoryRegion

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 128
PROTOCOL = 1 << VHOST_USER_F_PROTOCOL_FEATURES
LOG_ALL = 1 << VHOST_F_LOG_ALL


class Recorded(VirtioDevice):
    """Records what it is told, and has a configuration space."""

    def __init__(self, loop: Loop) -> None:
        super().__init__("device", loop, 3)
        self.calls: list[str] = []
        self.changed = False

    def features_acked(self, acked: int) -> None:
        self.calls.append(f"features {acked:#x}")

    def config(self) -> bytes:
        return b"config"

    def refresh(self) -> bool:
        return self.changed

    def disconnected(self) -> None:
        self.calls.append("disconnected")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def virtio() -> Iterator[Recorded]:
    loop = Loop("device")
    yield Recorded(loop)
    loop.close()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def device(virtio: Recorded, events: Events) -> Iterator[BackendDevice]:
    made = BackendDevice(virtio, events)
    fd = os.memfd_create("ram")
    os.ftruncate(fd, PAGES * PAGE_SIZE)
    made.memory.replace([MemoryRegion(0, PAGES * PAGE_SIZE, 0x7000_0000, 0)], [fd])
    yield made
    made.close()


@pytest.fixture
def small_log() -> DirtyLog:
    """It ends in the middle of guest memory."""
    return DirtyLog.create(PAGES // 2)


def test_rings_are_enabled_without_protocol_features(device: BackendDevice) -> None:
    device.set_features(PROTOCOL)
    assert not any(ring.enabled for ring in device.rings)
    device.set_features(0)
    assert all(ring.enabled for ring in device.rings)


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 6, b"config"),
        (2, 6, b"nfig\0\0"),
        (MAX_CONFIG - 1, 1, b"\0"),
        (MAX_CONFIG - 1, 2, None),
        (MAX_CONFIG, 1, None),
        (1 << 32, 1, None),
    ],
)
def test_configuration_space(
    device: BackendDevice, offset: int, size: int, expected: bytes | None
) -> None:
    assert device.read_config(offset, size) == expected


@pytest.mark.parametrize("changed", [False, True])
def test_only_a_change_is_reported(
    device: BackendDevice, virtio: Recorded, events: Events, changed: bool
) -> None:
    virtio.changed = changed
    device.refresh()
    assert events.seen == ([("config", -1)] if changed else [])


def test_a_log_that_does_not_cover_memory_is_refused(
    device: BackendDevice, small_log: DirtyLog
) -> None:
    with pytest.raises(FrontendError, match="guest memory ends"):
        device.set_log(small_log)
    assert device.guest.log is None


def test_a_log_from_before_the_memory_is_checked_while_a_ring_runs(
    device: BackendDevice, small_log: DirtyLog
) -> None:
    device.guest.set_log(small_log)
    device.set_features(LOG_ALL)
    device.rings[1].set_kick(-1)
    with pytest.raises(FrontendError, match="guest memory ends"):
        device.set_features(LOG_ALL | PROTOCOL)
    device.set_features(0)


def test_the_log_mark_of_rings_follows_the_features_and_the_log(device: BackendDevice) -> None:
    def logging() -> set[bool]:
        return {ring.log_mark is not None for ring in device.rings}

    device.set_features(LOG_ALL)
    assert logging() == {False}
    device.set_log(DirtyLog.create(PAGES))
    assert logging() == {True}
    device.set_features(0)
    assert logging() == {False}
    device.set_features(LOG_ALL)
    assert logging() == {True}
    device.disconnect()
    assert logging() == {False}


def test_a_front_end_that_disconnects_leaves_nothing(
    device: BackendDevice, virtio: Recorded
) -> None:
    device.set_features(LOG_ALL)
    device.set_log(DirtyLog.create(PAGES))
    device.set_status(15)
    for ring in device.rings:
        ring.set_size(16)
        ring.set_base(7)
        ring.set_kick(-1)
    generation = device.guest.generation
    device.begin_stop()
    assert not device.running
    device.disconnect()
    assert device.status == device.guest.acked == 0
    assert device.guest.log is None
    assert not device.memory.regions
    assert device.guest.generation > generation
    assert [(ring.memory.size, ring.base, ring.started) for ring in device.rings] == [
        (0, 0, False)
    ] * 3
    assert virtio.calls == [f"features {LOG_ALL:#x}", "disconnected"]


def test_a_reset_can_keep_the_bases(device: BackendDevice) -> None:
    for ring in device.rings:
        ring.set_base(7)
    device.reset(keep_bases=True)
    assert [ring.stop() for ring in device.rings] == [7, 7, 7]
    device.reset()
    assert [ring.stop() for ring in device.rings] == [0, 0, 0]


def test_closes_its_device(device: BackendDevice, virtio: Recorded) -> None:
    device.close()
    assert virtio.calls[-1] == "close"
