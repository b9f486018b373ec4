"""A block of the workload: every sector holds its disk, its sector number and its generation.

Copies of a stamp of 16 bytes (magic, disk, sector within the block, block, generation) fill each
sector, so that a sector that is missing, misplaced, torn or of an older generation is seen.
"""

from __future__ import annotations

import struct
from array import array

from emu.guest.layout import BLOCK
from vhost_user.virtio.blk import SECTOR_SIZE

MAGIC = 0x554D4556  # "VEMU" on the disk
_STAMP = struct.Struct("<IHHII")
_STAMPS_PER_SECTOR = SECTOR_SIZE // _STAMP.size
_STAMPS_PER_BLOCK = BLOCK // _STAMP.size
SECTORS_PER_BLOCK = BLOCK // SECTOR_SIZE
#: A bytearray compares with any buffer by memcmp; a memoryview on the left goes byte by byte.
_ZEROES = bytearray(BLOCK)

#: Bit of a generation: the block was zeroed, so it has no stamps.
ZEROED = 1 << 31
GENERATION_MASK = ZEROED - 1


class BlockPattern:
    """Makes the contents of one disk's blocks, in one buffer for all of them.

    Args:
        disk: its number within the class.
    """

    __slots__ = ("_image", "_varying")

    def __init__(self, disk: int) -> None:
        self._image = bytearray(
            b"".join(
                _STAMP.pack(MAGIC, disk, sector, 0, 0) * _STAMPS_PER_SECTOR
                for sector in range(SECTORS_PER_BLOCK)
            )
        )
        # block and generation are the second u64 of each stamp: one strided copy sets them all
        self._varying = memoryview(self._image).cast("Q")[1::2]

    def image(self, block: int, generation: int) -> bytearray:
        """The 4096 bytes of a block; valid until the next call; the caller must not change them.

        Args:
            block: its index on the disk, in units of 4096 bytes.
            generation: with `ZEROED` set, the block is all zeroes.
        """
        if generation & ZEROED:
            return _ZEROES
        self._varying[:] = array("Q", (generation << 32 | block,)) * _STAMPS_PER_BLOCK
        return self._image

    def matches(self, data: memoryview | bytes, block: int, generation: int) -> bool:
        """Whether these bytes are the contents of that block."""
        # in typeshed a bytearray compares with bytes only
        expected: object = self.image(block, generation)
        return expected == data
