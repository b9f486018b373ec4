"""`emu run`: totals at its end, and options that exclude each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.commands.run import run as command
from emu.errors import OptionError
from tests import slow
from tests.emu.test_cli import SMALL, emu
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_quiet_prints_nothing() -> None:
    """The result is the exit status."""
    result = emu("run", *SMALL, "--for", "1s", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_run_reports_totals(tmp_path: Path) -> None:
    """As text and as a JSON document."""
    path = tmp_path / "out.json"
    result = emu("run", *SMALL, "--for", "2s", "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("requests/s") == 2
    document = json.loads(path.read_text())
    totals = document["totals"]
    assert totals["blk"]["requests"] == document["integrity"]["requests"] > 0
    assert f"integrity: {totals['blk']['requests']} requests" in result.stdout
    assert totals["net"]["packets"] > 0
    assert totals["net"]["kicks"] > 0


@pytest.mark.parametrize(
    ("content", "text"),
    slow.after(
        1,
        [
            (b"short", "5 bytes is too short for statistics"),
            (b"x" * 4096, "is not a statistics file"),
        ],
    ),
)
def test_counters_that_are_damaged_meanwhile(tmp_path: Path, content: bytes, text: str) -> None:
    """One line, with the file and the reason."""
    command = [sys.executable, "-m", "emu", "run", *SMALL, "--for", "2s", "--quiet"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        found: list[Path] = []

        def started() -> bool:
            assert process.poll() is None
            found[:] = tmp_path.glob("*/*.stats")
            return bool(found)

        wait_until(started, "the back-ends have counters")
        found[0].write_bytes(content)
        _, errors = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert process.returncode == 1
    assert errors.startswith(f"emu: {found[0]}: {text}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--for", "0"), "--for 0: give a time that is longer"),
        (("--tls-cert", "x"), "--tls-cert goes with --incoming, which is missing"),
        (("--insecure",), "--insecure goes with --incoming, which is missing"),
        (("--qmp", "unix:q", "--tls-cert", "x"), "TLS needs all three of --tls-cert, "),
        (
            ("--qmp", "unix:q", "--tls-cert", "/x", "--tls-key", "/y", "--tls-ca", "/z"),
            "--qmp tls: ",
        ),
        (("--images", "/none"), "--images /none: there is no such directory"),
        (("--incoming", "nowhere"), "--incoming 'nowhere' is not an address"),
    ],
)
def test_options_that_exclude_each_other(arguments: tuple[str, ...], text: str) -> None:
    """Before a process is started."""
    with pytest.raises(OptionError, match=text):
        command.main([*SMALL, *arguments], standalone_mode=False)
