"""`emu conform --known` and `--write-known`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT
from tests.vhost_user_conformance.pytest_plugin.sessions import WRONG_BASE

if TYPE_CHECKING:
    from pathlib import Path

#: A NIC whose bases are wrong: the first two of these cases fail, and the last one passes.
PROGRAM = f"{shlex.quote(sys.executable)} -c {shlex.quote(WRONG_BASE)} --socket-path {{socket}}"
CASES = ("VU-B-0601", "VU-B-0602", "VU-B-0101")
BASES = (
    *("back-end", "--device", "net", "--exec", PROGRAM),
    *(word for name in CASES for word in ("--only", name)),
)


def conform(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EMU, "conform", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )


@pytest.mark.slow
def test_a_baseline_is_written_kept_and_broken(tmp_path: Path) -> None:
    """The status is 0 with the failures of the file, and 1 with one more or one less."""
    known, out, junit = (tmp_path / name for name in ("known.txt", "out.json", "out.xml"))
    written = conform(*BASES, "--write-known", known, "--json", out)
    assert written.returncode == 0, written.stderr
    cases = json.loads(out.read_text())["cases"]
    failed = [case["id"] for case in cases if case["verdict"] == "FAIL"]
    passed = [case["id"] for case in cases if case["verdict"] == "PASS"]
    lines = known.read_text().splitlines()
    assert [line.split()[0] for line in lines[1:]] == failed != []

    same = conform(*BASES, "--known", known, "--json", out, "--junitxml", junit)
    assert (same.returncode, same.stderr.strip()) == (0, "")
    assert json.loads(out.read_text())["known"] == {"failed": failed, "new": [], "mended": []}
    assert f"known failures: {len(failed)} of {len(failed)} failed, 0 new, 0 mended" in same.stdout
    suite = ET.parse(junit).getroot()  # noqa: S314  our own file
    assert suite.get("failures") == "0"
    assert len(suite.findall("testcase/properties/property[@name='known']")) == len(failed)

    known.write_text(f"{passed[0]}\n" + "".join(f"{name} why\n" for name in failed[1:]))
    other = conform(*BASES, "--known", known, "--json", out, "--junitxml", junit)
    assert other.returncode == 1
    assert other.stderr.strip() == (
        f"emu: --known {known}: {passed[0]} (line 1): known to fail, and does not fail any more; "
        "remove the line, or use --write-known"
    )
    found = json.loads(out.read_text())["known"]
    assert found == {"failed": failed[1:], "new": failed[:1], "mended": passed[:1]}
    assert ET.parse(junit).getroot().get("failures") == "2"  # noqa: S314  our own file

    known.write_text("".join(f"{name} why\n" for name in failed[1:]))
    more = conform(*BASES, "--known", known, "--quiet")
    assert (more.returncode, more.stderr.strip()) == (1, "")
    assert more.stdout.startswith(f"{failed[0]} FAIL")


@pytest.mark.parametrize("option", ["--known", "--write-known"])
def test_a_file_that_cannot_be_used_is_refused_before_the_run(option: str, tmp_path: Path) -> None:
    done = conform(*BASES, option, tmp_path / "none" / "known.txt")
    assert (done.returncode, done.stdout) != (0, "")
    assert done.stderr.startswith(f"emu: {option} {tmp_path}/none/known.txt: ")
    assert done.stderr.count("\n") == 1


def test_an_unknown_id_is_a_usage_error(tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("VU-F-9998\n")
    done = conform("front-end", "--socket", tmp_path / "s", "--known", known)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"emu: --known {known}, line 1: VU-F-9998 is no id of a case (VU-F-...)\n"
    )


def test_a_front_end_has_a_baseline_too(tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("VU-F-0101 passes\n")
    attach = f"{shlex.quote(sys.executable)} -m emu.cli attach -q --net {{socket}}"
    arguments = ("front-end", "--device", "net", "--exec", attach, "--only", "VU-F-0101")
    done = conform(*arguments, "--known", known)
    assert done.returncode == 1
    assert "VU-F-0101 (line 1): known to fail, and does not fail any more" in done.stderr
