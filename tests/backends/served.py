"""Back-end devices to test: in a thread of this process, and as the real program.

A device class joins the contract suite (`contract`) by adding a `Kind` to `KINDS`.
"""
# ruff: noqa: D102 - the names say what they are about

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backends.blk_device import BlkDevice
from backends.fabric import Fabric
from backends.image import Image
from backends.io_pool import IoPool
from backends.loop import Loop
from backends.net_device import NetDevice
from backends.rng_device import RandomSource, RngDevice
from backends.server import DeviceServer, listen
from tests.timeouts import TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.readiness import readable
from vhost_user.virtio.blk import REQUEST_HEADER, VIRTIO_BLK_T_IN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backends.control import ControlOptions
    from backends.virtio_device import VirtioDevice
    from tests.backends.rig import Rig, RigRing

SECTORS = 2048
#: Header of a frame to transmit: as long as virtio_net_hdr with num_buffers.
NET_HEADER = bytes(12)
FRAME = b"\x02\0\0\0\0\x01" + b"\x02\0\0\0\0\x02" + b"\x88\xb5"


class Kind(ABC):
    """A device class: how to make one, and what a piece of work on it is.

    Attributes:
        name: its name.
        module: the program that serves it.
        rings: how many rings a device has.
        ring: the index of the ring that a piece of work takes from.
        written_ring: the index of the ring whose buffers the device writes to.
        keeps_disabled: what a disabled ring has is served when it is enabled; otherwise the device
            takes it from the ring and drops it.
        refreshes: SIGHUP has the program refresh its devices.
    """

    name: str
    module: str
    ring = 0
    written_ring = 0
    rings = 1
    keeps_disabled = True
    refreshes = True

    @abstractmethod
    def make(self, loop: Loop, folder: Path) -> VirtioDevice:
        """A device whose files are in that folder."""

    def arguments(self, folder: Path) -> list[str]:
        """The program that serves one such device, except for its socket."""
        return [
            *(sys.executable, "-m", self.module, "--num-queues", str(self.rings)),
            *self.options(folder),
        ]

    def options(self, folder: Path) -> list[str]:
        """The options of the program, besides those that all programs have."""
        return []

    def prepare(self, rig: Rig) -> None:  # noqa: B027  most drivers do nothing
        """What the driver does when its rings have been started."""

    def replenish(self, rig: Rig) -> None:  # noqa: B027  most drivers do nothing
        """Make available again what a piece of work has used up."""

    @abstractmethod
    def submit(self, rig: Rig, number: int) -> None:
        """Make one piece of work available."""

    @abstractmethod
    def finish(self, rig: Rig, number: int) -> list[int]:
        """Wait for it and check it; the guest addresses that the device wrote to."""

    @abstractmethod
    def scattered(self, rig: Rig, count: int) -> None:
        """A request in a chain of ``count`` descriptors, at least 600, from beginning to end."""

    def work(self, rig: Rig, number: int = 0) -> list[int]:
        """A piece of work from beginning to end."""
        self.submit(rig, number)
        return self.finish(rig, number)


class Blk(Kind):
    """A read of one sector, which holds its own number."""

    name = "blk"
    module = "backends.blk"
    ring = written_ring = 1
    rings = 4

    def image(self, folder: Path) -> Path:
        path = folder / "disk.img"
        if not path.exists():
            path.write_bytes(b"".join(n.to_bytes(8, "little") * 64 for n in range(SECTORS)))
        return path

    def make(self, loop: Loop, folder: Path) -> VirtioDevice:
        return BlkDevice("blk", loop, Image(str(self.image(folder))), self.rings, _pool())

    def options(self, folder: Path) -> list[str]:
        return ["--blk-file", str(self.image(folder))]

    def submit(self, rig: Rig, number: int) -> None:
        header_gpa, header = rig.alloc(16)
        gpa, data = rig.alloc(513, rig.high)
        header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, number)
        data[512] = 0xFF
        rig.buffers[self.ring, number] = (gpa, data)
        rig.rings[self.ring].add([(header_gpa, 16)], [(gpa, 513)])

    def finish(self, rig: Rig, number: int) -> list[int]:
        gpa, data = rig.buffers.pop((self.ring, number))
        done = rig.rings[self.ring].wait()
        assert done.written == 513
        assert data[512] == 0
        assert bytes(data[:8]) == number.to_bytes(8, "little")
        return [gpa, gpa + 512]

    def scattered(self, rig: Rig, count: int) -> None:
        """A read of sectors from 7 on; a header and a status byte are two of the descriptors."""
        length = (count - 2) // 512 * 512  # in pieces of one byte, and one of all others
        length += 512 * (length < count - 2)
        header_gpa, header = rig.alloc(16)
        header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, 7)
        gpa, data = rig.alloc(length + 1)
        data[length] = 0xFF
        pieces = _pieces(gpa, length, count - 2)
        rig.rings[self.ring].add([(header_gpa, 16)], [*pieces, (gpa + length, 1)])
        assert rig.rings[self.ring].wait().written == length + 1
        assert data[length] == 0
        for number in range(length // 512):
            sector = (7 + number).to_bytes(8, "little") * 64
            assert bytes(data[512 * number : 512 * (number + 1)]) == sector


class Net(Kind):
    """A frame that goes out by a transmit ring and comes back by its pair's receive ring."""

    name = "net"
    module = "backends.net"
    ring = 1
    rings = 4
    written_ring = 0
    keeps_disabled = False
    refreshes = False

    def make(self, loop: Loop, folder: Path) -> VirtioDevice:
        return NetDevice("net", loop, self.rings, Fabric(switch=False))

    def prepare(self, rig: Rig) -> None:
        for _ in range(16):
            self.replenish(rig)

    def replenish(self, rig: Rig) -> None:
        self.refill(rig, rig.rings[self.written_ring])

    def refill(self, rig: Rig, ring: RigRing) -> None:
        gpa, data = rig.alloc(2048)
        rig.buffers[ring.index, ring.add([], [(gpa, 2048)])] = (gpa, data)

    def submit(self, rig: Rig, number: int) -> None:
        gpa, data = rig.alloc(60)
        frame = NET_HEADER + FRAME + number.to_bytes(8, "little") * 4
        data[: len(frame)] = frame
        rig.rings[self.ring].add([(gpa, len(frame))], [])

    def finish(self, rig: Rig, number: int) -> list[int]:
        rig.rings[self.ring].wait()
        done = rig.rings[self.written_ring].wait()
        gpa, data = rig.buffers.pop((self.written_ring, done.head))
        expected = FRAME + number.to_bytes(8, "little") * 4
        assert bytes(data[:12]) == bytes(10) + b"\x01\0"
        assert bytes(data[12 : done.written]) == expected
        return [gpa]

    def scattered(self, rig: Rig, count: int) -> None:
        """A frame of so many bytes, each in a descriptor, to and from buffers of as many."""
        receive = rig.rings[self.written_ring]
        while receive.driver.in_flight:  # a frame takes the first buffer
            self.work(rig, 1)
        (gpa, sent), (back_gpa, back) = rig.alloc(count), rig.alloc(count)
        sent[:] = (NET_HEADER + FRAME + bytes(range(256)) * (count // 256))[:count].ljust(count)
        receive.add([], _pieces(back_gpa, count, count))
        rig.rings[self.ring].add(_pieces(gpa, count, count), [])
        rig.rings[self.ring].wait()
        assert receive.wait().written == count
        assert back[12:] == sent[12:]


class Rng(Kind):
    """A buffer that comes back full of random bytes."""

    name = "rng"
    module = "backends.rng"
    refreshes = False

    def make(self, loop: Loop, folder: Path) -> VirtioDevice:
        source = RandomSource("/dev/urandom")
        _sources.append(source)
        return RngDevice("rng", loop, source, self.rings)

    def submit(self, rig: Rig, number: int) -> None:
        gpa, data = rig.alloc(64, rig.high)
        data[:] = bytes(64)
        rig.buffers[self.ring, number] = (gpa, data)
        rig.rings[self.ring].add([], [(gpa, 64)])

    def finish(self, rig: Rig, number: int) -> list[int]:
        gpa, data = rig.buffers.pop((self.ring, number))
        done = rig.rings[self.ring].wait()
        assert done.written == 64
        assert bytes(data) != bytes(64)
        return [gpa]

    def scattered(self, rig: Rig, count: int) -> None:
        """So many bytes, each in a descriptor; not all of a part are zeroes."""
        gpa, data = rig.alloc(count)
        data[:] = bytes(count)
        rig.rings[self.ring].add([], _pieces(gpa, count, count))
        written = rig.rings[self.ring].wait().written
        assert all(any(data[at : at + 100]) for at in range(0, written - 100, 100))
        assert written > 0


def _pieces(gpa: int, length: int, count: int) -> list[tuple[int, int]]:
    """Guest memory in ``count`` extents: the first of one byte each, and the rest."""
    ones = [(gpa + at, 1) for at in range(count - 1)]
    return [*ones, (gpa + count - 1, length - count + 1)]


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Blk, Net, Rng)}

#: Of all entropy devices of the test process.
_sources: list[RandomSource] = []

_pools: list[IoPool] = []


def _pool() -> IoPool:
    """The threads of all disks of the test process, as in the program."""
    if not _pools:
        _pools.append(IoPool(2))
    return _pools[0]


class Served:
    """A device in a thread, listening."""

    def __init__(self, kind: Kind, folder: Path, options: ControlOptions) -> None:
        self.path = str(folder / f"{kind.name}.sock")
        self.loop = Loop(kind.name)
        device = kind.make(self.loop, folder)
        self._server = DeviceServer(device, listen(self.path), options)
        self.device = self._server.device
        self.loop.start()

    def connect(self) -> FrontendConnection:
        return FrontendConnection.connect(self.path, name=self.device.name)

    def on_loop(self, function: object) -> None:
        """Run something in the device's thread, and wait until it is done."""
        assert callable(function)
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self.loop.post(run)
        assert done.wait(TIMEOUT)

    def close(self) -> None:
        assert self.loop.stop(TIMEOUT)
        self._server.close()
        self.loop.close()


@contextmanager
def program(
    arguments: list[str], *extra: str, status: int = 0, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The real program, once all of its sockets listen; it is ended with SIGTERM."""
    ready, ready_fd = os.pipe()
    process = subprocess.Popen(
        [*arguments, *extra, "--ready-fd", str(ready_fd)],
        pass_fds=[ready_fd, *inherited(extra), *pass_fds],
        stderr=subprocess.PIPE,
    )
    os.close(ready_fd)
    try:
        assert readable([ready], TIMEOUT)
        assert os.read(ready, 1), process.communicate(timeout=TIMEOUT)[1].decode()
        yield process
        if process.poll() is None:
            process.terminate()
        assert process.wait(TIMEOUT) == status
    finally:
        os.close(ready)
        if process.poll() is None:
            process.kill()
            process.wait(TIMEOUT)
        assert process.stderr is not None
        process.stderr.close()


def inherited(extra: tuple[str, ...]) -> list[int]:
    """The descriptor of an ``--fd`` option."""
    return [int(extra[extra.index("--fd") + 1])] if "--fd" in extra else []


def pair() -> tuple[FrontendConnection, socket.socket]:
    """A front-end's connection, and the back-end's end of it."""
    ours, theirs = socket.socketpair()
    return FrontendConnection(ours, name="pair"), theirs
