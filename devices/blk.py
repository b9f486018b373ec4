"""virtio-blk over vhost-user, at the front-end."""

from __future__ import annotations

from devices.device import COMMON_FEATURES, COMMON_PROTOCOL_FEATURES, VhostDevice
from vhost_user.errors import BackendError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import Config
from vhost_user.virtio.blk import (
    BLK_CONFIG_SIZE,
    VIRTIO_BLK_F_BLK_SIZE,
    VIRTIO_BLK_F_DISCARD,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
    BlkConfig,
)


class VhostUserBlk(VhostDevice):
    """A disk whose back-end is another process."""

    device_class = "blk"
    wanted_features = COMMON_FEATURES | sum(
        1 << bit
        for bit in (
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_RO,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_MQ,
            VIRTIO_BLK_F_DISCARD,
            VIRTIO_BLK_F_WRITE_ZEROES,
        )
    )
    wanted_protocol_features = (
        COMMON_PROTOCOL_FEATURES | ProtocolFeature.CONFIG | ProtocolFeature.INFLIGHT_SHMFD
    )

    def config(self, *, timeout: float = 5.0) -> bytes:
        """The device's configuration space (struct virtio_blk_config), read from the back-end.

        Raises:
            BackendError: the back-end does not offer CONFIG, or did not send all of it.
        """
        if ProtocolFeature.CONFIG not in self.connection.protocol_features:
            raise BackendError(
                "the back-end does not offer CONFIG: the capacity of its disk is unknown",
                device=self.name,
            )
        request = Request(
            FrontendRequest.GET_CONFIG, Config(0, 0, bytes(BLK_CONFIG_SIZE)), need_reply=False
        )
        reply = self.connection.call(request, timeout)
        if reply is None or not isinstance(reply.payload, Config):
            raise BackendError(
                "sent no configuration space", device=self.name, message="GET_CONFIG"
            )
        data = bytes(reply.payload.data)
        if len(data) != BLK_CONFIG_SIZE:
            raise BackendError(
                f"sent {len(data)} bytes of the {BLK_CONFIG_SIZE} that were requested",
                device=self.name,
                message="GET_CONFIG",
            )
        return data

    def capacity(self, *, timeout: float = 5.0) -> int:
        """The capacity in sectors of 512 bytes."""
        return BlkConfig.unpack(self.config(timeout=timeout)).capacity
