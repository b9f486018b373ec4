"""``--fail-if`` of `emu migrate` and `emu sweep`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from emu.commands.fail_if_option import check, gates
from emu.errors import EmuError, OptionError
from tests.emu.test_cli import SMALL, emu

if TYPE_CHECKING:
    from pathlib import Path


def test_an_invalid_condition_names_the_option() -> None:
    with pytest.raises(OptionError, match=r"--fail-if 'x > 3': the strategy has to be one of y"):
        gates(["x > 3"], ["y"])


def test_all_conditions_that_hold_are_one_line() -> None:
    found = gates(["y.commits > 1", "y.commits > 5", "y.commits == 2"], ["y"])
    run = {"strategy": "y", "outcome": "completed", "commits": 2}
    with pytest.raises(EmuError) as caught:
        check(found, [("", {"runs": [run]})])
    assert str(caught.value) == "--fail-if 'y.commits > 1': it is 2; 'y.commits == 2': it is 2"
    check(found[1:2], [("", {"runs": [run]})])


@pytest.mark.slow
def test_a_migration_fails_by_its_downtime(tmp_path: Path) -> None:
    """After the report and the document; the line has the value."""
    path = tmp_path / "out.json"
    conditions = ("--fail-if", "split.downtime_ms > 0", "--fail-if", "split.integrity.lost > 0")
    done = emu("migrate", *SMALL, "--strategy", "split", "--json", str(path), *conditions)
    (run,) = json.loads(path.read_text())["runs"]
    assert done.returncode == 1
    line = f"emu: --fail-if 'split.downtime_ms > 0': it is {run['downtime_ms']:g}"
    assert done.stderr.splitlines()[-1] == line
    assert "integrity:" in done.stdout


@pytest.mark.parametrize("command", ["migrate", "sweep"])
def test_an_unknown_strategy_is_refused_before_the_run(command: str) -> None:
    arguments = (command, "--strategy", "split", "--fail-if", "prewired.downtime_ms > 30")
    done = emu(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    text = "emu: --fail-if 'prewired.downtime_ms > 30': the strategy has to be one of split\n"
    assert done.stderr == text
