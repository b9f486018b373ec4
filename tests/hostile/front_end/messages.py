"""Every message of the table: wrong sizes, descriptor counts, values, states and ring indexes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell
from tests.hostile.front_end.well_formed import (
    payload_of,
    prepared,
    rows,
    send_and_settle,
    well_formed,
)
from vhost_user.message_spec import ReplyRule
from vhost_user.messages import MAX_FDS
from vhost_user.messages import FrontendRequest as F
from vhost_user.payload_layout import SHAPES
from vhost_user.payloads import U64, VringAddr, VringState

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable, Iterator

    from tests.hostile.front_end.peer import HostileRing, Peer
    from tests.hostile.front_end.program import Attack
    from vhost_user.message_spec import MessageSpec

#: Indexes that no device of four rings has.
_INDEXES = (4, 255, 256, 0xFFFF, 0x80000000, 0xFFFFFFFF)
#: Values of a field, as its number of bits determines them.
_VALUES: dict[str, Callable[[int], int]] = {
    "1": lambda _: 1,
    "all ones": lambda bits: (1 << bits) - 1,
    "the highest bit": lambda bits: 1 << (bits - 1),
    "all but the highest bit": lambda bits: (1 << (bits - 1)) - 1,
    "0": lambda _: 0,
}
_BITS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def cells(program: str) -> Iterator[Cell]:
    """All cells of these groups."""
    for row in rows():
        yield from _sizes(program, row)
        yield from _counts(program, row)
        yield from _states(program, row)
        yield from _values(program, row)
        yield from _indexes(program, row)


# Sizes


def _sizes(program: str, row: MessageSpec) -> Iterator[Cell]:
    shapes = [SHAPES[kind] for kind in row.payload]
    smallest = min((shape.smallest for shape in shapes), default=0)
    largest = max((shape.largest for shape in shapes), default=0)
    allowed = {shape.smallest for shape in shapes if shape.smallest == shape.largest}
    sizes = {0, 1, smallest - 1, smallest + 1, largest + 1, largest + 8, 4096}
    for size in sorted(sizes):
        if size >= 0 and size not in allowed and (size or row.payload):
            yield Cell(
                "message sizes",
                f"{program} {row.name}",
                f"{size} bytes",
                program,
                _sized(row, size),
            )


def _sized(row: MessageSpec, size: int) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer, ring = prepared(on, started=False)
        payload, fds = well_formed(row, on, ring)
        peer.send(row.id, payload[:size].ljust(size, b"\0"), fds)
        peer.settle()

    return attack


# Counts of descriptors


def _counts(program: str, row: MessageSpec) -> Iterator[Cell]:
    for count in (0, 1, 2, 9, MAX_FDS + 1):
        yield Cell(
            "descriptor counts",
            f"{program} {row.name}",
            f"{count} descriptors",
            program,
            _counted(row, count),
        )


def _counted(row: MessageSpec, count: int) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer, ring = prepared(on, started=False)
        payload = payload_of(row, ring)
        fd = on.memory_file(1 << 20)
        peer.send(row.id, payload, [fd] * count)
        peer.settle()

    return attack


# States


def _before_negotiation(row: MessageSpec, on: Attack) -> None:
    from tests.hostile.front_end.peer import HostileRing, Memory

    peer = on.connect()
    ring = HostileRing(peer, Memory(on.owned), on.kind.ring)
    send_and_settle(peer, row, *well_formed(row, on, ring))


def _without_features(row: MessageSpec, on: Attack) -> None:
    peer = on.negotiated(features=0, protocol=0)
    ring = on.ring(peer)
    send_and_settle(peer, row, *well_formed(row, on, ring))


def _without_rings(row: MessageSpec, on: Attack) -> None:
    peer, ring = prepared(on, started=False)
    send_and_settle(peer, row, *well_formed(row, on, ring))
    ring.set_up()
    ring.kick()


def _while_a_ring_runs(row: MessageSpec, on: Attack) -> None:
    peer, ring = prepared(on, started=True)
    send_and_settle(peer, row, *well_formed(row, on, ring))
    ring.kick()


def _after_a_stop(row: MessageSpec, on: Attack) -> None:
    peer, ring = prepared(on, started=True)
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())
    send_and_settle(peer, row, *well_formed(row, on, ring))
    ring.kick()


def _a_hundred_times(row: MessageSpec, on: Attack) -> None:
    peer, ring = prepared(on, started=True)
    payload, fds = well_formed(row, on, ring)
    for _ in range(100):
        peer.send(row.id, payload, fds)
        if row.reply is ReplyRule.ALWAYS:
            peer.receive()
    peer.settle()


def _before_the_end(row: MessageSpec, on: Attack) -> None:
    """The front-end does not wait for what becomes of it."""
    peer, ring = prepared(on, started=True)
    peer.send(row.id, *well_formed(row, on, ring))


_STATES: dict[str, Callable[[MessageSpec, Attack], None]] = {
    "before negotiation": _before_negotiation,
    "no feature negotiated": _without_features,
    "before rings are set up": _without_rings,
    "while a ring runs": _while_a_ring_runs,
    "after GET_VRING_BASE": _after_a_stop,
    "100 times": _a_hundred_times,
    "then disconnects": _before_the_end,
}


def _states(program: str, row: MessageSpec) -> Iterator[Cell]:
    for name, act in _STATES.items():
        yield Cell(
            "message states",
            f"{program} {row.name}",
            name,
            program,
            partial(act, row),
        )


# Values


def _values(program: str, row: MessageSpec) -> Iterator[Cell]:
    for kind in row.payload[:1]:
        shape = SHAPES[kind]
        if shape.layout is None:
            continue
        letters = list(_letters(shape.layout.format))
        for number, letter in enumerate(letters):
            field = shape.fields[number] if len(letters) == len(shape.fields) else f"word {number}"
            for name, value in _VALUES.items():
                yield Cell(
                    "message values",
                    f"{program} {row.name}",
                    f"{field} is {name}",
                    program,
                    _valued(row, shape.layout, number, value(_BITS[letter])),
                )


def _letters(layout: str) -> Iterator[str]:
    """The integers of a `struct` format; ``8x`` is padding."""
    for letter in layout:
        if letter in _BITS:
            yield letter


def _valued(
    row: MessageSpec, layout: struct.Struct, number: int, value: int
) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer, ring = prepared(on, started=False)
        payload, fds = well_formed(row, on, ring)
        fields = [*layout.unpack(payload)]
        fields[number] = value
        send_and_settle(peer, row, layout.pack(*fields), fds)
        _try_ring(ring)

    return attack


def _try_ring(ring: HostileRing) -> None:
    """What was stored is used when the ring starts."""
    ring.set_up(skip=(F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ADDR))
    ring.kick()
    ring.set_up()
    ring.kick()


# Indexes of rings

_INDEXED: dict[object, Callable[[int], bytes]] = {
    VringState: lambda index: VringState(index, 16).pack(),
    VringAddr: lambda index: VringAddr(index, 0, 0, 0, 0, 0).pack(),
    U64: lambda index: U64(index).pack(),
}
_KICKS = (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR)


def _indexes(program: str, row: MessageSpec) -> Iterator[Cell]:
    make = _INDEXED.get(row.payload[0] if row.payload else None)
    if make is None or (row.payload[0] is U64 and row.id not in _KICKS):
        return
    for index in _INDEXES:
        yield Cell(
            "ring indexes",
            f"{program} {row.name}",
            f"ring {index:#x}",
            program,
            _indexed(row, make(index)),
        )


def _indexed(row: MessageSpec, payload: bytes) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer: Peer
        peer, ring = prepared(on, started=True)
        fds = well_formed(row, on, ring)[1]
        peer.send(row.id, payload, fds)
        peer.settle()

    return attack
