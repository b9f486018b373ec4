"""The commands of `emu.config.backend_commands.READY_MADE`, as a user names them."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from emu.config.backend_commands import READY_MADE
from tests.emu.fake_runs import no_leftovers
from tests.emu.test_cli import emu
from tests.peers.programs import need

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.peer

#: Debian's packages of each program, and the devices of a small VM.
PACKAGES = {"qemu-storage-daemon": "qemu-system-common qemu-utils", "testpmd": "dpdk-dev"}
SHAPES = {"blk": ("--blk", "3x2", "--net", "0"), "net": ("--net", "2x4", "--blk", "0")}


@pytest.mark.parametrize("name", READY_MADE)
def test_a_vm_migrates_under_load(name: str, tmp_path: Path) -> None:
    """Nothing is lost or corrupted, by strategies that stop the rings and by handover."""
    ready = READY_MADE[name]
    need(shlex.split(ready.command)[0], PACKAGES[name])
    out = tmp_path / "out.json"
    with no_leftovers():
        done = emu(
            *("migrate", *SHAPES[ready.device_class], "--vcpus", "2", "--memory", "256M"),
            *("--accel", "soft", "--strategy", "qemu-2021,threads,prewired,handover"),
            *(f"--{ready.device_class}-backend", name, "--json", str(out)),
        )
    assert done.returncode == 0, done.stderr
    runs = json.loads(out.read_text())["runs"]
    assert [run["outcome"] for run in runs] == ["completed"] * 4
    for run in runs:
        found = run["integrity"]
        assert (found["lost"], found["duplicated"], found["corrupted"]) == (0, 0, 0)
        assert found["packets_duplicated"] == 0
