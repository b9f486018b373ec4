"""Memory that arrives later: what is registered, which threads wait, and how that ends."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.vhost_user.pages import Pages, await_fault, needs_userfaultfd, punch_holes
from tests.vhost_user.rings import USER_BASE
from tests.waiting import open_fds
from vhost_user.errors import FrontendError
from vhost_user.mapping import LostMemoryError, look, losses
from vhost_user.memory import PAGE_SIZE, MemoryTable, MemoryTableError, TranslationError
from vhost_user.payloads import MemoryRegion
from vhost_user.postcopy import FaultingTable, PageFaults, PagesMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = needs_userfaultfd

MIB = 1 << 20
REGION = MemoryRegion(MIB, MIB, USER_BASE, 0)
OTHER = MemoryRegion(4 * MIB, MIB, USER_BASE + 4 * MIB, MIB)


@pytest.fixture
def ram() -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 2 * MIB)
    yield fd
    os.close(fd)


@pytest.fixture
def faults() -> Iterator[PageFaults]:
    made = PageFaults()
    yield made
    made.close()


@pytest.fixture
def table(faults: PageFaults) -> Iterator[FaultingTable]:
    made = FaultingTable(faults)
    yield made
    made.close()


def waited_for(look: Callable[[], memoryview]) -> memoryview:
    """The view, once its pages are present."""
    while True:
        try:
            return look()
        except PagesMissing as missing:
            missing.wait()


@pytest.mark.parametrize("method", ["view", "slices", "user_view"])
def test_a_view_of_missing_pages_is_refused_at_once(
    table: FaultingTable, faults: PageFaults, ram: int, method: str
) -> None:
    """Of many pages one is missing, at the beginning or at the end."""
    os.pwrite(ram, bytes(1999 * PAGE_SIZE), PAGE_SIZE)
    large = REGION._replace(size=2001 * PAGE_SIZE)
    os.ftruncate(ram, 2001 * PAGE_SIZE)
    table.propose([large], [os.dup(ram)], replace=True)
    table.commit()
    start = large.user_addr if method == "user_view" else large.gpa
    look = getattr(table, method)
    look(start + PAGE_SIZE, 1999 * PAGE_SIZE)
    look(start + PAGE_SIZE + 1, 1)
    for offset, length in ((0, PAGE_SIZE + 1), (PAGE_SIZE, 1999 * PAGE_SIZE + 1), (7, 1)):
        with pytest.raises(PagesMissing, match=f"{length} bytes"):
            look(start + offset, length)
    faults.give_up()


def test_who_looks_waits_and_gets_what_was_brought(
    table: FaultingTable, faults: PageFaults, ram: int
) -> None:
    (base,) = table.propose([REGION], [os.dup(ram)], replace=True)
    assert table.regions == [], "only proposed"
    table.commit()
    assert table.regions == [REGION]

    def bring(address: int) -> None:
        os.pwrite(ram, address.to_bytes(8, "little"), address - base)

    pages = Pages(faults.arrivals.fd, bring)
    try:
        looks: tuple[Callable[[], memoryview], ...] = (
            lambda: table.view(MIB + PAGE_SIZE, 8),
            lambda: table.user_view(USER_BASE + PAGE_SIZE, 8),
            lambda: table.slices(MIB + PAGE_SIZE, 8)[0],
        )
        for look in looks:
            assert int.from_bytes(waited_for(look), "little") == base + PAGE_SIZE
        assert pages.asked == [base + PAGE_SIZE], "once"
        waited_for(lambda: table.view(MIB + 3 * PAGE_SIZE - 1, PAGE_SIZE + 2))
        assert pages.asked[1:] == [base + page * PAGE_SIZE for page in (2, 3, 4)]
        table.view(MIB, 0)
        assert len(pages.asked) == 4
    finally:
        pages.close()


def test_a_page_that_is_there_is_not_asked_for(
    table: FaultingTable, faults: PageFaults, ram: int
) -> None:
    os.pwrite(ram, b"here", 2 * PAGE_SIZE)
    table.propose([REGION], [os.dup(ram)], replace=True)
    table.commit()
    pages = Pages(faults.arrivals.fd, lambda _: None)
    assert bytes(table.view(MIB + 2 * PAGE_SIZE, 4)) == b"here"
    pages.close()
    assert pages.asked == []


def test_giving_up_wakes_who_waits(table: FaultingTable, faults: PageFaults, ram: int) -> None:
    table.propose([REGION], [os.dup(ram)], replace=True)
    table.commit()
    seen: list[bytes] = []
    waiting = threading.Thread(
        target=lambda: seen.append(bytes(waited_for(lambda: table.view(MIB, 4))))
    )
    waiting.start()
    await_fault(faults.arrivals.fd)
    assert not seen
    faults.give_up()
    waiting.join(TIMEOUT)
    assert seen == [bytes(4)]
    table.propose([OTHER], [os.dup(ram)], replace=False)
    table.commit()
    view = waited_for(lambda: table.view(OTHER.gpa, 4))
    assert bytes(view) == bytes(4), "nothing is watched after that"


@pytest.mark.parametrize("how", ["loads", "stores", "a system call"])
def test_an_access_to_a_page_that_was_removed_never_waits(
    table: FaultingTable, ram: int, how: str
) -> None:
    """The page does not come a second time."""
    os.pwrite(ram, b"here" * 1024, PAGE_SIZE)
    table.propose([REGION], [os.dup(ram)], replace=True)
    table.commit()
    view, before = table.view(MIB + PAGE_SIZE, 4), losses[0]
    assert bytes(view) == b"here"
    punch_holes(ram)
    table.check()
    if how == "loads":
        assert bytes(view) == bytes(4)
    elif how == "stores":
        view[:] = b"lost"
    else:
        with open("/dev/zero", "rb") as zeroes, pytest.raises(OSError, match="Bad address"):  # noqa: PTH123
            os.readv(zeroes.fileno(), [view])
        look([view])
    assert losses[0] == before + 1
    with pytest.raises(LostMemoryError, match="has removed pages in a postcopy"):
        table.check()


def test_regions_one_by_one(table: FaultingTable, ram: int) -> None:
    table.propose([REGION], [os.dup(ram)], replace=False)
    table.propose([OTHER], [os.dup(ram)], replace=False)
    assert table.slots == 2
    table.commit()
    assert table.regions == [REGION, OTHER]
    table.remove(OTHER)
    assert table.regions == [REGION]
    assert table.slots == 1
    with pytest.raises(MemoryTableError):
        table.remove(OTHER)


def test_a_table_replaces_what_was_there_and_what_was_proposed(
    table: FaultingTable, faults: PageFaults, ram: int
) -> None:
    before = len(open_fds())
    table.propose([REGION], [os.dup(ram)], replace=True)
    table.commit()
    table.propose([REGION], [os.dup(ram)], replace=True)
    table.propose([OTHER], [os.dup(ram)], replace=True)
    table.commit()
    assert table.regions == [OTHER]
    assert table.slots == 1
    faults.give_up()
    assert len(open_fds()) <= before + 1


def test_settled_memory_is_the_same_without_a_watch(
    table: FaultingTable, faults: PageFaults, ram: int
) -> None:
    before = len(open_fds())
    table.propose([REGION, OTHER], [os.dup(ram), os.dup(ram)], replace=True)
    table.commit()
    detached = table.detach()
    usual = MemoryTable()
    usual.replace([region for region, _ in detached], [fd for _, fd in detached])
    assert usual.regions == [REGION, OTHER]
    os.pwrite(ram, b"same", 0)
    assert bytes(usual.view(MIB, 4)) == b"same"
    assert bytes(usual.view(MIB + PAGE_SIZE, 4)) == bytes(4), "missing, and no thread waits"
    usual.close()
    table.close()
    faults.give_up()
    assert len(open_fds()) <= before


@pytest.mark.parametrize("size", [0, 4 * MIB])
def test_invalid_regions_are_rejected(table: FaultingTable, ram: int, size: int) -> None:
    before = len(open_fds())
    wrong = REGION._replace(size=size)
    with pytest.raises(MemoryTableError):
        table.propose([OTHER, wrong], [os.dup(ram), os.dup(ram)], replace=True)
    with pytest.raises(MemoryTableError, match="1 regions came with 0"):
        table.propose([OTHER], [], replace=True)
    assert len(open_fds()) <= before
    assert table.slots == 0


def test_overlapping_regions_are_refused(table: FaultingTable, ram: int) -> None:
    table.propose([REGION, REGION], [os.dup(ram), os.dup(ram)], replace=True)
    with pytest.raises(MemoryTableError, match="overlap"):
        table.commit()


def test_memory_without_page_faults_is_rejected(table: FaultingTable, tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDWR)
    if os.fstatvfs(fd).f_fsid == os.statvfs("/dev/shm").f_fsid:
        os.close(fd)
        pytest.skip("the test's folder is in memory, which can be watched")
    table.propose([REGION], [fd], replace=True)
    with pytest.raises(FrontendError, match="cannot be handled"):
        table.commit()


def test_addresses_that_are_nowhere(table: FaultingTable) -> None:
    with pytest.raises(TranslationError):
        table.view(0, 1)
    with pytest.raises(TranslationError):
        table.user_view(0, 1)
    with pytest.raises(TranslationError):
        table.slices(0, 1)
