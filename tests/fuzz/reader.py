"""Takes numbers from an input's bytes; after their end all are 0."""

from __future__ import annotations


class Reader:
    """Reads an input from its beginning on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return max(0, len(self._data) - self._at)

    def take(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def number(self, size: int) -> int:
        """A little-endian number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)
