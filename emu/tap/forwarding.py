"""One direction of a connection: bytes and descriptors, unchanged and in the same places.

Nothing here depends on what the bytes mean. Descriptors are sent with the byte that they arrived
with: a receiver that reads a message's header alone then gets the descriptors of this message.
"""

from __future__ import annotations

import array
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vhost_user.channel import descriptors_in
from vhost_user.codec import close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.tap.fast_path import Forwarded

#: Bytes of one read at most; a direction holds those of one read, so this is its bound, too.
READ_SIZE = 65536
#: Descriptors in one message of a unix socket at most (SCM_MAX_FD in Linux).
MAX_FDS = 253

_FD_SIZE = array.array("i").itemsize
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * _FD_SIZE)
# Numbers, not members of an enum: an operation on those costs as much as a system call.
_NOW = int(socket.MSG_DONTWAIT)
_PEEK = int(socket.MSG_DONTWAIT | socket.MSG_PEEK)
_READ = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_TRUNCATED = int(socket.MSG_CTRUNC)
_GONE = ConnectionError


class DescriptorsLostError(Exception):
    """Descriptors have arrived that this process has no room for."""


class Piece(NamedTuple):
    """A part of a stream; its descriptors came with its first byte. Without bytes: the end."""

    data: bytes
    fds: tuple[int, ...] = ()


END = Piece(b"")


def read_pieces(sock: socket.socket, split: Callable[[bytes], Iterable[int]]) -> list[Piece]:
    """What has arrived, `END` at the end of the stream; of two pieces the second has descriptors.

    The kernel ends a read after bytes that came with descriptors, but puts earlier bytes without
    any into the same read. So the bytes are first looked at (MSG_PEEK). If there are descriptors
    among them, each message is read on its own, its first byte first: that byte has them.

    Args:
        sock: the socket.
        split: the sizes of the messages in these bytes, of which the first and the last may be
            parts of messages.

    Raises:
        DescriptorsLostError: not all descriptors could be received.
        ConnectionResetError: the peer has gone, and has not read everything.
    """
    try:
        data, _, flags, _ = sock.recvmsg(READ_SIZE, 0, _PEEK)
    except BlockingIOError:
        return []
    if not data:
        return [END]
    if not flags & _TRUNCATED:
        return [Piece(sock.recv(len(data), _NOW))]
    left = len(data)
    plain: list[bytes] = []
    for size in split(data):
        for part in (1, size - 1):
            if not part:
                continue
            first, fds = _read(sock, part)
            left -= len(first)
            if fds:
                rest = sock.recv(left, _NOW) if left else b""
                earlier = [Piece(b"".join(plain))] if plain else []
                return [*earlier, Piece(first + rest, fds)]
            plain.append(first)
    return [Piece(b"".join(plain))]


def _read(sock: socket.socket, size: int) -> tuple[bytes, tuple[int, ...]]:
    data, ancillary, flags, _ = sock.recvmsg(size, _ANCILLARY, _READ)
    fds = tuple(descriptors_in(ancillary))
    if flags & _TRUNCATED:
        close_all(fds)
        raise DescriptorsLostError
    return data, fds


class Inspector(Protocol):
    """Sees each piece, in order; whatever does not have to be known before is done after."""

    def split(self, data: bytes) -> Iterable[int]:
        """See `read_pieces`; the bytes are the next ones of the stream."""

    def exchange(self, piece: Piece) -> Piece:
        """The piece to be sent: this one, which has descriptors, or one with other descriptors.

        The descriptors of the result are closed once they have been sent; those of the argument
        that it lacks are the inspector's.
        """

    def inspect(self, data: bytes, fds: int, time: int) -> None:
        """Decode a piece, which has been sent, as far as the sink took it.

        Args:
            data: its bytes.
            fds: how many descriptors came with it.
            time: when it was read, CLOCK_MONOTONIC, nanoseconds.
        """


class Pump:
    """Forwards from one socket to the other, in one direction.

    It holds what one read has returned at most, and reads again when that is sent: a side that does
    not read stops the side that sends to it, as without the tap.

    Attributes:
        finished: the source has ended and everything is sent, or the sink takes no more.
        sink_has_gone: the latter.
    """

    __slots__ = ("_inspector", "_pieces", "_sink", "_source", "finished", "sink_has_gone")

    def __init__(self, source: socket.socket, sink: socket.socket, inspector: Inspector) -> None:
        self._source = source
        self._sink = sink
        self._inspector = inspector
        self._pieces: deque[Piece] = deque()
        self.finished = False
        self.sink_has_gone = False

    @property
    def pending(self) -> bool:
        """Something waits until the sink takes it."""
        return bool(self._pieces)

    @property
    def flowing(self) -> bool:
        """Nothing waits, and neither side has ended."""
        return not self._pieces and not self.finished

    def run(self) -> None:
        """Forward what one read returns, as far as the sink takes it; never blocks.

        A peer that never pauses so delays no other one; what else has arrived is still readable.

        Raises:
            DescriptorsLostError: see `read_pieces`; nothing more can be forwarded unchanged.
            OSError: the kernel does not take a piece, for lack of memory or of descriptors.
        """
        if self._pieces and not self._send():
            return
        if self.finished:
            return
        try:
            pieces = read_pieces(self._source, self._inspector.split)
        except _GONE:  # reset: whatever came before has been read
            pieces = [END]
        if pieces == [END]:
            self._end()
        else:
            self._forward(pieces)

    def take(self, piece: Forwarded) -> None:
        """What was read elsewhere, and sent as far as the sink took it; the rest is held here.

        Raises:
            DescriptorsLostError: see `read_pieces`.
        """
        if piece.fd_count < 0:
            raise DescriptorsLostError
        self._inspector.inspect(piece.data, piece.fd_count, piece.time)
        if piece.sent < len(piece.data):
            self._pieces.append(Piece(piece.data[piece.sent :], piece.fds))

    def close(self) -> None:
        """Drop what has not been sent."""
        self.finished = True
        while self._pieces:
            close_all(self._pieces.popleft().fds)

    def _forward(self, pieces: list[Piece]) -> None:
        """Send pieces that were just read. They are decoded while the receiver wakes up."""
        now = time.monotonic_ns()
        waiting = deque(pieces)
        try:
            while waiting:
                piece = waiting.popleft()
                self._pieces.append(self._inspector.exchange(piece) if piece.fds else piece)
                try:
                    self._send()
                finally:
                    self._inspector.inspect(piece.data, len(piece.fds), now)
        finally:
            for piece in waiting:  # after an error: `close` does not know them yet
                close_all(piece.fds)

    def _send(self) -> bool:
        """Send what is held; True if nothing is left of it."""
        pieces = self._pieces
        while pieces:
            piece = pieces[0]
            try:
                sent = self._write(piece)
            except BlockingIOError:
                return False
            except _GONE:  # what it has sent before is still forwarded, in the other direction
                self.sink_has_gone = True
                self.close()
                return False
            pieces.popleft()
            close_all(piece.fds)
            if sent < len(piece.data):
                pieces.appendleft(Piece(piece.data[sent:]))
                return False
        return True

    def _write(self, piece: Piece) -> int:
        if not piece.fds:
            return self._sink.send(piece.data, _SEND)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", piece.fds))
        return self._sink.sendmsg([piece.data], [rights], _SEND)

    def _end(self) -> None:
        """The source has ended: so does the stream to the sink."""
        self.finished = True
        with suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
