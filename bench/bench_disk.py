"""Requests of a disk one after the other, by a real back-end program: a kick, a request, a call.

Reads come from the page cache. Writes to an image in memory never block; those to a file on ext4
may, and are made at the end of the loop's turn, which is what the difference costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.rig import Rig
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.frontend import FrontendConnection
from vhost_user.unix_socket import is_listening
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SECTOR_SIZE,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.figures import Figure

BLOCK = 4096
IMAGE_BYTES = 1 << 20
REQUESTS = 64


class Disk:
    """A back-end program with one disk, and a driver that has one request in flight.

    Args:
        stack: ends the programs.
        folder: for its socket.
        image: its file.
        tapped: `emu tap` lies between the two.
    """

    def __init__(self, stack: ExitStack, folder: Path, image: str, *, tapped: bool = False) -> None:
        path = str(folder / "disk.sock")
        ready, ready_fd = os.pipe()
        command = [sys.executable, "-m", "backends.blk", "--blk-file", image]
        self._process = subprocess.Popen(
            [*command, "--socket-path", path, "--ready-fd", str(ready_fd)], pass_fds=[ready_fd]
        )
        stack.callback(self._process.wait)
        stack.callback(self._process.terminate)
        os.close(ready_fd)
        assert os.read(ready, 1), "the program has not started"
        os.close(ready)
        if tapped:
            path = _tap(path, stack)
        rig = Rig(FrontendConnection.connect(path, name="bench", timeout=TIMEOUT), 1)
        stack.callback(rig.close)
        self._ring = rig.start().rings[0]
        self._gpa, self._memory = rig.alloc(BLOCK + REQUEST_HEADER.size + 1)

    def run(self, kind: int) -> None:
        """Some requests, one after the other."""
        header, data = (self._gpa, REQUEST_HEADER.size), (self._gpa + REQUEST_HEADER.size, BLOCK)
        status = (data[0] + BLOCK, 1)
        writes = kind == VIRTIO_BLK_T_OUT
        buffers = ([header, data], [status]) if writes else ([header], [data, status])
        for number in range(REQUESTS):
            sector = number * BLOCK // SECTOR_SIZE
            self._memory[: REQUEST_HEADER.size] = REQUEST_HEADER.pack(kind, 0, sector)
            self._memory[-1] = 0xFF
            self._ring.add(*buffers)
            self._ring.wait()
            assert self._memory[-1] == VIRTIO_BLK_S_OK


def _tap(path: str, stack: ExitStack) -> str:
    """The socket of a tap before another one."""
    near = f"{path}.tap"
    tap = subprocess.Popen(
        [sys.executable, "-m", "emu.cli", "tap", "-q", "--listen", near, "--connect", path]
    )
    stack.callback(tap.wait)
    stack.callback(tap.terminate)
    wait_until(lambda: is_listening(near), "the tap listens")
    return near


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a benchmark has made."""
    with ExitStack() as made:
        yield made


def _image(where: str, folder: Path, stack: ExitStack) -> str:
    """The path of an image that is in the page cache."""
    if where == "memory":
        fd = os.memfd_create("image")
        stack.callback(os.close, fd)
        path = f"/proc/{os.getpid()}/fd/{fd}"
    else:
        path = str(folder / "image")
    Path(path).write_bytes(bytes(IMAGE_BYTES))
    return path


@pytest.mark.parametrize("where", ["memory", pytest.param("file", marks=[pytest.mark.smoke])])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_one_in_flight(
    benchmark: Any, figure: Figure, stack: ExitStack, tmp_path: Path, kind: str, where: str
) -> None:
    """A block of 4 KiB each."""
    disk = Disk(stack, tmp_path, _image(where, tmp_path, stack))
    figure.unit, figure.units = "request", REQUESTS
    benchmark(disk.run, VIRTIO_BLK_T_OUT if kind == "write" else VIRTIO_BLK_T_IN)
