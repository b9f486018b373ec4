"""Stamped blocks."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import struct

from emu.guest.stamps import ZEROED, BlockPattern


def test_every_sector_has_the_stamp() -> None:
    image = bytes(BlockPattern(disk=7).image(block=300, generation=9))
    assert len(image) == 4096
    for sector in range(8):
        for stamp in range(32):
            at = 512 * sector + 16 * stamp
            assert struct.unpack_from("<IHHII", image, at) == (0x554D4556, 7, sector, 300, 9)


def test_every_single_byte_counts() -> None:
    pattern = BlockPattern(disk=1)
    image = bytearray(pattern.image(5, 2))
    for at in range(0, 4096, 61):
        image[at] ^= 1
        assert not pattern.matches(memoryview(image), 5, 2)
        image[at] ^= 1
    assert pattern.matches(memoryview(image), 5, 2)


def test_another_generation_block_disk_or_order_does_not_match() -> None:
    pattern = BlockPattern(disk=1)
    image = bytes(pattern.image(5, 2))
    assert not pattern.matches(image, 5, 3)
    assert not pattern.matches(image, 6, 2)
    assert not BlockPattern(disk=2).matches(image, 5, 2)
    assert not pattern.matches(image[512:1024] + image[:512] + image[1024:], 5, 2)


def test_a_zeroed_block_is_zeroes() -> None:
    pattern = BlockPattern(disk=1)
    assert pattern.matches(bytes(4096), 5, ZEROED | 3)
    assert not pattern.matches(bytes(pattern.image(5, 3)), 5, ZEROED | 3)
    assert pattern.matches(bytes(pattern.image(5, 3)), 5, 3)
