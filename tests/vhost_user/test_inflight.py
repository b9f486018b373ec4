"""The inflight region: whenever a back-end ends, what it has not completed is resubmitted once."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost_user import inflight
from vhost_user.errors import FrontendError
from vhost_user.inflight import InflightRegion, InflightRing

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8


@pytest.fixture
def region() -> Iterator[tuple[int, InflightRegion]]:
    """Two rings, and the file that they are in."""
    fd, length = inflight.create(2, SIZE)
    made = InflightRegion(fd, length, 0, 2, SIZE)
    yield fd, made
    made.close()
    os.close(fd)


def again(fd: int, ring: int = 0) -> InflightRing:
    """The same memory, as the next back-end maps it."""
    length = os.fstat(fd).st_size
    found = InflightRegion(fd, length, 0, 2, SIZE).ring(ring)
    assert found is not None
    return found


def test_the_layout_is_the_specifications(region: tuple[int, InflightRegion]) -> None:
    """A header of 16 bytes, then 16 for each descriptor."""
    fd, made = region
    ring = made.ring(1)
    assert ring is not None
    assert ring.resume(used_idx=5) == []
    ring.taken(3)
    ring.taken(2)
    ring.given_back(3)
    each = inflight.ring_bytes(SIZE)
    assert each % 64 == 0
    with mmap.mmap(fd, 2 * each) as raw:
        part = raw[each : 2 * each]
    assert part[:16] == bytes([0] * 8 + [1, 0, SIZE, 0, 3, 0, 5, 0])
    assert part[16 + 16 * 2 :][:16] == bytes([1] + [0] * 7 + [1] + [0] * 7)
    assert part[16 + 16 * 3 :][0] == 1
    ring.published(6)
    assert again(fd, 1).resume(6) == [2]


@given(
    st.lists(st.tuples(st.sampled_from(["take", "complete", "publish"]), st.integers(0, 7))),
    st.sampled_from(["clean", "published, and not noted"]),
)
def test_what_was_taken_and_not_completed_comes_again_in_order(
    steps: list[tuple[str, int]], end: str
) -> None:
    """Against a model, with completions in any order."""
    fd, length = inflight.create(1, SIZE)
    ring = InflightRegion(fd, length, 0, 1, SIZE).ring(0)
    assert ring is not None
    ring.resume(0)
    taken: list[int] = []
    batch: list[int] = []
    used = 0
    for what, head in steps:
        if what == "take" and head not in taken and head not in batch:
            ring.taken(head)
            taken.append(head)
        elif what == "complete" and head in taken:
            ring.given_back(head)
            taken.remove(head)
            batch.append(head)
        elif what == "publish" and batch:
            used = (used + len(batch)) & 0xFFFF
            ring.published(used)
            batch.clear()
    if end == "clean":
        expected = set(taken) | set(batch)
    else:
        used = (used + len(batch)) & 0xFFFF  # the driver has seen them
        expected = set(taken)
    second = InflightRegion(fd, length, 0, 1, SIZE).ring(0)
    assert second is not None
    found = second.resume(used)
    assert set(found) == expected
    assert [head for head in found if head in taken] == taken
    assert len(found) == len(expected)
    os.close(fd)


def test_a_ring_that_was_empty_has_nothing_to_take_again(
    region: tuple[int, InflightRegion],
) -> None:
    """Whatever index the used ring begins at."""
    _, made = region
    ring = made.ring(0)
    assert ring is not None
    assert ring.resume(0xFFFF) == []
    assert made.ring(2) is None


def test_a_region_of_another_size_is_refused(region: tuple[int, InflightRegion]) -> None:
    """It would be misread."""
    fd, made = region
    ring = made.ring(0)
    assert ring is not None
    ring.resume(0)
    other = InflightRegion(fd, os.fstat(fd).st_size, 0, 1, 2 * SIZE).ring(0)
    assert other is not None
    with pytest.raises(FrontendError, match="for 8 descriptors, where the ring has 16"):
        other.resume(0)


@pytest.mark.parametrize(("size", "offset", "rings"), [(0, 0, 2), (64, 0, 2), (512, 4096, 2)])
def test_a_file_that_does_not_hold_it_is_refused(
    region: tuple[int, InflightRegion], size: int, offset: int, rings: int
) -> None:
    """Before anything is mapped."""
    with pytest.raises(FrontendError, match="inflight region"):
        InflightRegion(region[0], size, offset, rings, SIZE)


@pytest.mark.parametrize("counter", [1 << 63, (1 << 64) - 1])
def test_a_counter_at_its_end_is_refused(region: tuple[int, InflightRegion], counter: int) -> None:
    """The next request would have a number that does not fit."""
    fd, made = region
    ring = made.ring(0)
    assert ring is not None
    ring.resume(used_idx=0)
    ring.taken(3)
    with mmap.mmap(fd, 0) as raw:
        at = 16 + 16 * 3 + 8
        raw[at : at + 8] = counter.to_bytes(8, "little")
    with pytest.raises(FrontendError, match=f"number {counter:#x}"):
        again(fd).resume(used_idx=0)
