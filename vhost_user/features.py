"""Feature bits: virtio's, vhost's, and vhost-user's own protocol features, as data.

Some releases number features and messages differently from the specification: a `Dialect` has their
numbers, and each session has one.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

VIRTIO_RING_F_INDIRECT_DESC = 28
VIRTIO_RING_F_EVENT_IDX = 29
VIRTIO_F_VERSION_1 = 32
VIRTIO_F_IOMMU_PLATFORM = 33
VIRTIO_F_RING_PACKED = 34
VHOST_F_LOG_ALL = 26
VHOST_USER_F_PROTOCOL_FEATURES = 30


class ProtocolFeature(IntFlag):
    """The protocol features as masks, as the specification numbers them (``MQ`` is bit 0)."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    GPA_ADDRESSES = 1 << 21
    SHMEM = 1 << 22
    GET_VRING_BASE_SKIP_DRAIN = 1 << 23


#: Protocol features that need others.
DEPENDENCIES: dict[ProtocolFeature, ProtocolFeature] = {
    # libvhost-user closes the connection on this one (vu_set_protocol_features_exec)
    ProtocolFeature.INBAND_NOTIFICATIONS: ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK,
    ProtocolFeature.BACKEND_SEND_FD: ProtocolFeature.BACKEND_REQ,
    ProtocolFeature.HOST_NOTIFIER: ProtocolFeature.BACKEND_REQ,
    # commit e0822e6085: aborted requests stay recorded in the inflight region
    ProtocolFeature.GET_VRING_BASE_INFLIGHT: ProtocolFeature.INFLIGHT_SHMFD,
    # commit 1276e6c85d
    ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN: (
        ProtocolFeature.GET_VRING_BASE_INFLIGHT | ProtocolFeature.INFLIGHT_SHMFD
    ),
}
#: The protocol features up to this bit, and the front-end's messages up to this id, have the same
#: numbers in all dialects.
LAST_COMMON_BIT, LAST_COMMON_MESSAGE = 20, 43


class Dialect(NamedTuple):
    """How a project numbers protocol features and messages.

    Attributes:
        name: of the project.
        source: where the numbers are documented.
        bits: its protocol features beyond `LAST_COMMON_BIT`: name to bit number.
        messages: its front-end messages beyond `LAST_COMMON_MESSAGE`: id to name.
    """

    name: str
    source: str
    bits: dict[str, int]
    messages: dict[int, str]

    def protocol_feature(self, name: str) -> ProtocolFeature | None:
        """The mask of a protocol feature, by name; None if this dialect does not have it."""
        if name in self.bits:
            return ProtocolFeature(1 << self.bits[name])
        common = ProtocolFeature.__members__.get(name)
        return common if common is not None and common <= 1 << LAST_COMMON_BIT else None


SPEC = Dialect(
    "spec",
    "QEMU docs/interop/vhost-user.rst, 1276e6c85d",
    {"GPA_ADDRESSES": 21, "SHMEM": 22, "GET_VRING_BASE_SKIP_DRAIN": 23},
    {44: "GET_SHMEM_CONFIG", 45: "GET_VRING_BASE_SKIP_DRAIN"},
)
RUST_VMM = Dialect(
    "rust-vmm",
    "rust-vmm vhost 0.16, commit 4e217d99; 0.17 has the specification's numbers",
    {"SHMEM": 21},
    {44: "GET_SHMEM_CONFIG"},
)
YC_LIBVHOST = Dialect(
    "yc-libvhost",
    "yc-libvhost-server #48: a protocol feature of its own; the bit is in its header",
    {},
    {44: "GET_VRING_BASE_SKIP_DRAIN"},
)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (SPEC, RUST_VMM, YC_LIBVHOST)}


def missing_dependencies(features: ProtocolFeature) -> dict[ProtocolFeature, ProtocolFeature]:
    """Features of the set that need others which are not in it: feature to what is missing."""
    return {
        feature: needs & ~features
        for feature, needs in DEPENDENCIES.items()
        if feature & features and needs & ~features
    }
