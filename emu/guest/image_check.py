"""Compares the disk images on the host with the generations in the guest's memory.

The guest's own reads go through the rings; this reads the image itself, so that an error that the
rings would hide (data in a cache, a back-end that serves reads from memory) is seen too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.guest.layout import BLOCK
from emu.guest.stamps import BlockPattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from emu.guest.blk_state import Generation


class ImageCheck(NamedTuple):
    """The result of `check_image`.

    Attributes:
        checked: number of blocks that the guest has written.
        corrupted: indices of those of them that hold anything else than the guest has written.
    """

    checked: int
    corrupted: list[int]


def check_image(path: str, disk: int, generations: Mapping[int, Generation]) -> ImageCheck:
    """Compare an image with what the guest has written to it.

    A block with a write outstanding may hold either generation.

    Args:
        path: the image.
        disk: the disk's number within the class.
        generations: of each block, by its index (`GuestProgram.generations`).

    Raises:
        EmuError: the image cannot be read.
    """
    pattern = BlockPattern(disk)
    corrupted = []
    checked = 0
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EmuError(f"{path}: cannot be checked: {error.strerror}") from error
    try:
        for block, generation in generations.items():
            if not generation.value:
                continue
            checked += 1
            data = os.pread(fd, BLOCK, block * BLOCK)
            if not _holds_any(pattern, data, block, _allowed(generation)):
                corrupted.append(block)
    except OSError as error:
        raise EmuError(f"{path}: cannot be checked: {error.strerror}") from error
    finally:
        os.close(fd)
    return ImageCheck(checked, corrupted)


def _allowed(generation: Generation) -> tuple[int, ...]:
    if generation.pending is None:
        return (generation.value,)
    return generation.value, generation.pending


def _holds_any(pattern: BlockPattern, data: bytes, block: int, generations: Iterable[int]) -> bool:
    return any(pattern.matches(data, block, generation) for generation in generations)
