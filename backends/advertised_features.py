"""The features that every back-end device offers, whatever its class."""

from __future__ import annotations

from vhost_user import postcopy
from vhost_user.features import (
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    F_VERSION_1,
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    ProtocolFeature,
)

FEATURES = (
    1 << F_VERSION_1
    | 1 << F_RING_INDIRECT_DESC
    | 1 << F_RING_EVENT_IDX
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
