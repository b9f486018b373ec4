"""Guest memory."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from emu.machine.ram import (
    HIGH_START,
    LOW_BYTES,
    GuestRam,
    RamError,
)
from tests.waiting import open_fds
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1 << 30


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    memory = GuestRam(4 * GIB)
    yield memory
    memory.close()


def test_memory_lies_around_the_hole(ram: GuestRam) -> None:
    assert [(region.gpa, region.size) for region in ram.regions] == [
        (0, 3 * GIB),
        (4 * GIB, GIB),
    ]
    assert ram.pages == 5 * GIB // PAGE_SIZE


def test_a_small_machine_has_one_region() -> None:
    memory = GuestRam(64 << 20)
    assert [(region.gpa, region.size) for region in memory.regions] == [(0, 64 << 20)]
    assert memory.pages == (64 << 20) // PAGE_SIZE
    with pytest.raises(RamError):
        memory.view(HIGH_START, 1)
    memory.close()


def test_who_has_the_descriptor_cannot_change_the_size(ram: GuestRam) -> None:
    for region in ram.regions:
        for size in (0, region.size - PAGE_SIZE, region.size + PAGE_SIZE):
            with pytest.raises(PermissionError):
                os.ftruncate(region.fd, size)
        assert ram.view(region.gpa + region.size - 1, 1)[0] == 0


def test_existing_memory_that_may_shrink_is_refused() -> None:
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        for fd in (unsealed, file.fileno()):
            os.ftruncate(fd, PAGE_SIZE)
            with pytest.raises(RamError, match="not sealed"):
                GuestRam(PAGE_SIZE, [fd])
    os.close(unsealed)


def test_180_gib_use_memory_for_touched_pages_only() -> None:
    memory = GuestRam(180 * GIB)
    memory.write(0, b"low")
    memory.write(memory.pages * PAGE_SIZE - 4, b"high")
    used = sum(os.fstat(region.fd).st_blocks * 512 for region in memory.regions)
    assert used == 2 * PAGE_SIZE
    memory.close()


@pytest.mark.parametrize("gpa", [0, LOW_BYTES - 16, HIGH_START, HIGH_START + GIB - 16])
def test_a_view_is_the_memory_itself(ram: GuestRam, gpa: int) -> None:
    ram.view(gpa, 16)[:] = bytes(range(16))
    fd, offset = ram.locate(gpa, 16)
    assert os.pread(fd, 16, offset) == bytes(range(16))
    assert len(ram.view(gpa, 16)) == 16


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (-1, 1),
        (0, -1),
        (8, -8),
        (LOW_BYTES, 1),
        (LOW_BYTES - 1, 2),
        (HIGH_START - 1, 2),
        (HIGH_START + GIB, 1),
        (HIGH_START + GIB - 1, 2),
        (HIGH_START, -1),
        (LOW_BYTES - 8, GIB + 16),
        (1 << 64, 8),
    ],
)
def test_a_view_of_what_is_not_memory_is_an_error(ram: GuestRam, gpa: int, length: int) -> None:
    with pytest.raises(RamError):
        ram.view(gpa, length)
    with pytest.raises(RamError):
        ram.locate(gpa, length)


def test_marks_are_pages(ram: GuestRam) -> None:
    ram.mark(0, 1)
    ram.mark(2 * PAGE_SIZE - 1, 2)
    ram.mark(8 * PAGE_SIZE, 3 * PAGE_SIZE)
    ram.mark(20 * PAGE_SIZE, 0)
    assert ram.harvest() == {0, 1, 2, 8, 9, 10}
    assert ram.harvest() == set()


def test_write_marks(ram: GuestRam) -> None:
    ram.write(HIGH_START + PAGE_SIZE - 1, b"ab")
    page = HIGH_START // PAGE_SIZE
    assert ram.harvest() == {page, page + 1}


def test_a_mark_that_raced_with_a_harvest_is_found_by_the_next(ram: GuestRam) -> None:
    ram.mark(0, 1)
    held = ram._dirty  # the set that an interrupted `mark` updates
    assert ram.harvest() == {0}
    held.add(7)
    assert ram.harvest() == {7}
    assert ram.harvest() == set()


def test_no_mark_is_lost_between_threads(ram: GuestRam) -> None:
    pages = 20_000

    def mark() -> None:
        for page in range(pages):
            ram.mark(page * PAGE_SIZE, 1)

    marking = threading.Thread(target=mark)
    found: set[int] = set()
    marking.start()
    while marking.is_alive():
        found |= ram.harvest()
    marking.join()
    found |= ram.harvest()
    assert found == set(range(pages))


def test_the_caller_may_change_the_result_of_a_harvest(ram: GuestRam) -> None:
    ram.mark(0, 1)
    ram.harvest().clear()
    assert ram.harvest() == set()


def test_extents_are_what_was_touched(ram: GuestRam) -> None:
    assert ram.extents() == []
    ram.write(3 * PAGE_SIZE, b"x")
    ram.write(4 * PAGE_SIZE, b"x")
    ram.write(HIGH_START + GIB - 1, b"x")
    assert ram.extents() == [
        (3 * PAGE_SIZE, 2 * PAGE_SIZE),
        (HIGH_START + GIB - PAGE_SIZE, PAGE_SIZE),
    ]


def test_another_mapping_sees_the_same(ram: GuestRam) -> None:
    with mmap.mmap(ram.regions[1].fd, PAGE_SIZE) as other:
        ram.write(HIGH_START, b"shared")
        assert other[:6] == b"shared"


def test_close_releases_everything_and_is_idempotent() -> None:
    before = open_fds()
    memory = GuestRam(4 * GIB)
    held = memory.view(0, 8)
    memory.close()
    memory.close()
    held[:] = bytes(8)  # a view that is in use stays valid, and keeps its mapping
    assert len(open_fds() - before) == 1
    del held
    assert open_fds() <= before


@pytest.mark.parametrize("size", [0, -4096, 4097])
def test_an_invalid_size(size: int) -> None:
    with pytest.raises(RamError):
        GuestRam(size)
