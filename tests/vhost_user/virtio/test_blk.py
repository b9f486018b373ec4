"""The configuration space of a disk, byte by byte (virtio 1.3, 5.2.4)."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import struct

import pytest

from vhost_user.virtio.blk import BLK_CONFIG_SIZE, REQUEST_HEADER, SEGMENT, BlkConfig

CONFIG = BlkConfig(1 << 40, 2, 3, 4, 1, 6, 7, 8, 9, 10, 11, 1)
#: Field to its offset and the bytes of its integer, as the specification defines the structure.
PLACES = {
    "capacity": (0, 8),
    "size_max": (8, 4),
    "seg_max": (12, 4),
    "blk_size": (20, 4),
    "writeback": (32, 1),
    "num_queues": (34, 2),
    "max_discard_sectors": (36, 4),
    "max_discard_seg": (40, 4),
    "discard_sector_alignment": (44, 4),
    "max_write_zeroes_sectors": (48, 4),
    "max_write_zeroes_seg": (52, 4),
    "write_zeroes_may_unmap": (56, 1),
}


@pytest.mark.parametrize("field", BlkConfig._fields)
def test_each_field_is_where_the_specification_has_it(field: str) -> None:
    start, size = PLACES[field]
    data = CONFIG.pack()
    assert int.from_bytes(data[start : start + size], "little") == getattr(CONFIG, field)


def test_what_was_packed_is_unpacked() -> None:
    assert BlkConfig.unpack(CONFIG.pack()) == CONFIG


def test_nothing_else_is_packed() -> None:
    data = bytearray(CONFIG.pack())
    assert len(data) == BLK_CONFIG_SIZE == 60
    for start, size in PLACES.values():
        data[start : start + size] = bytes(size)
    assert not any(data)


def test_another_size_is_not_unpacked() -> None:
    with pytest.raises(struct.error):
        BlkConfig.unpack(bytes(BLK_CONFIG_SIZE - 1))


def test_requests() -> None:
    assert REQUEST_HEADER.size == 16
    assert SEGMENT.size == 16
