"""What the guest's drivers negotiate and read from the devices when they probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class BlkFeatures(NamedTuple):
    """What the guest's driver uses of a disk.

    Attributes:
        capacity: sectors of 512 bytes, or None where it was not read from the device.
        read_only: VIRTIO_BLK_F_RO: only reads are sent.
        flush, write_zeroes: VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES.
    """

    capacity: int | None = None
    read_only: bool = False
    flush: bool = True
    write_zeroes: bool = True


class ReaderConfig(NamedTuple):
    """A disk that is read in full instead of being under the stamped workload: ``blk0``.

    Attributes:
        capacity: sectors of 512 bytes.
        write: write every chunk back after it was read.
    """

    capacity: int
    write: bool = False


class GuestConfig(NamedTuple):
    """What the drivers negotiated; the same at source and destination of a migration.

    Attributes:
        event_idx, indirect: virtio ring features, negotiated for all devices.
        disks: features of each disk by its number; the default for a number that is not listed.
        reader: how ``blk0`` is read, when it is a user's disk.
        switched: NICs send to each other in pairs (0 and 1, 2 and 3, ...) instead of to
            themselves, for back-ends that work as a switch.
    """

    event_idx: bool = True
    indirect: bool = True
    disks: Sequence[BlkFeatures] = ()
    reader: ReaderConfig | None = None
    switched: bool = False
