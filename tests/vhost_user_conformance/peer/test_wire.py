"""Messages on a connection: valid, invalid, incomplete, and none."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from vhost_user.codec import REPLY, VERSION
from vhost_user_conformance.peer.wire import HEADER, Closed, Nonsense, Silent, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire with a short time limit, and the socket of its peer."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours, {1: "GET_FEATURES"}, 0.2)
    with theirs:
        yield wire, theirs
        wire.close()


def test_a_message_in_pieces_is_joined(ends: tuple[Wire, socket.socket]) -> None:
    """With the descriptors of its first byte."""
    wire, peer = ends
    fd = os.eventfd(0)
    data = HEADER.pack(1, VERSION | REPLY, 8) + (7).to_bytes(8, "little")
    socket.send_fds(peer, [data[:5]], [fd])
    peer.sendall(data[5:])
    os.close(fd)
    message = wire.receive()
    assert (message.id, message.flags, message.u64, len(message.fds)) == (1, VERSION | REPLY, 7, 1)
    message.close()


def test_what_is_sent_can_break_the_rules(ends: tuple[Wire, socket.socket]) -> None:
    """Flags, and a size that differs from the payload's."""
    wire, peer = ends
    wire.send(1, b"abc", flags=2, size=99)
    assert peer.recv(64) == HEADER.pack(1, 2, 99) + b"abc"
    assert "GET_FEATURES" in wire.transcript[-1]


def test_no_message_is_silence(ends: tuple[Wire, socket.socket]) -> None:
    """After the time limit; so is a part of one."""
    wire, peer = ends
    with pytest.raises(Silent):
        wire.receive()
    peer.sendall(HEADER.pack(1, VERSION, 8))
    with pytest.raises(Silent):
        wire.receive()


def test_the_end_of_the_connection(ends: tuple[Wire, socket.socket]) -> None:
    """Both a receiver and a waiter see it."""
    wire, peer = ends
    assert not wire.hangs_up(0.01)
    peer.shutdown(socket.SHUT_RDWR)
    assert wire.hangs_up(5.0)
    with pytest.raises(Closed):
        wire.receive()


def test_a_header_with_an_enormous_payload_is_no_message(ends: tuple[Wire, socket.socket]) -> None:
    """Its payload is not read."""
    wire, peer = ends
    peer.sendall(HEADER.pack(1, VERSION, 0xFFFFFFFF))
    with pytest.raises(Nonsense):
        wire.receive()
