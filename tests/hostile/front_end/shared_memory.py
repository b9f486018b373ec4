"""Memory tables, inflight regions and dirty logs that lie."""

from __future__ import annotations

import os
import random
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell
from tests.hostile.front_end.peer import USER
from tests.hostile.front_end.requests import good_request
from vhost_user.features import VHOST_F_LOG_ALL
from vhost_user.inflight import ring_bytes
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import (
    VRING_F_LOG,
    Inflight,
    LogArea,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.hostile.front_end.peer import HostileRing, Peer
    from tests.hostile.front_end.program import Attack

_PAGE = 4096
_FILE = 16 << 20
_TOP = 1 << 64


def _region(gpa: int, size: int, user: int = 0, offset: int = 0) -> MemoryRegion:
    return MemoryRegion(gpa % _TOP, size % _TOP, (user or USER + gpa) % _TOP, offset % _TOP)


#: Tables, whose regions are all in files of `_FILE` bytes.
_TABLES: dict[str, Sequence[MemoryRegion]] = {
    "overlap in guest addresses": [_region(0, 8192), _region(4096, 8192, USER + (1 << 30))],
    "overlap in user addresses": [_region(0, 8192), _region(1 << 30, 8192, USER + 4096)],
    "the same region twice": [_region(0, 8192)] * 2,
    "the same region eight times": [_region(0, 8192)] * 8,
    "guest addresses wrap": [_region(_TOP - 4096, 8192, USER)],
    "user addresses wrap": [_region(0, 8192, _TOP - 4096)],
    "ends at 2^64": [_region(_TOP - 8192, 8192, USER)],
    "0 bytes": [_region(0, 0)],
    "1 byte": [_region(0, 1)],
    "4095 bytes": [_region(0, 4095)],
    "one byte more than the file": [_region(0, _FILE + 1)],
    "2^40 bytes": [_region(0, 1 << 40)],
    "2^46 bytes": [_region(0, 1 << 46)],
    "2^60 bytes": [_region(0, 1 << 60)],
    "2^63 bytes": [_region(0, 1 << 63, _PAGE)],
    "2^64-1 bytes": [_region(0, _TOP - 1, _PAGE)],
    "offset 1": [_region(0, 8192, USER, 1)],
    "offset at the file's end": [_region(0, 8192, USER, _FILE)],
    "offset 2^63": [_region(0, 8192, USER, 1 << 63)],
    "offset 2^63-4096": [_region(0, 8192, USER, (1 << 63) - 4096)],
    "offset 2^64-4096": [_region(0, 8192, USER, _TOP - 4096)],
    "user address 0": [MemoryRegion(0, 8192, 0, 0)],
    "eight regions": [_region(n << 24, 4096) for n in range(8)],
    "eight regions of 1 byte": [_region(n, 1, USER + n) for n in range(8)],
}


def _table(regions: Sequence[MemoryRegion], on: Attack) -> None:
    peer = on.negotiated()
    fds = [on.memory_file(_FILE) for _ in regions]
    peer.order(F.SET_MEM_TABLE, MemTable(tuple(regions)).pack(), fds)
    _use(peer, on)


def _in_sparse_file(regions: Sequence[MemoryRegion], on: Attack) -> None:
    peer = on.negotiated()
    size = min(max(region.size + region.mmap_offset for region in regions), (1 << 63) - _PAGE)
    fds = [on.memory_file(size) for _ in regions]
    peer.order(F.SET_MEM_TABLE, MemTable(tuple(regions)).pack(), fds)
    _use(peer, on)


def _one_by_one(regions: Sequence[MemoryRegion], on: Attack) -> None:
    peer = on.negotiated()
    for region in regions:
        peer.order(F.ADD_MEM_REG, SingleRegion(region).pack(), [on.memory_file(_FILE)])
    for region in (*regions, *regions):
        peer.order(F.REM_MEM_REG, SingleRegion(region).pack())
    _use(peer, on)


def _while_a_ring_runs(regions: Sequence[MemoryRegion], on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    ring.kick()
    fds = [on.memory_file(_FILE) for _ in regions]
    peer.order(F.SET_MEM_TABLE, MemTable(tuple(regions)).pack(), fds)
    good_request(on, ring)
    ring.kick()
    peer.order(F.SET_MEM_TABLE, *ring.memory.table())
    ring.kick()


def _use(peer: Peer, on: Attack) -> None:
    """A ring at the beginning of what the table has, whatever that is."""
    from tests.hostile.front_end.peer import HostileRing, Memory

    ring = HostileRing(peer, Memory(on.owned), on.kind.ring, at=0)
    ring.set_up()
    ring.kick()


_WAYS: dict[str, Callable[[Sequence[MemoryRegion], Attack], None]] = {
    "SET_MEM_TABLE": _table,
    "SET_MEM_TABLE, sparse files": _in_sparse_file,
    "ADD_MEM_REG and REM_MEM_REG": _one_by_one,
    "SET_MEM_TABLE while a ring runs": _while_a_ring_runs,
}


def _counts(count: int, sent: int, on: Attack) -> None:
    peer = on.negotiated()
    regions = b"".join(_region(n << 20, 4096).pack() for n in range(sent))
    peer.send(
        F.SET_MEM_TABLE,
        struct.pack("=II", count, 0) + regions,
        [on.memory_file(1 << 20)] * min(count, 16),
    )
    peer.settle()


def _many(number: F, times: int, on: Attack) -> None:
    peer = on.negotiated()
    fd = on.memory_file(_FILE)
    for n in range(times):
        region = _region((n << 20) if number == F.ADD_MEM_REG else 0, 1 << 20)
        single = number == F.ADD_MEM_REG
        payload = SingleRegion(region).pack() if single else MemTable((region,)).pack()
        peer.order(number, payload, [fd])
    _use(peer, on)


def _shrinks_while_used(on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    good_request(on, ring)
    ring.kick()
    ring.memory.bytes.close()
    os.ftruncate(ring.memory.fd, 0)
    os.eventfd_write(ring.kick_fd, 1)
    peer.settle()
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


def _data_shrinks(on: Attack) -> None:
    """The ring stays, the buffers of its requests do not."""
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    good_request(on, ring)
    os.ftruncate(ring.memory.fd, 0x8000)
    os.eventfd_write(ring.kick_fd, 1)
    peer.settle()
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


# Inflight regions


def _inflight(
    area: Inflight, file_bytes: int, contents: bytes, on: Attack, ring_size: int = 16
) -> None:
    peer = on.negotiated()
    fd = on.memory_file(file_bytes)
    os.pwrite(fd, contents[: min(file_bytes, 1 << 20)], 0)
    peer.order(F.SET_INFLIGHT_FD, area.pack(), [fd])
    ring = on.ring(peer, ring_size)
    ring.set_up()
    good_request(on, ring)
    ring.kick()
    ring.await_used(1, 0.05)
    peer.settle()
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


_EACH = ring_bytes(16)
_ALL = 4 * _EACH
_AREAS: dict[str, tuple[Inflight, int]] = {
    "right": (Inflight(_ALL, 0, 4, 16), _ALL),
    "file of 0 bytes": (Inflight(_ALL, 0, 4, 16), 0),
    "file is one byte short": (Inflight(_ALL, 0, 4, 16), _ALL - 1),
    "0 rings": (Inflight(_ALL, 0, 0, 16), _ALL),
    "65535 rings": (Inflight(_ALL, 0, 0xFFFF, 16), _ALL),
    "0 descriptors": (Inflight(_ALL, 0, 4, 0), _ALL),
    "3 descriptors": (Inflight(_ALL, 0, 4, 3), _ALL),
    "8 descriptors": (Inflight(_ALL, 0, 4, 8), _ALL),
    "128 descriptors": (Inflight(1 << 20, 0, 4, 128), 1 << 20),
    "32768 descriptors": (Inflight(1 << 24, 0, 4, 32768), 1 << 24),
    "65535 descriptors": (Inflight(1 << 24, 0, 4, 0xFFFF), 1 << 24),
    "0 bytes": (Inflight(0, 0, 4, 16), _ALL),
    "2^63 bytes": (Inflight(1 << 63, 0, 4, 16), _ALL),
    "2^64-1 bytes": (Inflight(_TOP - 1, 0, 4, 16), _ALL),
    "2^46 bytes": (Inflight(1 << 46, 0, 4, 16), 1 << 46),
    "offset 1": (Inflight(_ALL, 1, 4, 16), 1 << 16),
    "offset 64": (Inflight(_ALL, 64, 4, 16), 1 << 16),
    "offset beyond the file": (Inflight(_ALL, 1 << 20, 4, 16), _ALL),
    "offset 2^63": (Inflight(_ALL, 1 << 63, 4, 16), _ALL),
    "offset and size wrap": (Inflight(_ALL, _TOP - _ALL, 4, 16), _ALL),
}


def _contents() -> Iterator[tuple[str, bytes]]:
    """What a region's memory holds."""
    header = struct.Struct("<QHHHH")
    yield "all ones", b"\xff" * _ALL
    yield "noise", random.Random(1).randbytes(_ALL)
    for name, fields in {
        "version 2": (0, 2, 16, 0, 0),
        "another size": (0, 1, 32, 0, 0),
        "a batch head beyond the ring": (0, 1, 16, 0xFFFF, 5),
        "a used index of 0xffff": (0, 1, 16, 0, 0xFFFF),
    }.items():
        yield name, (header.pack(*fields) + bytes(_EACH - header.size)) * 4
    for name, entry in {
        "all in flight, counter 2^64-1": struct.pack("<B5xHQ", 1, 0, _TOP - 1),
        "all in flight, counter 0": struct.pack("<B5xHQ", 1, 0, 0),
        "all in flight, next beyond the ring": struct.pack("<B5xHQ", 1, 0xFFFF, 1),
        "all in flight, 255": struct.pack("<B5xHQ", 255, 0, 1),
    }.items():
        for used in (0, 0x8000):
            part = header.pack(0, 1, 16, 0, used) + entry * 16
            yield f"{name}, used index {used:#x}", part.ljust(_EACH, b"\0") * 4


def _ring_is_larger(on: Attack) -> None:
    """QEMU asks for a region of 128 descriptors and sets rings of up to 1024."""
    each = ring_bytes(128)
    _inflight(Inflight(4 * each, 0, 4, 128), 4 * each, b"", on, ring_size=1024)


def _asked_and_shrunk(on: Attack) -> None:
    peer = on.negotiated()
    fd = on.memory_file(_ALL)
    peer.order(F.SET_INFLIGHT_FD, Inflight(_ALL, 0, 4, 16).pack(), [fd])
    ring = on.ring(peer)
    ring.set_up()
    ring.kick()
    os.ftruncate(fd, 0)
    good_request(on, ring)
    ring.kick()
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


def _asked_for(rings: int, size: int, on: Attack) -> None:
    peer = on.negotiated()
    peer.send(F.GET_INFLIGHT_FD, Inflight(0, 0, rings, size).pack())
    peer.receive()
    peer.settle()


def _changes_region(on: Attack) -> None:
    peer = on.negotiated()
    ring = on.ring(peer)
    ring.set_up()
    for _ in range(100):
        peer.order(F.SET_INFLIGHT_FD, Inflight(_ALL, 0, 4, 16).pack(), [on.memory_file(_ALL)])
        good_request(on, ring)
        ring.kick()


# Dirty logs

_LOGS: dict[str, tuple[LogArea, int]] = {
    "right": (LogArea(1 << 16, 0), 1 << 16),
    "0 bytes": (LogArea(0, 0), 1 << 16),
    "1 byte": (LogArea(1, 0), 1 << 16),
    "smaller than guest memory": (LogArea(8, 0), 1 << 16),
    "file of 0 bytes": (LogArea(1 << 16, 0), 0),
    "file is one byte short": (LogArea(1 << 16, 0), (1 << 16) - 1),
    "offset 1": (LogArea(1 << 12, 1), 1 << 16),
    "offset 8": (LogArea(1 << 12, 8), 1 << 16),
    "offset beyond the file": (LogArea(1 << 12, 1 << 20), 1 << 16),
    "offset 2^63": (LogArea(1 << 12, 1 << 63), 1 << 16),
    "offset and size wrap": (LogArea(1 << 12, _TOP - (1 << 12)), 1 << 16),
    "2^46 bytes": (LogArea(1 << 46, 0), 1 << 46),
    "2^63 bytes": (LogArea(1 << 63, 0), 1 << 16),
    "2^64-1 bytes": (LogArea(_TOP - 1, 0), 1 << 16),
}


def _log(area: LogArea, file_bytes: int, shrinks: bool, running: bool, on: Attack) -> None:
    peer = on.negotiated(features=_TOP - 1)
    ring = on.ring(peer)
    if running:
        ring.set_up()
        ring.kick()
    fd = on.memory_file(file_bytes)
    peer.order(F.SET_LOG_BASE, area.pack(), [fd])
    ring.set_up(wrong={"flags": VRING_F_LOG})
    good_request(on, ring)
    ring.kick()
    ring.await_used(1, 0.05)
    if shrinks:
        os.ftruncate(fd, 0)
        good_request(on, ring)
        ring.kick()
        ring.await_used(2, 0.05)
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


def _used_log(address: int, on: Attack) -> None:
    peer = on.negotiated(features=_TOP - 1)
    ring = on.ring(peer)
    peer.order(F.SET_LOG_BASE, LogArea(1 << 12, 0).pack(), [on.memory_file(1 << 12)])
    ring.set_up(wrong={"flags": VRING_F_LOG, "log": address})
    good_request(on, ring)
    ring.kick()
    peer.ask(F.GET_VRING_BASE, VringState(ring.index, 0).pack())


def _many_logs(on: Attack) -> None:
    peer = on.negotiated(features=_TOP - 1)
    ring = on.ring(peer)
    ring.set_up()
    for _ in range(200):
        peer.order(F.SET_LOG_BASE, LogArea(1 << 12, 0).pack(), [on.memory_file(1 << 12)])
        good_request(on, ring)
        ring.kick()


def _without_log(on: Attack) -> None:
    peer = on.negotiated(features=_TOP - 1)
    assert peer.features >> VHOST_F_LOG_ALL & 1
    ring: HostileRing = on.ring(peer)
    ring.set_up(wrong={"flags": VRING_F_LOG})
    good_request(on, ring)
    ring.kick()


def cells(program: str) -> Iterator[Cell]:
    """All cells of these groups."""
    for group, place, name, act in _all():
        yield Cell(group, f"{program} {place}", name, program, act)


_Act = tuple[str, str, str, "Callable[[Attack], None]"]


def _all() -> Iterator[_Act]:
    yield from _memory_cells()
    yield from _inflight_cells()
    yield from _log_cells()


def _memory_cells() -> Iterator[_Act]:
    memory = "memory tables"
    for way, act in _WAYS.items():
        for name, regions in _TABLES.items():
            yield memory, way, name, partial(act, regions)
    for count, sent in ((0, 0), (0, 1), (1, 0), (2, 1), (9, 9), (9, 8), (0xFFFFFFFF, 1), (8, 7)):
        yield (
            memory,
            "SET_MEM_TABLE",
            f"{count} regions announced, {sent} sent",
            partial(_counts, count, sent),
        )
    for number, times in ((F.ADD_MEM_REG, 600), (F.SET_MEM_TABLE, 2000)):
        yield (
            memory,
            number.name,
            f"{times} times",
            partial(_many, number, times),
        )
    yield memory, "file", "shrinks while a ring runs", _shrinks_while_used
    yield memory, "file", "shrinks to the ring's part", _data_shrinks


def _inflight_cells() -> Iterator[_Act]:
    inflight = "inflight regions"
    for name, (area, size) in _AREAS.items():
        yield (
            inflight,
            "SET_INFLIGHT_FD",
            name,
            partial(_inflight, area, size, b""),
        )
    for name, data in _contents():
        yield (
            inflight,
            "contents",
            name,
            partial(_inflight, Inflight(_ALL, 0, 4, 16), _ALL, data),
        )
    for rings in (0, 1, 5, 0xFFFF):
        for size in (0, 3, 128, 32768, 0xFFFF):
            yield (
                inflight,
                "GET_INFLIGHT_FD",
                f"{rings} rings of {size}",
                partial(_asked_for, rings, size),
            )
    yield inflight, "SET_INFLIGHT_FD", "for 128, the ring has 1024", _ring_is_larger
    yield inflight, "file", "shrinks while a ring runs", _asked_and_shrunk
    yield inflight, "SET_INFLIGHT_FD", "100 times while a ring runs", _changes_region


def _log_cells() -> Iterator[_Act]:
    log = "dirty logs"
    for name, (area, size) in _LOGS.items():
        for running in (False, True):
            yield (
                log,
                "SET_LOG_BASE while a ring runs" if running else "SET_LOG_BASE",
                name,
                partial(_log, area, size, False, running),
            )
    for running in (False, True):
        yield (
            log,
            "file",
            "shrinks while a ring runs" if running else "shrinks before",
            partial(_log, LogArea(1 << 16, 0), 1 << 16, True, running),
        )
    for address in (1 << 30, 1 << 40, 1 << 63, _TOP - 4, _TOP - 1):
        yield (
            log,
            "SET_VRING_ADDR",
            f"used ring logged at {address:#x}",
            partial(_used_log, address),
        )
    yield log, "SET_LOG_BASE", "200 times while a ring runs", _many_logs
    yield log, "LOG_ALL", "without SET_LOG_BASE", _without_log
