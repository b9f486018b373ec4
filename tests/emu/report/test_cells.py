"""Cells of the reports' tables: units, digits, colours."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.table import Table
from rich.text import Text

from emu.report.cells import (
    RED_BELOW,
    count,
    counted,
    fitting,
    median_downtime,
    milliseconds,
    natural,
    new_table,
    ratio,
    remainder,
    rows_with_room,
    runs_note,
    size,
    times,
    width_of,
)
from emu.report.results import MigrationReport, MigrationResult
from tests.emu.fake_runs import machine_plan
from tests.emu.report.printed import run

if TYPE_CHECKING:
    from collections.abc import Collection


def test_sizes() -> None:
    """In the largest unit of which there is at least one."""
    assert size(180 << 30) == "180 GiB"
    assert size(1536) == "1.5 KiB"
    assert size(12) == "12 B"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00"), (12.345, "12.35"), (99.994, "99.99"), (100, "100.0")],
)
def test_milliseconds_have_three_or_four_digits(value: float | None, text: str) -> None:
    assert milliseconds(value) == text


def test_a_count_is_whole() -> None:
    assert (count(None), count(3.0), count(2.5)) == ("-", "3", "2")


@pytest.mark.parametrize(
    ("first", "other", "text", "style"),
    [
        (100, 10, "10.0x", "green"),
        (10, 10, "1.0x", "green"),
        (9.99, 10, "1.0x", "green"),
        (9, 10, "0.90x", "yellow"),
        (RED_BELOW * 10, 10, "0.80x", "yellow"),
        (7.9, 10, "0.79x", "red"),
        (None, 10, "-", ""),
        (10, None, "-", ""),
        (0, 10, "-", ""),
    ],
)
def test_a_ratio_is_green_only_if_the_other_is_not_slower(
    first: float | None, other: float | None, text: str, style: str
) -> None:
    found = ratio(first, other)
    assert (found.plain, str(found.style)) == (text, style)


def test_the_width_of_a_table_shows_all_cells_in_full() -> None:
    """The borders of a plain table are ASCII characters."""
    table = new_table("title", plain=True)
    table.add_column("a")
    table.add_row("x" * 50)
    assert width_of(table) == 50 + 4


def test_the_median_is_that_of_the_completed_runs() -> None:
    failed = MigrationResult("a", 3, "rolled-back")
    report = MigrationReport(machine_plan(), "soft", [run("a", 10), run("a", 30, repeat=2), failed])
    assert median_downtime(report, "a") == 20
    assert median_downtime(report, "b") is None


@pytest.mark.parametrize(
    ("runs", "note"),
    [
        ([], ""),
        ([MigrationResult("a", 1, "rolled-back")], ""),
        ([run("a", 1), run("b", 1)], " (one run each)"),
        ([run("a", 1), run("a", 1, repeat=2)], " (medians of 2 runs)"),
        ([run("a", 1), run("b", 1), run("b", 1, repeat=2)], " (medians of 1 to 2 runs)"),
    ],
)
def test_the_note_of_a_title_has_the_number_of_runs(runs: list[MigrationResult], note: str) -> None:
    assert runs_note(MigrationReport(machine_plan(), "soft", runs)) == note


def test_a_factor_is_as_precise_as_it_has_to_be() -> None:
    """1.5 is not 2."""
    assert [times(factor) for factor in (1.0, 1.5, 4.0, 152.0, 15.2)] == [
        *("1x", "1.5x", "4x", "152x", "15.2x"),
    ]


def test_a_noun_has_its_number() -> None:
    """Also without any."""
    assert [counted(number, "ring") for number in (0, 1, 2)] == ["0 rings", "1 ring", "2 rings"]


def test_as_many_rows_as_a_terminal_has_room_for() -> None:
    """Lines that are wrapped count as they are; there is one row at least."""

    def render(room: int) -> Text:
        return Text("\n".join(["x" * 15, *["row"] * room]))

    room = {(w, h): rows_with_room(render, 50, w, h) for w in (10, 20) for h in (9, 100, 0)}
    assert room == {(10, 9): 7, (20, 9): 8, (10, 100): 50, (20, 100): 50, (10, 0): 1, (20, 0): 1}


def test_names_are_sorted_by_their_numbers() -> None:
    """As people sort them; two numbers in a name, too."""
    names = ["disk10", "a/disk2", "disk2", "disk", "a/disk10", "disk2#11", "disk2#9"]
    assert sorted(names, key=natural) == [
        *("a/disk2", "a/disk10", "disk", "disk2", "disk2#9", "disk2#11", "disk10"),
    ]


def test_columns_are_left_out_in_their_order_until_a_table_fits() -> None:
    """All of those that may be left out, if that is not enough."""

    def build(left_out: Collection[str]) -> Table:
        table = Table(box=None, padding=0)
        for name in ("abcd", "efgh", "ijkl"):
            if name not in left_out:
                table.add_column(name)
        return table

    for width, left_out in ((12, []), (11, ["ijkl"]), (7, ["ijkl", "abcd"]), (1, ["ijkl", "abcd"])):
        table, names = fitting(build, ("ijkl", "abcd"), width)
        assert names == left_out
        assert len(table.columns) == 3 - len(left_out)
    assert remainder(5, 3, ["a", "b"]) == ["and 2 more devices", "too narrow for: a, b"]
    assert remainder(3, 3, []) == []
