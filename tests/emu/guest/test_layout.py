"""The layout of guest memory."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import itertools

import pytest

from emu.config.ring_use import first_units, these_rings
from emu.config.vm_spec import DeviceGroup, ShapeError, VmSpec
from emu.guest.layout import CONTROL_BYTES, HIGH, GuestLayout, scratch_bytes
from emu.machine.ram import RamRegion
from vhost_user.memory import PAGE_SIZE

LOW_ONLY = [RamRegion(0, 64 << 20, -1)]


def extents(layout: GuestLayout) -> list[tuple[int, int]]:
    found = [
        (gpa, PAGE_SIZE) for gpa in (layout.control, layout.pulse, layout.reader, layout.serials)
    ]
    found += [(place.start, place.length) for rings in layout.rings for place in rings]
    found += [(pair.data, PAGE_SIZE) for pair in layout.units["net"]]
    found += [(ring.data, 4 * PAGE_SIZE) for ring in layout.units["blk"]]
    return [*found, (layout.reader_buffers, 8 * (64 << 10))]


@pytest.mark.parametrize("ring_size", [64, 128, 256, 1024])
def test_nothing_overlaps(ring_size: int) -> None:
    spec = VmSpec(
        memory_bytes=64 << 20,
        groups=(DeviceGroup("net", 3, 4), DeviceGroup("blk", 3, 3)),
        ring_size=ring_size,
    )
    sorted_extents = sorted(extents(GuestLayout(spec, LOW_ONLY)))
    for (start, length), (following, _) in itertools.pairwise(sorted_extents):
        assert start + length <= following
    for rings in GuestLayout(spec, LOW_ONLY).rings:
        for place in rings:
            where = place.addresses
            assert where.desc + 16 * ring_size <= where.avail
            assert where.avail + 6 + 2 * ring_size <= where.used
            assert where.used + 6 + 8 * ring_size <= place.control
            assert place.control + CONTROL_BYTES <= place.start + place.length
            assert where.desc % 16 == where.avail % 2 == where.used % 4 == place.control % 16 == 0


def test_a_ring_of_128_and_its_driver_share_one_page() -> None:
    layout = GuestLayout(VmSpec(memory_bytes=64 << 20), LOW_ONLY)
    assert {place.length for rings in layout.rings for place in rings} == {PAGE_SIZE}


def test_block_buffers_use_the_memory_above_the_hole() -> None:
    high = GuestLayout(VmSpec(), [RamRegion(0, 3 << 30, -1), RamRegion(HIGH, 177 << 30, -1)])
    assert all(ring.data >= HIGH for ring in high.units["blk"])
    assert all(pair.data < HIGH for pair in high.units["net"])
    low = GuestLayout(VmSpec(), [RamRegion(0, 3 << 30, -1), RamRegion(HIGH, 1 << 20, -1)])
    assert all(ring.data < HIGH for ring in low.units["blk"])


def test_too_many_rings_for_the_memory() -> None:
    spec = VmSpec(memory_bytes=64 << 20, groups=(DeviceGroup("blk", 64, 64),))
    with pytest.raises(ShapeError, match="do not fit"):
        GuestLayout(spec, LOW_ONLY)


def test_scratch_image_of_a_disk_of_four_rings_is_a_mebibyte() -> None:
    assert scratch_bytes(4) == 1 << 20


def test_units_are_those_of_the_rings_in_use() -> None:
    """Their numbers have no gaps, the first one of each device leads, and nothing overlaps."""
    spec = VmSpec(
        memory_bytes=64 << 20,
        groups=(
            DeviceGroup("net", 2, 6, these_rings([2, 3, 4, 5])),
            DeviceGroup("blk", 2, 4, these_rings([1, 3])),
        ),
    )
    layout = GuestLayout(spec, LOW_ONLY)
    nets, disks = layout.units["net"], layout.units["blk"]
    assert [unit.unit for unit in (*nets, *disks)] == list(range(8))
    assert [(unit.number, unit.position, unit.first_ring) for unit in nets] == [
        (0, 1, 2),
        (0, 2, 4),
        (1, 1, 2),
        (1, 2, 4),
    ]
    assert [(unit.number, unit.position) for unit in disks] == [(0, 1), (0, 3), (1, 1), (1, 3)]
    assert [unit.leads for unit in (*nets, *disks)] == 4 * [True, False]
    for unit in (*nets, *disks):
        places = layout.rings[unit.device]
        assert unit.rings == tuple(places[unit.first_ring :][: len(unit.rings)])
    sorted_extents = sorted(extents(layout))
    for (start, length), (following, _) in itertools.pairwise(sorted_extents):
        assert start + length <= following


def test_rings_that_are_not_set_up_have_no_addresses() -> None:
    """Those that are disabled have; no driver's unit empties them."""
    spec = VmSpec(
        memory_bytes=64 << 20,
        groups=(
            DeviceGroup("net", 1, 4, first_units(1, 2)),
            DeviceGroup("blk", 1, 4, these_rings([1, 3])),
            DeviceGroup("rng", 1, 1, these_rings([])),
        ),
    )
    layout = GuestLayout(spec, LOW_ONLY)
    assert [where is not None for where in layout.ring_addresses(0)] == 4 * [True]
    assert [where is not None for where in layout.ring_addresses(1)] == 2 * [False, True]
    assert layout.ring_addresses(2) == [None]
    assert layout.disabled_rings(0) == layout.rings[0][2:]
    assert layout.disabled_rings(1) == layout.disabled_rings(2) == []
    assert layout.units["rng"] == []
