"""The stream: sections and memory over real sockets, and errors of the peer."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import MigrationError
from emu.machine.ram import GuestRam
from emu.migration.stream import (
    HEADER,
    MAX_PAYLOAD,
    RUNS_PER_SECTION,
    SENDFILE_BYTES,
    Kind,
    MigrationStream,
    _drop,
)
from tests.timeouts import TIMEOUT
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rams() -> Iterator[tuple[GuestRam, GuestRam]]:
    """The memories of both sides: two regions, around the hole."""
    made = GuestRam(6 << 30), GuestRam(6 << 30)
    yield made
    for ram in made:
        ram.close()


def test_sections_keep_kind_and_bytes(ends: tuple[MigrationStream, MigrationStream]) -> None:
    """In both directions, empty ones as well."""
    a, b = ends
    a.send(Kind.HELLO, b"who")
    a.send(Kind.SWITCHOVER)
    b.send(Kind.PREPARED, bytes(1000))
    assert b.receive() == (Kind.HELLO, 0, b"who")
    assert b.receive() == (Kind.SWITCHOVER, 0, b"")
    assert a.receive() == (Kind.PREPARED, 0, bytes(1000))


@pytest.mark.parametrize(
    "runs",
    [
        [(PAGE_SIZE, PAGE_SIZE)],
        [(PAGE_SIZE * n * 2, PAGE_SIZE) for n in range(RUNS_PER_SECTION + 5)],
        [(0, SENDFILE_BYTES * 3), (4 << 30, SENDFILE_BYTES)],
        [(PAGE_SIZE, PAGE_SIZE), (4 << 30, 2 << 20), ((5 << 30) + PAGE_SIZE, 7 * PAGE_SIZE)],
    ],
    ids=["a page", "more than a section", "by sendfile", "both"],
)
def test_memory_arrives(
    ends: tuple[MigrationStream, MigrationStream],
    rams: tuple[GuestRam, GuestRam],
    runs: list[tuple[int, int]],
) -> None:
    """Every byte at its address, and no other bytes."""
    here, there = rams
    for gpa, length in runs:
        here.view(gpa, length)[:] = os.urandom(length)

    def send() -> None:
        ends[0].send_ram(here, runs)
        ends[0].send(Kind.SWITCHOVER)

    sender = threading.Thread(target=send)
    sender.start()
    received = 0
    while True:
        kind, count, payload = ends[1].receive()
        if kind is Kind.SWITCHOVER:
            break
        received += ends[1].receive_ram(there, count, payload)
    sender.join(TIMEOUT)
    assert received == sum(length for _, length in runs)
    assert all(here.view(*run) == there.view(*run) for run in runs)
    touched = sum(length for _, length in there.extents())
    assert touched == received


@given(
    sizes=st.lists(st.integers(0, 9), max_size=6),
    data=st.data(),
)
def test_what_was_transferred_is_dropped(sizes: list[int], data: st.DataObject) -> None:
    """For any number of transferred bytes."""
    parts: list[bytes | memoryview] = [os.urandom(size) for size in sizes]
    whole = b"".join(parts)
    done = data.draw(st.integers(0, len(whole)))
    _drop(parts, done)
    assert b"".join(parts) == whole[done:]


def test_a_silent_peer_is_an_error(ends: tuple[MigrationStream, MigrationStream]) -> None:
    """After the timeout."""
    ends[0].set_timeout(0.05)
    with pytest.raises(MigrationError, match=r"silent for 0\.05 s"):
        ends[0].receive()


def test_a_peer_that_does_not_read_is_an_error(
    ends: tuple[MigrationStream, MigrationStream], rams: tuple[GuestRam, GuestRam]
) -> None:
    """After the timeout, by sendfile and by sendmsg."""
    ends[0].set_timeout(0.05)
    for run in ((0, 8 << 20), (4 << 30, 64 << 10)):
        rams[0].view(*run)[:] = bytes([7]) * run[1]
        with pytest.raises(MigrationError, match=r"silent for 0\.05 s"):
            ends[0].send_ram(rams[0], [run] * 100)


def test_a_peer_that_disconnects_is_an_error(ends: tuple[MigrationStream, MigrationStream]) -> None:
    """In the middle of a section."""
    raw = ends[0]._sock
    raw.sendall(HEADER.pack(Kind.HELLO, 0, 100) + b"short")
    raw.shutdown(socket.SHUT_RDWR)
    with pytest.raises(MigrationError, match="closed the connection"):
        ends[1].receive()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (HEADER.pack(99, 0, 0), "unknown kind 99"),
        (HEADER.pack(Kind.HELLO, 0, 1 << 40), "a HELLO section of 1099511627776 bytes"),
        *(
            (HEADER.pack(kind, 0, MAX_PAYLOAD.get(kind, 64) + 1), f"a {kind.name} section of ")
            for kind in Kind
        ),
    ],
)
def test_an_invalid_header_is_an_error(
    ends: tuple[MigrationStream, MigrationStream], head: bytes, text: str
) -> None:
    """Before memory of its size is allocated."""
    ends[0]._sock.sendall(head)
    with pytest.raises(MigrationError, match=text):
        ends[1].receive()


@pytest.mark.parametrize(
    ("count", "table", "text"),
    [
        (2, struct.pack("<QQ", 0, PAGE_SIZE), "wrong length"),
        (RUNS_PER_SECTION + 1, bytes(16 * (RUNS_PER_SECTION + 1)), "wrong length"),
        (1, struct.pack("<QQ", 3 << 30, PAGE_SIZE), "does not have"),
        (1, struct.pack("<QQ", (1 << 64) - PAGE_SIZE, PAGE_SIZE), "does not have"),
    ],
)
def test_memory_outside_is_refused(
    ends: tuple[MigrationStream, MigrationStream],
    rams: tuple[GuestRam, GuestRam],
    count: int,
    table: bytes,
    text: str,
) -> None:
    """The source cannot write to addresses where the VM has no memory."""
    with pytest.raises(MigrationError, match=text):
        ends[1].receive_ram(rams[1], count, table)


def test_a_failing_destination_sends_its_reason(
    ends: tuple[MigrationStream, MigrationStream],
) -> None:
    """The source receives it although it still sends."""
    reasons: list[str] = []

    def source() -> None:
        ends[0].send(Kind.DEVICES, bytes(1 << 20))
        reasons.append(ends[0].receive_failure())
        ends[0].close()

    thread = threading.Thread(target=source)
    thread.start()
    ends[1].send_failure("no such disk")
    thread.join(TIMEOUT)
    assert reasons == ["no such disk"]


def test_a_destination_that_disconnects_leaves_no_reason(
    ends: tuple[MigrationStream, MigrationStream],
) -> None:
    """The reason is empty."""
    ends[1].close()
    assert ends[0].receive_failure() == ""
