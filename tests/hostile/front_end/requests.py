"""Requests that lie, for each device kind."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from tests.hostile.cell import Cell
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VringState
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SEGMENT,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)
from vhost_user.virtqueue.layout import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.hostile.front_end.peer import HostileRing
    from tests.hostile.front_end.program import Attack

#: Guest addresses of a request's parts.
HEADER, DATA, STATUS, TABLE = 0x10_0000, 0x20_0000, 0x18_0000, 0x40_0000
_R, _W = 0, F_WRITE
_BIG = 0xFFFF_FFFF


class Chain(NamedTuple):
    """A request: buffers as (address, bytes, flags), and what is written into guest memory."""

    buffers: Sequence[tuple[int, int, int]]
    contents: Sequence[tuple[int, bytes]] = ()
    indirect: bool = False
    times: int = 1


def _blk(kind: int, sector: int, *data: tuple[int, int, int], tail: int = 1) -> Chain:
    return Chain(
        [(HEADER, 16, _R), *data, (STATUS, tail, _W)],
        [(HEADER, REQUEST_HEADER.pack(kind & _BIG, 0, sector & (2**64 - 1)))],
    )


_IN, _OUT = VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
_SECTORS = 2048


def _ranges() -> Iterator[tuple[str, Chain]]:
    """Sectors that the disk does not have."""
    for sector in (_SECTORS, _SECTORS - 1, 2**32, 2**54, 2**55 - 1, 2**55, 2**63, 2**64 - 1):
        yield f"read of 8 sectors at {sector:#x}", _blk(_IN, sector, (DATA, 4096, _W))
        yield f"write of 8 sectors at {sector:#x}", _blk(_OUT, sector, (DATA, 4096, _R))


def _types() -> Iterator[tuple[str, Chain]]:
    for kind in (2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 0x1000, 0x8000_0000, _BIG):
        yield f"type {kind:#x}", _blk(kind, 0, (DATA, 512, _W))
    for name, kind in (
        ("read", _IN),
        ("write", _OUT),
        ("flush", VIRTIO_BLK_T_FLUSH),
        ("id", VIRTIO_BLK_T_GET_ID),
        ("discard", VIRTIO_BLK_T_DISCARD),
        ("write-zeroes", VIRTIO_BLK_T_WRITE_ZEROES),
    ):
        yield f"{name} without data", _blk(kind, 0)
        yield f"{name} with 1 byte to read", _blk(kind, 0, (DATA, 1, _R))
        yield f"{name} with 1 byte to write", _blk(kind, 0, (DATA, 1, _W))
        yield f"{name} with 511 bytes", _blk(kind, 0, (DATA, 511, _R), (DATA, 511, _W))
        yield f"{name} with data of both kinds", _blk(kind, 0, (DATA, 512, _R), (DATA, 512, _W))
        yield f"{name} with 8 MiB", _blk(kind, 0, (0, 8 << 20, _R), (0, 8 << 20, _W))
        yield f"{name} without a header", Chain([(STATUS, 1, _W)])
        yield f"{name} without a status", Chain([(HEADER, 16, _R)])
        yield f"{name} with a header of 15 bytes", Chain([(HEADER, 15, _R), (STATUS, 1, _W)])
        yield f"{name} with a status of 16 bytes", _blk(kind, 0, (DATA, 512, _W), tail=16)
        yield (
            f"{name} with its status in its header",
            Chain(
                [(HEADER, 16, _R), (DATA, 512, _W), (HEADER, 1, _W)],
                [(HEADER, REQUEST_HEADER.pack(kind, 0, 0))],
            ),
        )
        yield (
            f"{name} with 1000 x 12 MiB",
            _blk(kind, 0, *[(0, 12 << 20, _R)] * 1000)._replace(indirect=True),
        )
        yield (
            f"{name} into 1000 x 12 MiB",
            _blk(kind, 0, *[(0, 12 << 20, _W)] * 1000)._replace(indirect=True),
        )
        yield (
            f"{name} of 340 pieces",
            _blk(kind, 0, *[(DATA, 1, _R)] * 340, *[(DATA, 1, _W)] * 340)._replace(indirect=True),
        )


def _with_segments() -> Iterator[tuple[str, Chain]]:
    """Discards and write-zeroes whose segments lie."""
    for name, kind in (
        ("discard", VIRTIO_BLK_T_DISCARD),
        ("write-zeroes", VIRTIO_BLK_T_WRITE_ZEROES),
    ):
        for what, data in {
            "beyond the end": SEGMENT.pack(_SECTORS, 8, 0),
            "across the end": SEGMENT.pack(_SECTORS - 4, 8, 0),
            "at 2^64-1": SEGMENT.pack(2**64 - 1, 8, 0),
            "at 2^55": SEGMENT.pack(1 << 55, 8, 0),
            "of 2^32-1 sectors": SEGMENT.pack(0, _BIG, 0),
            "of no sector": SEGMENT.pack(0, 0, 0),
            "with all flags": SEGMENT.pack(0, 8, _BIG),
            "twice": SEGMENT.pack(0, 8, 0) * 2,
            "33 times": SEGMENT.pack(0, 8, 0) * 33,
            "100000 times": SEGMENT.pack(0, 8, 0) * 100_000,
            "of 15 bytes": SEGMENT.pack(0, 8, 0)[:15],
        }.items():
            chain = _blk(kind, 0, (DATA, len(data), _R))
            yield f"{name} {what}", chain._replace(contents=[*chain.contents, (DATA, data)])


_NIC_HEADER = struct.Struct("<BBHHHHH")


def _frames() -> Iterator[tuple[str, Chain]]:
    """What a NIC is given to send."""
    for length in (0, 1, 9, 10, 11, 12, 13, 25, 26, 27, 1514 + 12, 65535, 65536, 1 << 20, 12 << 20):
        yield f"frame of {length} bytes with its header", Chain([(DATA, length, _R)])
    for name, header in {
        "all flags": _NIC_HEADER.pack(255, 255, _BIG & 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF),
        "checksum beyond the frame": _NIC_HEADER.pack(1, 0, 0, 0, 0xFFFF, 0xFFFF, 0),
        "segments of 0 bytes": _NIC_HEADER.pack(0, 1, 0, 0, 0, 0, 0),
        "unknown segmentation": _NIC_HEADER.pack(0, 0x7F, 0xFFFF, 1, 0, 0, 0),
        "65535 buffers": _NIC_HEADER.pack(0, 0, 0, 0, 0, 0, 0xFFFF),
    }.items():
        yield f"header: {name}", Chain([(DATA, 100, _R)], [(DATA, header)])
    yield "frame to write", Chain([(DATA, 100, _W)])
    yield "frame to read and to write", Chain([(DATA, 100, _R), (DATA, 100, _W)])
    yield "frame of 1000 bytes one by one", Chain([(DATA, 1, _R)] * 1000, indirect=True)
    yield "frame of 1000 x 12 MiB", Chain([(0, 12 << 20, _R)] * 1000, indirect=True)
    yield "the same frame 5000 times", Chain([(DATA, 1500, _R)], times=5000)


def _buffers() -> Iterator[tuple[str, Chain]]:
    """What an entropy device is given to fill."""
    for length in (0, 1, 4095, 65537, 1 << 20, 12 << 20):
        yield f"buffer of {length} bytes", Chain([(DATA, length, _W)])
    yield "buffer to read", Chain([(DATA, 64, _R)])
    yield "buffers to read and to write", Chain([(DATA, 64, _R), (DATA, 64, _W)])
    yield "1000 buffers of 1 byte", Chain([(DATA, 1, _W)] * 1000, indirect=True)
    yield "1000 buffers of 12 MiB", Chain([(0, 12 << 20, _W)] * 1000, indirect=True)
    yield "400 buffers of 12 MiB", Chain([(0, 12 << 20, _W)] * 400, indirect=True)
    yield "64 bytes 5000 times", Chain([(DATA, 64, _W)], times=5000)
    yield "the ring itself", Chain([(0x1000, 0x1000, _W)])


def _anywhere() -> Iterator[tuple[str, Chain]]:
    """Buffers that lie elsewhere than they claim, for any device."""
    for name, address in {
        "beyond guest memory": 16 << 20,
        "at 2^63": 1 << 63,
        "at the end of the address space": 2**64 - 16,
        "across the end of guest memory": (16 << 20) - 8,
        "at a user address": 0x7E00_0000_0000,
    }.items():
        for flags, how in ((_R, "read"), (_W, "write")):
            yield f"buffer {name}, to {how}", Chain([(HEADER, 16, _R), (address, 64, flags)])
            yield (
                f"buffer {name}, to {how}, in an indirect table",
                Chain([(HEADER, 16, _R), (address, 64, flags)], indirect=True),
            )
    for length in (0, 1, 0x7FFF_FFFF, 0x8000_0000, _BIG):
        for flags, how in ((_R, "read"), (_W, "write")):
            yield (
                f"buffer of {length:#x} bytes, to {how}",
                Chain([(HEADER, 16, _R), (DATA, length, flags)]),
            )
    yield "writable before readable", Chain([(STATUS, 1, _W), (HEADER, 16, _R)])
    yield "1024 buffers", Chain([(DATA, 1, _R)] * 512 + [(DATA, 1, _W)] * 512, indirect=True)
    yield "1025 buffers", Chain([(DATA, 1, _R)] * 512 + [(DATA, 1, _W)] * 513, indirect=True)
    yield "65535 buffers", Chain([(DATA, 1, _R)] * 65535, indirect=True)


_BY_KIND: dict[str, tuple[Callable[[], Iterator[tuple[str, Chain]]], ...]] = {
    "blk": (_ranges, _types, _with_segments),
    "net": (_frames,),
    "rng": (_buffers,),
}


def cells(program: str) -> Iterator[Cell]:
    """All cells of this group."""
    for make in (_anywhere, *_BY_KIND.get(program, ())):
        for name, chain in make():
            yield Cell("requests", program, name, program, _requested(chain))


def _requested(chain: Chain) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer = on.negotiated(features=~(1 << VIRTIO_RING_F_EVENT_IDX) & ~(1 << 26))
        ring = on.ring(peer)
        ring.set_up()
        write(ring, chain)
        for number in range(chain.times):
            ring.offer(0)
            if not number % 8 or number == chain.times - 1:
                ring.kick()
        ring.await_used(chain.times, 0.3 if chain.times > 1 else 0.1)
        peer.settle()
        peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())

    return attack


def write(ring: HostileRing, chain: Chain) -> None:
    """Write a request into guest memory, from descriptor 0 on."""
    for address, data in chain.contents:
        ring.memory.bytes[address : address + len(data)] = data
    if not chain.indirect:
        ring.chain(chain.buffers)
        return
    last = len(chain.buffers) - 1
    table = b"".join(
        DESCRIPTOR.pack(address, length, flags | (F_NEXT if n < last else 0), n + 1 & 0xFFFF)
        for n, (address, length, flags) in enumerate(chain.buffers)
    )
    ring.memory.bytes[TABLE : TABLE + len(table)] = table
    ring.descriptor(0, TABLE, len(table), F_INDIRECT)


def good_request(on: Attack, ring: HostileRing) -> None:
    """Make a request available that the device serves."""
    if on.kind.name == "blk":
        write(ring, _blk(_IN, 0, (DATA, 512, _W)))
    elif on.kind.name == "net":
        write(ring, Chain([(DATA, 72, _R)]))
    else:
        write(ring, Chain([(DATA, 64, _W)]))
    ring.offer(0)
