"""The layout of guest memory."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import itertools

import pytest

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
