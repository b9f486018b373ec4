"""`emu sweep`: from the command to its document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from emu.commands.sweep import sweep as command
from emu.config.device_kinds import KINDS
from emu.errors import OptionError
from tests import slow
from tests.emu.test_cli import emu

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    "option", slow.all_but({"--vm"}, [*(f"--{name}" for name in KINDS), "--vm"])
)
def test_a_sweep_has_no_options_for_devices(option: str) -> None:
    """They are refused, and the help does not list them."""
    assert emu("sweep", option, "2x2").returncode == 2
    assert option not in emu("sweep", "--help").stdout.split()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rings", "3"), "--rings 3: a NIC's rings come in pairs"),
        (("--devices", "0"), "--devices"),
        (("--devices", "x"), "--devices"),
        (("--strategy", "magic"), "unknown strategy 'magic'"),
    ],
)
def test_an_invalid_option_is_refused(arguments: tuple[str, ...], text: str) -> None:
    """Before a process is started."""
    with pytest.raises(OptionError, match=text):
        command.main(list(arguments), standalone_mode=False)
