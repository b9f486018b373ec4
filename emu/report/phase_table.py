"""The table of phases of `emu migrate`: a row for each phase and class, a column per strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from devices.procedure import Phase
from emu.config.costs import RFC_TABLE, RFC_TOTAL_SERIAL_MS
from emu.config.vm_spec import VmSpec
from emu.report.cells import median_downtime, milliseconds, new_table, ratio, runs_note, width_of
from emu.report.results import MigrationReport, PhaseRow, median

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table
    from rich.text import Text

    from emu.report.results import MigrationResult

#: Milliseconds; two phases that are both shorter differ by noise, and are not compared.
NOISE_MS = 0.5
#: Marks: instead of such a comparison, and after a time that two classes share.
NOISE, SHARED = "~", "*"
_LEGEND = {
    NOISE: f"{NOISE} both are shorter than {NOISE_MS} ms, and not compared",
    SHARED: f"{SHARED} one commit for several classes: the row of each has the same time",
}
Key = tuple[Phase, str]


class PhaseTable:
    """Phases by strategy, in milliseconds: a row for each phase and class."""

    def __init__(self, report: MigrationReport, *, in_blackout: bool) -> None:
        self._report = report
        self._in_blackout = in_blackout
        self._cells = {
            name: _cells(report.completed(name), in_blackout=in_blackout)
            for name in report.strategies
        }
        self._columns = [name for name in report.strategies if in_blackout or self._cells[name]]
        self._first = self._columns[0] if self._columns else ""
        self._marks: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._cells.values())

    def legend(self) -> list[str]:
        """The meaning of each mark in the tables."""
        return [text for mark, text in _LEGEND.items() if mark in self._marks]

    def tables(self, *, plain: bool, width: int | None) -> tuple[list[Table], bool]:
        """The table, or several of them below each other if ``width`` is too small for one.

        Args:
            plain: without box-drawing characters and styles.
            width: columns; None for no limit.

        Returns:
            The tables, and whether they have the sums of the spans.
        """
        whole = self.table(self._columns, sums=True, plain=plain)
        if width is None or width_of(whole) <= width:
            return [whole], True
        groups = self._groups(plain=plain, width=width)
        return [self.table(group, sums=False, plain=plain) for group in groups], False

    def _groups(self, *, plain: bool, width: int) -> list[list[str]]:
        """The strategies in groups that fit; in the blackout each has the first strategy."""
        base = [self._first] if self._in_blackout else []
        groups: list[list[str]] = [[]]
        for name in self._columns:
            candidate = [*groups[-1], name]
            table = self.table(candidate, sums=False, plain=plain)
            if len(candidate) > len(base) + 1 and width_of(table) > width:
                candidate = [*base, name]
                groups.append([])
            groups[-1] = candidate
        return groups

    def table(self, columns: Sequence[str], *, sums: bool, plain: bool) -> Table:
        """One table; with ``sums``, also the sum of the spans beside each wall time."""
        title = "in the blackout" if self._in_blackout else "outside of the blackout"
        table = new_table(f"{title}, ms{runs_note(self._report)}", plain=plain)
        for name in ("side", "class", "phase"):
            table.add_column(name)
        rfc = self._rfc_column()
        if rfc:
            table.add_column("RFC", justify="right")
        for name in columns:
            table.add_column(name, justify="right")
            if sums:
                table.add_column("sum", justify="right", style="dim")
            if self._compares(name):
                table.add_column("x", justify="right")
        for key in self._keys():
            table.add_row(*_step(key), *self._row(key, columns, rfc, sums=sums))
        if self._in_blackout:
            table.add_section()
            table.add_row(*self._total(columns, rfc, sums=sums), style="bold")
        return table

    def _keys(self) -> list[Key]:
        rows: dict[Key, PhaseRow] = {}
        for name in self._columns:
            for run in self._report.completed(name):
                for row in run.phases:
                    if row.in_blackout == self._in_blackout:
                        rows.setdefault((row.phase, row.device_class), row)
        return sorted(rows, key=lambda key: rows[key].order)

    def _compares(self, name: str) -> bool:
        return self._in_blackout and name != self._first

    def _row(
        self, key: Key, columns: Sequence[str], rfc: dict[Key, float], *, sums: bool
    ) -> list[str | Text]:
        cells: list[str | Text] = [milliseconds(rfc.get(key))] if rfc else []
        first = self._cells[self._first].get(key, _NO_CELL).wall
        for name in columns:
            cell = self._cells[name].get(key, _NO_CELL)
            cells.append(milliseconds(cell.wall) + (SHARED if cell.shared else ""))
            if cell.shared:
                self._marks.add(SHARED)
            if sums:
                cells.append(milliseconds(cell.busy))
            if self._compares(name):
                cells.append(self._compared(first, cell.wall))
        return cells

    def _compared(self, first: float | None, other: float | None) -> str | Text:
        """The ratio of two wall times, or a mark if both are shorter than `NOISE_MS`."""
        if first is None or other is None or max(first, other) >= NOISE_MS:
            return ratio(first, other)
        self._marks.add(NOISE)
        return NOISE

    def _total(
        self, columns: Sequence[str], rfc: dict[Key, float], *, sums: bool
    ) -> list[str | Text]:
        cells: list[str | Text] = ["", "", "downtime"]
        if rfc:
            cells.append(milliseconds(RFC_TOTAL_SERIAL_MS))
        first = median_downtime(self._report, self._first)
        for name in columns:
            downtime = median_downtime(self._report, name)
            cells.append(milliseconds(downtime))
            if sums:
                cells.append("")
            if self._compares(name):
                cells.append(ratio(first, downtime))
        return cells

    def _rfc_column(self) -> dict[Key, float]:
        """The RFC's own figures, if the VM and its costs are the RFC's."""
        machine = self._report.machine
        same = machine.spec == VmSpec() and machine.costs == "rfc2021" and self._in_blackout
        return {(row.phase, row.device_class): row.serial_ms for row in RFC_TABLE} if same else {}


class _Cell(NamedTuple):
    """Medians in milliseconds: wall time, sum of the spans; whether a commit served two classes."""

    wall: float | None
    busy: float | None
    shared: bool


_NO_CELL = _Cell(None, None, shared=False)


def _cells(runs: Iterable[MigrationResult], *, in_blackout: bool) -> dict[Key, _Cell]:
    found: dict[Key, list[PhaseRow]] = {}
    for run in runs:
        for row in run.phases:
            if row.in_blackout == in_blackout:
                found.setdefault((row.phase, row.device_class), []).append(row)
    return {
        key: _Cell(
            median([row.wall_ms for row in rows]),
            median([row.busy_ms for row in rows]),
            shared=any(row.shared for row in rows),
        )
        for key, rows in found.items()
    }


def _step(key: Key) -> tuple[str, str, str]:
    phase, device_class = key
    return phase.side, device_class, phase.step.replace("_", " ")
