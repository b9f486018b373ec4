"""virtio-net over vhost-user, at the front-end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.device import COMMON_FEATURES, COMMON_PROTOCOL_FEATURES, VhostDevice
from vhost_user.features import ProtocolFeature
from vhost_user.virtio.net import VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ

if TYPE_CHECKING:
    from devices.vring import Vring


class VhostUserNet(VhostDevice):
    """A NIC whose back-end is another process. Ring 2n receives, ring 2n+1 transmits."""

    device_class = "net"
    wanted_features = COMMON_FEATURES | (1 << VIRTIO_NET_F_MAC) | (1 << VIRTIO_NET_F_MQ)
    wanted_protocol_features = COMMON_PROTOCOL_FEATURES | ProtocolFeature.NET_MTU
    queue_unit = "queue pairs"
    in_order = True

    def receives(self, ring: Vring) -> bool:
        """See `VhostDevice.receives`."""
        return not ring.index % 2

    @property
    def queues(self) -> int:
        """Pairs of rings: QEMU and DPDK read a NIC's GET_QUEUE_NUM as these."""
        return len(self.rings) // 2
