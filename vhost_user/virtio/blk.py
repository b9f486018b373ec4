"""virtio-blk (virtio 1.3, section 5.2)."""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

#: Unit of capacities and offsets, independent of the logical block size (5.2.4).
SECTOR_SIZE = 512

# 5.2.3 "Feature bits"
VIRTIO_BLK_F_SEG_MAX = 2
VIRTIO_BLK_F_RO = 5
VIRTIO_BLK_F_BLK_SIZE = 6
VIRTIO_BLK_F_FLUSH = 9
VIRTIO_BLK_F_MQ = 12
VIRTIO_BLK_F_DISCARD = 13
VIRTIO_BLK_F_WRITE_ZEROES = 14

# 5.2.6 "Device Operation": request types
VIRTIO_BLK_T_IN = 0
VIRTIO_BLK_T_OUT = 1
VIRTIO_BLK_T_FLUSH = 4
VIRTIO_BLK_T_GET_ID = 8
VIRTIO_BLK_T_DISCARD = 11
VIRTIO_BLK_T_WRITE_ZEROES = 13

# 5.2.6: status bytes
VIRTIO_BLK_S_OK = 0
VIRTIO_BLK_S_IOERR = 1
VIRTIO_BLK_S_UNSUPP = 2

#: A request's header: u32 type, u32 reserved, u64 sector.
REQUEST_HEADER = struct.Struct("<IIQ")
#: A segment of DISCARD and WRITE_ZEROES: u64 sector, u32 sectors, u32 flags.
SEGMENT = struct.Struct("<QII")
#: The flag of a WRITE_ZEROES segment that allows the device to deallocate it.
VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1
#: Bytes of the answer to GET_ID.
VIRTIO_BLK_ID_BYTES = 20

_CONFIG = struct.Struct("<QII4xI8xBxHIIIIIB3x")


class BlkConfig(NamedTuple):
    """struct virtio_blk_config up to write_zeroes_may_unmap and its padding (5.2.4).

    The geometry and the topology are left out: they are zeroes when packed, and not unpacked.
    ``capacity`` and the limits of DISCARD and WRITE_ZEROES are in sectors.
    """

    capacity: int
    size_max: int
    seg_max: int
    blk_size: int
    writeback: int
    num_queues: int
    max_discard_sectors: int
    max_discard_seg: int
    discard_sector_alignment: int
    max_write_zeroes_sectors: int
    max_write_zeroes_seg: int
    write_zeroes_may_unmap: int

    def pack(self) -> bytes:
        """The structure's `BLK_CONFIG_SIZE` bytes."""
        return _CONFIG.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The fields of the structure's bytes.

        Raises:
            struct.error: ``data`` does not have `BLK_CONFIG_SIZE` bytes.
        """
        return cls._make(_CONFIG.unpack(data))


#: Bytes of `BlkConfig`.
BLK_CONFIG_SIZE = _CONFIG.size
