"""The disks' driver: its rings, its paced load, and the reader of a user's disk."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from emu.config.ring_use import these_rings
from emu.config.vm_spec import ShapeError
from emu.guest.config import BlkFeatures, GuestConfig, ReaderConfig
from emu.guest.control_page import MODE, Mode
from emu.guest.layout import scratch_bytes
from emu.guest.stamps import ZEROED
from tests.emu.guest.small_machine import small_spec
from vhost_user.virtio.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from tests.emu.guest.conftest import MakeGuest

SECTORS = scratch_bytes(2) // SECTOR_SIZE


def test_each_ring_of_each_disk_is_a_unit(make_guest: MakeGuest) -> None:
    disks = make_guest(small_spec(blk="2x2")).program.disks
    places = [(queue.place.number, queue.place.position) for queue in disks.queues]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert disks.units == disks.queues
    assert disks.reader is None


def test_a_users_disk_is_read_and_not_written_to(make_guest: MakeGuest) -> None:
    """Its rings are the reader's, and interrupt it."""
    config = GuestConfig(reader=ReaderConfig(SECTORS))
    guest = make_guest(small_spec(net="", blk="2x2"), config)
    disks = guest.program.disks
    assert disks.reader is not None
    assert {queue.place.number for queue in disks.queues} == {1}
    assert disks.units[-1] is disks.reader
    assert len(list(disks.handlers())) == 4
    guest.program.start_load("none")
    disks.reader.start(None)
    for _ in range(200):
        guest.ticks(1)
        guest.settle()
    assert disks.reader.status().done
    assert {sector for _, sector, _ in guest.devices.log} != set()


@pytest.mark.parametrize("room", [-1, 0])
def test_a_disk_has_room_for_the_workload_of_its_rings(make_guest: MakeGuest, room: int) -> None:
    features = [BlkFeatures(capacity=SECTORS + room)] * 2
    if room < 0:
        with pytest.raises(ShapeError, match=f"blk0 has {SECTORS - 1} sectors; the workload of 2"):
            make_guest(small_spec(blk="2x2"), GuestConfig(disks=features))
    else:
        make_guest(small_spec(blk="2x2"), GuestConfig(disks=features))


def test_a_light_load_kicks_at_the_next_tick(make_guest: MakeGuest) -> None:
    """One request on the next ring in turn; after the end of the load the last one is kicked."""
    guest = make_guest(small_spec(net="", blk="2x2"))
    guest.program.start_load("light")
    kicked = []
    for _ in range(6):
        guest.ticks(1)
        kicked.append(list(guest.machine.notified))
        guest.settle()
    assert kicked[0] == []
    assert [tick[0] for tick in kicked[1:]] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]
    guest.program.start_load("none")
    for expected in ([(0, 1)], []):
        guest.ticks(1)
        assert list(guest.machine.notified) == expected
        guest.settle()


def test_counters_and_serial_numbers_are_those_of_the_rings(make_guest: MakeGuest) -> None:
    guest = make_guest(small_spec(net="", blk="2x2"))
    disks = guest.program.disks
    assert disks.serial(1) == ""
    guest.program.start_load("heavy")
    guest.ticks(4)
    guest.run(100)
    assert disks.serial(1) == "small-disk"
    assert disks.stats()["requests"] == guest.program.request_log().completed > 0
    assert disks.requests_in_flight() == guest.program.requests_in_flight() > 0
    written = disks.generations(0)
    assert written
    assert disks.generations(7) == {}


def test_a_reset_disk_executes_the_requests_in_flight_again(make_guest: MakeGuest) -> None:
    """Those of the other disk stay as they are; nothing is lost, duplicated or corrupted."""
    guest = make_guest(small_spec(net=""))
    guest.program.start_load("heavy")
    guest.ticks(1)
    for seed in range(10):
        guest.run(37)
        for (device, _), queue in guest.devices.queues.items():
            # popped in order, completed in another, some of them not at all
            chains = [chain for _ in range(3) if (chain := queue.pop()) is not None]
            for chain in chains[: 0 if device else (seed % 3) : -1]:
                disk = guest.devices.disks[device]
                queue.push(chain.head, guest.devices._request(disk, chain))
                guest.devices.served += 1
            queue.publish()
        for device in range(2):
            assert 0 < guest.program.restart_device(device) <= 8
        guest = guest.anew()
        for key in guest.devices.queues:
            for vector in guest.devices.serve(*key):
                guest.program.interrupt(0, vector)
    guest.program._context.set(MODE, Mode.QUIET)
    guest.settle()
    log = guest.program.request_log()
    assert log.intact
    assert log.outstanding == 0
    assert log.completed == guest.devices.served > 300
    for number, data in guest.devices.disks.items():
        for block, held in guest.program.disks.generations(number).items():
            assert held.pending is None
            if held.value and not held.value & ZEROED:
                words = memoryview(data[4096 * block : 4096 * (block + 1)]).cast("I")
                assert set(words[3::4]) == {held.value}


@pytest.mark.parametrize("write", [False, True], ids=["reads", "writes"])
def test_a_reset_disk_of_a_user_is_read_on(make_guest: MakeGuest, write: bool) -> None:
    contents = random.Random(7).randbytes(9 * 65536 + 512)
    config = GuestConfig(reader=ReaderConfig(len(contents) // SECTOR_SIZE, write=write))
    guest = make_guest(small_spec(net="", blk="1x3"), config, {0: bytearray(contents)})
    reader = guest.program.reader
    assert reader is not None
    reader.start()
    guest.ticks(2)
    for _ in range(6):
        guest.run(1)
        assert guest.program.restart_device(0) <= 3
        guest = guest.anew()
        guest.machine.notified.extend(guest.devices.queues)
    guest.settle()
    assert reader.status().sha256 == hashlib.sha256(contents).hexdigest()
    assert guest.program.request_log().intact
    assert bytes(guest.devices.disks[0]) == contents


def test_a_disk_without_its_first_ring_is_identified_and_read(make_guest: MakeGuest) -> None:
    """GET_ID is sent on the first ring in use, and only the rings in use get requests."""
    guest = make_guest(small_spec(net="", blk="2x4", blk_use=these_rings([1, 3])))
    disks = guest.program.disks
    guest.program.start_load("heavy")
    guest.ticks(4)
    guest.run(100)
    assert disks.serial(0) == disks.serial(1) == "small-disk"
    assert guest.devices.queues.keys() == {(0, 1), (0, 3), (1, 1), (1, 3)}
    assert all(queue.completed() for queue in disks.queues)
    # Each ring's blocks are where they are if all rings are used.
    assert {block // 64 for block in disks.generations(0)} == {1, 3}


@pytest.mark.parametrize("write", [False, True], ids=["reads", "writes"])
def test_a_users_disk_is_read_through_the_rings_in_use(make_guest: MakeGuest, write: bool) -> None:
    contents = random.Random(7).randbytes(9 * 65536 + 512)
    config = GuestConfig(reader=ReaderConfig(len(contents) // SECTOR_SIZE, write=write))
    spec = small_spec(net="", blk="1x4", blk_use=these_rings([1, 3]))
    guest = make_guest(spec, config, {0: bytearray(contents)})
    reader = guest.program.reader
    assert reader is not None
    reader.start()
    guest.ticks(2)
    guest.run(5)
    guest = guest.move()
    reader = guest.program.reader
    assert reader is not None
    guest.settle()
    assert reader.status().sha256 == hashlib.sha256(contents).hexdigest()
    assert {vector for _, vector, _ in guest.program.disks.handlers()} == {1, 3}


def test_a_users_disk_without_a_ring_in_use_cannot_be_read(make_guest: MakeGuest) -> None:
    spec = small_spec(net="", blk="1x4", blk_use=these_rings([]))
    with pytest.raises(ShapeError, match="blk0 is to be read, but the guest uses none of its"):
        make_guest(spec, GuestConfig(reader=ReaderConfig(SECTORS)))
