"""Used elements of requests that complete in order, one by one or in batches."""

from __future__ import annotations

import contextlib
import struct

import pytest

from vhost_user_conformance.back_end.disk import in_batches, sector
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.device_work import SECTOR
from vhost_user_conformance.peer.memory import Memory, TestRing


@pytest.mark.parametrize(
    ("heads", "right"),
    [
        ((0, 3, 6, 9), True),
        # A batch of all, of two and two, and one by one behind a batch.
        ((9,), True),
        ((3, None, 9), True),
        ((6, None, None, 9), True),
        ((6, 0, 0, 3), False),
        ((0, 0, 6, 9), False),
        ((0, 5, 6, 9), False),
    ],
)
def test_completions_in_order(heads: tuple[int | None, ...], right: bool) -> None:
    """Each, or the last one of a batch where the batch begins."""
    memory = Memory()
    ring = TestRing(memory, 0)
    for place, head in enumerate(heads):
        if head is not None:
            memory.write(ring.used + 4 + 8 * place, struct.pack("<II", head, 0))
    with contextlib.nullcontext() if right else pytest.raises(Failed):
        in_batches(ring, [0, 3, 6, 9])
    ring.close()
    memory.close()


def test_contents_of_sectors_differ() -> None:
    """So that a read of another sector is seen."""
    contents = {sector(number) for number in range(100)}
    assert len(contents) == 100
    assert {len(each) for each in contents} == {SECTOR}
