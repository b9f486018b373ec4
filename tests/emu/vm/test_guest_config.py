"""The configuration for the guest's drivers is that of the devices."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.vm.guest_config import DiskUse, guest_config
from tests.timeouts import TIMEOUT
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
from vhost_user.virtio.blk import VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_WRITE_ZEROES

if TYPE_CHECKING:
    from emu.vm.vm import Vm


def test_each_disk_has_its_capacity(vm: Vm) -> None:
    config = guest_config(vm.devices, None, TIMEOUT)
    disks = [device for device in vm.devices if device.device_class == "blk"]
    assert len(config.disks) == len(disks)
    assert all(disk.capacity for disk in config.disks)
    assert config.reader is None


@pytest.mark.parametrize("write", [False, True])
def test_the_image_of_a_user_is_read_in_full(vm: Vm, *, write: bool) -> None:
    config = guest_config(vm.devices, DiskUse(write=write), TIMEOUT)
    assert config.reader == (config.disks[0].capacity, write)


@pytest.mark.parametrize(
    ("bit", "name"),
    [
        (VIRTIO_BLK_F_RO, "read_only"),
        (VIRTIO_BLK_F_FLUSH, "flush"),
        (VIRTIO_BLK_F_WRITE_ZEROES, "write_zeroes"),
    ],
)
def test_features_of_a_disk(vm: Vm, bit: int, name: str) -> None:
    disk = next(device for device in vm.devices if device.device_class == "blk")
    before = getattr(guest_config(vm.devices, None, TIMEOUT).disks[0], name)
    disk.acked_features ^= 1 << bit
    after = guest_config(vm.devices, None, TIMEOUT).disks
    assert getattr(after[0], name) is not before
    assert getattr(after[1], name) is before


@pytest.mark.parametrize(
    ("bit", "name"),
    [(VIRTIO_RING_F_EVENT_IDX, "event_idx"), (VIRTIO_RING_F_INDIRECT_DESC, "indirect")],
)
def test_all_devices_have_a_feature_of_rings_or_none(vm: Vm, bit: int, name: str) -> None:
    assert getattr(guest_config(vm.devices, None, TIMEOUT), name)
    vm.devices[-1].acked_features &= ~(1 << bit)
    assert not getattr(guest_config(vm.devices, None, TIMEOUT), name)
