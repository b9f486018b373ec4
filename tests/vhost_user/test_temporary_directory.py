"""Temporary directories: removed at the end of the block, or after a kill by the next one."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.temporary_directory import RANDOM_LENGTH, TemporaryDirectory

if TYPE_CHECKING:
    from pathlib import Path

KILLED = """
import os, signal, sys
from pathlib import Path
from vhost_user.temporary_directory import TemporaryDirectory
TemporaryDirectory(sys.argv[1], Path(sys.argv[2])).path.joinpath("file").write_text("x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def _kill_one(prefix: str, folder: Path) -> None:
    argv = [sys.executable, "-c", KILLED, prefix, str(folder)]
    assert subprocess.run(argv, timeout=PROGRAM_TIMEOUT, check=False).returncode < 0


def test_it_is_removed_with_its_contents(tmp_path: Path) -> None:
    with TemporaryDirectory("some-", tmp_path) as path:
        assert path.parent == tmp_path
        assert len(path.name) == len("some-") + RANDOM_LENGTH
        (path / "folder").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_the_next_one_of_its_prefix_removes_that_of_a_killed_process(tmp_path: Path) -> None:
    _kill_one("some-", tmp_path)
    (stale,) = tmp_path.iterdir()
    with TemporaryDirectory("other-", tmp_path):
        assert stale.is_dir()
    with TemporaryDirectory("some-", tmp_path):
        assert not stale.exists()


def test_one_in_use_and_one_without_a_lock_stay(tmp_path: Path) -> None:
    own = tmp_path / "some-12345678"
    own.mkdir()
    with TemporaryDirectory("some-", tmp_path) as first:
        with TemporaryDirectory("some-", tmp_path):
            assert first.is_dir()
        assert first.is_dir()
    assert list(tmp_path.iterdir()) == [own]


def test_no_parent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TemporaryDirectory("some-", tmp_path / "none")
