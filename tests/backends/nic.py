"""A network card's driver, as tests need it."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.net_device import NetDevice
from tests.backends.rig import Rig

if TYPE_CHECKING:
    from backends.fabric import Fabric
    from backends.loop import Loop

Attach = Callable[..., Rig]
HEADER = bytes(12)
RX_HEADER = bytes(10) + b"\x01\0"
BROADCAST = b"\xff" * 6
OUTSIDE = b"\x02\0\0\0\0\x99"


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def frame(to: bytes, source: bytes, text: bytes = b"") -> bytes:
    return to + source + b"\x88\xb5" + text.ljust(46, b".")


class Nic:
    """A NIC with its front-end, and its frames as a driver would send and receive them."""

    def __init__(self, device: NetDevice, attach: Attach) -> None:
        self.device = device
        self.rig = attach(device).start()
        self._buffers: dict[tuple[int, int], memoryview] = {}

    def refill(self, count: int = 1, pair: int = 0, size: int = 2048) -> None:
        ring = self.rig.rings[2 * pair]
        for _ in range(count):
            gpa, memory = self.rig.alloc(size)
            self._buffers[pair, ring.add([], [(gpa, size)])] = memory

    def send(self, data: bytes, pair: int = 0, *, wait: bool = True) -> None:
        gpa, memory = self.rig.alloc(12 + len(data))
        memory[:] = HEADER + data
        ring = self.rig.rings[2 * pair + 1]
        ring.add([(gpa, 12), (gpa + 12, len(data))], [])
        if wait:
            ring.wait()

    def receive(self, pair: int = 0) -> bytes:
        done = self.rig.rings[2 * pair].wait()
        data = bytes(self._buffers.pop((pair, done.head))[: done.written])
        assert data[:12] == RX_HEADER
        return data[12:]

    def count(self, counter: int) -> int:
        return int(self.device.counters[counter])

    def silent(self, pair: int = 0) -> bool:
        return self.rig.rings[2 * pair].idle()


def nics(loops: list[Loop], fabric: Fabric, attach: Attach, rings: int = 4) -> list[Nic]:
    devices = [NetDevice(f"net{n}", loop, rings, fabric) for n, loop in enumerate(loops)]
    return [Nic(device, attach) for device in devices]
