"""The command of `make bench-compare`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import project
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start it; its temporary files are in an empty directory, ``temporary``."""
    (folder / "temporary").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "bench.compare", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Its status, stdout and stderr; nothing of it is left."""
    with start(folder, *arguments) as process:
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert list((folder / "temporary").iterdir()) == []
    return process.returncode, out, err


def test_a_commit_is_compared_with_the_work_tree(tmp_path: Path) -> None:
    """A file that fails, or that one side does not have, is named, and the rest is compared."""
    here = project.installed(
        tmp_path / "here", {"a": project.GOOD, "b": project.BROKEN, "old": project.GOOD}
    )
    old = project.commit(here)
    project.write(here, {"a": project.GOOD, "b": project.GOOD, "new": project.GOOD})
    file = tmp_path / "result.json"
    arguments = ("HEAD", "--new-dir", here, "--rounds", "1", "--json", file)
    status, out, err = run(tmp_path, *arguments)
    assert status == 0, err
    document = json.loads(file.read_text())
    assert old.startswith(document["old"]["revision"])
    assert document["new"]["revision"] == document["old"]["revision"] + "+"
    assert document["old"]["only"] == ["bench_old"]
    assert document["new"]["only"] == ["bench_new", "bench_b: one"]
    (row,) = document["benchmarks"]
    assert (row["file"], row["name"], row["verdict"]) == ("bench_a", "test_one", "too few rounds")
    assert [each["file"] for each in document["failures"]] == ["bench_b"]
    assert "1 run of 4 failed:\n  old bench_b, round 1: " in out
    assert err.splitlines()[:2] == ["installing HEAD", "round 1: bench_a, old"]


@pytest.mark.slow
def test_ctrl_c_prints_what_there_is_and_leaves_nothing(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    hangs = f"import pathlib, signal\npathlib.Path({str(reached)!r}).touch()\nsignal.pause()\n"
    files = {"a": project.GOOD, "b": hangs}
    old, new = (project.installed(tmp_path / side, files) for side in ("old", "new"))
    with start(tmp_path, "--old-dir", old, "--new-dir", new, "--json") as process:
        wait_until(reached.exists, "the second file is run")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert process.returncode == 130
    assert list((tmp_path / "temporary").iterdir()) == []
    document = json.loads(out)
    assert document["interrupted"]
    assert [row["file"] for row in document["benchmarks"]] == ["bench_a"]
    assert "interrupted before the end of 5 rounds" in err
    assert err.splitlines()[-1] == "bench-compare: ended by SIGINT"


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    old = project.installed(tmp_path / "old", {"a": project.GOOD})
    new = project.installed(tmp_path / "new", {"b": project.GOOD})
    status, out, err = run(tmp_path, "--old-dir", old, "--new-dir", new)
    assert (status, err) == (1, "bench-compare: no benchmark was measured on both sides\n")
    assert "only in old: bench_a\nonly in new: bench_b\n" in out


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "give either REV or --old-dir"),
        (["HEAD", "--old-dir", "/"], 2, "give either REV or --old-dir"),
        (["HEAD", "--rounds", "0"], 2, "'--rounds'"),
        (["--old-dir", ""], 2, "'--old-dir': the path is empty"),
        (["HEAD", "--new-dir", ""], 2, "'--new-dir': the path is empty"),
        (["--old-dir", "/"], 1, "/ has no directory bench"),
        (["no-such-commit"], 1, "no-such-commit: "),
        (["HEAD", "--json", "/none/file"], 1, "--json /none/file: "),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, arguments: list[str], status: int, text: str) -> None:
    found, out, err = run(tmp_path, *arguments)
    assert (found, out) == (status, "")
    assert err.startswith("bench-compare: ")
    assert text in err
    assert err.count("\n") == 1
