"""The sections of a migration stream, as bytes that a hostile peer may change."""

from __future__ import annotations

from typing import NamedTuple

from emu.migration.stream import HEADER, Kind

#: Bytes of an entry of a RAM section's table: address and length.
ENTRY = 16


class Section(NamedTuple):
    """A section.

    Attributes:
        kind: of its header.
        entries: the count of its header.
        payload: its bytes.
        memory: what follows a RAM section's table.
    """

    kind: int
    entries: int
    payload: bytes
    memory: bytes = b""

    @property
    def name(self) -> str:
        """Of its kind."""
        return Kind(self.kind).name

    def raw(self, *, kind: int | None = None, count: int | None = None, more: int = 0) -> bytes:
        """Its bytes.

        Args:
            kind: in place of the right one.
            count: likewise.
            more: what the header's length is larger by.
        """
        length = len(self.payload) + more & (1 << 64) - 1
        number = self.kind if kind is None else kind
        entries = (self.entries if count is None else count) & (1 << 32) - 1
        head = HEADER.pack(number, entries, length)
        return head + self.payload + self.memory


def parse(data: bytes) -> list[Section]:
    """The sections of a stream that a source has sent."""
    sections = []
    at = 0
    while at < len(data):
        kind, count, length = HEADER.unpack_from(data, at)
        at += HEADER.size
        payload = data[at : at + length]
        at += length
        memory = 0
        if kind == Kind.RAM:
            lengths = (payload[n + 8 : n + ENTRY] for n in range(0, length, ENTRY))
            memory = sum(int.from_bytes(part, "little") for part in lengths)
        sections.append(Section(kind, count, payload, data[at : at + memory]))
        at += memory
    return sections
