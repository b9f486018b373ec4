"""Output and exit status of `emu migrate` when memory does not converge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.emu.test_cli import SMALL, emu

if TYPE_CHECKING:
    from pathlib import Path

#: The guest writes faster than memory is sent. On a host too busy for that, the devices alone, with
#: the latencies of 2021, take longer than the limit.
TOO_FAST = (
    *("--dirty-rate", "100M", "--max-bandwidth", "20M", "--downtime-limit", "1ms"),
    *("--costs", "rfc2021"),
)


def test_a_migration_that_does_not_converge_fails_with_its_reason() -> None:
    """One line has the rates, the expected downtime, and advice."""
    result = emu("migrate", *SMALL, "-s", "prewired", *TOO_FAST, "--on-no-converge", "abort")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "emu: prewired, run 1 was rolled-back"
    (line,) = (line for line in result.stdout.splitlines() if "rolled-back" in line)
    assert "prewired, run 1: rolled-back: pre-copy: " in line
    assert "the limit is 1.0 ms" in line
    assert "--downtime-limit" in line
    assert "lost 0, duplicated 0, corrupted 0" in result.stdout


@pytest.mark.slow
def test_a_switchover_without_convergence_is_reported(tmp_path: Path) -> None:
    """In the report and in the JSON document."""
    path = tmp_path / "out.json"
    result = emu("migrate", *SMALL, "-s", "prewired", *TOO_FAST, "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert "prewired, run 1: switched over although " in result.stdout
    assert "; expected downtime " in result.stdout
    document = json.loads(path.read_text())
    assert document["dirty_rate"] == 100 << 20
    (run,) = document["runs"]
    assert run["precopy"]["reason"] in ("no-progress", "devices")
    assert run["precopy"]["note"] in result.stdout
    assert run["precopy"]["expected_downtime_ms"] > 1
    assert run["integrity"]["corrupted"] == 0


@pytest.mark.slow
def test_a_slow_stop_is_expected_in_the_second_migration(tmp_path: Path) -> None:
    """No probe measures it; the time of the first migration is in the history of both sides."""
    path = tmp_path / "out.json"
    slow = ("--stop-time", "100ms", "-s", "prewired,qemu-2021", "--json", str(path))
    result = emu("migrate", *SMALL, *slow)
    assert result.returncode == 0, result.stderr
    first, second = (run["precopy"] for run in json.loads(path.read_text())["runs"])
    devices = 4
    assert first["expected_stop_ms"] < second["expected_stop_ms"]
    assert 100 * devices * 0.9 < second["expected_stop_ms"]


def test_a_dirty_rate_above_the_maximum_is_refused() -> None:
    """Before a process has been started."""
    result = emu("migrate", "--dirty-rate", "9999T")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--dirty-rate 9999T: 64G a second is the most" in result.stderr
