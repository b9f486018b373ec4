"""The block driver: which requests it submits, and which errors it detects."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.config.vm_spec import ShapeError
from emu.guest.blk_state import Op
from emu.guest.config import BlkFeatures, GuestConfig
from emu.guest.control_page import MODE, Mode
from emu.guest.stamps import ZEROED
from tests.emu.guest.small_machine import small_spec

if TYPE_CHECKING:
    from tests.emu.guest.conftest import Guest, MakeGuest
    from vhost_user.virtqueue import Chain


@pytest.fixture(params=[True, False], ids=["event-idx", "flags"])
def guest(request: pytest.FixtureRequest, make_guest: MakeGuest) -> Guest:
    """Two disks with two rings each, under heavy load."""
    made = make_guest(small_spec(net=""), GuestConfig(event_idx=request.param))
    made.program.start_load("heavy")
    made.ticks(1)
    return made


def test_heavy_load_keeps_every_slot_busy(guest: Guest) -> None:
    assert guest.program.requests_in_flight() == 16
    guest.run(400)
    totals = guest.program.request_log()
    assert totals.completed == guest.devices.served > 1000
    assert totals.requests == totals.completed + 16
    assert totals.outstanding == 16
    assert totals.intact


def test_every_kind_of_request_is_made(guest: Guest) -> None:
    guest.run(400)
    assert {op for op, _, _ in guest.devices.log} == set(Op)
    assert sum(op == Op.GET_ID for op, _, _ in guest.devices.log) == 2
    assert [guest.program.disks.serial(disk) for disk in (0, 1)] == ["small-disk"] * 2


def test_requests_come_directly_and_through_indirect_tables(make_guest: MakeGuest) -> None:
    served: dict[bool, set[int]] = {}
    for indirect in (True, False):
        guest = make_guest(small_spec(net=""), GuestConfig(indirect=indirect))
        guest.program.start_load("heavy")
        guest.ticks(1)
        place = guest.program.layout.rings[0][0].addresses
        flags = guest.machine.ram.view(place.desc, 16 * 12).cast("H")[6::8]
        served[indirect] = {flag & 4 for flag in flags}
    assert served == {True: {0, 4}, False: {0}}


def test_the_image_matches_the_generations(guest: Guest) -> None:
    guest.run(600)
    guest.program._context.set(MODE, Mode.QUIET)
    guest.settle()
    written = zeroed = 0
    for disk, data in guest.devices.disks.items():
        for block, generation in guest.program.disks.generations(disk).items():
            held = bytes(data[4096 * block : 4096 * (block + 1)])
            assert generation.pending is None
            if generation.value & ZEROED:
                zeroed += 1
                assert held == bytes(4096)
            elif generation.value:
                written += 1
                words = memoryview(held).cast("I")
                assert set(words[3::4]) == {generation.value}
                assert set(words[2::4]) == {block}
    assert written > 100
    assert zeroed > 0


def test_a_block_with_other_contents_is_corrupted(guest: Guest) -> None:
    guest.run(600)
    for data in guest.devices.disks.values():
        for at in range(0, len(data), 4096):
            data[at + 700] ^= 0x40
    guest.run(20)
    totals = guest.program.request_log()
    assert totals.corrupted > 5
    assert not totals.intact


def test_a_read_that_writes_nothing_to_its_buffer_is_corrupted(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.run(400)
    serve = guest.devices._request

    def lazy(disk: bytearray, chain: Chain) -> int:
        kept = bytes(chain.writable[0]) if len(chain.writable) == 2 else None
        written = serve(disk, chain)
        if kept is not None and len(kept) == 4096:
            chain.writable[0][:] = kept
        return written

    monkeypatch.setattr(guest.devices, "_request", lazy)
    guest.run(20)
    assert guest.program.request_log().corrupted > 0


def test_an_error_status_is_counted(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = guest.devices._request

    def failing(disk: bytearray, chain: Chain) -> int:
        written = serve(disk, chain)
        chain.writable[-1][0] = 1
        return written

    monkeypatch.setattr(guest.devices, "_request", failing)
    guest.run(3)
    totals = guest.program.request_log()
    assert totals.errors == totals.completed == 12
    assert not totals.intact


def test_a_completion_that_comes_twice_is_a_duplicate_and_stops_the_ring(guest: Guest) -> None:
    queue = guest.devices.queues[0, 0]
    chain = queue.pop()
    assert chain is not None
    queue.push(chain.head, guest.devices._request(guest.devices.disks[0], chain))
    guest.program._context.set(MODE, Mode.QUIET)
    queue.push(chain.head, 1)
    queue.publish()
    guest.program.interrupt(0, guest.machine.vector(0, 0))
    totals = guest.program.request_log()
    assert totals.duplicated == 1
    assert totals.outstanding == 15


def test_a_pause_ends_a_batch_between_two_requests(guest: Guest) -> None:
    vectors = guest.devices.serve(0, 0)
    guest.machine.notified.clear()
    guest.machine.paused = True
    before = guest.program.request_log().completed
    for vector in vectors:
        guest.program.interrupt(0, vector)
    totals = guest.program.request_log()
    assert totals.completed == before + 1
    assert totals.outstanding == 16
    # the completion that was handled has submitted the next request already
    assert guest.devices.queues[0, 0].pop() is not None
    guest.machine.paused = False
    guest.ticks(1)
    assert guest.program.request_log().completed == before + 4


def test_a_read_only_disk_is_only_read(make_guest: MakeGuest) -> None:
    config = GuestConfig(disks=[BlkFeatures(read_only=True)])
    guest = make_guest(small_spec(net="", blk="1x2"), config)
    guest.program.start_load("heavy")
    guest.ticks(1)
    guest.run(100)
    assert {op for op, _, _ in guest.devices.log} == {Op.READ, Op.GET_ID}


def test_features_that_were_not_negotiated_are_not_used(make_guest: MakeGuest) -> None:
    config = GuestConfig(disks=[BlkFeatures(flush=False, write_zeroes=False)])
    guest = make_guest(small_spec(net="", blk="1x2"), config)
    guest.program.start_load("heavy")
    guest.ticks(1)
    guest.run(300)
    assert {op for op, _, _ in guest.devices.log} == {Op.READ, Op.WRITE, Op.GET_ID}


def test_a_disk_that_is_too_small(make_guest: MakeGuest) -> None:
    config = GuestConfig(disks=[BlkFeatures(capacity=1000)])
    with pytest.raises(ShapeError, match="blk0 has 1000 sectors"):
        make_guest(small_spec(net="", blk="1x2"), config)
