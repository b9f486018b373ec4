"""`emu conform peers`: from the file to the verdicts."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from tests.emu.test_cli import emu
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

NET = f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}"


@pytest.mark.slow
@pytest.mark.timeout(3 * PROGRAM_TIMEOUT)
def test_peers_are_tested_in_parts(tmp_path: Path) -> None:
    """One works, one is broken, and one has a failure that is known."""
    pytest.importorskip("distributed", reason="distributed is not installed: vhost-emu[cluster]")
    file, out = tmp_path / "peers.toml", tmp_path / "out"
    (tmp_path / "known.txt").write_text("VU-B-0101 we say so\n")
    file.write_text(
        f"""
        [good]
        exec = {json.dumps(NET)}
        device = "net"
        only = ["framing"]

        [broken]
        exec = "false {{socket}}"
        only = ["VU-B-0101"]

        [mended]
        exec = {json.dumps(NET)}
        only = ["VU-B-0101"]
        known = {json.dumps(str(tmp_path / "known.txt"))}
        """
    )
    done = emu("conform", "peers", str(file), "--workers", "1", "--shards", "2", "--out", str(out))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("emu: 2 of 3 peers failed, such as broken: its process ended")
    assert "VU-B-0101 PASS (must) is known to fail" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["good.json", "mended.json"]
    good = json.loads((out / "good.json").read_text())
    assert good["summary"]["FAIL"] == 0
    assert {case["area"] for case in good["cases"]} == {"framing"}
    assert "good 1/2" in done.stderr


@pytest.mark.parametrize(
    ("text", "arguments", "status", "line"),
    [
        ("[x]", (), 2, "[x]: exec is missing"),
        ('[x]\nexec = "a {socket}"', ("--scheduler", "here"), 2, "write local, or an address"),
        ('[x]\nexec = "a {socket}"\nknown = "/none"', (), 1, "[x]: known /none: No such file"),
        ('[x]\nexec = "a {socket}"', ("--out", "/none/x"), 1, "--out /none/x: No such file"),
    ],
)
def test_what_is_wrong_is_one_line(
    text: str, arguments: tuple[str, ...], status: int, line: str, tmp_path: Path
) -> None:
    """Nothing was started."""
    pytest.importorskip("distributed", reason="distributed is not installed: vhost-emu[cluster]")
    file = tmp_path / "peers.toml"
    file.write_text(text)
    done = emu("conform", "peers", str(file), *arguments)
    assert done.returncode == status
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
