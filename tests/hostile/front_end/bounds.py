"""Configuration space, and everything that a front-end may send too much of."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell, ClosedByPeer
from tests.hostile.front_end.requests import good_request
from tests.hostile.front_end.well_formed import prepared
from vhost_user.codec import HEADER, NEED_REPLY, VERSION
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.front_end.program import Attack

_CONFIG = struct.Struct("=III")
_OFFSETS = (0, 1, 8, 255, 256, 257, 0x7FFFFFFF, 0xFFFFFFFF)
_LENGTHS = (0, 1, 8, 255, 256)
_FLAGS = (0, 1, 2, 3, 0xFFFFFFFF)


def _configuration(number: F, offset: int, size: int, flags: int, on: Attack) -> None:
    peer = on.negotiated()
    peer.send(number, _CONFIG.pack(offset, size, flags) + b"\xa5" * size)
    peer.settle()


def _announced(number: F, announced: int, sent: int, on: Attack) -> None:
    peer = on.negotiated()
    peer.send(number, _CONFIG.pack(0, announced, 0) + bytes(sent))
    peer.settle()


def _nothing_is_read(number: F, on: Attack) -> None:
    """Thousands of requests, of whose replies none is read."""
    peer, ring = prepared(on, started=True)
    payload = VringState(ring.index, 0).pack() if number == F.GET_VRING_BASE else b""
    message = HEADER.pack(number, VERSION, len(payload)) + payload
    peer.sock.settimeout(1)
    with suppress(TimeoutError, ClosedByPeer, OSError):
        for _ in range(200):
            if peer.sock.send(message * 100, socket.MSG_DONTWAIT) < 1:
                break
    time.sleep(0.05)


def _acknowledgements_unread(on: Attack) -> None:
    peer, ring = prepared(on, started=True)
    payload = VringState(ring.index, 1).pack()
    message = HEADER.pack(F.SET_VRING_ENABLE, VERSION | NEED_REPLY, len(payload)) + payload
    with suppress(OSError, ClosedByPeer):
        for _ in range(500):
            peer.sock.send(message * 50, socket.MSG_DONTWAIT)


def _descriptors_wait(on: Attack) -> None:
    """Messages with descriptors behind a stop."""
    peer, ring = prepared(on, started=True)
    index = U64(ring.index).pack()
    peer.send(F.GET_VRING_BASE, VringState(ring.index, 0).pack())
    with suppress(OSError, ClosedByPeer):
        for _ in range(3000):
            peer.send(F.SET_VRING_CALL, index, [ring.call_fd])
    peer.settle()


def _connections(count: int, on: Attack) -> None:
    """More connections than one, all of which say something."""
    peers = []
    for _ in range(count):
        with suppress(OSError):
            sock = socket.socket(socket.AF_UNIX)
            on.owned.callback(sock.close)
            sock.setblocking(False)
            sock.connect(on.program.victim)
            peers.append(sock)
    for sock in peers:
        with suppress(OSError):
            sock.send(HEADER.pack(F.GET_FEATURES, VERSION, 0))
    on.connections += count
    time.sleep(0.05)


def _comes_and_goes(on: Attack) -> None:
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX)
        with sock:
            sock.connect(on.program.victim)
        on.connections += 1


def _half_closed(how: int, on: Attack) -> None:
    peer, _ = prepared(on, started=True)
    peer.sock.shutdown(how)
    with suppress(ClosedByPeer):
        peer.settle()


def _stops(on: Attack) -> None:
    """GET_VRING_BASE of all rings, again and again, while requests are in flight."""
    peer, ring = prepared(on, started=True)
    for _ in range(50):
        good_request(on, ring)
        os.eventfd_write(ring.kick_fd, 1)
        for index in range(on.kind.rings):
            peer.send(F.GET_VRING_BASE, VringState(index, 0).pack())
        ring.set_up()
    peer.settle()


def _vanishes_in_flight(on: Attack) -> None:
    peer, ring = prepared(on, started=True)
    good_request(on, ring)
    os.eventfd_write(ring.kick_fd, 1)
    peer.send(F.GET_VRING_BASE, VringState(ring.index, 0).pack())
    peer.sock.close()


def _slowly(on: Attack) -> None:
    peer = on.connect()
    for byte in HEADER.pack(F.GET_FEATURES, VERSION, 0) * 4:
        peer.raw(bytes([byte]))
        time.sleep(0.002)
    peer.settle()


_POSTCOPY = (F.POSTCOPY_ADVISE, F.POSTCOPY_LISTEN, F.POSTCOPY_END)


def _postcopy(order: tuple[F, ...], at_once: bool, on: Attack) -> None:
    peer, ring = prepared(on, started=True)
    if at_once:
        peer.raw(b"".join(HEADER.pack(number, VERSION, 0) for number in order))
    else:
        for number in order:
            peer.send(number)
            peer.settle()
    peer.send(F.SET_MEM_TABLE, *ring.memory.table())
    peer.settle()
    good_request(on, ring)
    os.eventfd_write(ring.kick_fd, 1)
    peer.settle()


_HABITS: dict[str, Callable[[Attack], None]] = {
    "GET_FEATURES, replies unread": partial(_nothing_is_read, F.GET_FEATURES),
    "GET_VRING_BASE, replies unread": partial(_nothing_is_read, F.GET_VRING_BASE),
    "acknowledgements unread": _acknowledgements_unread,
    "descriptors behind a stop": _descriptors_wait,
    "20 connections": partial(_connections, 20),
    "300 connections": partial(_connections, 300),
    "200 connections, one after another": _comes_and_goes,
    "half closed for reading": partial(_half_closed, socket.SHUT_RD),
    "half closed for writing": partial(_half_closed, socket.SHUT_WR),
    "half closed for both": partial(_half_closed, socket.SHUT_RDWR),
    "stops while requests are in flight": _stops,
    "disconnects while a request is in flight": _vanishes_in_flight,
    "one byte at a time": _slowly,
}


def _orders() -> Iterator[tuple[F, ...]]:
    advise, listen, end = _POSTCOPY
    yield from ((advise,), (listen,), (end,), (advise, end), (listen, end), (advise, advise))
    yield from ((advise, listen), (advise, listen, end), (advise, listen, listen, end, end))


def cells(program: str) -> Iterator[Cell]:
    """All cells of these groups."""
    for number in (F.GET_CONFIG, F.SET_CONFIG):
        for offset in _OFFSETS:
            for size in _LENGTHS:
                for flags in _FLAGS if number == F.SET_CONFIG and size == 8 else (0,):
                    yield Cell(
                        "config space",
                        f"{program} {number.name}",
                        f"{size} bytes at {offset:#x}, flags {flags:#x}",
                        program,
                        partial(_configuration, number, offset, size, flags),
                    )
        for announced, sent in ((8, 0), (0, 8), (8, 7), (257, 256), (0xFFFFFFFF, 8)):
            yield Cell(
                "config space",
                f"{program} {number.name}",
                f"{announced} bytes announced, {sent} sent",
                program,
                partial(_announced, number, announced, sent),
            )
    for name, act in _HABITS.items():
        yield Cell("bounds", program, name, program, act)
    for order in _orders():
        for at_once in (False, True):
            yield Cell(
                "postcopy",
                program,
                ", ".join(number.name for number in order) + (" at once" if at_once else ""),
                program,
                partial(_postcopy, order, at_once),
            )
    for name, state in _AT_THE_END.items():
        yield Cell("SIGTERM while connected", program, name, program, state, sigterm=True)


_AT_THE_END: dict[str, Callable[[Attack], None]] = {
    "nothing sent": lambda on: void(on.connect()),
    "half a message": lambda on: on.connect().raw(bytes(7)),
    "a ring runs": lambda on: void(prepared(on, started=True)),
    "GET_VRING_BASE unread": partial(_nothing_is_read, F.GET_VRING_BASE),
    "a request in flight": _vanishes_in_flight,
    "20 connections wait": partial(_connections, 20),
    "postcopy without pages": lambda on: _postcopy(
        (F.POSTCOPY_ADVISE, F.POSTCOPY_LISTEN), False, on
    ),
}


def void(_value: object) -> None:
    """The value is kept by the attack."""
