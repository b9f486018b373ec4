"""The channel, on real unix sockets: descriptors, timeouts, many messages per system call."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.waiting import open_fds
from vhost_user.channel import MAX_SOCKET_PATH, READ_FDS, Channel, check_path, connect
from vhost_user.errors import BackendError, DeadlineError, Disconnected, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Two channels that are connected."""
    mine, theirs = socket.socketpair()
    one, other = Channel(mine, "net0", BackendError), Channel(theirs, "net0")
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Four eventfds."""
    fds = [os.eventfd(0) for _ in range(4)]
    yield fds
    for fd in fds:
        os.close(fd)


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors that a read returned."""
    for fd in fds:
        os.close(fd)


def test_the_kernel_ends_a_read_after_the_write_that_had_descriptors(
    ends: tuple[Channel, Channel], descriptors: list[int]
) -> None:
    """What the decoder's rule rests on: descriptors of two messages are never in one read.

    Plain bytes in front of such a write do come in the same read; plain bytes behind it do not.
    """
    one, other = ends
    for data, fds in ((b"a", []), (b"b", []), (b"C", descriptors[:1]), (b"d", [])):
        one.queue(data, fds)
    one.queue(b"E", descriptors[1:3])
    assert one.flush()
    first, second = other.read_now(), other.read_now()
    assert first is not None
    assert second is not None
    assert (first.data, len(first.fds)) == (b"abCd", 1)
    assert (second.data, len(second.fds)) == (b"E", 2)
    assert other.read_now() is None
    close_fds([*first.fds, *second.fds])


def test_plain_messages_share_a_write_until_one_has_descriptors(
    ends: tuple[Channel, Channel], descriptors: list[int]
) -> None:
    """Seen by a peer that reads one write at a time, like packets."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(mine, "net0")
    for data, fds in ((b"a", []), (b"b", []), (b"C", descriptors[:1]), (b"d", [])):
        channel.queue(data, fds)
    assert channel.flush()
    for expected, count in ((b"ab", 0), (b"Cd", 1)):
        data, fds, _, _ = socket.recv_fds(theirs, 100, 4)
        assert (data, len(fds)) == (expected, count)
        close_fds(fds)
    channel.close()
    theirs.close()


def test_descriptors_arrive_working_and_close_on_exec(
    ends: tuple[Channel, Channel], descriptors: list[int]
) -> None:
    """The other end writes to the very eventfd; no program that is started inherits it."""
    one, other = ends
    one.send(b"x", descriptors[:1], 1.0, "SET_VRING_KICK")
    read = other.read(1.0, "x")
    os.eventfd_write(read.fds[0], 5)
    assert os.eventfd_read(descriptors[0]) == 5
    assert not os.get_inheritable(read.fds[0])
    close_fds(read.fds)


def test_too_many_descriptors_are_the_peers_fault_and_do_not_leak(
    ends: tuple[Channel, Channel],
) -> None:
    """The kernel drops those that do not fit; the rest is closed."""
    one, other = ends
    before = open_fds()
    other.send(b"x", [0] * (READ_FDS + 1), 1.0, "SET_MEM_TABLE")
    with pytest.raises(BackendError, match="more than 32 descriptors"):
        one.read_now()
    assert open_fds() <= before


def test_a_silent_peer_meets_the_timeout(ends: tuple[Channel, Channel]) -> None:
    """The error names the device, the message, and the time waited."""
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"net0, GET_VRING_BASE: waited 0.05 s") as caught:
        ends[0].read(0.05, "GET_VRING_BASE")
    assert time.monotonic() - started > 0.04
    assert caught.value.waited == 0.05


def test_timeouts_may_differ_from_call_to_call(ends: tuple[Channel, Channel]) -> None:
    """An earlier timeout has no effect on later calls."""
    for timeout in (0.02, 0.1, 0.02):
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            ends[0].read(timeout, "x")
        assert time.monotonic() - started >= timeout * 0.9


def test_a_peer_that_does_not_read_meets_the_timeout(ends: tuple[Channel, Channel]) -> None:
    """A full socket does not block for ever."""
    with pytest.raises(DeadlineError, match=r"SET_CONFIG: waited .* for the peer to read"):
        ends[0].send(bytes(1 << 24), (), 0.05, "SET_CONFIG")


def test_a_long_message_arrives_whole_while_the_peer_reads(ends: tuple[Channel, Channel]) -> None:
    """Partial writes continue where they ended."""
    one, other = ends
    got = bytearray()

    def take() -> None:
        while len(got) < 1 << 21:
            got.extend(other.read(5.0, "x").data)

    taker = threading.Thread(target=take)
    taker.start()
    sent = bytes(range(256)) * (1 << 13)
    one.send(sent, (), 5.0, "x")
    taker.join(TIMEOUT)
    assert bytes(got) == sent


def test_flush_goes_on_where_a_full_socket_stopped_it(
    ends: tuple[Channel, Channel], descriptors: list[int]
) -> None:
    """Nothing is lost or sent twice, neither bytes nor descriptors."""
    one, other = ends
    sent = bytes(range(256)) * (1 << 12)
    one.queue(sent, descriptors[:1])
    one.queue(b"end", descriptors[1:2])

    def unsent() -> bool:
        return one.wants_write

    assert not one.flush()
    assert unsent()
    got = bytearray()
    fds: list[int] = []
    while unsent() or len(got) < len(sent) + 3:
        while (read := other.read_now()) is not None:
            got += read.data
            fds += read.fds
        one.flush()
    assert bytes(got) == sent + b"end"
    assert len(fds) == 2
    close_fds(fds)


def test_a_peer_that_has_gone(ends: tuple[Channel, Channel]) -> None:
    """Reads and writes raise; what it sent before can still be read."""
    one, other = ends
    other.send(b"last", (), 1.0, "x")
    other.close()
    assert one.read_now() == (b"last", ())
    with pytest.raises(Disconnected, match="net0: the peer has closed"):
        one.read_now()
    with pytest.raises(Disconnected):
        one.read(1.0, "x")
    with pytest.raises(Disconnected):
        one.send(b"x", (), 1.0, "x")
    one.queue(b"x")
    with pytest.raises(Disconnected):
        one.flush()


def test_a_peer_that_left_with_our_bytes_unread(ends: tuple[Channel, Channel]) -> None:
    """The kernel reports a reset; the channel treats it like any other end."""
    one, other = ends
    one.send(b"never read", (), 1.0, "x")
    other.close()
    with pytest.raises(Disconnected):
        one.read_now()


def test_connect_waits_for_a_listener(tmp_path: Path) -> None:
    """A back-end that is being started is connected to as soon as it listens."""
    path = str(tmp_path / "s.sock")
    listener = socket.socket(socket.AF_UNIX)

    def listen() -> None:
        listener.bind(path)
        listener.listen()

    timer = threading.Timer(0.05, listen)
    timer.start()
    connect(path, "net0", 5.0).close()
    timer.join()
    listener.close()


def test_connect_meets_its_timeout(tmp_path: Path) -> None:
    """No process listens."""
    with pytest.raises(DeadlineError, match="a process to listen at"):
        connect(str(tmp_path / "none.sock"), "net0", 0.03)


def test_connect_to_a_full_backlog_meets_its_timeout(tmp_path: Path) -> None:
    """A process listens, and never accepts."""
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(DeadlineError):
            connect(path, "net0", 0.05)


def test_paths_that_no_socket_can_have(tmp_path: Path) -> None:
    """One line gives the reason, at once."""
    check_path("x" * MAX_SOCKET_PATH, "net0")
    for path in ("x" * (MAX_SOCKET_PATH + 1), ""):
        with pytest.raises(UsageError, match="107 bytes at most"):
            check_path(path, "net0")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        connect(str(tmp_path / "file" / "s.sock"), "net0", 1.0)
