"""The configuration for the guest's drivers, read from the devices before the guest boots."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from devices.blk import VhostUserBlk
from emu.guest.config import BlkFeatures, GuestConfig, ReaderConfig
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
from vhost_user.virtio.blk import (
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_WRITE_ZEROES,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.device import VhostDevice


class DiskUse(NamedTuple):
    """The guest reads the image of ``blk0`` in full, and writes it back unchanged if ``write``."""

    write: bool


def guest_config(
    devices: Sequence[VhostDevice], disk: DiskUse | None, timeout: float
) -> GuestConfig:
    """The features that the devices have acked, and the capacities of the disks.

    Args:
        devices: all devices of the VM, connected.
        disk: how the guest uses the image of ``blk0``; None for the usual workload.
        timeout: seconds for each reply.

    Raises:
        VhostUserError: a back-end does not send the capacity of its disk.
    """
    features = [
        BlkFeatures(
            capacity=blk.capacity(timeout=timeout),
            read_only=blk.has_feature(VIRTIO_BLK_F_RO),
            flush=blk.has_feature(VIRTIO_BLK_F_FLUSH),
            write_zeroes=blk.has_feature(VIRTIO_BLK_F_WRITE_ZEROES),
        )
        for blk in devices
        if isinstance(blk, VhostUserBlk)
    ]
    reader = None
    if disk is not None and features:
        reader = ReaderConfig(capacity=features[0].capacity or 0, write=disk.write)
    return GuestConfig(
        event_idx=all(device.has_feature(VIRTIO_RING_F_EVENT_IDX) for device in devices),
        indirect=all(device.has_feature(VIRTIO_RING_F_INDIRECT_DESC) for device in devices),
        disks=features,
        reader=reader,
    )
