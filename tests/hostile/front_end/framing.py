"""Bytes that are no messages."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell
from vhost_user.codec import HEADER, NEED_REPLY, REPLY, VERSION
from vhost_user.messages import MAX_FDS
from vhost_user.messages import FrontendRequest as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.front_end.program import Attack

_GET = HEADER.pack(F.GET_FEATURES, VERSION, 0)
_SET = HEADER.pack(F.SET_FEATURES, VERSION, 8) + bytes(8)

#: What is sent in one piece, and whether more is needed before the program can answer.
_STREAMS: dict[str, tuple[bytes, bool]] = {
    "nothing": (b"", True),
    "1 byte": (_GET[:1], True),
    "11 bytes of a header": (_GET[:11], True),
    "a header without its payload": (_SET[:12], True),
    "a payload without its last byte": (_SET[:-1], True),
    "64 KiB of zeroes": (bytes(1 << 16), False),
    "64 KiB of ones": (b"\xff" * (1 << 16), False),
    "64 KiB of text": (b"GET / HTTP/1.1\r\n" * 4096, False),
    "a message and half of the next": (_GET + _SET[:15], True),
    "a message and zeroes": (_GET + bytes(12), False),
    "10000 messages at once": (_GET * 10000, False),
    "1000 messages and a wrong one": (_GET * 1000 + b"\xff" * 12, False),
}
#: Flags of a header.
_FLAGS = (
    0,
    2,
    3,
    VERSION | REPLY,
    REPLY,
    VERSION | REPLY | NEED_REPLY,
    0x11,
    0x80000001,
    2**32 - 1,
)
#: Ids that are no message.
_IDS = (0, 99, 100, 255, 256, 1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
#: Bytes of payload that a header announces.
_SIZES = (1, 7, 9, 4096, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def cells(program: str) -> Iterator[Cell]:
    """All cells of this group."""
    for name, (data, partial) in _STREAMS.items():
        yield _cell(program, "stream", name, data, partial=partial)
        if data:
            yield _cell(
                program, "stream", f"{name}, byte by byte", data[:200], partial=True, step=1
            )
    for flags in _FLAGS:
        data = HEADER.pack(F.GET_FEATURES, flags, 0)
        yield _cell(program, "flags", f"{flags:#x}", data, partial=False)
    for number in _IDS:
        data = HEADER.pack(number, VERSION, 0)
        yield _cell(program, "id", str(number), data, partial=False)
    for size in _SIZES:
        data = HEADER.pack(F.SET_FEATURES, VERSION, size)
        yield _cell(program, "announced size", str(size), data, partial=True)
    for count in (1, 2, 8, 9, MAX_FDS, 32, 33, 64, 200, 253):
        yield _with_descriptors(program, count)


def _cell(
    program: str, place: str, what: str, data: bytes, *, partial: bool, step: int = 0
) -> Cell:
    def attack(on: Attack) -> None:
        peer = on.connect()
        for at in range(0, len(data), step or max(len(data), 1)):
            peer.raw(data[at : at + step] if step else data)
        if not partial:
            peer.settle()

    return Cell("framing", f"{program} {place}", what, program, attack)


def _with_descriptors(program: str, count: int) -> Cell:
    def attack(on: Attack) -> None:
        peer = on.connect()
        fd = on.memory_file(4096)
        for data in (_GET, _SET[:4], struct.pack("=Q", 0)):
            peer.raw(data, [fd] * count)
        peer.settle()

    return Cell("framing", f"{program} descriptors", f"{count} with each write", program, attack)
