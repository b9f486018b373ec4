"""One direction: bytes and descriptors, in the same places, with a bound."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import contextlib
import os
import socket
from time import monotonic_ns
from typing import TYPE_CHECKING

import pytest

from emu.tap import forwarding
from emu.tap.forwarding import END, READ_SIZE, DescriptorsLostError, Piece, Pump, read_pieces
from tests.waiting import open_fds
from vhost_user.codec import close_all

if TYPE_CHECKING:
    from contextlib import ExitStack


def single(data: bytes) -> list[int]:
    """The sizes of messages of one byte."""
    return [1] * len(data)


class Unchanged:
    """An inspector that remembers the pieces; each byte is a message."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, int]] = []

    def split(self, data: bytes) -> list[int]:
        """Bytes."""
        return single(data)

    def exchange(self, piece: Piece) -> Piece:
        """The piece itself."""
        return piece

    def inspect(self, data: bytes, fds: int, time: int) -> None:
        """Remember it."""
        assert 0 < time <= monotonic_ns()
        self.pieces.append((data, fds))


def sockets(owned: ExitStack) -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for sock in pair:
        owned.callback(sock.close)
    return pair


def send_with(sock: socket.socket, data: bytes, count: int) -> None:
    """Send bytes with new eventfds."""
    fds = [os.eventfd(number) for number in range(1, count + 1)]
    socket.send_fds(sock, [data], fds)
    close_all(fds)


def everything(sock: socket.socket) -> list[tuple[bytes, int]]:
    """The pieces that have arrived, and how many descriptors each has."""
    pieces = []
    while (read := read_pieces(sock, single)) not in ([], [END]):
        for piece in read:
            close_all(piece.fds)
            pieces.append((piece.data, len(piece.fds)))
    return pieces


def positions(pieces: list[tuple[bytes, int]]) -> tuple[bytes, dict[int, int]]:
    """All bytes, and the offsets at which descriptors are, with their numbers."""
    at, found = 0, {}
    for data, count in pieces:
        if count:
            found[at] = count
        at += len(data)
    return b"".join(data for data, _ in pieces), found


@pytest.mark.parametrize(
    "writes",
    [
        [(b"abc", 0)],
        [(b"abc", 2)],
        [(b"abc", 0), (b"defg", 1)],
        [(b"a", 0), (b"b", 1), (b"c", 1), (b"d", 0)],
        [(b"x" * 5000, 0), (b"y" * 7, 0), (b"z" * 4096, 8), (b"w", 0)],
        [(b"a", 253)],
    ],
)
def test_descriptors_stay_with_their_byte(
    owned: ExitStack, writes: list[tuple[bytes, int]]
) -> None:
    """However many writes arrive before the first read; bytes without any may be joined."""
    ours, theirs = sockets(owned)
    for data, count in writes:
        if count:
            send_with(theirs, data, count)
        else:
            theirs.send(data)
    assert positions(everything(ours)) == positions(writes)


def test_nothing_and_the_end_differ(owned: ExitStack) -> None:
    ours, theirs = sockets(owned)
    assert read_pieces(ours, single) == []
    theirs.close()
    assert read_pieces(ours, single) == [END]


def test_descriptors_without_room_are_an_error(
    owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is passed on as if they were all; those that came are closed."""
    monkeypatch.setattr(forwarding, "_ANCILLARY", socket.CMSG_SPACE(4))
    ours, theirs = sockets(owned)
    send_with(theirs, b"abc", 3)
    before = open_fds()
    with pytest.raises(DescriptorsLostError):
        read_pieces(ours, single)
    assert open_fds() == before


def test_a_pump_forwards_and_closes_its_copies(owned: ExitStack) -> None:
    source, sender = sockets(owned)
    sink, receiver = sockets(owned)
    inspector = Unchanged()
    pump = Pump(source, sink, inspector)
    before = open_fds()
    sender.send(b"one")
    send_with(sender, b"two", 3)
    pump.run()
    assert open_fds() == before
    assert inspector.pieces == [(b"one", 0), (b"two", 3)]
    assert everything(receiver) == [(b"one", 0), (b"two", 3)]


def test_a_piece_is_sent_before_it_is_decoded(owned: ExitStack) -> None:
    """Only the header of one with descriptors is looked at before."""
    source, sender = sockets(owned)
    sink, receiver = sockets(owned)
    seen = []

    class Decoder(Unchanged):
        def exchange(self, piece: Piece) -> Piece:
            seen.append(f"exchange {piece.data!r}")
            return super().exchange(piece)

        def inspect(self, data: bytes, fds: int, time: int) -> None:
            seen.append(f"decode {data!r}, received {everything(receiver)}")
            super().inspect(data, fds, time)

    pump = Pump(source, sink, Decoder())
    sender.send(b"one")
    send_with(sender, b"two", 1)
    pump.run()
    assert seen == [
        "decode b'one', received [(b'one', 0)]",
        "exchange b'two'",
        "decode b'two', received [(b'two', 1)]",
    ]


def test_a_side_that_does_not_read_stops_the_other(owned: ExitStack) -> None:
    """The pump holds one piece; what comes after it stays in the sender's socket."""
    source, sender = sockets(owned)
    sink, receiver = sockets(owned)
    inspector = Unchanged()
    pump = Pump(source, sink, inspector)
    sender.setblocking(False)
    sent, stalled = 0, 0
    while stalled < 3:
        try:
            sent += sender.send(bytes(READ_SIZE))
        except BlockingIOError:
            stalled += 1
        pump.run()
    assert pump.pending
    held = sum(len(data) for data, _ in inspector.pieces)
    assert held < sent
    sender.close()
    receiver.setblocking(False)
    came = 0
    while not pump.finished:
        came += len(receiver.recv(READ_SIZE))
        pump.run()
    while data := receiver.recv(READ_SIZE):
        came += len(data)
    assert came == sent


def test_the_end_follows_what_was_sent(owned: ExitStack) -> None:
    source, sender = sockets(owned)
    sink, receiver = sockets(owned)
    pump = Pump(source, sink, Unchanged())
    sender.send(b"last")
    sender.shutdown(socket.SHUT_WR)
    pump.run()
    pump.run()
    assert pump.finished
    assert receiver.recv(10) == b"last"
    assert receiver.recv(10) == b""


def test_a_sink_that_has_gone_ends_the_pump(owned: ExitStack) -> None:
    source, sender = sockets(owned)
    sink, receiver = sockets(owned)
    pump = Pump(source, sink, Unchanged())
    receiver.close()
    before = open_fds()
    send_with(sender, b"abc", 2)
    pump.run()
    assert pump.finished
    assert not pump.pending
    assert open_fds() == before


def test_an_error_leaves_no_descriptor_open(owned: ExitStack) -> None:
    """Of two pieces of a read, the first one fails: the second one has descriptors."""

    class Failing(Unchanged):
        def inspect(self, data: bytes, fds: int, time: int) -> None:
            raise OSError(data, fds, time)

    source, front = sockets(owned)
    back, sink = sockets(owned)
    front.sendall(b"a")
    send_with(front, b"b", 3)
    before = open_fds()
    pump = Pump(source, back, Failing())
    with pytest.raises(OSError, match="b'a'"):
        pump.run()
    pump.close()
    assert open_fds() == before
    assert sink.recv(2) == b"a"


def test_closing_drops_what_waits(owned: ExitStack) -> None:
    source, sender = sockets(owned)
    sink, _receiver = sockets(owned)
    sink.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while sink.send(bytes(READ_SIZE)):
            pass
    pump = Pump(source, sink, Unchanged())
    before = open_fds()
    send_with(sender, b"abc", 2)
    pump.run()
    assert pump.pending
    pump.close()
    assert open_fds() == before
