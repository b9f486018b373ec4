"""Requests that the suite's back-end takes from rings, and the faults that it finds in them."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest

from tests.vhost_user_conformance.front_end.guest import (
    AVAIL,
    BYTES,
    DATA,
    DESC,
    GPA,
    SIZE,
    TABLE,
    USED,
    Guest,
)
from vhost_user.payloads import VringAddr
from vhost_user_conformance.front_end.device import Disk
from vhost_user_conformance.front_end.ring import (
    INDIRECT,
    NEXT,
    WRITE,
    Fault,
    FaultKind,
    Part,
    Ring,
    Walker,
)


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
        (
            [(GPA + BYTES - 8, 16, 0, 0)],
            Fault(FaultKind.BUFFER_OUTSIDE, "16 bytes at 0x1fff8 are not in a region"),
        ),
        (
            [(0, 16, 0, 0)],
            Fault(FaultKind.BUFFER_OUTSIDE, "16 bytes at 0x0 are not in a region"),
        ),
        ([(GPA, 16, NEXT, SIZE)], Fault(FaultKind.INDEX, "descriptor 4 of a table of 4")),
        ([(GPA, 16, NEXT, 0)], Fault(FaultKind.LOOP, "the chain has a loop")),
        (
            [(GPA, 16, NEXT | WRITE, 1), (GPA, 16, 0, 0)],
            Fault(FaultKind.ORDER, "a device-readable descriptor follows a device-writable one"),
        ),
        (
            [(GPA + TABLE, 24, INDIRECT, 0)],
            Fault(FaultKind.INDIRECT, "an indirect table of 24 bytes"),
        ),
        (
            [(GPA + TABLE, 0, INDIRECT, 0)],
            Fault(FaultKind.INDIRECT, "an indirect table of 0 bytes"),
        ),
        (
            [(GPA + TABLE, 16, INDIRECT | NEXT, 1)],
            Fault(FaultKind.INDIRECT, "a descriptor has both INDIRECT and NEXT"),
        ),
        (
            [(0, 16, INDIRECT, 0)],
            Fault(FaultKind.TABLE_OUTSIDE, "an indirect table is not in a region"),
        ),
        (
            [(GPA + DESC, 16, INDIRECT, 0)],
            Fault(FaultKind.INDIRECT, "an indirect table contains an indirect table"),
        ),
    ],
)
def test_an_invalid_chain_has_a_fault(
    guest: Guest, descriptors: list[tuple[int, int, int, int]], fault: Fault
) -> None:
    """It causes no endless loop and no error."""
    for index, (gpa, length, flags, following) in enumerate(descriptors):
        guest.describe(index, gpa, length, flags, following)
    assert fault in guest.take().faults


def test_more_requests_than_there_are_descriptors(guest: Guest) -> None:
    """The index is too far ahead."""
    guest.describe(0, GPA + DATA, 16)
    guest.offer(0, 0, 0, 0)
    guest.write(AVAIL + 2, struct.pack("<H", SIZE + 1))
    chain = guest.walker.take()
    assert chain is not None
    assert chain.faults == (Fault(FaultKind.AVAILABLE, "5 requests available in a ring of 4"),)


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
    guest.take()
    assert guest.walker.flag_faults() == []
    guest.ring.event_idx = True
    assert guest.walker.flag_faults() == ["the available ring has flags 0x1"]


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
    in_flight = Fault(FaultKind.IN_FLIGHT, "descriptor 2 belongs to a request in flight")
    assert second.faults == (in_flight,)
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


def test_memory_that_is_truncated(guest: Guest) -> None:
    """It is not in a region any more, and an access does not raise SIGBUS."""
    guest.describe(0, GPA + DATA, 16)
    guest.describe(1, GPA + TABLE, 16, INDIRECT)
    guest.offer(0, 1, 0)
    os.truncate(guest.fd, TABLE)
    chain = guest.walker.take()
    assert chain is not None
    assert [fault.kind for fault in chain.faults] == [FaultKind.BUFFER_OUTSIDE]
    guest.walker.give_back(chain, Disk().do(guest.memory, chain))
    assert guest.read(USED + 2, 2) == b"\x01\x00"
    chain = guest.walker.take()
    assert chain is not None
    assert FaultKind.TABLE_OUTSIDE in [fault.kind for fault in chain.faults]
    os.truncate(guest.fd, USED)
    guest.walker.give_back(chain, 0)
    assert guest.walker.take() is None
    os.truncate(guest.fd, 0)
    assert Walker(guest.memory, guest.ring).take() is None
    assert guest.memory.view(GPA, 1) is None
    assert not guest.memory.covers(GPA, 1)


def test_a_call_that_cannot_be_written_is_survived() -> None:
    """The request is completed all the same."""
    ring = Ring(0)
    ring.call = os.open(os.devnull, os.O_RDONLY)
    ring.notify()
    ring.stop()
