"""The work trees that are compared."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.checkout import clone, existing, resolve
from emu.errors import PreflightError
from emu.orchestrator.signals import SignalWatcher
from tests.bench import project


def test_a_work_tree_is_taken_as_it_is(tmp_path: Path) -> None:
    directory = project.installed(tmp_path / "here", {"a": project.GOOD, "b": project.GOOD})
    found = existing(directory)
    assert found.files == {"bench_a", "bench_b"}
    assert found.python == directory / ".venv/bin/python"
    assert found.revision == "unknown"
    assert existing(directory, Path(sys.executable)).python == Path(sys.executable)


def test_the_revision_has_a_plus_sign_if_files_differ(tmp_path: Path) -> None:
    directory = project.installed(tmp_path / "here", {"a": project.GOOD})
    commit = project.commit(directory)
    revision = existing(directory).revision
    assert commit.startswith(revision)
    project.write(directory, {"a": project.BOTH})
    assert existing(directory).revision == f"{revision}+"


def test_what_is_no_installed_work_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="has no directory bench"):
        existing(tmp_path)
    directory = project.write(tmp_path / "here", {"a": project.GOOD})
    with pytest.raises(PreflightError, match="is not installed: run make"):
        existing(directory)


def test_a_commit_is_cloned_and_installed(tmp_path: Path) -> None:
    """Also one that no branch has any more; the repository stays as it is."""
    here = project.write(tmp_path / "here", {"a": project.GOOD})
    old = project.commit(here)
    project.write(here, {"b": project.GOOD})
    project.commit(here)
    with SignalWatcher() as watcher:
        found = clone(here, resolve(here, "HEAD~1"), tmp_path / "old", watcher)
    assert resolve(here, "HEAD~1") == old
    assert found.files == {"bench_a"}
    assert old.startswith(found.revision)
    assert existing(here, Path(sys.executable)).files == {"bench_b"}
    assert not (here / ".git/worktrees").exists()


def test_what_is_no_commit_is_refused(tmp_path: Path) -> None:
    here = project.write(tmp_path / "here", {})
    project.commit(here)
    for name in ("nonsense", "--help", "HEAD:Makefile"):
        with pytest.raises(PreflightError, match=rf"{name}: .* has no such commit"):
            resolve(here, name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PreflightError, match="git rev-parse: "):
        resolve(tmp_path / "empty", "HEAD")


def test_a_commit_that_cannot_be_installed_is_refused_with_the_last_line(tmp_path: Path) -> None:
    makefile = ".venv/.installed:\n\t@echo this machine is too old; exit 3\n"
    here = project.write(tmp_path / "here", {"a": project.GOOD}, makefile)
    commit = project.commit(here)
    with (
        SignalWatcher() as watcher,
        pytest.raises(PreflightError, match="cannot be installed: make ended with status 2: "),
    ):
        clone(here, commit, tmp_path / "old", watcher)
