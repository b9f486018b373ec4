"""Whether source and destination of a migration have the same disks."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from emu.migration.disk_comparison import differences

if TYPE_CHECKING:
    from pathlib import Path

DISK = {"size": 4096, "sha256": "ab"}


def test_the_same_disks_have_no_differences(tmp_path: Path) -> None:
    (tmp_path / ".emu-migration-abc123").touch()
    mine = {"images": str(tmp_path), "disk": DISK}
    assert differences(mine, {"mark": "abc123", "disk": dict(DISK)}) == []
    assert differences({}, {}) == []


@pytest.mark.parametrize(
    ("mine", "source", "text"),
    [
        ({"images": "/nowhere"}, {}, "disks: only the destination has --images"),
        ({}, {"mark": "a"}, "disks: only the source has --images"),
        ({"images": "/nowhere"}, {"mark": "a"}, "is not the source's directory"),
        ({"disk": DISK}, {}, "blk0: only the destination has --disk"),
        ({}, {"disk": DISK}, "blk0: only the source has --disk"),
        ({"disk": DISK}, {"disk": {**DISK, "size": 512}}, "differs, size 512 at the source, 4096"),
        ({"disk": DISK}, {"disk": {**DISK, "sha256": "cd"}}, "differs, sha256 cd at the source"),
    ],
)
def test_each_difference_is_named(mine: dict[str, Any], source: dict[str, Any], text: str) -> None:
    (found,) = differences(mine, source)
    assert text in found


@pytest.mark.parametrize("mark", ["../x", "a/b", "", "."])
def test_a_mark_of_the_source_cannot_name_another_directory(tmp_path: Path, mark: str) -> None:
    """The mark is a file name from the other side."""
    (tmp_path / "x").touch()
    folder = tmp_path / "images"
    folder.mkdir()
    assert differences({"images": str(folder)}, {"mark": mark})
