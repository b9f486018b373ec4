"""virtio-rng over vhost-user, front-end side."""

from __future__ import annotations

from devices.device import COMMON_FEATURES, COMMON_PROTOCOL_FEATURES, VhostDevice
from vhost_user.features import ProtocolFeature


class VhostUserRng(VhostDevice):
    """An entropy device whose back-end is another process: no configuration space, no features."""

    device_class = "rng"
    wanted_features = COMMON_FEATURES
    wanted_protocol_features = COMMON_PROTOCOL_FEATURES | ProtocolFeature.INFLIGHT_SHMFD
