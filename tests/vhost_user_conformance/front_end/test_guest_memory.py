"""Guest memory that a front-end has shared: what can be reached, and by which address."""

from __future__ import annotations

import os

from tests.vhost_user_conformance.front_end.guest import AVAIL, BYTES, DATA, GPA, USER, Guest
from vhost_user.payloads import MemoryRegion
from vhost_user_conformance.front_end.guest_memory import GuestMemory


def test_adjacent_regions(guest: Guest) -> None:
    """A buffer may lie in two of them."""
    fd = os.memfd_create("more")
    os.truncate(fd, BYTES)
    guest.memory.add(MemoryRegion(GPA + BYTES, BYTES, USER + BYTES, 0), fd)
    os.close(fd)
    assert guest.memory.covers(GPA + BYTES - 8, 16)
    assert not guest.memory.covers(GPA + 2 * BYTES - 8, 16)


def test_memory_of_a_device_file() -> None:
    """The file has no size; the region has the size in the message."""
    memory, fd = GuestMemory(), os.open("/dev/zero", os.O_RDWR)
    memory.add(MemoryRegion(GPA, BYTES, USER, 0), fd)
    os.close(fd)
    assert bytes(memory.view(GPA, BYTES) or b"") == bytes(BYTES)
    assert not memory.covers(GPA, BYTES + 1)
    memory.clear()


def test_guest_and_user_addresses(guest: Guest) -> None:
    """All bytes must lie in one region."""
    assert guest.memory.gpa(USER + 16, BYTES - 16) == GPA + 16
    assert guest.memory.gpa(USER + 16, BYTES) is None
    assert guest.memory.gpa(GPA, 1) is None


def test_a_view_is_of_the_shared_file(guest: Guest) -> None:
    """At the offset that the message has."""
    view = guest.memory.view(GPA + 8, 4)
    assert view is not None
    view[:] = b"here"
    assert os.pread(guest.fd, 4, 8) == b"here"
    view.release()
    guest.memory.clear()
    guest.memory.add(MemoryRegion(GPA, 4096, USER, 8), guest.fd)
    moved = guest.memory.view(GPA, 4)
    assert moved is not None
    assert bytes(moved) == b"here"


def test_a_region_is_removed_by_its_guest_addresses(guest: Guest) -> None:
    """The file and the user address do not matter."""
    guest.memory.remove(MemoryRegion(GPA, BYTES // 2, USER, 0))
    assert guest.memory.covers(GPA, BYTES)
    guest.memory.remove(MemoryRegion(GPA, BYTES, 0, 7))
    assert guest.memory.view(GPA, 1) is None


def test_a_file_that_cannot_be_mapped() -> None:
    """The region is known, and has no bytes."""
    read_end, write_end = os.pipe()
    memory = GuestMemory()
    memory.add(MemoryRegion(GPA, BYTES, USER, 0), read_end)
    assert memory.mapped[0].shared is None
    assert memory.view(GPA, 1) is None
    assert memory.gpa(USER, 1) == GPA
    os.close(read_end)
    os.close(write_end)


def test_a_file_that_is_truncated_while_it_is_used(guest: Guest) -> None:
    """What is gone reads as zeroes, and is not shared any more, also when the file grows again."""
    guest.offer(0)
    before = guest.memory.view(GPA + AVAIL, 8)
    assert before is not None
    assert bytes(before) != bytes(8)
    os.truncate(guest.fd, AVAIL)
    assert guest.memory.covers(GPA, AVAIL)
    assert not guest.memory.covers(GPA, AVAIL + 1)
    assert guest.memory.view(GPA + AVAIL, 8) is None
    assert bytes(before) == bytes(8)
    os.truncate(guest.fd, BYTES)
    assert guest.memory.view(GPA + AVAIL, 8) is None
    assert not guest.memory.covers(GPA, 1)


def test_a_ring_whose_memory_is_truncated_is_not_served(guest: Guest) -> None:
    """The suite takes no request from it, and completes none there."""
    guest.describe(0, GPA + DATA, 16)
    chain = guest.take()
    os.truncate(guest.fd, 0)
    guest.walker.give_back(chain, 0)
    guest.walker.want_kick()
    assert guest.walker.take() is None
