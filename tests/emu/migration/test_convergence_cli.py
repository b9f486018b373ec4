"""What a user sees of convergence: whole runs of `emu migrate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.emu.test_cli import SMALL, emu

if TYPE_CHECKING:
    from pathlib import Path

#: The guest writes faster than memory is sent; and where the host is too busy for that, the
#: devices alone, with the latencies of 2021, take longer than the limit.
TOO_FAST = (
    *("--dirty-rate", "100M", "--max-bandwidth", "20M", "--downtime-limit", "1ms"),
    *("--costs", "rfc2021"),
)


def test_a_migration_that_does_not_converge_is_given_up_with_its_reason() -> None:
    """One line says what is too fast, what is expected, and what to do about it."""
    result = emu("migrate", *SMALL, "-s", "prewired", *TOO_FAST, "--on-no-converge", "abort")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "emu: prewired, run 1 was rolled-back"
    (line,) = (line for line in result.stdout.splitlines() if "rolled-back" in line)
    assert "prewired, run 1: rolled-back: pre-copy: " in line
    assert "the limit is 1.0 ms" in line
    assert "--downtime-limit" in line
    assert "lost 0, duplicated 0, corrupted 0" in result.stdout


def test_or_switches_over_and_says_that_it_did(tmp_path: Path) -> None:
    """In the report and in the document."""
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


def test_a_slow_stop_is_expected_the_second_time(tmp_path: Path) -> None:
    """No probe sees it; what it took goes with the VM, to the side that stops it next."""
    path = tmp_path / "out.json"
    slow = ("--stop-time", "100ms", "-s", "prewired,qemu-2021", "--json", str(path))
    result = emu("migrate", *SMALL, *slow)
    assert result.returncode == 0, result.stderr
    first, second = (run["precopy"] for run in json.loads(path.read_text())["runs"])
    devices = 4
    assert first["expected_stop_ms"] < second["expected_stop_ms"]
    assert 100 * devices * 0.9 < second["expected_stop_ms"]


def test_a_rate_that_cannot_be_is_refused() -> None:
    """Before anything has been started."""
    result = emu("migrate", "--dirty-rate", "9999T")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--dirty-rate 9999T: 64G a second is the most" in result.stderr
