"""The matrix as a table, one row for each group of cells, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from tests.hostile.cell import Verdict

_WIDTH = 132


def show(verdicts: Sequence[Verdict], stream: TextIO) -> None:
    """Print the table, the cells that are not ok with the reason, and the sum."""
    console = Console(file=stream, width=_WIDTH, highlight=False)
    table = Table(
        title="cells by group; the neighbour's longest round excludes waits for a processor",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
    )
    table.add_column("group", no_wrap=True)
    for column in ("cells", "ok", "not ok", "seconds", "neighbour ms"):
        table.add_column(column, justify="right")
    for group, members in _by_group(verdicts).items():
        bad = sum(bool(verdict.complaint) for verdict in members)
        table.add_row(
            group,
            str(len(members)),
            str(len(members) - bad),
            Text(str(bad), style="bold red" if bad else ""),
            f"{sum(verdict.seconds for verdict in members):.1f}",
            f"{max(verdict.delay for verdict in members) * 1e3:.1f}",
        )
    console.print(table)
    for verdict in verdicts:
        if verdict.complaint:
            console.print(Text(f"NOT OK  {verdict.cell.name}: {verdict.complaint}", style="red"))
    bad = sum(bool(verdict.complaint) for verdict in verdicts)
    console.print(Text(f"{len(verdicts)} cells, {bad} not ok", style="bold"))


def _by_group(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.cell.group, []).append(verdict)
    return groups


def document(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """The JSON document: counts, and each cell with its verdict."""
    return {
        "cells": len(verdicts),
        "not_ok": sum(bool(verdict.complaint) for verdict in verdicts),
        "groups": {
            group: {
                "cells": len(members),
                "not_ok": sum(bool(verdict.complaint) for verdict in members),
            }
            for group, members in _by_group(verdicts).items()
        },
        "verdicts": [
            {
                "group": verdict.cell.group,
                "place": verdict.cell.place,
                "input": verdict.cell.input,
                "ok": not verdict.complaint,
                "reason": verdict.complaint,
                "seconds": round(verdict.seconds, 4),
                "neighbour_seconds": round(verdict.delay, 6),
            }
            for verdict in verdicts
        ],
    }
