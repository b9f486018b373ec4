"""Landlock, in a process of its own: what is refused for good, and what is not."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backends import landlock

needed = pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")
SCRIPT = """
import os, pathlib, sys
from backends import landlock
folder = sys.argv[1]
held = open(folder + "/held", "r+")
assert landlock.restrict([pathlib.Path(folder, "mine")])
{attempt}
"""


def attempt(folder: Path, code: str) -> str:
    """What a restricted process prints, or the last line of its traceback."""
    (folder / "mine").mkdir()
    for name in ("held", "mine/file", "other"):
        (folder / name).write_text("text")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(attempt=code), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).strip().rpartition("\n")[2]


@needed
@pytest.mark.parametrize(
    "code",
    [
        "open(folder + '/other')",
        "open(folder + '/other', 'a')",
        "open(folder + '/mine/new', 'x')",
        "os.listdir(folder)",
        "os.unlink(folder + '/other')",
        "os.mkdir(folder + '/mine/new')",
        "os.rmdir(folder + '/mine')",
        "os.symlink('x', folder + '/mine/new')",
        "os.link(folder + '/mine/file', folder + '/mine/new')",
        "os.rename(folder + '/mine/file', folder + '/mine/new')",
        "os.truncate(folder + '/other', 0)",
        "os.execv(sys.executable, ['python', '-c', ''])",
    ],
)
def test_files_are_refused(code: str, tmp_path: Path) -> None:
    assert "PermissionError" in attempt(tmp_path, code)


@needed
@pytest.mark.parametrize(
    "code",
    [
        "os.unlink(folder + '/mine/file')",
        "held.read(); held.write('more'); os.ftruncate(held.fileno(), 1)",
        "os.ftruncate(os.memfd_create('memory'), 4096)",
    ],
)
def test_what_stays_possible(code: str, tmp_path: Path) -> None:
    assert attempt(tmp_path, code + "; print('done')") == "done"


def test_a_kernel_without_it_restricts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert not landlock.restrict([Path("/")])
