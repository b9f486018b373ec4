"""Temporary directories, of processes that end and of those that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.temporary_directory import RANDOM_LENGTH, TemporaryDirectory, remove_stale

#: Makes a directory below the first argument, prints its path, and waits for the end of its stdin.
HOLDER = """
import os, signal, sys
from pathlib import Path
from vhost_user.temporary_directory import TemporaryDirectory

directory = TemporaryDirectory("run-", Path(sys.argv[1]))
(directory.path / "socket").touch()
print(directory.path, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


#: Ctrl-C comes when `tempfile` has made the file with which it tests the directory.
STRUCK = """
import os, signal
from vhost_user.temporary_directory import TemporaryDirectory

make = os.open

def make_and_strike(*arguments):
    fd = make(*arguments)
    os.kill(os.getpid(), signal.SIGINT)
    return fd

os.open = make_and_strike
try:
    TemporaryDirectory("run-")
except KeyboardInterrupt:
    print("interrupted", os.listdir(os.environ["TMPDIR"]))
"""


def test_ctrl_c_leaves_nothing_in_the_temporary_directory(tmp_path: Path) -> None:
    """It has its effect when the test of the directory is over."""
    done = subprocess.run(
        [sys.executable, "-c", STRUCK],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("interrupted []\n", "")


def held(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a directory in this one, and its path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_removed_with_its_contents(tmp_path: Path) -> None:
    """At the end of the block."""
    with TemporaryDirectory("run-", tmp_path) as path:
        (path / "below").mkdir()
        (path / "below" / "file").touch()
        assert path.parent == tmp_path
        assert path.name.startswith("run-")
        assert len(path.name) == len("run-") + RANDOM_LENGTH
    assert list(tmp_path.iterdir()) == []


def test_by_default_it_is_in_the_directory_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of Python, which is ``TMPDIR``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with TemporaryDirectory("run-") as path:
        assert path.parent == tmp_path


def test_only_the_owner_can_use_it(tmp_path: Path) -> None:
    """Sockets are in it."""
    with TemporaryDirectory("run-", tmp_path) as path:
        assert path.stat().st_mode & 0o777 == 0o700


def test_that_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """That of a process that goes on stays, whatever else is removed."""
    process, path = held(tmp_path)
    with process:
        with TemporaryDirectory("run-", tmp_path):
            assert (path / "socket").exists()
        assert (path / "socket").exists()
        process.communicate(timeout=PROGRAM_TIMEOUT)
    assert path.exists()
    with TemporaryDirectory("run-", tmp_path):
        assert not path.exists()


def test_other_names_and_directories_without_a_lock_stay(tmp_path: Path) -> None:
    """They may be the user's."""
    process, path = held(tmp_path)
    with process:
        process.communicate(timeout=PROGRAM_TIMEOUT)
    longer = path.rename(tmp_path / f"{path.name}x")
    (tmp_path / f"run-{'a' * RANDOM_LENGTH}").mkdir()
    remove_stale("run-", tmp_path)
    remove_stale("other-", tmp_path)
    assert (longer / "socket").exists()
    assert (tmp_path / f"run-{'a' * RANDOM_LENGTH}").exists()


def test_a_lock_that_is_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Another user may have made it, in a directory that all users share."""
    own = tmp_path / "own"
    own.touch()
    foreign = tmp_path / f"run-{'a' * RANDOM_LENGTH}"
    foreign.mkdir()
    (foreign / "run.lock").symlink_to(own)
    remove_stale("run-", tmp_path)
    assert foreign.exists()


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    """It is not made."""
    with pytest.raises(FileNotFoundError):
        TemporaryDirectory("run-", tmp_path / "none")
