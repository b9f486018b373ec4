"""A disk is read through the device that the VM then uses, on the same connection."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from devices.blk import VhostUserBlk
from devices.device import SharedMemory
from emu.errors import EmuError
from emu.orchestrator.attach_disk import check_zeroes
from tests.backends.served import KINDS, SECTORS, Served
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUEST_MEMORY = [SharedMemory(0, 1 << 20, -1)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(KINDS["blk"](), tmp_path, ControlOptions())
    yield made
    made.close()


@pytest.fixture
def disk(served: Served) -> Iterator[VhostUserBlk]:
    made = VhostUserBlk("blk0", [0x10, 0x14], [0, 1])
    made.memory = GUEST_MEMORY
    made.connect(served.path)
    yield made
    made.close()


def zero(folder: Path, *, but: int | None = None) -> None:
    """The disk's file becomes zeroes, except for one byte."""
    contents = bytearray(SECTORS * 512)
    if but is not None:
        contents[but] = 1
    (folder / "disk.img").write_bytes(contents)


def test_zeroes_may_be_overwritten(disk: VhostUserBlk, tmp_path: Path) -> None:
    """The device is as before, and the disk can be read again on the same connection."""
    zero(tmp_path)
    connection, features = disk.connection, disk.acked_features
    for _ in range(2):
        check_zeroes(disk, TIMEOUT)
        assert disk.connection is connection
        assert not connection.broken
        assert (disk.acked_features, disk.memory) == (features, GUEST_MEMORY)
        assert not disk.configured_rings()
        assert not disk.host_notifiers
        assert not disk.guest_notifiers
        assert disk.inflight is None


@pytest.mark.parametrize("at", [0, SECTORS * 256, SECTORS * 512 - 1])
def test_data_may_not(disk: VhostUserBlk, tmp_path: Path, at: int) -> None:
    zero(tmp_path, but=at)
    with pytest.raises(EmuError, match=f"blk0: the disk holds data, first at byte {at};"):
        check_zeroes(disk, TIMEOUT)
