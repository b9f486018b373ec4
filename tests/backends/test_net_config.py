"""Addresses as text, and how long frames may be."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from backends.net_config import longest_frame, parse_mac, too_long

MAC = bytes.fromhex("02deadbeef01")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("02:00:00:00:00", "write six bytes"),
        ("2:0:0:0:0:1", "write six bytes"),
        ("02:00:00:00:00:0x", "not hexadecimal"),
        ("01:00:5e:00:00:01", "not a unicast address"),
        ("00:00:00:00:00:00", "not a unicast address"),
    ],
)
def test_invalid_addresses(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_mac(text)


def test_addresses() -> None:
    assert parse_mac("02:De:ad:be:ef:01") == MAC


@pytest.mark.parametrize(
    ("packet", "tag", "wrong"),
    [(1500, b"", False), (1501, b"", True), (1500, b"\x81\0\0\1", False), (1501, b"\x81\0\0\1", 1)],
)
def test_a_vlan_tag_does_not_count(packet: int, tag: bytes, wrong: bool) -> None:
    frame = bytes(12) + tag + b"\x08\0" + bytes(packet)
    assert too_long(frame, longest_frame(1500)) == wrong
