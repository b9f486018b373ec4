"""virtio-net (virtio 1.3, section 5.1)."""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

# 5.1.3 "Feature bits"
VIRTIO_NET_F_MTU = 3
VIRTIO_NET_F_MAC = 5
VIRTIO_NET_F_STATUS = 16
VIRTIO_NET_F_CTRL_VQ = 17
VIRTIO_NET_F_MQ = 22

#: Bit of `NetConfig.status`: the link is up.
VIRTIO_NET_S_LINK_UP = 1
#: MTUs that a device may have (5.1.4.1).
MTU_RANGE = range(68, 65536)

#: Bytes of struct virtio_net_hdr (5.1.6): flags, gso_type, hdr_len, gso_size, csum_start,
#: csum_offset, num_buffers.
NET_HEADER_SIZE = 12
#: The same without num_buffers, as legacy drivers have it (5.1.6.1).
LEGACY_NET_HEADER_SIZE = 10

_CONFIG = struct.Struct("<6sHHH")


class NetConfig(NamedTuple):
    """struct virtio_net_config up to mtu (5.1.4)."""

    mac: bytes
    status: int
    max_virtqueue_pairs: int
    mtu: int

    def pack(self) -> bytes:
        """The structure's 12 bytes."""
        return _CONFIG.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The fields of the structure's bytes.

        Raises:
            struct.error: ``data`` does not have 12 bytes.
        """
        return cls._make(_CONFIG.unpack(data))
