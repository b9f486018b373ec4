"""The smallest machine that guest code runs on: real memory, and devices that a test drives.

Nothing runs by itself: a test passes the notifications on to the devices (`Devices.serve`) and the
interrupts to the guest (`GuestProgram.interrupt`), so that it can stop at any point.
"""
# ruff: noqa: D102 - the names are the documentation

from __future__ import annotations

import dataclasses
import os
import struct
from collections import deque
from typing import TYPE_CHECKING

from emu.config.ring_use import ALL_RINGS, RingUse
from emu.config.vm_spec import VmSpec, parse_group
from emu.machine.ram import GuestRam
from vhost_user.memory import MemoryTable
from vhost_user.payloads import MemoryRegion
from vhost_user.virtqueue import Chain, DeviceQueue

if TYPE_CHECKING:
    from collections.abc import Container

    from emu.guest.program import GuestProgram

NOTIFY_BASE = 0xF000_0000


def small_spec(
    net: str = "2x4",
    blk: str = "2x2",
    *,
    net_use: RingUse = ALL_RINGS,
    blk_use: RingUse = ALL_RINGS,
) -> VmSpec:
    """A VM of the given shape; an empty text leaves a class out.

    Args:
        net: the NICs.
        blk: the disks.
        net_use: which of the NICs' rings the guest uses.
        blk_use: which of the disks' rings the guest uses.
    """
    groups = tuple(
        dataclasses.replace(group, use=use)
        for name, shape, use in (("net", net, net_use), ("blk", blk, blk_use))
        if shape and (group := parse_group(name, shape))
    )
    return VmSpec(vcpus=3, memory_bytes=64 << 20, groups=groups)


class SmallMachine:
    """The platform of a `GuestProgram`: memory, and a list of the notifications made."""

    def __init__(self, spec: VmSpec, ram: GuestRam | None = None) -> None:
        self.spec = spec
        self.ram = ram or GuestRam(spec.memory_bytes)
        self.paused = False
        self.notified: deque[tuple[int, int]] = deque()

    def notify_address(self, device: int, ring: int) -> int:
        return NOTIFY_BASE + 1024 * device + 4 * ring

    def vector(self, device: int, ring: int) -> int:
        return 256 * device + ring

    def notify(self, address: int, value: int) -> None:
        device, offset = divmod(address - NOTIFY_BASE, 1024)
        assert offset == 4 * value
        self.notified.append((device, value))

    def copy(self) -> SmallMachine:
        """Another machine with the same memory, as a migration leaves it."""
        ram = GuestRam(self.spec.memory_bytes)
        for gpa, length in self.ram.extents():
            ram.view(gpa, length)[:] = self.ram.view(gpa, length)
        return SmallMachine(self.spec, ram)


class Devices:
    """All back-ends of a machine in one object: disks are byte arrays, NICs loop back.

    Args:
        machine: whose memory the rings are in.
        program: the guest, which has their addresses.
        disks: contents of the disks by number; source and destination of a migration share them.
        bases: next available index of each (device, ring), from the source of a migration.
    """

    def __init__(
        self,
        machine: SmallMachine,
        program: GuestProgram,
        disks: dict[int, bytearray],
        bases: dict[tuple[int, int], int] | None = None,
    ) -> None:
        self.machine = machine
        self.disks = disks
        self.served = 0
        self.packets = 0
        self.drop: Container[int] = ()
        self.twice: set[int] = set()
        self.outside: list[bytes] = []
        self.log: list[tuple[int, int, int]] = []
        self.table = MemoryTable()
        regions = machine.ram.regions
        self.table.replace(
            [MemoryRegion(part.gpa, part.size, part.gpa, 0) for part in regions],
            [os.dup(part.fd) for part in regions],
        )
        self.queues: dict[tuple[int, int], DeviceQueue] = {}
        for index in range(len(machine.spec.devices)):
            for ring, where in enumerate(program.ring_addresses(index)):
                if where is None:
                    continue
                self.queues[index, ring] = DeviceQueue(
                    where.size,
                    self.table.view(where.desc, 16 * where.size),
                    self.table.view(where.avail, 6 + 2 * where.size),
                    self.table.view(where.used, 6 + 8 * where.size),
                    self.table,
                    last_avail=(bases or {}).get((index, ring), 0),
                    event_idx=program.config.event_idx,
                    ring=ring,
                )

    def bases(self) -> dict[tuple[int, int], int]:
        return {key: queue.last_avail for key, queue in self.queues.items()}

    def serve(self, device: int, ring: int, most: int = 1 << 30) -> list[int]:
        """Serve up to ``most`` requests of a ring; returns the vectors to raise."""
        if self.machine.spec.devices[device].device_class == "blk":
            return self._serve_blk(device, ring, most)
        return self._serve_net(device, ring, most)

    def serve_all(self, most: int = 1 << 30) -> list[int]:
        """Serve every ring, kicked or not; returns the vectors to raise."""
        self.machine.notified.clear()
        return [vector for key in self.queues for vector in self.serve(*key, most)]

    def _serve_blk(self, device: int, ring: int, most: int) -> list[int]:
        queue = self.queues[device, ring]
        disk = self.disks[self.machine.spec.devices[device].number]
        for _ in range(most):
            chain = queue.pop()
            if chain is None:
                if queue.arm():
                    continue
                break
            queue.push(chain.head, self._request(disk, chain))
            self.served += 1
        return [self.machine.vector(device, ring)] if queue.publish() else []

    def _request(self, disk: bytearray, chain: Chain) -> int:
        op, _, sector = struct.unpack_from("<IIQ", chain.readable[0])
        at = 512 * sector
        *data, status = chain.writable
        status[0] = 0
        self.log.append((op, sector, chain.head))
        if op == 0:
            data[0][:] = disk[at : at + len(data[0])]
        elif op == 1:
            disk[at : at + len(chain.readable[1])] = chain.readable[1]
        elif op == 8:
            data[0][:] = b"small-disk".ljust(20, b"\0")
        elif op == 13:
            first, sectors, _ = struct.unpack("<QII", chain.readable[1])
            disk[512 * first : 512 * (first + sectors)] = bytes(512 * sectors)
        else:
            assert op == 4
        return 1 + sum(map(len, data))

    def _serve_net(self, device: int, ring: int, most: int) -> list[int]:
        if not ring % 2:
            return []
        queue = self.queues[device, ring]
        vectors = []
        for _ in range(most):
            chain = queue.pop()
            if chain is None:
                if queue.arm():
                    continue
                break
            frame = b"".join(chain.readable)[12:]
            queue.push(chain.head, 0)
            if frame[12:14] != b"\x88\xb6":
                self.outside.append(frame)
                continue
            number, self.packets = self.packets, self.packets + 1
            if number not in self.drop:
                for _copy in range(1 + (number in self.twice)):
                    vectors += self.deliver(device, ring - 1, frame)
        if queue.publish():
            vectors.append(self.machine.vector(device, ring))
        return vectors

    def deliver(self, device: int, ring: int, frame: bytes) -> list[int]:
        """Put a frame into a receive ring; returns the vectors to raise."""
        queue = self.queues[device, ring]
        chain = queue.pop()
        if chain is None:
            return []
        chain.writable[0][: 12 + len(frame)] = bytes(12) + frame
        queue.push(chain.head, 12 + len(frame))
        return [self.machine.vector(device, ring)] if queue.publish() else []


def run(machine: SmallMachine, program: GuestProgram, devices: Devices, steps: int) -> None:
    """Pass at most ``steps`` notifications to the devices, and their interrupts to the guest."""
    for _ in range(steps):
        if not machine.notified:
            return
        for vector in devices.serve(*machine.notified.popleft()):
            program.interrupt(0, vector)


def settle(machine: SmallMachine, program: GuestProgram, devices: Devices) -> None:
    """Serve until the guest makes no request and the devices raise no interrupt."""
    while True:
        vectors = devices.serve_all()
        for vector in vectors:
            program.interrupt(0, vector)
        if not vectors and not machine.notified:
            return
