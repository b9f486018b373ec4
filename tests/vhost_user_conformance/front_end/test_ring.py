"""Requests that the suite's back-end takes from rings, and the faults that it finds in them."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING

import pytest

from vhost_user.payloads import MemoryRegion, VringAddr
from vhost_user_conformance.front_end.device import Disk
from vhost_user_conformance.front_end.guest_memory import GuestMemory
from vhost_user_conformance.front_end.ring import INDIRECT, NEXT, WRITE, Chain, Part, Ring, Walker

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4
#: Guest and user addresses differ, as they do in a VM.
GPA, USER, BYTES = 0x10000, 0x7000_0000, 0x10000
DESC, AVAIL, USED, TABLE, DATA = 0, 0x1000, 0x2000, 0x3000, 0x4000


class Guest:
    """A ring in shared memory, and a driver that may make mistakes."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        os.truncate(self.fd, BYTES)
        self.memory = GuestMemory()
        self.memory.add(MemoryRegion(GPA, BYTES, USER, 0), self.fd)
        self.ring = Ring(0)
        self.ring.size = SIZE
        self.ring.address = VringAddr(0, 0, USER + DESC, USER + USED, USER + AVAIL, 0)
        self.walker = Walker(self.memory, self.ring)

    def write(self, at: int, data: bytes) -> None:
        """Write to guest memory, by offset."""
        view = self.memory.view(GPA + at, len(data))
        assert view is not None
        view[:] = data

    def read(self, at: int, size: int) -> bytes:
        """Read from guest memory, by offset."""
        view = self.memory.view(GPA + at, size)
        assert view is not None
        return bytes(view)

    def describe(
        self, index: int, gpa: int, length: int, flags: int = 0, following: int = 0, at: int = DESC
    ) -> None:
        """Write a descriptor."""
        self.write(at + 16 * index, struct.pack("<QIHH", gpa, length, flags, following))

    def offer(self, *heads: int) -> None:
        """Make chains available, from the beginning of the ring."""
        for slot, head in enumerate(heads):
            self.write(AVAIL + 4 + 2 * slot, struct.pack("<H", head))
        self.write(AVAIL + 2, struct.pack("<H", len(heads)))

    def take(self) -> Chain:
        """Take the first chain."""
        self.offer(0)
        chain = self.walker.take()
        assert chain is not None
        return chain

    def close(self) -> None:
        """Unmap the memory."""
        self.memory.clear()
        os.close(self.fd)


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest with a ring."""
    made = Guest()
    yield made
    made.close()


def test_a_good_chain(guest: Guest) -> None:
    """It has its parts in order and no faults, and no chain follows."""
    guest.describe(0, GPA + DATA, 16, NEXT, 2)
    guest.describe(2, GPA + DATA + 16, 1, WRITE)
    chain = guest.take()
    assert chain.parts == (Part(GPA + DATA, 16, False), Part(GPA + DATA + 16, 1, True))
    assert (chain.head, chain.indirect, chain.faults) == (0, False, ())
    assert guest.walker.take() is None


def test_an_indirect_chain(guest: Guest) -> None:
    """It is read from its own table."""
    guest.describe(0, GPA + TABLE, 32, INDIRECT)
    guest.describe(0, GPA + DATA, 16, NEXT, 1, at=TABLE)
    guest.describe(1, GPA + DATA + 16, 1, WRITE, at=TABLE)
    chain = guest.take()
    assert [part.size for part in chain.parts] == [16, 1]
    assert (chain.indirect, chain.faults) == (True, ())


@pytest.mark.parametrize(
    ("descriptors", "fault"),
    [
        ([(GPA + BYTES - 8, 16, 0, 0)], "16 bytes at 0x1fff8 are not in a region"),
        ([(0, 16, 0, 0)], "16 bytes at 0x0 are not in a region"),
        ([(GPA, 16, NEXT, SIZE)], "descriptor 4 of a table of 4"),
        ([(GPA, 16, NEXT, 0)], "the chain has a loop"),
        (
            [(GPA, 16, NEXT | WRITE, 1), (GPA, 16, 0, 0)],
            "a device-readable descriptor follows a device-writable one",
        ),
        ([(GPA + TABLE, 24, INDIRECT, 0)], "an indirect table of 24 bytes"),
        ([(GPA + TABLE, 0, INDIRECT, 0)], "an indirect table of 0 bytes"),
        ([(GPA + TABLE, 16, INDIRECT | NEXT, 1)], "both INDIRECT and NEXT"),
        ([(0, 16, INDIRECT, 0)], "an indirect table is not in a region"),
        ([(GPA + DESC, 16, INDIRECT, 0)], "an indirect table contains an indirect table"),
    ],
)
def test_an_invalid_chain_has_a_fault(
    guest: Guest, descriptors: list[tuple[int, int, int, int]], fault: str
) -> None:
    """It causes no endless loop and no error."""
    for index, (gpa, length, flags, following) in enumerate(descriptors):
        guest.describe(index, gpa, length, flags, following)
    assert any(fault in found for found in guest.take().faults)


def test_more_requests_than_there_are_descriptors(guest: Guest) -> None:
    """The index is too far ahead."""
    guest.describe(0, GPA + DATA, 16)
    guest.offer(0, 0, 0, 0)
    guest.write(AVAIL + 2, struct.pack("<H", SIZE + 1))
    chain = guest.walker.take()
    assert chain is not None
    assert chain.faults == ("5 requests available in a ring of 4",)


def test_completion(guest: Guest) -> None:
    """Head and length are written, then the index and avail_event, and the driver is called."""
    guest.ring.call = os.eventfd(0, os.EFD_NONBLOCK)
    guest.ring.next, guest.ring.event_idx = 0xFFFF, True
    guest.walker = Walker(guest.memory, guest.ring)
    guest.write(USED + 2, struct.pack("<H", 0xFFFF))
    guest.describe(3, GPA + DATA, 1, WRITE)
    guest.write(AVAIL + 4 + 2 * (0xFFFF % SIZE), struct.pack("<H", 3))
    chain = guest.walker.take()
    assert chain is not None
    guest.walker.give_back(chain, 1)
    assert struct.unpack("<II", guest.read(USED + 4 + 8 * (0xFFFF % SIZE), 8)) == (3, 1)
    assert struct.unpack("<H", guest.read(USED + 2, 2)) == (0,)
    assert struct.unpack("<H", guest.read(USED + 4 + 8 * SIZE, 2)) == (0,)
    assert os.eventfd_read(guest.ring.call) == 1
    guest.ring.stop()


def test_a_call_that_is_not_requested(guest: Guest) -> None:
    """It is not made by a script with calls on request only."""
    ring, call = guest.ring, os.eventfd(0, os.EFD_NONBLOCK)
    ring.call, ring.quiet = call, True
    guest.describe(0, GPA + DATA, 1, WRITE)
    for flags, event_idx, event, called in (
        (0, False, 0, True),
        (1, False, 0, False),
        (0, True, 1, False),
        (0, True, 0, True),
    ):
        ring.next, ring.event_idx = 0, event_idx
        guest.walker = Walker(guest.memory, ring)
        guest.write(USED + 2, bytes(2))
        guest.write(AVAIL + 4 + 2 * SIZE, struct.pack("<H", event))
        guest.write(AVAIL, struct.pack("<H", flags))
        guest.walker.give_back(guest.take(), 1)
        with contextlib.suppress(BlockingIOError):
            assert os.eventfd_read(call) == 1
            assert called
            continue
        assert not called
    ring.stop()


def test_flags_of_the_available_ring(guest: Guest) -> None:
    """NO_INTERRUPT is invalid with the event index."""
    guest.describe(0, GPA + DATA, 16)
    guest.write(AVAIL, struct.pack("<H", 1))
    assert guest.take().faults == ()
    guest.ring.event_idx, guest.ring.next = True, 0
    guest.ring.in_flight.clear()
    assert guest.take().faults == ("the available ring has flags 0x1",)


def test_a_descriptor_that_is_not_free(guest: Guest) -> None:
    """Another chain uses it while the first one is not completed."""
    guest.describe(0, GPA + DATA, 16, NEXT, 2)
    guest.describe(1, GPA + DATA, 16, NEXT, 2)
    guest.describe(2, GPA + DATA, 1, WRITE)
    guest.offer(0, 1, 1)
    first, second = guest.walker.take(), guest.walker.take()
    assert first is not None
    assert second is not None
    assert (first.used, first.faults) == ((0, 2), ())
    assert second.faults == ("descriptor 2 belongs to a request in flight",)
    guest.walker.give_back(first, 0)
    guest.walker.give_back(second, 0)
    third = guest.walker.take()
    assert third is not None
    assert third.faults == ()


def test_look_ahead(guest: Guest) -> None:
    """It returns at most the given number of requests, and takes none."""
    guest.write(DATA, b"header")
    for index in range(3):
        guest.describe(index, GPA + DATA + index, 6)
    guest.offer(0, 1, 2)
    assert [chain.head for chain in guest.walker.look_ahead(2)] == [0, 1]
    assert guest.walker.look_ahead(1)[0].header == b"header"
    assert guest.walker.look_ahead(0) == []
    assert guest.ring.next == 0
    taken = guest.walker.take()
    assert taken is not None
    assert (taken.head, taken.faults) == (0, ())


def test_a_ring_outside_guest_memory(guest: Guest) -> None:
    """It has no requests."""
    guest.ring.address = VringAddr(0, 0, 0, 0, 0, 0)
    assert Walker(guest.memory, guest.ring).take() is None


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


def test_adjacent_regions(guest: Guest) -> None:
    """A buffer may lie in two of them."""
    fd = os.memfd_create("more")
    os.truncate(fd, BYTES)
    guest.memory.add(MemoryRegion(GPA + BYTES, BYTES, USER + BYTES, 0), fd)
    os.close(fd)
    assert guest.memory.covers(GPA + BYTES - 8, 16)
    assert not guest.memory.covers(GPA + 2 * BYTES - 8, 16)


def test_memory_that_is_truncated(guest: Guest) -> None:
    """It is not in a region any more, and an access does not raise SIGBUS."""
    guest.describe(0, GPA + DATA, 16)
    guest.describe(1, GPA + TABLE, 16, INDIRECT)
    guest.offer(0, 1, 0)
    os.truncate(guest.fd, TABLE)
    chain = guest.walker.take()
    assert chain is not None
    assert chain.faults == (f"16 bytes at {GPA + DATA:#x} are not in a region",)
    guest.walker.give_back(chain, Disk().do(guest.memory, chain))
    assert guest.read(USED + 2, 2) == b"\x01\x00"
    chain = guest.walker.take()
    assert chain is not None
    assert "an indirect table is not in a region" in chain.faults
    os.truncate(guest.fd, USED)
    guest.walker.give_back(chain, 0)
    assert guest.walker.take() is None
    os.truncate(guest.fd, 0)
    assert Walker(guest.memory, guest.ring).take() is None
    assert guest.memory.view(GPA, 1) is None
    assert not guest.memory.covers(GPA, 1)


def test_memory_of_a_device_file() -> None:
    """The file has no size; the region has the size in the message."""
    memory, fd = GuestMemory(), os.open("/dev/zero", os.O_RDWR)
    memory.add(MemoryRegion(GPA, BYTES, USER, 0), fd)
    os.close(fd)
    assert bytes(memory.view(GPA, BYTES) or b"") == bytes(BYTES)
    assert not memory.covers(GPA, BYTES + 1)
    memory.clear()
