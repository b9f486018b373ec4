"""Rings that lie: indexes, descriptors, indirect tables and addresses of a hostile guest."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell
from tests.hostile.front_end.peer import USER
from tests.hostile.front_end.requests import DATA, TABLE, good_request
from vhost_user.features import VHOST_F_LOG_ALL, VIRTIO_RING_F_EVENT_IDX
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VringState
from vhost_user.virtqueue.layout import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.hostile.front_end.peer import HostileRing
    from tests.hostile.front_end.program import Attack

_SIZES = (1, 2, 16, 256)


def _avail_index(by: int, ring: HostileRing) -> None:
    ring.chain([(DATA, 64, 0)])
    ring.set_avail_index(by)


def _heads(head: int, ring: HostileRing) -> None:
    ring.offer(head)


def _descriptor(flags: int, following: int, ring: HostileRing) -> None:
    ring.descriptor(0, DATA, 64, flags, following)
    ring.offer(0)


def _loop(ring: HostileRing) -> None:
    for at in range(ring.size):
        ring.descriptor(at, DATA, 64, F_NEXT, (at + 1) % ring.size)
    ring.offer(0)


def _indirect(length: int, flags: int, address: int, ring: HostileRing) -> None:
    entry = DESCRIPTOR.pack(DATA, 64, 0, 0)
    ring.memory.bytes[TABLE : TABLE + 64 * 16] = entry * 64
    ring.descriptor(0, address, length, F_INDIRECT | flags, 0)
    ring.offer(0)


def _entries(entries: list[tuple[int, int, int, int]], ring: HostileRing) -> None:
    table = b"".join(DESCRIPTOR.pack(*entry) for entry in entries)
    ring.memory.bytes[TABLE : TABLE + len(table)] = table
    ring.descriptor(0, TABLE, len(table), F_INDIRECT)
    ring.offer(0)


def _all_heads_the_same(ring: HostileRing) -> None:
    ring.chain([(DATA, 64, F_WRITE)])
    ring.offer(*[0] * ring.size)


def _event_fields(value: int, ring: HostileRing) -> None:
    """used_event lies behind the available ring."""
    struct.pack_into("=H", ring.memory.bytes, ring.avail + 4 + 2 * ring.size, value)
    _all_heads_the_same(ring)


def _used_changes(ring: HostileRing) -> None:
    struct.pack_into("=HH", ring.memory.bytes, ring.used, 0xFFFF, 0x7FFF)
    _all_heads_the_same(ring)


def _all_ones(ring: HostileRing) -> None:
    at, end = ring.desc, ring.used + 4 + 8 * ring.size
    ring.memory.bytes[at:end] = b"\xff" * (end - at)


_LIES: dict[str, Callable[[HostileRing], None]] = {
    **{f"available index {n:#x}": partial(_avail_index, n) for n in (2, 17, 257, 0x8000, 0xFFFF)},
    **{f"head {n:#x}": partial(_heads, n) for n in (16, 256, 0x7FFF, 0x8000, 0xFFFF)},
    **{
        f"flags {flags:#x}, next {following:#x}": partial(_descriptor, flags, following)
        for flags in (F_NEXT, F_NEXT | F_WRITE, 0xFFF8, 0xFFFF)
        for following in (0, 16, 0xFFFF)
    },
    "chain without an end": _loop,
    **{
        f"indirect table of {length} bytes": partial(_indirect, length, 0, TABLE)
        for length in (0, 1, 15, 17, 16 * 65536, 0xFFFF_FFF0, 0xFFFF_FFFF)
    },
    **{
        f"indirect table with flags {flags:#x}": partial(_indirect, 16, flags, TABLE)
        for flags in (F_NEXT, F_WRITE, 0xFFF8)
    },
    **{
        f"indirect table at {address:#x}": partial(_indirect, 64, 0, address)
        for address in (16 << 20, (16 << 20) - 8, 1 << 63, 2**64 - 16, TABLE + 1)
    },
    "indirect table in an indirect table": partial(_entries, [(TABLE, 16, F_INDIRECT, 0)]),
    "indirect table that is a loop": partial(
        _entries, [(DATA, 1, F_NEXT, 1), (DATA, 1, F_NEXT, 0)]
    ),
    "indirect table, next is beyond it": partial(_entries, [(DATA, 1, F_NEXT, 9)]),
    "the same head in each entry": _all_heads_the_same,
    "used event 0": partial(_event_fields, 0),
    "used event 0x8000": partial(_event_fields, 0x8000),
    "used event 0xffff": partial(_event_fields, 0xFFFF),
    "used ring written by the driver": _used_changes,
    "all ones": _all_ones,
}
_GUEST = 16 << 20
#: Fields of SET_VRING_ADDR; the user address of guest address 0 is added to those below 2^32.
_ADDRESSES: dict[str, dict[str, int]] = {
    **{
        f"{part} at {address:#x}": {part: address + USER if address < 1 << 32 else address}
        for part in ("desc", "used", "avail")
        for address in (
            _GUEST,
            _GUEST - 4,
            _GUEST - 16,
            0x1001,
            0x1002,
            0x1008,
            1 << 63,
            2**64 - 16,
            2**64 - 1,
        )
    },
    "all parts at the same address": {
        "desc": USER + 0x1000,
        "used": USER + 0x1000,
        "avail": USER + 0x1000,
    },
    "all flags": {"flags": 0xFFFF_FFFF},
    "log at 2^64-1": {"flags": 1, "log": 2**64 - 1},
}
_NO_LOG = ~(1 << VHOST_F_LOG_ALL)
_FEATURES = {
    "": _NO_LOG & ~(1 << VIRTIO_RING_F_EVENT_IDX),
    " with EVENT_IDX": _NO_LOG,
}


def cells(program: str) -> Iterator[Cell]:
    """All cells of these groups."""
    for size in _SIZES:
        for mode, features in _FEATURES.items():
            for name, lie in _LIES.items():
                yield Cell(
                    "rings",
                    f"{program} ring of {size}{mode}",
                    name,
                    program,
                    _lying(lie, size, features),
                )
    for name, wrong in _ADDRESSES.items():
        yield Cell("ring addresses", program, name, program, _addressed(wrong))
    for name, act in _CHANGES.items():
        yield Cell("rings that change", program, name, program, act)


def _lying(
    lie: Callable[[HostileRing], None], size: int, features: int
) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer = on.negotiated(features=features)
        ring = on.ring(peer, size)
        ring.set_up()
        ring.kick()
        lie(ring)
        ring.kick()
        ring.kick()
        peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())

    return attack


def _addressed(wrong: dict[str, int]) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer = on.negotiated()
        ring = on.ring(peer)
        ring.set_up(wrong=wrong)
        good_request(on, ring)
        ring.kick()
        peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())

    return attack


# Rings that change while they run


def _addresses_change(on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    for _ in range(200):
        good_request(on, ring)
        peer.order(F.SET_VRING_ADDR, ring.addresses())
        ring.kick()


def _changes(request: F, values: Sequence[int], on: Attack) -> None:
    """A setting of a ring that is served changes, again and again."""
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    for value in values:
        good_request(on, ring)
        peer.order(request, VringState(ring.index, value).pack())
        ring.kick()


def _ten_thousand_kicks(on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    for _ in range(10_000):
        os.eventfd_write(ring.kick_fd, 1)
    peer.settle()


def _started_and_stopped(on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    for _ in range(100):
        ring.set_up()
        good_request(on, ring)
        ring.kick()
        peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


def _enabled_and_disabled(on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    for number in range(200):
        peer.order(F.SET_VRING_ENABLE, VringState(ring.index, number % 2).pack())
        good_request(on, ring)
        ring.kick()


def _never_stopped(on: Attack) -> None:
    peer = on.negotiated()
    for index in range(on.kind.rings):
        ring = on.ring(peer, 256, index)
        ring.set_up()
        good_request(on, ring)
        ring.kick()


def _all_rings_in_one_place(on: Attack) -> None:
    peer = on.negotiated()
    memory = on.memory(peer)
    from tests.hostile.front_end.peer import HostileRing

    rings = [HostileRing(peer, memory, index) for index in range(on.kind.rings)]
    for ring in rings:
        ring.set_up()
    for ring in rings:
        good_request(on, ring)
        ring.kick()


_CHANGES: dict[str, Callable[[Attack], None]] = {
    "addresses, 200 times": _addresses_change,
    "size": partial(_changes, F.SET_VRING_NUM, (8, 32, 0, 1, 32768, 65536)),
    "base": partial(_changes, F.SET_VRING_BASE, (1, 0x8000, 0xFFFF, 0x10000)),
    "10000 kicks": _ten_thousand_kicks,
    "started and stopped 100 times": _started_and_stopped,
    "enabled and disabled 200 times": _enabled_and_disabled,
    "all started, none stopped": _never_stopped,
    "all in one place": _all_rings_in_one_place,
}
