"""VMs with thousands of rings, or hundreds of devices, migrate live."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT

#: Device groups; the rings that they have together.
SHAPES = {
    "4096 rings": (("--net", "32x64", "--blk", "32x64"), 4096),
    "256 devices": (("--net", "128x2", "--blk", "128x1"), 384),
}
VM = ("--vcpus", "4", "--memory", "4G", "--accel", "soft")


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [pytest.param("qemu-2021", marks=pytest.mark.soak), "prewired"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_vm_migrates(shape: str, strategy: str) -> None:
    """Nothing is lost, and every ring is stopped and started."""
    groups, rings = SHAPES[shape]
    done = subprocess.run(
        [*EMU, "migrate", *groups, *VM, "--strategy", strategy, "--json"],
        capture_output=True,
        text=True,
        timeout=2 * PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    (run,) = result["runs"]
    stopped = [row for row in run["phases"] if row["phase"] == "src.get_vring_base"]
    assert sum(row["count"] for row in stopped) == rings
    for failure in ("lost", "duplicated", "corrupted", "packets_duplicated", "packets_reordered"):
        assert run["integrity"][failure] == 0
