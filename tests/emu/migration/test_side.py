"""The interface of both sides of a migration for the monitor."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.migration.side import MigrationSide

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject


class Side(MigrationSide):
    """A side with one figure."""

    def figures(self) -> JsonObject:
        return {"own": 1}


def test_a_side_begins_without_figures() -> None:
    """It does not await a VM, and adds no members to query-migrate."""
    side = Side(7)
    assert (side.commits_before, side.guest_gap_ns, side.awaits_vm) == (7, 0, False)
    assert dict(side.lost) == {}
    assert side.query("active", 4096) == {}
    assert side.timeline.to_json()["spans"] == []


def test_each_side_has_a_timeline_of_its_own() -> None:
    one, other = Side(0), Side(0)
    one.timeline.mark("pause_start_ns")
    assert "pause_start_ns" in one.timeline.marks
    assert not other.timeline.marks


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="figures"):
        MigrationSide(0)  # type: ignore[abstract]
