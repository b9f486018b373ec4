"""The comparison of an image with the guest's generations."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.guest.blk_state import Generation
from emu.guest.image_check import check_image
from emu.guest.stamps import ZEROED, BlockPattern

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Disk 3: block 0 never written, 1 at generation 7, 2 zeroed, 3 at generation 2."""
    pattern = BlockPattern(3)
    path = tmp_path / "image"
    blocks = [b"\x55" * 4096, bytes(pattern.image(1, 7)), bytes(4096), bytes(pattern.image(3, 2))]
    path.write_bytes(b"".join(blocks))
    return path


GENERATIONS = {
    0: Generation(0, None),
    1: Generation(7, None),
    2: Generation(ZEROED | 4, None),
    3: Generation(2, None),
}


def test_an_intact_image(image: Path) -> None:
    assert check_image(str(image), 3, GENERATIONS) == (3, [])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_one_byte_of_damage(image: Path, block: int) -> None:
    data = bytearray(image.read_bytes())
    data[4096 * block + 1234] ^= 1
    image.write_bytes(data)
    assert check_image(str(image), 3, GENERATIONS) == (3, [block])


def test_an_older_generation_is_a_lost_write(image: Path) -> None:
    assert check_image(str(image), 3, {1: Generation(8, None)}).corrupted == [1]
    assert check_image(str(image), 3, {3: Generation(ZEROED | 3, None)}).corrupted == [3]


def test_a_write_that_is_outstanding_may_have_happened_or_not(image: Path) -> None:
    assert check_image(str(image), 3, {1: Generation(7, 8)}).corrupted == []
    assert check_image(str(image), 3, {1: Generation(6, 7)}).corrupted == []
    assert check_image(str(image), 3, {1: Generation(5, 6)}).corrupted == [1]


def test_a_block_beyond_the_end_is_damage_and_not_a_crash(image: Path) -> None:
    assert check_image(str(image), 3, {9: Generation(1, None)}).corrupted == [9]


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EmuError, match="cannot be checked"):
        check_image(str(tmp_path / "none"), 0, GENERATIONS)
