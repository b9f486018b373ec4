"""The page that the guest in QEMU and the control run share, without a guest."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING

import pytest

from bench.qemu_baseline.guest_board import BEATS, GuestBoard, GuestStatus
from bench.qemu_baseline.guest_memory import MemoryPage
from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "test-guest-board"


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create(NAME)
    os.ftruncate(fd, mmap.PAGESIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def board(memory: int) -> GuestBoard:
    return GuestBoard(MemoryPage(os.getpid(), NAME, 0))


def test_the_state_of_the_guest(memory: int, board: GuestBoard) -> None:
    assert board.status() == GuestStatus(False, 0, 0, 0, 0, 0)
    os.pwrite(memory, struct.pack("<7I", 1, 0, 40, 608, 624, 9, 224), 0)
    assert board.status() == GuestStatus(True, 40, 608, 624, 9, 224)
    os.pwrite(memory, struct.pack("<2I", 2, 123), 0)
    with pytest.raises(EmuError, match="failed at line 123"):
        board.status()


def test_beats(memory: int, board: GuestBoard) -> None:
    os.pwrite(memory, struct.pack("<Q", 1 << 33), BEATS)
    assert board.beats[0] == 1 << 33


def test_what_is_asked_for_is_answered_by_its_number(memory: int, board: GuestBoard) -> None:
    seen = [board.answered]
    board.ask()
    board.ask()
    assert os.pread(memory, 4, 128) == struct.pack("<I", 2)
    for answered in (1, 2):
        os.pwrite(memory, struct.pack("<I", answered), 132)
        seen.append(board.answered)
    assert seen == [True, False, True]
