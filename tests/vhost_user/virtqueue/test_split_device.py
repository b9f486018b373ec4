"""The device's side: rings of a hostile driver, and the dirty log."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.rings import Ring, guest_memory
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import FrontendError
from vhost_user.memory import PAGE_SIZE
from vhost_user.virtqueue import Chain, DeviceQueue, split_offsets, split_sizes
from vhost_user.virtqueue.layout import (
    DESCRIPTOR,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    USED_NO_NOTIFY,
    valid_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

RAM = 1 << 20
BUFFER = 0x10000
TABLE = 0x20000
SIZE = 8


class Hostile:
    """A ring whose driver may write anything."""

    def __init__(self) -> None:
        self.memory = guest_memory(RAM)
        self.ring = Ring(self.memory, SIZE, event_idx=False)
        self.device = self.ring.device()

    def offer(
        self,
        descriptors: Sequence[tuple[int, int, int, int]],
        *,
        head: int = 0,
        table: Sequence[tuple[int, int, int, int]] = (),
    ) -> Chain | None:
        """Writes descriptors and an indirect table, makes `head` available, and pops it."""
        for index, descriptor in enumerate(descriptors):
            DESCRIPTOR.pack_into(self.ring.desc, 16 * index, *descriptor)
        for index, descriptor in enumerate(table):
            DESCRIPTOR.pack_into(self.memory.view(TABLE, RAM - TABLE), 16 * index, *descriptor)
        avail = self.ring.avail.cast("H")
        avail[2] = head
        avail[1] = 1
        return self.device.pop()


GOOD = (BUFFER, 16, 0, 0)


@pytest.mark.parametrize(
    ("descriptors", "table", "complaint"),
    [
        ([(BUFFER, 16, F_NEXT, 0)], (), "loop"),
        ([(BUFFER, 16, F_NEXT, 1), (BUFFER, 16, F_NEXT, 0)], (), "loop"),
        ([(BUFFER, 16, F_NEXT, SIZE)], (), "descriptor 8 in a table of 8"),
        ([(BUFFER, 16, F_NEXT, 0xFFFF)], (), "descriptor 65535"),
        ([(BUFFER, 0, 0, 0)], (), "no bytes"),
        ([(RAM, 1, 0, 0)], (), "not in the table"),
        ([(RAM - 1, 2, F_WRITE, 0)], (), "not in the table"),
        ([((1 << 64) - 1, 2, 0, 0)], (), "not in the table"),
        ([(0, 0xFFFFFFFF, 0, 0)], (), "not in the table"),
        ([(BUFFER, 1, F_WRITE | F_NEXT, 1), (BUFFER, 1, 0, 0)], (), "readable buffer after"),
        ([(TABLE, 0, F_INDIRECT, 0)], (), "indirect table of 0 bytes"),
        ([(TABLE, 15, F_INDIRECT, 0)], (), "indirect table of 15 bytes"),
        ([(TABLE, 24, F_INDIRECT, 0)], [GOOD], "indirect table of 24 bytes"),
        ([(TABLE, 16 * 1025, F_INDIRECT, 0)], [GOOD], "indirect table of 16400 bytes"),
        ([(RAM - 8, 16, F_INDIRECT, 0)], (), "not in the table"),
        ([(TABLE, 16, F_INDIRECT | F_NEXT, 1), GOOD], [GOOD], "after an indirect table"),
        ([(TABLE, 16, F_INDIRECT, 0)], [(TABLE, 16, F_INDIRECT, 0)], "inside an indirect table"),
        ([(TABLE, 32, F_INDIRECT, 0)], [(BUFFER, 1, F_NEXT, 0)], "loop"),
        ([(TABLE, 32, F_INDIRECT, 0)], [(BUFFER, 1, F_NEXT, 2)], "descriptor 2 in a table of 2"),
        ([(TABLE, 16, F_INDIRECT, 0)], [(BUFFER, 0, 0, 0)], "no bytes"),
        (
            [(BUFFER, 1, F_WRITE | F_NEXT, 1), (TABLE, 16, F_INDIRECT, 0)],
            [GOOD],
            "readable buffer after",
        ),
    ],
)
def test_broken_chains_are_the_drivers_fault(
    descriptors: list[tuple[int, int, int, int]],
    table: list[tuple[int, int, int, int]],
    complaint: str,
) -> None:
    hostile = Hostile()
    with pytest.raises(FrontendError, match=complaint) as caught:
        hostile.offer(descriptors, table=table)
    assert caught.value.ring == 3
    assert hostile.device.last_avail == 0
    with pytest.raises(FrontendError, match=complaint):
        hostile.device.pop()


def test_a_head_out_of_range() -> None:
    with pytest.raises(FrontendError, match="descriptor 8 in a ring of 8"):
        Hostile().offer([GOOD], head=SIZE)


@pytest.mark.parametrize("index", [SIZE + 1, 0x8000, 0xFFFF])
def test_an_available_index_that_jumps(index: int) -> None:
    hostile = Hostile()
    hostile.ring.avail.cast("H")[1] = index
    for _ in range(2):  # nor may it be accepted the second time
        with pytest.raises(FrontendError, match="ahead, in a ring"):
            hostile.device.pop()


def test_direct_descriptors_before_an_indirect_table() -> None:
    hostile = Hostile()
    chain = hostile.offer(
        [(BUFFER, 4, F_NEXT, 5), *[GOOD] * 4, (TABLE, 48, F_INDIRECT | F_WRITE, 0)],
        table=[(BUFFER + 4, 5, F_NEXT, 2), GOOD, (BUFFER + 9, 6, F_WRITE, 0)],
    )
    assert chain is not None
    assert [len(piece) for piece in chain.readable] == [4, 5]
    assert chain.writable_extents == [(BUFFER + 9, 6)]


def test_as_many_descriptors_as_the_ring_has() -> None:
    chain = Hostile().offer([(BUFFER + i, 1, F_NEXT, i + 1) for i in range(7)] + [GOOD])
    assert chain is not None
    assert len(chain.readable) == SIZE


descriptors = st.tuples(
    st.one_of(st.integers(0, RAM), st.integers(0, (1 << 64) - 1), st.just(TABLE)),
    st.one_of(st.integers(0, 64), st.integers(0, 0xFFFFFFFF), st.just(32)),
    st.integers(0, 7),
    st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF)),
)


@given(
    ring=st.lists(descriptors, min_size=SIZE, max_size=SIZE),
    table=st.lists(descriptors, min_size=2, max_size=4),
    head=st.one_of(st.integers(0, SIZE - 1), st.integers(0, 0xFFFF)),
)
def test_whatever_a_ring_holds_is_a_chain_or_a_front_end_error(
    ring: list[tuple[int, int, int, int]], table: list[tuple[int, int, int, int]], head: int
) -> None:
    try:
        chain = Hostile().offer(ring, table=table, head=head)
    except FrontendError:
        return
    assert chain is not None
    assert chain.readable or chain.writable
    assert sum(map(len, chain.writable)) == sum(length for _, length in chain.writable_extents)


@pytest.mark.parametrize("size", [0, 3, 65536, -2])
def test_invalid_sizes(size: int) -> None:
    ring = Ring(guest_memory(RAM), SIZE, event_idx=True)
    with pytest.raises(FrontendError, match="ring 3: the addresses do not fit"):
        DeviceQueue(
            *(size, ring.desc, ring.avail, ring.used, ring.memory),
            last_avail=0,
            event_idx=True,
            ring=3,
        )
    assert not valid_size(size)


@pytest.mark.parametrize("short", ["desc", "avail", "used"])
def test_parts_that_are_too_short(short: str) -> None:
    ring = Ring(guest_memory(RAM), SIZE, event_idx=True)
    setattr(ring, short, getattr(ring, short)[:-1])
    with pytest.raises(FrontendError, match="do not fit a ring of 8"):
        ring.device()


def test_sizes_and_offsets() -> None:
    assert split_sizes(256) == (4096, 518, 2054)
    assert split_sizes(256, event_idx=False) == (4096, 516, 2052)
    assert split_offsets(256) == (0, 4096, 4616, 6670)
    assert split_offsets(2, event_idx=False) == (0, 32, 40, 60)


def test_the_used_index_is_read_from_the_ring() -> None:
    ring = Ring(guest_memory(RAM), SIZE, event_idx=False)
    ring.used.cast("H")[1] = 65_535
    device = ring.device(70)
    device.push(5, 99)
    device.publish()
    assert ring.used.cast("H")[1] == 0
    assert list(ring.used[4 + 8 * 7 : 4 + 8 * 8].cast("I")) == [5, 99]
    assert device.last_avail == 70


def test_the_first_publish_after_a_start_calls() -> None:
    """An interrupt may have been due when the ring was stopped."""
    ring = Ring(guest_memory(RAM), SIZE, event_idx=False)
    ring.avail.cast("H")[0] = 1
    device = ring.device()
    assert not device.publish()
    device.push(0, 0)
    assert device.publish()
    device.push(0, 0)
    assert not device.publish()


@pytest.mark.parametrize("event_idx", [False, True])
def test_every_write_to_the_used_ring_is_logged(event_idx: bool) -> None:
    """The ring is larger than a page; each changed byte must lie in a page that was marked."""
    memory = guest_memory(RAM)
    log = DirtyLog.create(RAM // PAGE_SIZE)
    ring = Ring(memory, 1024, event_idx=event_idx, log=log.mark)
    driver = ring.driver()
    driver.reset()
    device = ring.device()
    for step in range(3000):
        driver.add([(BUFFER * 2, 1)], [])
        driver.publish()
        if not event_idx:
            ring.used.cast("H")[0] = USED_NO_NOTIFY  # `arm` clears it
        before = bytes(memory.view(0, BUFFER))
        assert device.pop() is not None
        device.arm()
        device.push(0 if step == 0 else step % 1024, step)
        device.publish()
        after = bytes(memory.view(0, BUFFER))
        marked = {
            page
            for gpa, length in log.harvest()
            for page in range(gpa // PAGE_SIZE, (gpa + length) // PAGE_SIZE)
        }
        for page in range(BUFFER // PAGE_SIZE):
            bounds = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
            assert before[bounds] == after[bounds] or page in marked
        ring.state.cast("I")[1] = 1024  # the heads do not matter here: all stay free
        ring.state.cast("I")[2] = (step + 1) & 0xFFFF
    log.close()


def test_dirtied_is_what_was_written() -> None:
    chain = Chain(0, [], [], [(0x1000, 10), (0x5000, 20), (0x9000, 5)])
    assert list(chain.dirtied(0)) == []
    assert list(chain.dirtied(10)) == [(0x1000, 10)]
    assert list(chain.dirtied(15)) == [(0x1000, 10), (0x5000, 5)]
    assert list(chain.dirtied(99)) == chain.writable_extents


def test_views_outlive_the_table() -> None:
    """A request in flight keeps its memory when the front-end replaces the table."""
    hostile = Hostile()
    chain = hostile.offer([(BUFFER, 16, F_WRITE, 0)])
    assert chain is not None
    hostile.memory.close()
    chain.writable[0][:] = os.urandom(16)
    with pytest.raises(FrontendError):
        hostile.memory.view(BUFFER, 1)


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_a_chain_is_as_long_as_its_ring(indirect: bool) -> None:
    """With or without a table; a table of one more is refused."""
    size = 2048
    memory = guest_memory(RAM)
    ring = Ring(memory, size, event_idx=True)
    driver = ring.driver()
    driver.reset()
    device = ring.device()
    buffers = [(BUFFER * 4 + 16 * n, 16) for n in range(size + 1)]
    table = (BUFFER * 8, memory.view(BUFFER * 8, 16 * (size + 1))) if indirect else None
    head = driver.add(buffers[:1], buffers[1:size], table)
    driver.publish()
    chain = device.pop()
    assert chain is not None
    assert (chain.head, len(chain.readable)) == (head, 1)
    assert chain.writable_extents == buffers[1:size]
    device.push(head, 5)
    device.publish()
    assert driver.pop() == (head, 5)
    if indirect:
        driver.add((), buffers, table)
        driver.publish()
        with pytest.raises(FrontendError, match=f"indirect table of {16 * (size + 1)} bytes"):
            device.pop()
