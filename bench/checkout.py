"""The two sides of `make bench-compare`: a work tree with its virtual environment each."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import PreflightError
from emu.orchestrator.managed_process import ManagedProcess, end
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from emu.orchestrator.signals import SignalWatcher

#: Seconds for a command of git, and for making a virtual environment.
GIT_TIMEOUT, BUILD_TIMEOUT = 60.0, 1800.0
STAMP = ".venv/.installed"
_MOST = 400


class Checkout(NamedTuple):
    """A work tree whose virtual environment is installed.

    Attributes:
        directory: its root.
        python: the interpreter of its virtual environment.
        revision: short id of its commit, with a plus sign if files differ from it.
        files: names of its benchmark files, such as ``bench_protocol``.
    """

    directory: Path
    python: Path
    revision: str
    files: frozenset[str]


def existing(directory: Path, python: Path | None = None) -> Checkout:
    """A work tree that is there already, as it is.

    Args:
        directory: its root.
        python: its interpreter; by default that of its ``.venv``.

    Raises:
        PreflightError: it has no benchmarks, or its virtual environment is not installed.
    """
    python = python or directory.absolute() / ".venv/bin/python"
    if not (directory / "bench").is_dir():
        raise PreflightError(f"{directory} has no directory bench")
    if not python.exists():
        raise PreflightError(f"{directory} is not installed: run make -C {directory} {STAMP}")
    files = frozenset(path.stem for path in (directory / "bench").glob("bench_*.py"))
    return Checkout(directory.absolute(), python, _described(directory), files)


def clone(repository: Path, commit: str, directory: Path, watcher: SignalWatcher) -> Checkout:
    """Clone a commit, and make its virtual environment by its own Makefile.

    The clone shares the objects of the repository, in which nothing is changed. The virtual
    environment is of the Python version that runs this program.

    Args:
        repository: has the commit.
        commit: its full id, of `resolve`.
        directory: of the clone; does not exist yet.
        watcher: interrupts the wait.

    Raises:
        PreflightError: the commit has no benchmarks, or cannot be installed.
        SignalError: a signal arrived.
    """
    # The objects of any commit are there then, also of one that no branch leads to.
    _git(repository, "clone", "-q", "--shared", "--no-checkout", ".", str(directory))
    _git(directory, "checkout", "-q", "--detach", commit)
    log = directory.with_name(f"{directory.name}.log")
    # The interpreter that a virtual environment was made with is not that of PATH always.
    python = sys._base_executable  # type: ignore[attr-defined]  # missing in typeshed
    argv = ["make", "--silent", STAMP, f"PYTHON={python}"]
    program = ManagedProcess("make", argv, log=log, directory=directory, whole_group=True)
    try:
        if not watcher.wait([program.pidfd], BUILD_TIMEOUT):
            raise PreflightError(f"make {STAMP} of {commit[:12]} takes over {BUILD_TIMEOUT:g} s")
        if not program.succeeded:
            reason = program.exit_description()
            raise PreflightError(f"{commit[:12]} cannot be installed: {one_line(reason, _MOST)}")
    finally:
        end([program])
    return existing(directory)


def resolve(repository: Path, revision: str) -> str:
    """The full id of a commit.

    Raises:
        PreflightError: the repository has no such commit, or the directory is not one of git.
    """
    _git(repository, "rev-parse", "--git-dir")
    try:
        name = f"{revision}^{{commit}}"
        return _git(repository, "rev-parse", "-q", "--verify", "--end-of-options", name)
    except PreflightError:
        raise PreflightError(f"{revision}: {repository} has no such commit") from None


def _described(directory: Path) -> str:
    try:
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
        return _git(directory, "rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except PreflightError:  # the files of a release, without git
        return "unknown"


def _git(directory: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise PreflightError("git was not found: install it, or give --old-dir") from None
    except subprocess.TimeoutExpired:
        raise PreflightError(f"git {arguments[0]} takes over {GIT_TIMEOUT:g} s") from None
    if done.returncode:
        raise PreflightError(f"git {arguments[0]}: {one_line(done.stderr, _MOST)}")
    return done.stdout.strip()
