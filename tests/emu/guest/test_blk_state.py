"""The block driver's state of one ring, in guest memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.guest.blk_state import GENERATION, INDEX, OP, SLOT_WORDS, BlkState, Generation, Op
from emu.guest.layout import BLK_SLOTS, BLOCKS_PER_SLOT, CONTROL_BYTES
from tests.emu.guest.small_machine import small_spec

if TYPE_CHECKING:
    from tests.emu.guest.conftest import MakeGuest


@pytest.fixture
def state(make_guest: MakeGuest) -> BlkState:
    """The second ring of a disk."""
    guest = make_guest(small_spec(net=""))
    place = guest.program.layout.units["blk"][1]
    control = guest.machine.ram.view(place.rings[0].control, CONTROL_BYTES)
    return BlkState(guest.machine.ram, place, control)


def _submit(state: BlkState, slot: int, op: Op, index: int, generation: int) -> None:
    base = slot * SLOT_WORDS
    for word, value in ((OP, op), (INDEX, index), (GENERATION, generation)):
        state.slots[base + word] = value


@pytest.mark.parametrize("op", Op)
def test_only_a_write_in_flight_is_a_pending_generation(state: BlkState, op: Op) -> None:
    """Until it completes, the block may hold either generation."""
    state.generations[3] = 7
    _submit(state, 0, op, 3, 8)
    first = BLK_SLOTS * BLOCKS_PER_SLOT
    pending = 8 if op in (Op.WRITE, Op.WRITE_ZEROES) else None
    assert state.contents([0])[first + 3] == Generation(7, pending)
    assert state.contents([])[first + 3] == Generation(7, None)


def test_a_slot_reads_back_its_written_blocks_once(state: BlkState) -> None:
    """Blocks that were never written are skipped; `rewind` starts again."""
    state.generations[BLOCKS_PER_SLOT + 2] = state.generations[BLOCKS_PER_SLOT + 9] = 1
    for _ in range(2):
        found = [state.next_written(1) for _ in range(3)]
        assert found == [BLOCKS_PER_SLOT + 2, BLOCKS_PER_SLOT + 9, None]
        assert not state.all_verified()
        assert [state.next_written(slot) for slot in (0, 2, 3)] == [None] * 3
        assert state.all_verified()
        state.rewind()


def test_each_chain_ends_with_the_status_byte(state: BlkState) -> None:
    """It is the last writable extent, for every request type."""
    for slot in range(BLK_SLOTS):
        buffers = state.buffers(slot)
        assert set(buffers) == set(Op)
        assert {writable[-1] for _, writable in buffers.values()} == {buffers[Op.FLUSH][1][0]}
        assert buffers[Op.FLUSH][1][0][1] == 1
