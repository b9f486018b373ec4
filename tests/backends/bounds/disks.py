"""Bounds on disk requests, and on the threads that serve them."""
# ruff: noqa: D102, D103 - the table says what they try

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from backends.blocking_call import BlockingCall
from backends.io_pool import IoPool
from backends.loop import Loop
from tests.backends.bounds.lab import GIB, tries
from tests.backends.rig import MIB
from tests.backends.served import Blk
from tests.timeouts import TIMEOUT
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SEGMENT,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_WRITE_ZEROES,
)

if TYPE_CHECKING:
    from tests.backends.bounds.lab import Lab
    from tests.backends.rig import Rig

SECTOR = 512
WINDOW = 2 * MIB


class Memory(Blk):
    """A disk of 2 GiB in memory, so that requests never wait for it."""

    def __init__(self, lab: Lab) -> None:
        self._fd = os.memfd_create("disk")
        lab.stack.callback(os.close, self._fd)
        os.ftruncate(self._fd, 2 * GIB)

    def image(self, folder: Path) -> Path:
        del folder
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")


class Driver:
    """Sends requests to the first ring of a disk.

    Args:
        lab: where.
        rig: the front-end.
    """

    def __init__(self, lab: Lab, rig: Rig) -> None:
        rig.set_features()
        rig.set_mem_table()
        self._rig = rig
        self._ring = lab.ring(rig, 0, 1024)
        self._window = lab.ram(rig, 64 * GIB, WINDOW).region.gpa

    def add(self, kind: int, length: int = 0, data: bytes = b"") -> memoryview:
        """Add one request; its status."""
        whole, rest = divmod(length, WINDOW)
        written = [(self._window, WINDOW)] * whole + ([(self._window, rest)] if rest else [])
        gpa, memory = self._rig.alloc(17 + len(data))
        memory[:] = REQUEST_HEADER.pack(kind, 0, 0) + data + b"\xff"
        end = len(memory) - 1
        self._ring.driver.add([(gpa, end)], [*written, (gpa + end, 1)])
        return memory[end:]

    def start(self) -> None:
        if self._ring.driver.publish():
            self._ring.kick()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            self._ring.wait()

    def status(self, kind: int, length: int = 0, data: bytes = b"") -> int:
        """The status of a request that is alone."""
        status = self.add(kind, length, data)
        self.start()
        self.wait()
        return status[0]


@tries("bytes of a disk request")
def request(lab: Lab, most: int) -> None:
    driver = Driver(lab, lab.attach(lab.run(Memory(lab))))
    assert driver.status(VIRTIO_BLK_T_IN, most) == VIRTIO_BLK_S_OK
    assert driver.status(VIRTIO_BLK_T_IN, most + SECTOR) == VIRTIO_BLK_S_IOERR


@tries("bytes of a disk request in the loop")
def inline(lab: Lab, most: int) -> None:
    disk = lab.run(Memory(lab))
    driver = Driver(lab, lab.attach(disk))
    before = disk.threads()
    assert driver.status(VIRTIO_BLK_T_IN, most) == VIRTIO_BLK_S_OK
    assert disk.threads() == before
    assert driver.status(VIRTIO_BLK_T_IN, most + SECTOR) == VIRTIO_BLK_S_OK
    assert disk.threads() == before + 1


@tries("threads for calls that may block")
def threads(lab: Lab, most: int) -> None:
    disk = lab.run(Memory(lab))
    driver = Driver(lab, lab.attach(disk))
    before, count = disk.threads(), 16 * most
    states = [driver.add(VIRTIO_BLK_T_IN, 2 * WINDOW) for _ in range(count)]
    driver.start()
    driver.wait(count)
    assert 1 < disk.threads() - before <= most
    assert {status[0] for status in states} == {VIRTIO_BLK_S_OK}


@tries("ns that a write blocks the loop")
def take_over(lab: Lab, most: int) -> None:
    """The timers of a loop go on while a call blocks. `isolation.test_waits` has disks."""
    loop, pool = Loop("blocked"), IoPool()
    gate, due = threading.Event(), threading.Event()
    call = BlockingCall(gate.wait, lambda: None, lambda _: None, pool, lambda: None)
    lab.stack.callback(pool.close)
    lab.stack.enter_context(loop)
    lab.stack.callback(gate.set)

    def begin() -> None:
        loop.at(time.monotonic_ns() + most // 10, due.set)
        loop.call_blocking(call)

    loop.post(begin)
    assert due.wait(TIMEOUT)
    assert call.late


@tries("ranges of a discard or write-zeroes")
def ranges(lab: Lab, most: int) -> None:
    driver = Driver(lab, lab.attach(lab.run(Memory(lab))))
    range_ = SEGMENT.pack(0, 1, 0)
    assert driver.status(VIRTIO_BLK_T_WRITE_ZEROES, data=range_ * most) == VIRTIO_BLK_S_OK
    more = range_ * (most + 1)
    assert driver.status(VIRTIO_BLK_T_WRITE_ZEROES, data=more) == VIRTIO_BLK_S_IOERR
