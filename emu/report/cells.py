"""Cells of the reports' tables: units, digits and colours."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from emu.report.results import MigrationReport, median

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rich.console import RenderableType

#: Columns if the output is not a terminal: no line is as long, so none is broken or cut.
PLAIN_WIDTH = 4000
#: Ratios below 1 are yellow, and below this red.
RED_BELOW = 0.8


def size(count: int) -> str:
    """A number of bytes with its unit, such as ``180 GiB``."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.4g} {unit}"
    return f"{count} B"


def rough_time(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h`` or ``109 days``: how long something will take."""
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


def milliseconds(value: float | None) -> str:
    """``12.34``, ``123.4``, or ``-`` if it is unknown."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def times(factor: float) -> str:
    """How many times as much: ``4x``, ``1.5x`` or ``152x``."""
    return f"{factor:.3g}x"


def counted(number: int, noun: str) -> str:
    """``1 device`` or ``2 devices``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def count(value: float | None) -> str:
    """A whole number, or ``-`` if it is unknown."""
    return "-" if value is None else f"{value:.0f}"


def ratio(first: float | None, other: float | None) -> Text:
    """How many times faster the other is than the first: green, yellow or red."""
    if not first or not other:
        return Text("-")
    factor = round(first / other, 2)
    if factor >= 1:
        return Text(f"{factor:.1f}x", style="green")
    return Text(f"{factor:.2f}x", style="yellow" if factor >= RED_BELOW else "red")


def new_table(title: str | None, *, plain: bool) -> Table:
    """An empty table in the style of all reports."""
    return Table(
        title=title,
        title_justify="left",
        title_style="" if plain else "bold",
        box=box.ASCII if plain else box.SIMPLE_HEAD,
        pad_edge=plain,
    )


def width_of(table: Table) -> int:
    """The width, in columns, at which a table shows all cells in full."""
    console = Console(width=PLAIN_WIDTH, file=io.StringIO(), markup=False, emoji=False)
    return Measurement.get(console, console.options, table).maximum


def fitting(
    build: Callable[[Collection[str]], Table], columns: Sequence[str], width: int
) -> tuple[Table, list[str]]:
    """The table without as many columns as it takes to fit, and the names of these columns.

    Args:
        build: makes the table without some columns.
        columns: those that may be left out, in this order.
        width: columns of the terminal.
    """
    left_out: list[str] = []
    while width_of(made := build(left_out)) > width and len(left_out) < len(columns):
        left_out.append(columns[len(left_out)])
    return made, left_out


def remainder(rows: int, room: int, left_out: Sequence[str]) -> list[str]:
    """What a table on a terminal does not show, in words.

    Args:
        rows: one for each device.
        room: rows that are shown at most.
        left_out: columns that are not shown.
    """
    parts = [f"and {counted(rows - room, 'more device')}"] if rows > room else []
    if left_out:
        parts.append(f"too narrow for: {', '.join(left_out)}")
    return parts


def rows_with_room(
    render: Callable[[int], RenderableType], rows: int, width: int, height: int
) -> int:
    """How many rows a terminal has room for, one at least; lines that it wraps are several.

    Args:
        render: makes everything that is shown with at most that many rows.
        rows: all of them.
        width: columns of the terminal.
        height: its lines.
    """
    console = Console(width=max(1, width), file=io.StringIO(), markup=False, emoji=False)
    room = max(1, min(rows, height))
    while room > 1 and (excess := len(console.render_lines(render(room))) - height) > 0:
        room = max(1, room - excess)
    return room


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts names as people do: ``disk2`` is before ``disk10``."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)
    ]


def median_downtime(report: MigrationReport, strategy: str) -> float | None:
    """Milliseconds of a strategy's completed runs, or None."""
    return median([run.downtime_ms for run in report.completed(strategy)])


def runs_note(report: MigrationReport) -> str:
    """For a title: whether figures are medians or of one run; empty if no run completed."""
    counts = {len(report.completed(name)) for name in report.strategies} - {0}
    if not counts:
        return ""
    if counts == {1}:
        return " (one run each)"
    least, most = min(counts), max(counts)
    return (
        f" (medians of {most} runs)" if least == most else f" (medians of {least} to {most} runs)"
    )
