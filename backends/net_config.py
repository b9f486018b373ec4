"""A NIC's configuration space (virtio 1.3, 5.1.4), and what its MTU means for frames."""

from __future__ import annotations

import struct
from typing import NamedTuple

from vhost_user.payloads import MAX_CONFIG

#: mac, status, max_virtqueue_pairs, mtu.
_CONFIG = struct.Struct("<6sHHH")
_LINK_UP = 1
#: What the specification lets a device say.
MTU_RANGE = range(68, 65536)
DEFAULT_MTU = 1500
_ETHERNET_HEADER = 14
_VLAN_TAG = 4
_TAGGED = b"\x81\x00"
_GROUP = 1
MAC_BYTES = 6


class NetConfig(NamedTuple):
    """What a driver can read.

    Attributes:
        mac: the NIC's address.
        pairs: pairs of rings.
        mtu: bytes of a packet at most.
        link: there is a network behind it.
    """

    mac: bytes
    pairs: int
    mtu: int
    link: bool = True

    def read(self, offset: int, size: int) -> bytes | None:
        """A part of it, which reads as zeroes behind its last field; None is beyond its end."""
        if offset + size > MAX_CONFIG:
            return None
        fields = _CONFIG.pack(self.mac, _LINK_UP if self.link else 0, self.pairs, self.mtu)
        return fields.ljust(MAX_CONFIG, b"\0")[offset : offset + size]


def longest_frame(mtu: int) -> int:
    """Bytes of the longest frame without a VLAN's tag."""
    return mtu + _ETHERNET_HEADER


def too_long(frame: bytes, longest: int) -> bool:
    """Whether a frame is longer than that; a VLAN's tag does not count."""
    excess = len(frame) - longest
    return excess > _VLAN_TAG or (excess > 0 and frame[12:14] != _TAGGED)


def parse_mac(text: str) -> bytes:
    """The address that ``02:00:00:00:00:01`` says.

    Raises:
        ValueError: it is no address, or one of a group or nobody's.
    """
    parts = text.split(":")
    if len(parts) != MAC_BYTES or any(len(part) != len("00") for part in parts):
        raise ValueError(f"{text}: give six bytes, as in 02:00:00:00:00:01")
    try:
        mac = bytes.fromhex("".join(parts))
    except ValueError:
        raise ValueError(f"{text}: is no number in base 16") from None
    if mac[0] & _GROUP or not any(mac):
        raise ValueError(f"{text}: is no address of a single NIC")
    return mac
