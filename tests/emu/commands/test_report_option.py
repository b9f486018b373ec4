"""``--report`` and ``--png``: what is refused before the run, and what the command line becomes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from emu.commands.report_option import ReportFiles, command_line
from emu.errors import EmuError
from emu.report.page.migration_page import page
from tests.emu.report.page.samples import migrations
from tests.emu.test_cli import SMALL, emu

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("command", "option", "name", "status", "why"),
    [
        (("migrate",), "--report", "/none/x", 1, "there is no directory /none"),
        (("sweep",), "--png", "/none/x", 1, "there is no directory /none"),
        (("tap",), "--report", "/dev", 1, "neither"),
        (("conform", "back-end"), "--png", "-", 2, "name a file"),
        (("conform", "back-end"), "--openmetrics", "-", 2, "name a file"),
        (("conform", "back-end"), "--junitxml", "-", 2, "name a file"),
        (("conform", "back-end"), "--write-known", "-", 2, "name a file"),
        (("run",), "--trace", "-", 2, "name a file"),
    ],
)
def test_a_path_that_cannot_be_written_is_known_before_the_run(
    command: tuple[str, ...], option: str, name: str, status: int, why: str
) -> None:
    """One line, and no VM was started."""
    done = emu(*command, option, name)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert f"{option} {name}" in line
    assert why in line


@pytest.mark.parametrize(
    "words",
    [
        ("migrate", "--json", "x", "--report", "./x"),
        ("migrate", "--trace", "x", "--png", "x"),
        ("sweep", "--openmetrics", "x", "--json", "x"),
        ("tap", "--pair", "a:b", "--pcap", "x", "--png", "x"),
        ("tap", "--pair", "a:b", "--json", "x", "--report", "x"),
        ("conform", "back-end", "--exec", "false {socket}", "--junitxml", "x", "--json", "x"),
    ],
)
def test_two_options_do_not_write_to_the_same_file(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second result would replace the first."""
    monkeypatch.chdir(tmp_path)
    done = emu(*words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "writes to the same file" in line
    assert not any(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the run. A module that cannot be found is as one that is not installed."""
    import importlib.util

    from click.testing import CliRunner

    from emu.commands import report_option
    from emu.commands.sweep import sweep

    found = importlib.util.find_spec
    monkeypatch.setattr(
        report_option, "find_spec", lambda name: None if name == "jinja2" else found(name)
    )
    result = CliRunner().invoke(sweep, ["--report", str(tmp_path / "page.html")])
    assert str(result.exception) == "--report needs jinja2: pip install 'vhost-emu[report]'"
    assert not any(tmp_path.iterdir())


def test_the_packages_are_imported_only_for_the_option() -> None:
    """Other commands start as fast as before."""
    import subprocess

    code = (
        "import sys, emu.commands.migrate, emu.commands.conform, emu.commands.tap, "
        "emu.commands.sweep; print([name for name in ('jinja2', 'vl_convert', 'emu.report.page') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_a_full_disk_is_one_line() -> None:
    """After the run, as for --json."""
    from pathlib import Path

    with pytest.raises(EmuError, match=r"--report /dev/full: No space left on device"):
        ReportFiles(Path("/dev/full")).write(page(migrations()))


def test_the_command_line_can_be_pasted() -> None:
    """It is quoted for a shell, and names no secret."""
    words = ["conform", "back-end", "--exec", "prog {socket} --password=geheim, x 'y'", "a b"]
    line = command_line(words)
    assert "geheim" not in line
    assert line.endswith("'a b'")
    words = ["tap", "--exec", "API_KEY: abc TOKEN=def prog"]
    assert command_line(words) == "emu tap --exec 'API_KEY: *** TOKEN=*** prog'"
    plain = ["migrate", "--net", "2x4", "--report", "my page.html"]
    assert command_line(plain) == "emu migrate --net 2x4 --report 'my page.html'"


@pytest.mark.slow
def test_a_migration_writes_both(tmp_path: Path) -> None:
    """The page has the command; the file is complete, and nothing else is left."""
    html, png = tmp_path / "page.html", tmp_path / "picture.png"
    files = ("--report", str(html), "--png", str(png))
    done = emu("migrate", *SMALL, "--strategy", "prewired", *files, "--quiet")
    assert done.returncode == 0, done.stderr
    text = html.read_text("utf-8")
    assert f"emu migrate {' '.join(SMALL)} --strategy prewired" in text
    assert '"name": "timeline-0"' in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == [html, png]
