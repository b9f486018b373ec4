"""The devices of the suite's back-end: what they do with a request."""

from __future__ import annotations

import struct

import pytest

from tests.vhost_user_conformance.front_end.guest import DATA, GPA, Guest
from vhost_user_conformance.front_end.device import Device, Disk, Entropy, FrameSink
from vhost_user_conformance.front_end.ring import Chain, Part


def test_the_disk_stores_written_data(guest: Guest) -> None:
    """The status byte reports success."""
    disk = Disk()
    guest.write(DATA, struct.pack("<IIQ", 1, 0, 2) + b"x" * 512 + b"\xff")
    out = (
        Part(GPA + DATA, 16, False),
        Part(GPA + DATA + 16, 512, False),
        Part(GPA + DATA + 528, 1, True),
    )
    assert disk.do(guest.memory, Chain(0, 0, out, False, ())) == 1
    assert guest.read(DATA + 528, 1) == b"\0"
    guest.write(DATA, struct.pack("<IIQ", 0, 0, 2) + bytes(512) + b"\xff")
    back = tuple(part._replace(writable=part.size != 16) for part in out)
    assert disk.do(guest.memory, Chain(0, 0, back, False, ())) == 513
    assert guest.read(DATA + 16, 513) == b"x" * 512 + b"\0"


@pytest.mark.parametrize(
    ("kind", "sizes", "status", "written"),
    [
        (4, (16, 1), 0, 1),  # FLUSH
        (8, (16, 20, 1), 0, 21),  # GET_ID
        (11, (16, 16, 1), 2, 17),  # DISCARD, which it does not offer
        (0, (8, 1), None, 0),  # shorter than a header
        (0, (16,), None, 0),  # no room for a status
    ],
)
def test_other_requests_of_a_disk(
    guest: Guest, kind: int, sizes: tuple[int, ...], status: int | None, written: int
) -> None:
    """The last byte is the status; a request that has no room for one is left alone."""
    guest.write(DATA, struct.pack("<IIQ", kind, 0, 0) + b"\xff" * 64)
    at, parts = GPA + DATA, []
    for place, size in enumerate(sizes):
        parts.append(Part(at, size, place > 0))
        at += size
    before = guest.read(DATA, 80)
    assert Disk().do(guest.memory, Chain(0, 0, tuple(parts), False, ())) == written
    if status is None:
        assert guest.read(DATA, 80) == before
    else:
        assert guest.read(DATA + sum(sizes) - 1, 1) == bytes([status])
    if kind == 8:
        assert guest.read(DATA + 16, 20).startswith(b"conformance\0")


def test_an_entropy_device_fills_what_is_writable(guest: Guest) -> None:
    """And nothing else."""
    guest.write(DATA, bytes(48))
    parts = (Part(GPA + DATA, 16, False), Part(GPA + DATA + 16, 32, True))
    assert Entropy().do(guest.memory, Chain(0, 0, parts, False, ())) == 32
    assert guest.read(DATA, 16) == bytes(16)
    assert guest.read(DATA + 16, 32) != bytes(32)


def test_rings_that_are_served() -> None:
    """A NIC completes what it is given to send; an unknown device nothing."""
    assert [FrameSink().handles(ring) for ring in range(4)] == [False, True, False, True]
    assert Disk().handles(3)
    assert Entropy().handles(0)
    assert not Device().handles(0)
