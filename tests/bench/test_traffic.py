"""The driver of the data path's benchmarks finds what a back-end does wrong."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from backends.blk_device import BlkDevice
from backends.control import ControlOptions
from backends.fabric import Fabric
from backends.image import Image
from backends.io_pool import IoPool
from backends.loop import Loop
from backends.net_device import NetDevice
from backends.server import DeviceServer, listen
from bench.traffic import BLOCK, DiskDriver, NicDriver, TrafficError, stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backends.virtio_device import VirtioDevice

BLOCKS = 64


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop("traffic") as running:
        yield running


def _serve(device: VirtioDevice, path: Path, loop: Loop) -> str:
    started = threading.Event()

    def start() -> None:
        DeviceServer(device, listen(str(path)), ControlOptions())
        started.set()

    loop.post(start)
    assert started.wait(10)
    return str(path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    stamp(path, BLOCKS * BLOCK)
    return path


@pytest.fixture
def disk(loop: Loop, image: Path, tmp_path: Path) -> Iterator[DiskDriver]:
    pool = IoPool()
    device = BlkDevice("disk", loop, Image(str(image)), 2, pool)
    path = _serve(device, tmp_path / "socket", loop)
    with DiskDriver(path, 2, BLOCKS * BLOCK) as driver:
        yield driver
    pool.close()


@pytest.mark.parametrize("depth", [1, 7, 128])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_all_requests_are_made(disk: DiskDriver, kind: str, depth: int) -> None:
    for rings in (1, 2):
        assert disk.run(kind, rings=rings, depth=depth, block=BLOCK, requests=300) > 0
    assert disk.run(kind, rings=2, depth=depth, block=2 * BLOCK, requests=3) > 0
    kicks, calls = disk.notifications
    assert kicks > 0
    assert calls > 0


def test_what_is_written_is_what_was_there(disk: DiskDriver, image: Path) -> None:
    before = image.read_bytes()
    disk.run("write", rings=2, depth=8, block=BLOCK, requests=200)
    assert image.read_bytes() == before


def test_data_of_another_block_is_found(disk: DiskDriver, image: Path) -> None:
    image.write_bytes(bytes(BLOCKS * BLOCK))
    with pytest.raises(TrafficError, match="not that of the block"):
        disk.run("read", rings=1, depth=8, block=BLOCK, requests=200)


def test_a_request_that_fails_is_found(disk: DiskDriver, image: Path) -> None:
    image.write_bytes(b"")
    with pytest.raises(TrafficError):
        disk.run("read", rings=1, depth=8, block=BLOCK, requests=200)


@pytest.mark.parametrize("size", [64, 1500])
def test_all_frames_come_back(loop: Loop, tmp_path: Path, size: int) -> None:
    device = NetDevice("nic", loop, 2, Fabric(switch=False))
    path = _serve(device, tmp_path / "socket", loop)
    with NicDriver(path) as driver:
        for _ in range(2):
            assert driver.run(size=size, window=100, packets=1000) > 0
