"""The features that back-end devices of all classes offer."""

from __future__ import annotations

from vhost_user import postcopy
from vhost_user.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    ProtocolFeature,
)

FEATURES = (
    1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VHOST_F_LOG_ALL
    | 1 << VHOST_USER_F_PROTOCOL_FEATURES
)
_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.STATUS
)


def protocol_features() -> ProtocolFeature:
    """The protocol features; PAGEFAULT only where the host allows userfaultfd."""
    if postcopy.possible():
        return _PROTOCOL_FEATURES | ProtocolFeature.PAGEFAULT
    return _PROTOCOL_FEATURES
