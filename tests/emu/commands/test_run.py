"""`emu run`: totals at its end, and options that exclude each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from emu.commands.run import run as command
from emu.errors import OptionError
from tests.emu.test_cli import SMALL, emu

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
    ("arguments", "text"),
    [
        (("--for", "0"), "--for 0: give a time that is longer"),
        (("--tls-cert", "x"), "--tls-cert goes with --incoming, which is missing"),
        (("--insecure",), "--insecure goes with --incoming, which is missing"),
        (("--images", "/none"), "--images /none: there is no such directory"),
        (("--incoming", "nowhere"), "--incoming 'nowhere' is not an address"),
    ],
)
def test_options_that_exclude_each_other(arguments: tuple[str, ...], text: str) -> None:
    """Before a process is started."""
    with pytest.raises(OptionError, match=text):
        command.main([*SMALL, *arguments], standalone_mode=False)
