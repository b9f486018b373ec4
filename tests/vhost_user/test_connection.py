"""What the connections of both ends have in common."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from vhost_user.channel import READ_SIZE
from vhost_user.codec import close_all
from vhost_user.connection import Connection
from vhost_user.errors import BackendError, Disconnected

if TYPE_CHECKING:
    from collections.abc import Iterator


class Plain(Connection):
    """A connection without a session."""

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()


@pytest.fixture
def ends() -> Iterator[tuple[Plain, socket.socket]]:
    """A connection, and the peer's bare socket."""
    ours, theirs = socket.socketpair()
    with theirs, Plain(ours, "blk0", BackendError) as connection:
        yield connection, theirs


def test_nothing_has_arrived(ends: tuple[Plain, socket.socket]) -> None:
    assert list(ends[0].reads()) == []


def test_all_that_has_arrived(ends: tuple[Plain, socket.socket]) -> None:
    connection, theirs = ends
    theirs.sendall(bytes(READ_SIZE + 5))
    assert [len(read.data) for read in connection.reads()] == [READ_SIZE]
    assert [len(read.data) for read in connection.reads()] == [5]


def test_reads_continue_after_descriptors(ends: tuple[Plain, socket.socket]) -> None:
    connection, theirs = ends
    with open(os.devnull) as null:  # noqa: PTH123
        socket.send_fds(theirs, [b"a"], [null.fileno()])
    theirs.sendall(b"b")
    reads = list(connection.reads())
    assert [(read.data, len(read.fds)) for read in reads] == [(b"a", 1), (b"b", 0)]
    for read in reads:
        close_all(read.fds)


def test_a_peer_that_has_closed_is_reported_after_its_bytes(
    ends: tuple[Plain, socket.socket],
) -> None:
    connection, theirs = ends
    theirs.sendall(b"a")
    theirs.close()
    assert [read.data for read in connection.reads()] == [b"a"]
    with pytest.raises(Disconnected, match="blk0"):
        list(connection.reads())


def test_a_context_closes_it() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with Plain(ours, "blk0", BackendError) as connection:
            assert connection.fileno() >= 0
            assert connection.flush()
            assert not connection.wants_write
        assert connection.fileno() == -1
        assert theirs.recv(1) == b""
