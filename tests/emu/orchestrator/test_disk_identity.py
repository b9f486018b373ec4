"""Whether two runs have the same disks: a mark in the images' directory, and a digest."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from emu.errors import PreflightError
from emu.migration.disk_comparison import differences
from emu.orchestrator import disk_identity
from emu.orchestrator.signals import SignalWatcher
from emu.report.progress import SilentProgress
from tests.emu.fake_runs import disk_file, machine_plan

if TYPE_CHECKING:
    from pathlib import Path


def test_a_mark_is_in_the_directory_during_the_block_only(tmp_path: Path) -> None:
    """The destination finds the mark there, and not in another directory."""
    other = tmp_path / "other"
    other.mkdir()
    with disk_identity.marked(tmp_path) as mark:
        source = {"mark": mark, "disk": None}
        assert differences({"images": str(tmp_path), "disk": None}, source) == []
        assert len(differences({"images": str(other), "disk": None}, source)) == 1
    assert list(tmp_path.iterdir()) == [other]
    assert len(differences({"images": str(tmp_path), "disk": None}, source)) == 1


def test_each_migration_has_a_mark_of_its_own(tmp_path: Path) -> None:
    with disk_identity.marked(tmp_path) as one, disk_identity.marked(tmp_path) as other:
        assert one != other


def test_without_a_directory_there_is_no_mark() -> None:
    with disk_identity.marked(None) as mark:
        assert mark is None


def test_a_directory_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(PreflightError, match=r"--images .*none: No such file or directory"),
        disk_identity.marked(tmp_path / "none"),
    ):
        pass


def test_a_mark_that_was_removed_meanwhile_is_not_an_error(tmp_path: Path) -> None:
    with disk_identity.marked(tmp_path):
        (file,) = tmp_path.iterdir()
        file.unlink()


def test_the_users_file_is_described_by_size_and_digest(tmp_path: Path) -> None:
    """A VM without a user's file has no description."""
    content = bytes(range(256)) * 16
    plan = machine_plan(disk=disk_file(tmp_path / "disk", content))
    with SignalWatcher() as watcher:
        assert disk_identity.file_identity(plan, watcher, SilentProgress()) == {
            "size": 4096,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        assert disk_identity.file_identity(machine_plan(), watcher, SilentProgress()) is None
