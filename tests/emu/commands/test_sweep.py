"""`emu sweep`: from the command to its document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from emu.commands.sweep import sweep as command
from emu.config.device_kinds import KINDS
from emu.errors import OptionError
from tests.emu.test_cli import emu

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_sweep_end_to_end(tmp_path: Path) -> None:
    """Two small VMs; the JSON has their points and migrations."""
    path = tmp_path / "sweep.json"
    small = ("--vcpus", "2", "--memory", "256M", "--repeat", "1", "--load", "light",
             "--accel", "soft")  # fmt: skip
    result = emu("sweep", "--devices", "2,4", "--rings", "2", "-s", "prewired", *small,
                 "--json", str(path))  # fmt: skip
    assert result.returncode == 0, result.stderr
    points = json.loads(path.read_text())["points"]
    assert [(point["devices"], point["rings"]) for point in points] == [(2, 4), (4, 8)]
    assert all(0 < p["stop_ms"] < p["downtime_ms"] for p in points)
    assert "prewired" in result.stdout


def test_a_matrix_end_to_end(tmp_path: Path) -> None:
    """All combinations of the shapes, with the default VM's disks left out."""
    path = tmp_path / "sweep.json"
    result = emu("sweep", "--net", "0,1x2", "--blk", "1x1", "--vcpus", "1", "--memory", "256M",
                 "--repeat", "1", "--load", "light", "-s", "split", "--accel", "soft",
                 "--json", str(path), "--fail-if", "split.downtime_ms < 0")  # fmt: skip
    assert result.returncode == 0, result.stderr
    points = json.loads(path.read_text())["points"]
    assert [(p["shape"], p["rings"], p["accel"]) for p in points] == [
        ("blk 1x1", 1, "soft"),
        ("net 1x2, blk 1x1", 3, "soft"),
    ]
    assert "| net 1x2, blk 1x1 |" in result.stdout
    assert "1 of 2, about " in result.stderr


def test_a_sweep_has_no_file_of_a_vm() -> None:
    """A file describes one VM. The help has the shapes of each kind."""
    assert emu("sweep", "--vm", "vm.toml").returncode == 2
    words = emu("sweep", "--help").stdout.split()
    assert "--vm" not in words
    assert all(f"--{name}" in words for name in KINDS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rings", "3"), "--rings 3: a NIC's rings come in pairs"),
        (("--devices", "0"), "--devices"),
        (("--devices", "x"), "--devices"),
        (("--strategy", "magic"), "unknown strategy 'magic'"),
        (("--accel", "fast"), "--accel fast: 'fast' is not one of"),
        (("--net", "1..2"), "is not a shape"),
        (("--net", "1x2", "--devices", "4"), "use --devices or --net, not both"),
        (("--blk", "1x2", "--rings", "4"), "use --rings or --blk, not both"),
        (("--workers", "2"), "--workers goes with --scheduler local"),
        (("--scheduler", "here"), "write local, or an address"),
    ],
)
def test_an_invalid_option_is_refused(arguments: tuple[str, ...], text: str) -> None:
    """Before a process is started."""
    with pytest.raises(OptionError, match=text):
        command.main(list(arguments), standalone_mode=False)
