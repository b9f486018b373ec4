"""`emu migrate --unsafe`: the failure occurs once, or the run fails because it did not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.machine.accel import registry
from emu.strategies.unsafe import DEADLOCK, DOUBLE_DISABLE, EITHER, MODES
from tests import slow
from tests.emu.test_cli import emu

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = ("--net", "1x4", "--blk", "2x2", "--vcpus", "3", "--memory", "256M")
#: The text in the error of each mode; with `EITHER` one of them.
SIGNS = {
    DOUBLE_DISABLE: ["was disabled by two threads"],
    DEADLOCK: ["deadlock: 2 threads wait for each other"],
}
SIGNS[EITHER] = SIGNS[DOUBLE_DISABLE] + SIGNS[DEADLOCK]


@pytest.fixture(params=registry.ACCELERATORS)
def accel(request: pytest.FixtureRequest) -> str:
    """Each accelerator that works on this host."""
    name = str(request.param)
    try:
        registry.limits(name)
    except EmuError as error:
        pytest.skip(str(error))
    return name


@pytest.mark.parametrize("mode", slow.all_but({"deadlock"}, MODES))
def test_the_error_is_printed_once_and_the_next_migration_completes(accel: str, mode: str) -> None:
    """On stdout and stderr together; the status is that of a roll-back."""
    unsafe = ("--strategy", "threads,prewired", "--unsafe", mode, "--accel", accel)
    result = emu("migrate", *SHAPE, *unsafe)
    assert result.returncode == 1
    printed = result.stdout + result.stderr
    assert sum(printed.count(sign) for sign in SIGNS[mode]) == 1
    assert result.stderr.splitlines()[-1] == "emu: threads, run 1 was rolled-back"
    assert "prewired, A -> B: downtime " in result.stderr
    assert "lost 0, duplicated 0, corrupted 0" in result.stdout


@pytest.mark.slow
def test_without_a_report_the_error_is_in_the_last_line() -> None:
    """A quiet run has one line."""
    unsafe = ("--strategy", "threads", "--unsafe", DEADLOCK, "--accel", "soft", "--quiet")
    result = emu("migrate", *SHAPE, *unsafe)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.count(SIGNS[DEADLOCK][0]) == 1


def test_a_failure_that_does_not_occur_fails_the_run(accel: str, tmp_path: Path) -> None:
    """One device has no second worker that could disable its notifiers again."""
    path = tmp_path / "out.json"
    shape = ("--net", "0", "--blk", "1x2", "--vcpus", "2", "--memory", "256M", "--accel", accel)
    unsafe = ("--strategy", "threads", "--unsafe", DOUBLE_DISABLE, "--json", str(path))
    result = emu("migrate", *shape, *unsafe)
    assert result.returncode == 1
    assert "threads, run 1: --unsafe double-disable is meant to demonstrate " in result.stderr
    (run,) = json.loads(path.read_text())["runs"]
    assert run["outcome"] == "completed"
    assert "did not occur" in run["missed"]


def test_unsafe_without_the_strategy_that_it_changes_is_refused() -> None:
    """Before a process has been started."""
    result = emu("migrate", "--strategy", "prewired", "--unsafe", DEADLOCK)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--unsafe changes the strategy threads" in result.stderr
