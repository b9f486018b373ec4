"""The command line: what a user sees when something is wrong, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

EMU = (sys.executable, "-m", "emu.cli")
SMALL = ("--net", "2x4", "--blk", "2x2", "--vcpus", "2", "--memory", "256M")


def emu(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `emu` to its end."""
    return subprocess.run(
        [*EMU, *arguments], capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("migrate", "--strategy", "magic"), 2, "'magic' is no strategy"),
        (("migrate", "--net", "16"), 2, "--net '16' is no shape"),
        (("migrate", "--blk", "2x300"), 2, "256 rings at the most"),
        (("migrate", "--memory", "much"), 2, "'much' is no size"),
        (("migrate", "--stop-time", "soon"), 2, "'soon' is no duration"),
        (("migrate", "--costs", "free"), 2, "'free' is not one of"),
        (("migrate", "--repeat", "0"), 2, "0 is not in the range"),
        (("migrate", "--vm", "/none.toml"), 1, "No such file"),
        (("migrate", "--disk", "/none.img"), 1, "--disk /none.img: No such file"),
        (("migrate", "--json", "/none/out.json"), 1, "there is no directory /none"),
        (("migrate", "extra"), 2, "unexpected extra argument"),
        (("run", "--for", "0"), 2, "--for 0"),
        (("run", "--load", "much"), 2, "'much' is not one of"),
        (("fly",), 2, "No such command 'fly'"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    arguments: tuple[str, ...], status: int, line: str
) -> None:
    """And nothing on stdout."""
    result = emu(*arguments)
    assert result.returncode == status
    assert line in result.stderr
    assert result.stderr.startswith("emu: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_help_has_examples() -> None:
    """For each command."""
    for command in ((), ("migrate",), ("run",)):
        result = emu(*command, "--help")
        assert result.returncode == 0
        assert "Examples:\n" in result.stdout


def test_its_version_is_that_of_the_package() -> None:
    """One place says it."""
    from importlib.metadata import version

    assert version("vhost-emu") in emu("--version").stdout


def test_a_long_temporary_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was started in it."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    result = emu("migrate", *SMALL)
    assert result.returncode == 1
    assert "at most 107" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(long.iterdir()) == []
