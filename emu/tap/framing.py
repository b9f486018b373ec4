"""Divides a stream into messages by their headers. It does not know what a message means."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user.codec import HEADER, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of payload that are still taken for a message's: many times what any known one has.
MAX_PAYLOAD = 1 << 14
_VERSION_MASK = 3


class RawMessage(NamedTuple):
    """A message as it was on the wire.

    Attributes:
        time: when its last byte was read, CLOCK_MONOTONIC, nanoseconds.
        id, flags: of its header.
        payload: its bytes after the header.
        fds: how many descriptors it had.
    """

    time: int
    id: int
    flags: int
    payload: bytes
    fds: int


def _is_header(flags: int, size: int) -> bool:
    return flags & _VERSION_MASK == VERSION and size <= MAX_PAYLOAD


class Framer:
    """The messages of one direction.

    Attributes:
        lost: why the stream cannot be divided any more; empty while it can.
    """

    __slots__ = ("_fds", "_rest", "lost")

    def __init__(self) -> None:
        self._rest = b""
        self._fds = 0
        self.lost = ""

    @property
    def between_messages(self) -> bool:
        """The next byte is the first of a message."""
        return not self._rest and not self.lost

    def split(self, data: bytes) -> Iterator[int]:
        """The sizes of the messages in the next bytes; of one that is not complete, of its part.

        Where there are no messages any more, the sizes are 1.
        """
        whole = self._rest + data
        at, base, end = 0, len(self._rest), len(self._rest) + len(data)
        while at < end:
            size = 1
            if not self.lost and end - at >= HEADER.size:
                _, flags, payload = HEADER.unpack_from(whole, at)
                if _is_header(flags, payload):
                    size = HEADER.size + payload
            elif not self.lost:
                size = end - at
            stop = min(end, at + size)
            if stop > base:
                yield stop - max(at, base)
            at = stop

    def feed(self, data: bytes, fds: int, time: int) -> list[RawMessage]:
        """The messages that are complete now.

        Args:
            data: the next bytes.
            fds: how many descriptors came with the first of them.
            time: when they were read.
        """
        if self.lost:
            return []
        self._fds += fds
        data = self._rest + data if self._rest else data
        messages: list[RawMessage] = []
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            number, flags, size = HEADER.unpack_from(data, at)
            if not _is_header(flags, size):
                self.lost = f"no header: request {number}, flags {flags:#x}, {size} bytes"
                self._rest = b""
                return messages
            body = at + HEADER.size
            if body + size > end:
                break
            at = body + size
            messages.append(RawMessage(time, number, flags, data[body:at], self._fds))
            self._fds = 0
        self._rest = data[at:]
        return messages
