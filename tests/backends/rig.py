"""The other end of a back-end's socket: a front-end with guest memory and rings of its own.

All of it is real: memfds for guest memory, eventfds for notifiers, the project's own front-end
connection and driver queues.
"""
# ruff: noqa: D102 - the names say what they are about

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from tests.timeouts import TIMEOUT
from vhost_user.dirty_log import DirtyLog
from vhost_user.features import ProtocolFeature
from vhost_user.mapping import Mapping
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Reply, Request
from vhost_user.payloads import (
    U64,
    VRING_F_LOG,
    VRING_NO_FD,
    LogArea,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)
from vhost_user.readiness import readable
from vhost_user.virtqueue import DriverQueue, split_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.device import BackendDevice
    from vhost_user.frontend import FrontendConnection
    from vhost_user.payload_layout import Payload

RING_SIZE = 64
ALL_FEATURES = (1 << 64) - 1
ALL_PROTOCOL_FEATURES = ProtocolFeature((1 << 19) - 1)
LOG_ALL = 1 << 26
MIB = 1 << 20


class RamRegion:
    """A region of guest memory with a file of its own."""

    def __init__(self, gpa: int, size: int, user: int, offset: int = 0) -> None:
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, size + offset)
        self.bytes = Mapping(self.fd, offset, size).view
        self.region = MemoryRegion(gpa, size, user, offset)

    def close(self) -> None:
        os.close(self.fd)


class Done(NamedTuple):
    """A completed request."""

    head: int
    written: int


class RigRing:
    """One ring: its memory, its driver, its notifiers.

    Args:
        rig: the front-end.
        index: its number.
        event_idx: the event index was negotiated.
        size: how many descriptors it has.
        ram: a region for it alone; otherwise it lies in the rig's lower region.
    """

    def __init__(
        self,
        rig: Rig,
        index: int,
        *,
        event_idx: bool = True,
        size: int = RING_SIZE,
        ram: RamRegion | None = None,
    ) -> None:
        self.rig = rig
        self.index = index
        self.size = size
        self.ram = ram or rig.low
        self.offsets = split_offsets(size)
        desc, avail, used, end = self.offsets
        self.offset = 0 if ram else index * -(-end // 0x2000) * 0x2000
        self.gpa = self.ram.region.gpa + self.offset
        memory = self.ram.bytes[self.offset : self.offset + end]
        self.driver = DriverQueue(
            size,
            memory[desc:avail],
            memory[avail : avail + 6 + 2 * size],
            memory[used:end],
            memoryview(bytearray(16)),
            event_idx=event_idx,
        )
        self.driver.reset()
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def addr(self, *, log: bool = False) -> VringAddr:
        desc, avail, used, _ = self.offsets
        user = self.ram.region.user_addr + self.offset
        flags = VRING_F_LOG if log else 0
        return VringAddr(self.index, flags, user + desc, user + used, user + avail, self.gpa + used)

    def requests(self, base: int = 0) -> dict[F, Request]:
        """The messages that set this ring up, by id."""
        return {
            F.SET_VRING_NUM: Request(F.SET_VRING_NUM, VringState(self.index, self.size)),
            F.SET_VRING_ADDR: Request(F.SET_VRING_ADDR, self.addr()),
            F.SET_VRING_BASE: Request(F.SET_VRING_BASE, VringState(self.index, base)),
            F.SET_VRING_CALL: Request(F.SET_VRING_CALL, U64(self.index), (self.call_fd,)),
            F.SET_VRING_ERR: Request(F.SET_VRING_ERR, U64(self.index), (self.err_fd,)),
            F.SET_VRING_KICK: Request(F.SET_VRING_KICK, U64(self.index), (self.kick_fd,)),
            F.SET_VRING_ENABLE: Request(F.SET_VRING_ENABLE, VringState(self.index, 1)),
        }

    def set_up(self, order: Sequence[F], base: int = 0) -> None:
        """Send the messages in this order, each acknowledged."""
        requests = self.requests(base)
        for number in order:
            self.rig.call(requests[number]._replace(need_reply=True))

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def add(self, readable: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]]) -> int:
        head = self.driver.add(readable, writable)
        if self.driver.publish():
            self.kick()
        return head

    def wait(self, timeout: float = TIMEOUT) -> Done:
        """The next completion; enables interrupts and waits for one if there is none yet."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.driver.pop()
            if done is not None:
                return Done(*done)
            if self.driver.arm():
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not readable([self.call_fd], left):
                raise TimeoutError(f"ring {self.index}: no completion")
            os.eventfd_read(self.call_fd)

    def idle(self, seconds: float = 0.05) -> bool:
        """True when nothing comes back in that time."""
        self.driver.arm()
        if readable([self.call_fd], seconds):
            os.eventfd_read(self.call_fd)
        return self.driver.pop() is None

    def stop(self) -> int:
        return self.rig.get_base(self.index)

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)


QEMU_ORDER = (
    F.SET_VRING_NUM,
    F.SET_VRING_BASE,
    F.SET_VRING_ADDR,
    F.SET_VRING_ERR,
    F.SET_VRING_KICK,
    F.SET_VRING_CALL,
    F.SET_VRING_ENABLE,
)
PREWIRED_ORDER = (
    F.SET_VRING_NUM,
    F.SET_VRING_CALL,
    F.SET_VRING_KICK,
    F.SET_VRING_ADDR,
    F.SET_VRING_BASE,
    F.SET_VRING_ENABLE,
)


class RigOptions(TypedDict, total=False):
    """Which features a `Rig` negotiates, and how many descriptors its rings have."""

    features: int
    protocol_features: ProtocolFeature
    ring_size: int


class Rig:
    """A front-end with two regions of guest memory; rings lie in the lower one.

    Attributes:
        backend: the device that it is connected to, where that is in this process.
    """

    backend: BackendDevice

    def __init__(
        self,
        connection: FrontendConnection,
        rings: int,
        *,
        features: int = ALL_FEATURES & ~LOG_ALL,
        protocol_features: ProtocolFeature = ALL_PROTOCOL_FEATURES,
        ring_size: int = RING_SIZE,
    ) -> None:
        self.connection = connection
        connection.negotiate(features=features, protocol_features=protocol_features)
        self.low = RamRegion(MIB, 8 * MIB, 0x7F00_0000_0000)
        self.high = RamRegion(64 * MIB, 2 * MIB, 0x7F10_0000_0000, offset=0x3000)
        self._logs: list[DirtyLog] = []
        self.features = connection.features
        self.rings = [
            RigRing(self, n, size=ring_size, event_idx=bool(self.features >> 29 & 1))
            for n in range(rings)
        ]
        #: Buffers that a test has made available: by ring, and head or number.
        self.buffers: dict[tuple[int, int], tuple[int, memoryview]] = {}
        self._bump = 2 * MIB

    # Messages

    def call(self, request: Request) -> Reply | None:
        return self.connection.call(request, timeout=TIMEOUT)

    def ack(self, number: F, payload: Payload | None = None, fds: tuple[int, ...] = ()) -> None:
        """Send one and have it acknowledged."""
        self.call(Request(number, payload, fds, need_reply=True))

    def pipeline(self, requests: Sequence[Request]) -> list[Reply]:
        """Send all at once, then receive all replies."""
        replies: list[Reply] = []
        due = self.connection.submit(requests)
        end = time.monotonic() + TIMEOUT
        while not self.connection.flush():
            assert time.monotonic() < end
        while len(replies) < due:
            assert readable([self.connection.fileno()], end - time.monotonic())
            replies += self.connection.receive()
        return replies

    def get_base(self, ring: int) -> int:
        reply = self.call(Request(F.GET_VRING_BASE, VringState(ring, 0)))
        assert reply is not None
        assert isinstance(reply.payload, VringState)
        assert reply.payload.ring == ring
        return reply.payload.num

    def set_features(self, features: int | None = None) -> None:
        if features is not None:
            self.features = features
        self.ack(F.SET_FEATURES, U64(self.features))

    def set_mem_table(self) -> None:
        regions = (self.low, self.high)
        table = MemTable(tuple(ram.region for ram in regions))
        self.ack(F.SET_MEM_TABLE, table, tuple(ram.fd for ram in regions))

    def add_mem_reg(self, ram: RamRegion) -> None:
        self.ack(F.ADD_MEM_REG, SingleRegion(ram.region), (ram.fd,))

    def rem_mem_reg(self, ram: RamRegion) -> None:
        self.ack(F.REM_MEM_REG, SingleRegion(ram.region))

    def start(self, *, order: Sequence[F] = QEMU_ORDER, base: int = 0) -> Rig:
        """Features, memory, and all rings set up and kicked."""
        self.set_features()
        self.set_mem_table()
        for ring in self.rings:
            ring.set_up(order, base)
        for ring in self.rings:
            ring.kick()
        return self

    def set_log(self, *, features: bool = True) -> DirtyLog:
        log = DirtyLog.create((self.high.region.gpa + self.high.region.size) // 4096)
        self._logs.append(log)
        self.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
        if features:
            self.set_features(self.features | LOG_ALL)
            for ring in self.rings:
                self.ack(F.SET_VRING_ADDR, ring.addr(log=True))
        return log

    # Guest memory

    def alloc(self, size: int, ram: RamRegion | None = None) -> tuple[int, memoryview]:
        """Fresh guest memory: its address and its bytes, page-aligned."""
        ram = ram or self.low
        offset = self._bump
        self._bump += -(-size // 4096) * 4096
        if ram is self.high:
            offset -= 2 * MIB
        assert offset + size <= ram.region.size
        return ram.region.gpa + offset, ram.bytes[offset : offset + size]

    def free_all(self) -> None:
        """Have `alloc` return memory that it has returned before."""
        self._bump = 2 * MIB

    def close(self) -> None:
        self.connection.close()
        for ring in self.rings:
            ring.close()
        self.low.close()
        self.high.close()
        for log in self._logs:
            log.close()


def no_fd(number: F, ring: int) -> Request:
    """SET_VRING_KICK, SET_VRING_CALL or SET_VRING_ERR without a descriptor."""
    return Request(number, U64(ring | VRING_NO_FD), need_reply=True)
