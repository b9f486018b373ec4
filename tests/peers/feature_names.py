"""The names of feature bits: virtio's, by class of device, and vhost-user's."""

from __future__ import annotations

from vhost_user.features import ProtocolFeature

_ANY = {
    24: "NOTIFY_ON_EMPTY",
    26: "LOG_ALL",
    27: "ANY_LAYOUT",
    28: "RING_INDIRECT_DESC",
    29: "RING_EVENT_IDX",
    30: "PROTOCOL_FEATURES",
    32: "VERSION_1",
    33: "ACCESS_PLATFORM",
    34: "RING_PACKED",
    35: "IN_ORDER",
    36: "ORDER_PLATFORM",
    37: "SR_IOV",
    38: "NOTIFICATION_DATA",
    39: "NOTIF_CONFIG_DATA",
    40: "RING_RESET",
}
_OF_CLASS = {
    "blk": {
        0: "BARRIER",
        1: "SIZE_MAX",
        2: "SEG_MAX",
        4: "GEOMETRY",
        5: "RO",
        6: "BLK_SIZE",
        7: "SCSI",
        9: "FLUSH",
        10: "TOPOLOGY",
        11: "CONFIG_WCE",
        12: "MQ",
        13: "DISCARD",
        14: "WRITE_ZEROES",
        15: "LIFETIME",
        16: "SECURE_ERASE",
    },
    "net": {
        0: "CSUM",
        1: "GUEST_CSUM",
        2: "CTRL_GUEST_OFFLOADS",
        3: "MTU",
        5: "MAC",
        6: "GSO",
        7: "GUEST_TSO4",
        8: "GUEST_TSO6",
        9: "GUEST_ECN",
        10: "GUEST_UFO",
        11: "HOST_TSO4",
        12: "HOST_TSO6",
        13: "HOST_ECN",
        14: "HOST_UFO",
        15: "MRG_RXBUF",
        16: "STATUS",
        17: "CTRL_VQ",
        18: "CTRL_RX",
        19: "CTRL_VLAN",
        20: "CTRL_RX_EXTRA",
        21: "GUEST_ANNOUNCE",
        22: "MQ",
        23: "CTRL_MAC_ADDR",
        52: "DEVICE_STATS",
        53: "VQ_NOTF_COAL",
        54: "NOTF_COAL",
        55: "GUEST_USO4",
        56: "GUEST_USO6",
        57: "HOST_USO",
        58: "HASH_REPORT",
        59: "GUEST_HDRLEN",
        60: "RSS",
        61: "RSC_EXT",
        62: "STANDBY",
        63: "SPEED_DUPLEX",
    },
    "fs": {0: "NOTIFICATION"},
}


def features(mask: int, device: str) -> list[str]:
    """The names of a mask's feature bits; a bit without one is ``bit N``."""
    names = _ANY | _OF_CLASS.get(device, {})
    return [names.get(bit, f"bit {bit}") for bit in _bits(mask)]


def protocol_features(mask: int) -> list[str]:
    """The names of a mask's protocol features."""
    names = {feature.value: name for name, feature in ProtocolFeature.__members__.items()}
    return [names.get(1 << bit, f"bit {bit}") for bit in _bits(mask)]


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
