"""The configuration space of a NIC, byte by byte (virtio 1.3, 5.1.4)."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import struct

import pytest

from vhost_user.virtio.net import VIRTIO_NET_S_LINK_UP, NetConfig

MAC = bytes.fromhex("02deadbeef01")
CONFIG = NetConfig(MAC, VIRTIO_NET_S_LINK_UP, 3, 9000)


def test_fields() -> None:
    assert CONFIG.pack() == MAC + b"\x01\0" + b"\x03\0" + (9000).to_bytes(2, "little")
    assert NetConfig.unpack(CONFIG.pack()) == CONFIG


def test_another_size_is_not_unpacked() -> None:
    with pytest.raises(struct.error):
        NetConfig.unpack(bytes(13))
