"""The memory table: mapping, translation, and what a front-end may get wrong."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import fcntl
import gc
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.rings import USER_BASE, guest_memory
from tests.waiting import open_fds
from vhost_user.errors import FrontendError
from vhost_user.mapping import O_PATH
from vhost_user.memory import MemoryTable, MemoryTableError, TranslationError
from vhost_user.payloads import MemoryRegion

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
F_SEAL_FUTURE_WRITE = 0x10
LOW = MemoryRegion(0, MIB, USER_BASE, 0)
HIGH = MemoryRegion(1 << 32, MIB, USER_BASE + (1 << 32), MIB)


@pytest.fixture
def ram() -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 2 * MIB)
    yield fd
    os.close(fd)


@pytest.fixture
def table(ram: int) -> Iterator[MemoryTable]:
    made = MemoryTable()
    made.replace([HIGH, LOW], [os.dup(ram), os.dup(ram)])
    yield made
    made.close()


@contextmanager
def guest_file(size: int) -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, size)
    yield fd
    os.close(fd)


def mappings_of(name: str) -> int:
    gc.collect()
    return Path("/proc/self/maps").read_text().count(f"/memfd:{name} ")


def test_views_are_the_file(table: MemoryTable, ram: int) -> None:
    table.view(0x1000, 4)[:] = b"low!"
    table.view((1 << 32) + 0x1000, 5)[:] = b"high!"
    table.user_view(USER_BASE + 0x2000, 4)[:] = b"user"
    assert os.pread(ram, 4, 0x1000) == b"low!"
    assert os.pread(ram, 5, MIB + 0x1000) == b"high!"
    assert bytes(table.view(0x2000, 4)) == b"user"


@pytest.mark.parametrize("gpa", [5, (1 << 32) + 7, MIB - 1])
def test_translates_user_addresses(table: MemoryTable, gpa: int) -> None:
    table.user_view(USER_BASE + gpa, 1)[:] = b"u"
    assert bytes(table.view(gpa, 1)) == b"u"


@pytest.mark.parametrize(
    ("address", "length"),
    [(MIB, 1), (MIB - 1, 2), (1 << 31, 1), ((1 << 32) - 1, 2), ((1 << 32) + MIB, 1), (1 << 63, 8)],
)
def test_addresses_outside_are_refused(table: MemoryTable, address: int, length: int) -> None:
    for warm in (0, 1 << 32):  # whatever region was hit last
        table.view(warm, 1)
        table.user_view(USER_BASE + warm, 1)
        with pytest.raises(TranslationError):
            table.view(address, length)
        with pytest.raises(TranslationError):
            table.slices(address, length)
        with pytest.raises(TranslationError):
            table.user_view(USER_BASE + address, length)


def test_below_the_first_region() -> None:
    with guest_file(MIB) as fd:
        table = MemoryTable()
        table.replace([MemoryRegion(MIB, MIB, USER_BASE, 0)], [os.dup(fd)])
    for ask in (table.view, table.slices):
        with pytest.raises(TranslationError):
            ask(0, 1)
    with pytest.raises(TranslationError):
        table.user_view(USER_BASE - 1, 1)
    table.close()


@given(
    cuts=st.sets(st.integers(1, 9999), max_size=6).map(sorted),
    start=st.integers(0, 9999),
    length=st.integers(1, 9999),
)
def test_slices_cross_regions_that_adjoin(cuts: list[int], start: int, length: int) -> None:
    table = guest_memory(10_000, cuts)
    pattern = bytes(i * 7 & 0xFF for i in range(10_000))
    at = 0
    for segment in table.slices(0, 10_000):
        segment[:] = pattern[at : at + len(segment)]
        at += len(segment)
    if start + length > 10_000:
        with pytest.raises(TranslationError):
            table.slices(start, length)
        return
    segments = table.slices(start, length)
    assert b"".join(segments) == pattern[start : start + length]
    crossed = any(start < cut < start + length for cut in cuts)
    assert (len(segments) > 1) == crossed
    if crossed:
        with pytest.raises(TranslationError):
            table.view(start, length)
    else:
        assert table.view(start, length) == segments[0]
    table.close()


def test_offsets_need_not_be_whole_pages(ram: int) -> None:
    os.pwrite(ram, b"here", 12345)
    table = MemoryTable()
    table.replace([MemoryRegion(0, 100, USER_BASE, 12345)], [os.dup(ram)])
    assert bytes(table.view(0, 4)) == b"here"
    table.close()


@pytest.mark.parametrize(
    ("regions", "complaint"),
    [
        ([LOW, MemoryRegion(MIB - 1, 10, USER_BASE + (1 << 40), 0)], "overlap at guest address"),
        ([LOW, MemoryRegion(MIB, 10, USER_BASE + 100, 0)], "overlap at user address"),
        ([LOW, LOW], "overlap"),
        ([MemoryRegion(0, 2 * MIB + 1, USER_BASE, 0)], "of a file of"),
        ([MemoryRegion(0, MIB, USER_BASE, 2 * MIB)], "of a file of"),
        ([MemoryRegion(0, 0, USER_BASE, 0)], "no bytes"),
        ([MemoryRegion((1 << 64) - 1, MIB, USER_BASE, 0)], "wraps"),
        ([MemoryRegion(0, MIB, (1 << 64) - 1, 0)], "wraps"),
    ],
)
def test_a_bad_table_leaves_the_old_one(
    table: MemoryTable, ram: int, regions: list[MemoryRegion], complaint: str
) -> None:
    before, generation = open_fds(), table.generation
    with pytest.raises(MemoryTableError, match=complaint):
        table.replace(regions, [os.dup(ram) for _ in regions])
    assert table.regions == [LOW, HIGH]
    assert table.generation == generation
    assert len(table.view(0, MIB)) == MIB
    assert open_fds() <= before


def test_a_region_without_its_descriptor(table: MemoryTable, ram: int) -> None:
    before = open_fds()
    for fds in ([], [os.dup(ram), os.dup(ram)]):
        with pytest.raises(MemoryTableError, match="descriptors"):
            table.replace([LOW], fds)
    assert open_fds() <= before


def test_invalid_regions_are_the_front_ends_fault(table: MemoryTable) -> None:
    reader, writer = os.pipe()
    with pytest.raises(FrontendError):
        table.add(MemoryRegion(1 << 40, 10, 1 << 40, 0), reader)
    os.close(writer)
    sealed = os.open("/proc/self/exe", os.O_RDONLY)
    with pytest.raises(MemoryTableError, match="cannot be mapped"):
        table.add(MemoryRegion(1 << 40, 10, 1 << 40, 0), sealed)


def test_regions_come_and_go(table: MemoryTable, ram: int) -> None:
    extra = MemoryRegion(1 << 40, 4096, 1 << 41, 4096)
    generation = table.generation
    table.add(extra, os.dup(ram))
    assert table.end == (1 << 40) + 4096
    assert table.generation > generation
    assert table.regions == [LOW, HIGH, extra]
    table.view(1 << 40, 1)
    with pytest.raises(MemoryTableError, match="overlap"):
        table.add(MemoryRegion(1 << 40, 1, 1 << 50, 0), os.dup(ram))
    table.remove(extra._replace(mmap_offset=0))
    with pytest.raises(TranslationError):
        table.view(1 << 40, 1)
    with pytest.raises(MemoryTableError, match="no such region"):
        table.remove(extra)
    table.close()
    assert table.end == 0
    assert table.regions == []


def test_a_region_that_is_added_again_is_removed_as_often(table: MemoryTable, ram: int) -> None:
    """As QEMU 7.2 does for a NIC with several pairs of rings."""
    before, generation = open_fds(), table.generation
    for _ in range(3):
        table.add(LOW, os.dup(ram))
    assert (table.regions, table.generation) == ([LOW, HIGH], generation)
    for _ in range(3):
        table.remove(LOW)
        assert table.regions == [LOW, HIGH]
    table.remove(LOW)
    assert table.regions == [HIGH]
    with pytest.raises(MemoryTableError, match="no such region"):
        table.remove(LOW)
    assert open_fds() <= before


def test_a_new_table_forgets_what_was_added_again(table: MemoryTable, ram: int) -> None:
    table.add(LOW, os.dup(ram))
    table.replace([LOW], [os.dup(ram)])
    table.remove(LOW)
    assert table.regions == []


def test_the_same_addresses_in_another_file_overlap(table: MemoryTable) -> None:
    """So the front-end does not believe that they were mapped."""
    fd = os.memfd_create("another")
    os.ftruncate(fd, 2 * MIB)
    with pytest.raises(MemoryTableError, match="overlap"):
        table.add(LOW, fd)


def test_each_table_has_a_mapping_of_its_own_and_no_descriptor() -> None:
    fd = os.memfd_create("of-40-devices")
    os.ftruncate(fd, MIB)
    before = open_fds()
    tables = [MemoryTable() for _ in range(40)]
    for table in tables:
        table.replace([MemoryRegion(0, MIB, USER_BASE, 0)], [os.dup(fd)])
    assert mappings_of("of-40-devices") == 40
    assert open_fds() <= before
    kept = tables[0].view(0, 4)
    for table in tables:
        table.close()
    assert mappings_of("of-40-devices") == 1  # there is still a view
    kept[:] = b"kept"
    assert os.pread(fd, 4, 0) == b"kept"
    kept.release()
    assert mappings_of("of-40-devices") == 0
    os.close(fd)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [(O_PATH, "is O_PATH"), (os.O_RDONLY, "not for reading"), (os.O_WRONLY, "not for reading")],
)
@pytest.mark.parametrize("change", ["replace", "add"])
def test_a_descriptor_gives_what_it_allows_and_nothing_more(
    table: MemoryTable, ram: int, flags: int, kind: str, change: str
) -> None:
    """Even if the file is mapped already: here `table` has it, for reading and writing."""
    weak = os.open(f"/proc/self/fd/{ram}", flags)
    other = MemoryTable()

    def make() -> None:
        if change == "replace":
            other.replace([LOW], [weak])
        else:
            other.add(LOW, weak)

    with pytest.raises(MemoryTableError, match=kind):
        make()
    assert other.regions == []
    table.view(0, 1)


def test_a_seal_against_writing_holds_for_those_who_come_later(
    table: MemoryTable, ram: int
) -> None:
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(sealed, MIB)
    table.replace([LOW], [os.dup(sealed)])
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
    other = MemoryTable()
    with pytest.raises(MemoryTableError, match="not permitted"):
        other.replace([LOW], [os.dup(sealed)])
    table.view(0, 4)[:] = b"mine"
    os.close(sealed)


def test_other_files_of_the_same_size_are_not_mixed_up() -> None:
    tables = []
    for letter in (b"a", b"b"):
        with guest_file(4096) as fd:
            os.pwrite(fd, letter, 0)
            tables.append(MemoryTable())
            tables[-1].replace([MemoryRegion(0, 4096, USER_BASE, 0)], [os.dup(fd)])
    assert [bytes(table.view(0, 1)) for table in tables] == [b"a", b"b"]
    for table in tables:
        table.close()
