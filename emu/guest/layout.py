"""Where everything of the guest lies in guest memory. Both sides of a migration compute the same.

A hot page is sent in the blackout, so what a ring needs shares as few pages as possible: the
split ring of 128 descriptors (3342 bytes) leaves room in its page for the driver's own state.

    1 MiB    control page       the load's settings, written by the host's side, cold
             pulse page         heartbeat and the cursors of the tick, written every millisecond
             disk reader page   its SHA-256 state, slots and counters
             serials            what GET_ID answered, 32 bytes a device
             rings              one page a ring: desc, avail, used, driver state
             receive buffers    one page a queue pair
    4 GiB    block buffers      4 pages a disk's ring (after the receive buffers in a small VM)
             reader buffers     64 KiB a slot
             scribbled pages    up to 64 MiB, touched only when the guest is to write them
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.config.vm_spec import ShapeError, VmSpec
from vhost_user.memory import PAGE_SIZE
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.guest.platform import Region

BASE = 1 << 20
HIGH = 4 << 30
#: What a driver may keep beside its ring.
CONTROL_BYTES = 704

BLK_SLOTS = 4
BLOCK = 4096
#: Blocks that a slot, and nobody else, reads and writes.
BLOCKS_PER_SLOT = 16
RX_BUFFERS = 16
RX_BUFFER_BYTES = 256
SERIAL_BYTES = 32
CHUNK = 64 << 10
MAX_READER_SLOTS = 8
#: What is written over and over when the guest is given a rate to dirty memory at.
DIRTY_MEMORY_BYTES = 64 << 20


class RingPlace(NamedTuple):
    """One ring and the driver's state beside it.

    Attributes:
        addresses: for the device.
        control: guest physical address of the driver's `CONTROL_BYTES`.
        start, length: the pages that hold both.
    """

    addresses: RingAddresses
    control: int
    start: int
    length: int


class PairPlace(NamedTuple):
    """A queue pair of a NIC. ``unit`` numbers pairs and disk rings of the machine together."""

    unit: int
    device: int
    nic: int
    pair: int
    receive: RingPlace
    transmit: RingPlace
    buffers: int


class DiskRingPlace(NamedTuple):
    """A ring of a disk, with its data buffers. ``unit`` as in `PairPlace`."""

    unit: int
    device: int
    disk: int
    ring: int
    place: RingPlace
    data: int


def scratch_bytes(rings: int) -> int:
    """The size of image that the block workload needs behind a disk with so many rings."""
    return rings * BLK_SLOTS * BLOCKS_PER_SLOT * BLOCK


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to


def _place_ring(start: int, size: int) -> RingPlace:
    avail = start + 16 * size
    used = _round_up(avail + 6 + 2 * size, 4)
    control = _round_up(used + 6 + 8 * size, 16)
    length = _round_up(control + CONTROL_BYTES - start, PAGE_SIZE)
    return RingPlace(RingAddresses(size, start, avail, used), control, start, length)


class GuestLayout:
    """Addresses of a VM's guest.

    Args:
        spec: the VM.
        regions: its memory.

    Raises:
        ShapeError: memory is too small for so many rings.
    """

    def __init__(self, spec: VmSpec, regions: Sequence[Region]) -> None:
        self.control = BASE
        self.pulse = BASE + PAGE_SIZE
        self.reader = BASE + 2 * PAGE_SIZE
        self.serials = BASE + 3 * PAGE_SIZE
        devices = spec.devices
        at = self.serials + _round_up(SERIAL_BYTES * len(devices), PAGE_SIZE)
        self.rings: list[list[RingPlace]] = []
        for device in devices:
            places = []
            for _ in range(device.rings):
                place = _place_ring(at, spec.ring_size)
                at += place.length
                places.append(place)
            self.rings.append(places)
        self.pairs: list[PairPlace] = []
        self.disk_rings: list[DiskRingPlace] = []
        at = self._place_pairs(spec, at)
        end = self._place_disks(spec, _data_base(spec, regions, at))
        self.check(regions, at, end)
        self.dirty_memory = _place_dirty_memory(regions, end)

    def _place_pairs(self, spec: VmSpec, at: int) -> int:
        for index, device in enumerate(spec.devices):
            if device.device_class != "net":
                continue
            rings = self.rings[index]
            for pair in range(device.rings // 2):
                receive, transmit = rings[2 * pair], rings[2 * pair + 1]
                unit = len(self.pairs)
                self.pairs.append(
                    PairPlace(unit, index, device.number, pair, receive, transmit, at)
                )
                at += _round_up(RX_BUFFERS * RX_BUFFER_BYTES, PAGE_SIZE)
        return at

    def _place_disks(self, spec: VmSpec, at: int) -> int:
        for index, device in enumerate(spec.devices):
            if device.device_class != "blk":
                continue
            for ring, place in enumerate(self.rings[index]):
                unit = len(self.pairs) + len(self.disk_rings)
                self.disk_rings.append(DiskRingPlace(unit, index, device.number, ring, place, at))
                at += BLK_SLOTS * BLOCK
        self.reader_buffers = _round_up(at, CHUNK)
        return self.reader_buffers + MAX_READER_SLOTS * CHUNK

    @staticmethod
    def check(regions: Sequence[Region], low_end: int, data_end: int) -> None:
        """Checks that both ends lie inside of memory.

        Raises:
            ShapeError: they do not.
        """
        for end in (low_end, data_end):
            if not any(part.gpa < end <= part.gpa + part.size for part in regions):
                raise ShapeError("so many rings do not fit into the VM's memory: give it more")

    @property
    def units(self) -> int:
        """Queue pairs and disk rings together."""
        return len(self.pairs) + len(self.disk_rings)

    def ring_addresses(self, device: int) -> list[RingAddresses]:
        """Of all rings of a device, for SET_VRING_ADDR."""
        return [place.addresses for place in self.rings[device]]


def _data_base(spec: VmSpec, regions: Sequence[Region], low: int) -> int:
    """Block buffers go above the 4 GiB hole where there is room, so that both regions are used."""
    rings = sum(device.rings for device in spec.devices if device.device_class == "blk")
    needed = BASE + rings * BLK_SLOTS * BLOCK + (MAX_READER_SLOTS + 1) * CHUNK
    high = [part for part in regions if part.gpa >= HIGH and part.size >= needed]
    return high[0].gpa + BASE if high else low


def _place_dirty_memory(regions: Sequence[Region], at: int) -> tuple[int, int]:
    """Address and bytes of the scribbled pages: at most half of what the region has left."""
    home = next(part for part in regions if part.gpa < at <= part.gpa + part.size)
    start = _round_up(at, PAGE_SIZE)
    left = home.gpa + home.size - start
    return start, min(DIRTY_MEMORY_BYTES, left // 2 // PAGE_SIZE * PAGE_SIZE)
