"""A NIC's address as text, and what its MTU means for frames."""

from __future__ import annotations

DEFAULT_MTU = 1500
_ETHERNET_HEADER = 14
_VLAN_TAG = 4
_TAGGED = b"\x81\x00"
_GROUP = 1
MAC_BYTES = 6


def longest_frame(mtu: int) -> int:
    """Bytes of the longest frame without a VLAN's tag."""
    return mtu + _ETHERNET_HEADER


def too_long(frame: bytes, longest: int) -> bool:
    """Whether a frame is longer than that; a VLAN's tag does not count."""
    excess = len(frame) - longest
    return excess > _VLAN_TAG or (excess > 0 and frame[12:14] != _TAGGED)


def parse_mac(text: str) -> bytes:
    """The bytes of an address such as ``02:00:00:00:00:01``.

    Raises:
        ValueError: it is not an address, or it is a group address or all zeroes.
    """
    parts = text.split(":")
    if len(parts) != MAC_BYTES or any(len(part) != len("00") for part in parts):
        raise ValueError(f"{text}: write six bytes, as in 02:00:00:00:00:01")
    try:
        mac = bytes.fromhex("".join(parts))
    except ValueError:
        raise ValueError(f"{text}: is not hexadecimal") from None
    if mac[0] & _GROUP or not any(mac):
        raise ValueError(f"{text}: is not a unicast address")
    return mac
