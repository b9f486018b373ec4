"""The layout of guest memory. Source and destination of a migration compute the same.

A hot page is sent in the blackout, so what a ring needs shares as few pages as possible: the
split ring of 128 descriptors (3342 bytes) leaves room in its page for the driver's own state.

    1 MiB    control page       the load's settings, written by the host, cold
             pulse page         heartbeat and the cursors of the tick, written every millisecond
             disk reader page   its SHA-256 state, slots and counters
             serials            results of GET_ID, 32 bytes a device
             rings              one page a ring: desc, avail, used, driver state
             receive buffers    one page a queue pair
    4 GiB    block buffers      4 pages a disk's ring (after the receive buffers in a small VM)
             reader buffers     64 KiB a slot
             dirty memory       up to 64 MiB, touched only with a --dirty-rate
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.config.device_kinds import KINDS, load
from emu.config.vm_spec import ShapeError, VmSpec
from vhost_user.memory import PAGE_SIZE
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.guest.platform import Region

BASE = 1 << 20
HIGH = 4 << 30
#: Size of a driver's state beside its ring.
CONTROL_BYTES = 704

BLK_SLOTS = 4
BLOCK = 4096
#: Blocks that one slot alone reads and writes.
BLOCKS_PER_SLOT = 16
RX_BUFFERS = 16
RX_BUFFER_BYTES = 256
SERIAL_BYTES = 32
CHUNK = 64 << 10
MAX_READER_SLOTS = 8
#: Bytes that the dirty-memory load writes, again and again.
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


class DataBuffers(Protocol):
    """The data buffers that a driver's units need; see `emu.guest.driver.Driver`."""

    DATA_BYTES: int
    DATA_HIGH: bool


class UnitPlace(NamedTuple):
    """Where a unit lies: the rings that a driver handles together, such as a queue pair of a NIC.

    Attributes:
        unit: numbers all units of the machine, kind by kind.
        device: index of the device on the bus.
        number: of the device within its kind.
        position: of the unit within the device.
        rings: one, or two of a pair (receive, transmit).
        data: guest physical address of the data buffers.
        leads: it is the first one of the device that is in use.
    """

    unit: int
    device: int
    number: int
    position: int
    rings: tuple[RingPlace, ...]
    data: int
    leads: bool

    @property
    def first_ring(self) -> int:
        """Index of the first ring in the device."""
        return self.position * len(self.rings)


def scratch_bytes(rings: int) -> int:
    """The size of the image that the block workload needs for a disk with so many rings."""
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
        self._devices = devices = spec.devices
        at = self.serials + _round_up(SERIAL_BYTES * len(devices), PAGE_SIZE)
        self.rings: list[list[RingPlace]] = []
        for device in devices:
            places = []
            for _ in range(device.rings):
                place = _place_ring(at, spec.ring_size)
                at += place.length
                places.append(place)
            self.rings.append(places)
        drivers = _drivers_of(spec)
        first = _first_units(spec)
        self.units: dict[str, list[UnitPlace]] = {}
        at = self._place(spec, {k: d for k, d in drivers.items() if not d.DATA_HIGH}, first, at)
        high = {kind: driver for kind, driver in drivers.items() if driver.DATA_HIGH}
        end = self._place(spec, high, first, _data_base(spec, high, regions, at))
        self.reader_buffers = _round_up(end, CHUNK)
        end = self.reader_buffers + MAX_READER_SLOTS * CHUNK
        self.check(regions, at, end)
        self.dirty_memory = _place_dirty_memory(regions, end)

    def _place(
        self, spec: VmSpec, drivers: Mapping[str, DataBuffers], first: Mapping[str, int], at: int
    ) -> int:
        """Place the units of some kinds, with data buffers from ``at`` on; returns their end."""
        for kind, driver in drivers.items():
            units = self.units[kind] = []
            per_unit = KINDS[kind].rings_per_unit
            for index, device in enumerate(spec.devices):
                if device.device_class != kind:
                    continue
                for start in device.rings_used[::per_unit]:
                    rings = tuple(self.rings[index][start : start + per_unit])
                    unit, position = first[kind] + len(units), start // per_unit
                    leads = start == device.rings_used[0]
                    units.append(UnitPlace(unit, index, device.number, position, rings, at, leads))
                    at += _round_up(driver.DATA_BYTES, PAGE_SIZE)
        return at

    @staticmethod
    def check(regions: Sequence[Region], low_end: int, data_end: int) -> None:
        """Check that both ends lie inside of memory.

        Raises:
            ShapeError: they do not.
        """
        for end in (low_end, data_end):
            if not any(part.gpa < end <= part.gpa + part.size for part in regions):
                raise ShapeError(
                    "so many rings do not fit into the VM's memory: give it more memory"
                )

    def ring_addresses(self, device: int) -> list[RingAddresses | None]:
        """The addresses of a device's rings, for SET_VRING_ADDR; None if it is not set up."""
        set_up = self._devices[device].rings_set_up
        return [
            place.addresses if ring in set_up else None
            for ring, place in enumerate(self.rings[device])
        ]

    def disabled_rings(self, device: int) -> list[RingPlace]:
        """The rings of a device that are set up, and that no driver's unit uses."""
        return [self.rings[device][ring] for ring in self._devices[device].rings_disabled]


def _drivers_of(spec: VmSpec) -> dict[str, DataBuffers]:
    """The driver of each kind of device that the VM has, in the order of the kinds."""
    present = {group.device_class for group in spec.groups}
    return {name: load(kind.driver) for name, kind in KINDS.items() if name in present}


def _unit_count(spec: VmSpec, kind: str) -> int:
    rings = sum(len(device.rings_used) for device in spec.devices if device.device_class == kind)
    return rings // KINDS[kind].rings_per_unit


def _first_units(spec: VmSpec) -> dict[str, int]:
    """The number of each kind's first unit: units are numbered kind by kind."""
    counts = [_unit_count(spec, kind) for kind in KINDS]
    return dict(zip(KINDS, itertools.accumulate(counts, initial=0), strict=False))


def _data_base(
    spec: VmSpec, drivers: Mapping[str, DataBuffers], regions: Sequence[Region], low: int
) -> int:
    """Block buffers lie above the hole below 4 GiB where there is room, to use both regions."""
    data = sum(_unit_count(spec, kind) * driver.DATA_BYTES for kind, driver in drivers.items())
    needed = BASE + data + (MAX_READER_SLOTS + 1) * CHUNK
    high = [part for part in regions if part.gpa >= HIGH and part.size >= needed]
    return high[0].gpa + BASE if high else low


def _place_dirty_memory(regions: Sequence[Region], at: int) -> tuple[int, int]:
    """Address and bytes of the dirty-memory load: at most half of what the region has left."""
    region = next(part for part in regions if part.gpa < at <= part.gpa + part.size)
    start = _round_up(at, PAGE_SIZE)
    left = region.gpa + region.size - start
    return start, min(DIRTY_MEMORY_BYTES, left // 2 // PAGE_SIZE * PAGE_SIZE)
