"""The matrix as a table: places and phases down, faults across, one table for each strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.faults.cells import PHASES, Cell, Phase
from tests.faults.switch import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from tests.faults.cell_run import CellResult

#: Columns of the table, for a wide terminal or a file.
WIDTH = 132


class Entry(NamedTuple):
    """One cell that was run: its result, or the reason of its failure, in one line."""

    cell: Cell
    result: CellResult | None
    complaint: str = ""


def show(entries: Sequence[Entry], stream: TextIO) -> None:
    """Print the tables, the failures, the impossible cells, and the sums."""
    console = Console(file=stream, width=WIDTH, highlight=False)
    by_cell = {entry.cell: entry for entry in entries}
    strategies = list(dict.fromkeys(entry.cell.strategy for entry in entries))
    for strategy in strategies:
        console.print(_table(strategy, by_cell))
    reasons = dict.fromkeys(
        f"{cell.strategy}: {cell.impossible}"
        for strategy in strategies
        for cell in _cells(strategy)
        if cell.impossible
    )
    for reason in reasons:
        console.print(Text(f"n/a  {reason}", style="dim"))
    for entry in entries:
        if entry.result is None:
            console.print(Text(f"FAILED  {entry.cell.name}: {entry.complaint}", style="red"))
    console.print(Text(summary(entries), style="bold"))


def _cells(strategy: str) -> Iterable[Cell]:
    return (Cell(phase, fault, strategy) for phase in PHASES for fault in FAULTS)


def _table(strategy: str, entries: dict[Cell, Entry]) -> Table:
    title = f"strategy {strategy}: how a cell ended, and after how many seconds"
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("place, phase", no_wrap=True)
    for fault in FAULTS:
        table.add_column(fault, no_wrap=True)
    for place in dict.fromkeys(phase.place for phase in PHASES):
        table.add_row(Text(place, style="bold"))
        for phase in PHASES:
            if phase.place == place:
                table.add_row(*_row(phase, strategy, entries))
        table.add_section()
    return table


def _row(phase: Phase, strategy: str, entries: dict[Cell, Entry]) -> list[Text]:
    row = [Text(f"  {phase.name}")]
    for fault in FAULTS:
        cell = Cell(phase, fault, strategy)
        row.append(_shown(cell, entries.get(cell)))
    return row


def _shown(cell: Cell, entry: Entry | None) -> Text:
    if cell.impossible:
        return Text("n/a", style="dim")
    if entry is None:
        return Text("")
    if entry.result is None:
        return Text("FAILED", style="bold red")
    return Text(f"{entry.result.outcome} {entry.result.seconds:.2f}")


def summary(entries: Sequence[Entry]) -> str:
    """One line: the number of cells, their outcomes, and the outcomes of the requests."""
    results = [entry.result for entry in entries if entry.result is not None]
    outcomes = {
        name: sum(result.outcome == name for result in results)
        for name in ("completed", "rolled-back")
    }
    totals = [result.integrity for result in results]
    return (
        f"{len(entries)} cells: {outcomes['completed']} completed, "
        f"{outcomes['rolled-back']} rolled-back, {len(entries) - len(results)} failed; "
        f"{sum(each.requests for each in totals)} requests, "
        f"lost {sum(each.lost for each in totals)}, "
        f"duplicated {sum(each.duplicated for each in totals)}, "
        f"corrupted {sum(each.corrupted for each in totals)}"
    )
