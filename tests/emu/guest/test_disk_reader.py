"""The disk reader: hashes a disk through its rings, stops at its limit, and migrates."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from emu.guest.config import GuestConfig, ReaderConfig
from tests.emu.guest.small_machine import small_spec

if TYPE_CHECKING:
    from tests.emu.guest.conftest import Guest, MakeGuest
    from vhost_user.virtqueue import Chain

SIZE = 37 * 65536 + 512


@pytest.fixture
def contents() -> bytes:
    """A disk whose last chunk is one sector."""
    return random.Random(5).randbytes(SIZE)


@pytest.fixture(params=[1, 3, 12], ids="rings {}".format)
def guest(request: pytest.FixtureRequest, make_guest: MakeGuest, contents: bytes) -> Guest:
    """One disk that is to be read, and one under the ordinary load."""
    spec = small_spec(net="", blk=f"2x{request.param}")
    disks = {0: bytearray(contents), 1: bytearray(12 << 20)}
    return make_guest(spec, GuestConfig(reader=ReaderConfig(SIZE // 512)), disks)


def drive(guest: Guest) -> None:
    guest.ticks(2)
    guest.run(1 << 20)


def test_the_digest_is_the_disks(guest: Guest, contents: bytes) -> None:
    reader = guest.program.reader
    assert reader is not None
    assert reader.status().sha256 is None
    reader.start()
    drive(guest)
    status = reader.status()
    assert status.done
    assert status.position == status.size == SIZE
    assert status.sha256 == hashlib.sha256(contents).hexdigest()
    assert guest.program.request_log().requests == 38


def test_it_stops_at_the_limit_and_goes_on(guest: Guest, contents: bytes) -> None:
    reader = guest.program.reader
    assert reader is not None
    reader.start(limit=5 * 65536 + 100)
    drive(guest)
    assert reader.status()[:3] == (5 * 65536, SIZE, False)
    assert reader.outstanding() == 0
    reader.set_limit(SIZE - 1)
    drive(guest)
    assert reader.status()[:3] == (37 * 65536, SIZE, False)
    reader.set_limit(None)
    drive(guest)
    assert reader.status().sha256 == hashlib.sha256(contents).hexdigest()


def test_it_can_begin_again(guest: Guest, contents: bytes) -> None:
    reader = guest.program.reader
    assert reader is not None
    for _ in range(2):
        reader.start()
        drive(guest)
        assert reader.status().sha256 == hashlib.sha256(contents).hexdigest()
    assert guest.program.request_log().requests == 76


def test_a_reset_ends_a_reading(guest: Guest, contents: bytes) -> None:
    """Its disk begins at index 0 again, as the others do."""
    reader = guest.program.reader
    assert reader is not None
    reader.start()
    guest.ticks(1)
    guest.run(2)
    assert reader.outstanding()
    guest.program.boot_device(0)
    assert reader.outstanding() == 0
    guest = guest.anew()
    drive(guest)
    assert reader.status()[:3] == (0, SIZE, False)
    reader.start()
    drive(guest)
    assert reader.status().sha256 == hashlib.sha256(contents).hexdigest()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_it_goes_on_in_a_copy_of_memory(guest: Guest, contents: bytes, steps: int) -> None:
    reader = guest.program.reader
    assert reader is not None
    reader.start()
    guest.ticks(1)
    guest.run(steps)
    assert reader.outstanding()
    other = guest.move()
    assert other.program.reader is not None
    other.devices.serve_all()
    for index in range(len(other.program.ring_addresses(0))):
        other.program.interrupt(0, other.machine.vector(0, index))
    other.run(1 << 20)
    assert other.program.reader.status().sha256 == hashlib.sha256(contents).hexdigest()
    assert other.program.request_log().requests == 38


def test_write_mode_leaves_every_byte_as_it_was(make_guest: MakeGuest, contents: bytes) -> None:
    disk = bytearray(contents)
    config = GuestConfig(reader=ReaderConfig(SIZE // 512, write=True))
    guest = make_guest(small_spec(net="", blk="1x3"), config, {0: disk})
    assert guest.program.reader is not None
    guest.program.reader.start()
    drive(guest)
    assert guest.program.reader.status().sha256 == hashlib.sha256(contents).hexdigest()
    assert bytes(disk) == contents
    writes = [sector for op, sector, _ in guest.devices.log if op == 1]
    assert sorted(writes) == list(range(0, SIZE // 512, 128))


def test_a_read_that_does_nothing_changes_the_digest(
    guest: Guest, contents: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lazy(disk: bytearray, chain: Chain) -> int:
        chain.writable[-1][0] = 0
        return 1

    reader = guest.program.reader
    assert reader is not None
    reader.start()
    drive(guest)
    monkeypatch.setattr(guest.devices, "_request", lazy)
    reader.start()
    drive(guest)
    assert reader.status().done
    assert reader.status().sha256 != hashlib.sha256(contents).hexdigest()


def test_a_pause_holds_it_between_two_chunks(guest: Guest, contents: bytes) -> None:
    reader = guest.program.reader
    assert reader is not None
    reader.start()
    guest.ticks(1)
    vectors = guest.devices.serve_all()
    guest.machine.paused = True
    for vector in vectors:
        guest.program.interrupt(0, vector)
    assert reader.status().position == 0
    guest.machine.paused = False
    guest.ticks(1)
    guest.run(1 << 20)
    assert reader.status().sha256 == hashlib.sha256(contents).hexdigest()
