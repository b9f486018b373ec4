"""The split ring's layout (virtio 1.3, section 2.7)."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import pytest

from vhost_user.virtqueue.layout import cast_ring, split_offsets, split_sizes, valid_size


def test_sizes_of_the_specification() -> None:
    assert split_sizes(8) == (128, 6 + 2 * 8, 6 + 8 * 8)
    assert split_sizes(8, event_idx=False) == (128, 4 + 2 * 8, 4 + 8 * 8)


@pytest.mark.parametrize("size", [1, 2, 8, 256, 32768])
@pytest.mark.parametrize("event_idx", [False, True])
def test_offsets_are_aligned_and_do_not_overlap(size: int, event_idx: bool) -> None:
    sizes = split_sizes(size, event_idx=event_idx)
    at = split_offsets(size, event_idx=event_idx)
    assert (at.desc % 16, at.avail % 2, at.used % 4) == (0, 0, 0)
    assert at.desc + sizes.desc <= at.avail
    assert at.avail + sizes.avail <= at.used
    assert at.used + sizes.used == at.end


def test_valid_sizes_are_powers_of_two_up_to_32768() -> None:
    valid = [size for size in range(-1, 65537) if valid_size(size)]
    assert valid == [1 << bit for bit in range(16)]


@pytest.mark.parametrize("part", range(3))
def test_a_part_that_is_too_short_is_not_a_ring(part: int) -> None:
    parts = [memoryview(bytearray(size)) for size in split_sizes(4)]
    assert cast_ring(4, *parts, event_idx=True) is not None
    parts[part] = parts[part][:-1]
    assert cast_ring(4, *parts, event_idx=True) is None
