"""Feature negotiation with the back-end under test, as QEMU does it or in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from vhost_user.features import (
    LAST_COMMON_BIT,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    Dialect,
    ProtocolFeature,
)
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import U64
from vhost_user_conformance.back_end.requests import Requests
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.verdict import unsupported
from vhost_user_conformance.peer.device_work import least_rings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.peer.wire import Wire

F = FrontendRequest
PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES
#: The number of rings that is assumed before the back-end has reported one, as without MQ.
ASSUMED_RINGS = 1
#: Protocol features that change the meaning of messages: only cases about them negotiate them.
INTRUSIVE = (
    ProtocolFeature.INBAND_NOTIFICATIONS
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.XEN_MMAP
    | ProtocolFeature.GET_VRING_BASE_INFLIGHT
    | ProtocolFeature.PAGEFAULT
    | ProtocolFeature.STATUS
)
#: Those that have the same number in all dialects.
_COMMON = ProtocolFeature((2 << LAST_COMMON_BIT) - 1)


def u64(value: int) -> bytes:
    """A number's bytes."""
    return U64(value).pack()


class Negotiation(Requests):
    """A connection, and the features that were negotiated on it.

    Args:
        wire: connected.
        device: class of the device, or "" if it is unknown.
        dialect: which numbers it uses.

    Attributes:
        device_class: its row.
        features: feature bits that the back-end offers, once `read_features` has asked for them.
        protocol: protocol features that it offers.
        rings: the number of rings that it reports.
        driver_features: feature bits that SET_FEATURES acknowledges.
    """

    def __init__(self, wire: Wire, device: str, dialect: Dialect) -> None:
        super().__init__(wire)
        self.device = device
        self.device_class = row_of(device)
        self.dialect = dialect
        self.features = 0
        self.protocol = ProtocolFeature(0)
        self.rings = ASSUMED_RINGS
        self.driver_features = 0

    def read_features(self) -> Self:
        """Read what it offers, without negotiating."""
        self.features = self.ask_u64(F.GET_FEATURES)
        if self.features & PROTOCOL_BIT:
            self.protocol = ProtocolFeature(self.ask_u64(F.GET_PROTOCOL_FEATURES))
        return self

    def negotiate(
        self,
        *names: str,
        without: tuple[str, ...] = (),
        features: int | None = None,
        owner: bool = True,
        set_features: bool = True,
    ) -> Self:
        """Negotiate: protocol features, the number of rings, the owner, and features.

        Args:
            names: protocol features to negotiate besides the usual ones.
            without: usual ones to omit.
            features: feature bits to acknowledge, as far as they are offered; by default
                VERSION_1 and bit 30.
            owner: send SET_OWNER.
            set_features: send SET_FEATURES.

        Raises:
            Unsupported: it does not offer one of ``names``.
        """
        self.read_features()
        usual = self._usual(names, without)
        if self.features & PROTOCOL_BIT:
            self.send(F.SET_PROTOCOL_FEATURES, u64(int(usual)))
            self.acked = usual
        if ProtocolFeature.MQ in usual:
            self.rings = self._ring_count()
        else:
            self.rings = max(self.rings, least_rings(self.device))
        if owner:
            self.send(F.SET_OWNER)
        wanted = (1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT) if features is None else features
        self.driver_features = wanted & self.features
        if set_features:
            self.send(F.SET_FEATURES, u64(self.driver_features))
        return self

    def _usual(self, names: Sequence[str], without: Sequence[str]) -> ProtocolFeature:
        """The protocol features to negotiate. Raises `Unsupported` where one is not offered."""
        usual = self.protocol & _COMMON & ~INTRUSIVE
        for name in without:
            usual &= ~self.mask(name)
        for name in names:
            mask = self.mask(name)
            if mask not in self.protocol:
                unsupported(f"{name} is not offered")
            usual |= mask
        if ProtocolFeature.BACKEND_REQ not in usual:
            usual &= ~(ProtocolFeature.BACKEND_SEND_FD | ProtocolFeature.HOST_NOTIFIER)
        return usual

    def negotiate_bits(self, *bits: int) -> Self:
        """Negotiate the usual features and these feature bits.

        Raises:
            Unsupported: it does not offer one of them.
        """
        self.read_features()
        for bit in bits:
            if not self.features >> bit & 1:
                unsupported(f"feature bit {bit} is not offered")
        return self.negotiate(
            features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | sum(1 << bit for bit in bits)
        )

    def _ring_count(self) -> int:
        queues = self.ask_u64(F.GET_QUEUE_NUM)
        # QEMU, DPDK and their back-ends count a NIC's queues in pairs of rings.
        return queues * self.device_class.rings_per_queue

    def mask(self, name: str) -> ProtocolFeature:
        """The mask of a protocol feature in this dialect."""
        mask = self.dialect.protocol_feature(name)
        return ProtocolFeature(0) if mask is None else mask
