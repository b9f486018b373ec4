"""What a user reads when the migrations are over: the RFC's table, the downtime, the integrity."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from devices.procedure import Phase
from emu.config.costs import RFC_TABLE, RFC_TOTAL_SERIAL_MS
from emu.config.vm_spec import VmSpec
from emu.report.results import MigrationReport, PhaseRow, median

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from emu.config.plan import MachinePlan
    from emu.report.results import Integrity, MigrationResult

#: Where lines are not broken by a terminal, they may be this long.
PLAIN_WIDTH = 200
#: Milliseconds; two phases that are both shorter differ by noise, and are not compared.
NOISE_MS = 0.5
#: Less than this times as fast as the first strategy is red, and no longer yellow.
NOTED = 0.8
Key = tuple[Phase, str]


def vm_line(plan: MachinePlan, accel: str) -> str:
    """One line on what was run, and which costs were injected."""
    spec = plan.spec
    devices = ", ".join(f"{g.count} {g.device_class} x {g.rings} rings" for g in spec.groups)
    costs = "native costs" if plan.costs == "native" else f"costs of {plan.costs} injected"
    extra = f", back-ends stop in {plan.stop_time / 1e6:g} ms" if plan.stop_time else ""
    return (
        f"{spec.vcpus} vCPUs, {size(spec.memory_bytes)}, {devices}; accelerator {accel}, {costs}, "
        f"load {plan.load}, control {plan.control}, stop policy {plan.stop_policy}{extra}"
    )


def size(count: int) -> str:
    """``180 GiB`` of a number of bytes."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.4g} {unit}"
    return f"{count} B"


def integrity_line(integrity: Integrity, when: str = "") -> str:
    """One line on what became of the guest's requests and packets.

    Args:
        integrity: what became of them.
        when: packets were dropped, such as ``while the VM was down``.
    """
    allowed = f" {when} (as on a wire)".replace("  ", " ") if integrity.packets_lost else ""
    text = (
        f"integrity: {integrity.requests} requests, lost {integrity.lost}, "
        f"duplicated {integrity.duplicated}, corrupted {integrity.corrupted}; "
        f"packets: {integrity.packets} sent, {integrity.packets_lost} dropped{allowed}, "
        f"{integrity.packets_duplicated} duplicated, {integrity.packets_reordered} reordered"
    )
    return text + (f"; {integrity.errors} requests failed" if integrity.errors else "")


class PhaseTable:
    """Phases by strategy: a row for each phase and class, a cell of milliseconds each."""

    def __init__(self, report: MigrationReport, *, in_blackout: bool) -> None:
        self._report = report
        self._in_blackout = in_blackout
        self._cells = {
            name: _cells(report.completed(name), in_blackout=in_blackout)
            for name in report.strategies
        }
        self._columns = [name for name in report.strategies if in_blackout or self._cells[name]]

    def __bool__(self) -> bool:
        return any(self._cells.values())

    def table(self, *, sums: bool, plain: bool) -> Table:
        """The table; with ``sums``, the sum of the spans stands beside each wall time."""
        title = "in the blackout" if self._in_blackout else "outside of the blackout (the VM runs)"
        table = new_table(f"{title}, ms", plain=plain)
        for name in ("side", "class", "step"):
            table.add_column(name)
        rfc = self._rfc_column()
        if rfc:
            table.add_column("RFC", justify="right")
        for name in self._columns:
            table.add_column(name, justify="right")
            if sums:
                table.add_column("sum", justify="right", style="dim")
            if self._compares(name):
                table.add_column("x", justify="right")
        for key in self._keys():
            table.add_row(*_step(key), *self._row(key, rfc, sums=sums))
        if self._in_blackout:
            table.add_section()
            table.add_row(*self._total(rfc, sums=sums), style="bold")
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
        return self._in_blackout and name != self._columns[0]

    def _row(self, key: Key, rfc: dict[Key, float], *, sums: bool) -> list[str | Text]:
        cells: list[str | Text] = [milliseconds(rfc.get(key))] if rfc else []
        first = self._cells[self._columns[0]].get(key, (None, None))[0]
        for name in self._columns:
            wall, busy = self._cells[name].get(key, (None, None))
            cells.append(milliseconds(wall))
            if sums:
                cells.append(milliseconds(busy))
            if self._compares(name):
                noise = max(first or 0.0, wall or 0.0) < NOISE_MS
                cells.append("" if noise else _ratio(first, wall))
        return cells

    def _total(self, rfc: dict[Key, float], *, sums: bool) -> list[str | Text]:
        cells: list[str | Text] = ["", "", "downtime"]
        if rfc:
            cells.append(milliseconds(RFC_TOTAL_SERIAL_MS))
        first = _downtime(self._report, self._columns[0])
        for name in self._columns:
            downtime = _downtime(self._report, name)
            cells.append(milliseconds(downtime))
            if sums:
                cells.append("")
            if self._compares(name):
                cells.append(_ratio(first, downtime))
        return cells

    def _rfc_column(self) -> dict[Key, float]:
        """The RFC's own figures, where they can be compared with these."""
        machine = self._report.machine
        same = machine.spec == VmSpec() and machine.costs == "rfc2021" and self._in_blackout
        return {(row.phase, row.device_class): row.serial_ms for row in RFC_TABLE} if same else {}


def _cells(
    runs: Iterable[MigrationResult], *, in_blackout: bool
) -> dict[Key, tuple[float | None, float | None]]:
    found: dict[Key, list[PhaseRow]] = {}
    for run in runs:
        for row in run.phases:
            if row.in_blackout == in_blackout:
                found.setdefault((row.phase, row.device_class), []).append(row)
    return {
        key: (median([r.wall_ms for r in rows]), median([r.busy_ms for r in rows]))
        for key, rows in found.items()
    }


def _step(key: Key) -> tuple[str, str, str]:
    phase, device_class = key
    return phase.side, device_class, phase.step.replace("_", " ")


def downtime_table(report: MigrationReport, *, plain: bool) -> Table:
    """The three downtime figures of each strategy, and what they came with, in 80 columns."""
    table = new_table("downtime, ms", plain=plain)
    table.add_column("strategy")
    names = ("accounted", "guest", "network", "x", "commits", "in flight", "runs")
    for name in names:
        table.add_column(name, justify="right")
    first = _downtime(report, report.strategies[0]) if report.strategies else None
    for name in report.strategies:
        runs = report.completed(name)
        asked = sum(run.strategy == name for run in report.runs)
        downtime = _downtime(report, name)
        table.add_row(
            name,
            milliseconds(downtime) + _plus_minus(runs),
            milliseconds(median([run.guest_gap_ms for run in runs])),
            milliseconds(median([run.network_gap_ms for run in runs])),
            _ratio(first, downtime),
            _count(median([run.commits for run in runs])),
            _count(median([run.requests_in_flight_at_stop for run in runs])),
            f"{len(runs)}/{asked}",
        )
    return table


def _downtime(report: MigrationReport, strategy: str) -> float | None:
    return median([run.downtime_ms for run in report.completed(strategy)])


def _plus_minus(runs: list[MigrationResult]) -> str:
    errors = [run.downtime_error_ms for run in runs if run.downtime_error_ms is not None]
    return f" ±{max(errors):.2f}" if errors else ""


def _spread(runs: list[MigrationResult]) -> str:
    values = [run.downtime_ms for run in runs if run.downtime_ms is not None]
    return (
        f"; downtime {milliseconds(min(values))} to {milliseconds(max(values))} ms"
        if len(values) > 1
        else ""
    )


def _beside(report: MigrationReport) -> Iterable[str]:
    """What each strategy's last run sent while the VM ran, and how far its runs lie apart."""
    for name in report.strategies:
        runs = report.completed(name)
        if runs:
            last = runs[-1].precopy
            sent = f"pre-copy {last.rounds} rounds, {size(last.bytes)}{_expectation(runs[-1])}"
            yield f"{name}: {sent}{_spread(runs)}"


def _expectation(run: MigrationResult) -> str:
    """What was expected of the blackout when it was decided on, beside what it was."""
    expected = run.precopy.expected_downtime_ms
    if expected is None:
        return ""
    throttled = run.precopy.throttle_percent
    slow = f", guest throttled by {throttled}%" if throttled else ""
    actual = milliseconds(run.downtime_ms)
    return f"{slow}; expected downtime {milliseconds(expected)} ms, was {actual}"


def milliseconds(value: float | None) -> str:
    """``12.34``, ``123.4``, or ``-`` for what is not known."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _ratio(first: float | None, other: float | None) -> Text:
    """How many times faster the other is than the first, coloured by whether it is."""
    if not first or not other:
        return Text("-")
    ratio = round(first / other, 2)
    if ratio >= 1:
        return Text(f"{ratio:.1f}x", style="green")
    return Text(f"{ratio:.2f}x", style="yellow" if ratio >= NOTED else "red")


def new_table(title: str, *, plain: bool) -> Table:
    """An empty table, as all tables of the reports look."""
    return Table(
        title=title,
        title_justify="left",
        title_style="" if plain else "bold",
        box=box.ASCII if plain else box.SIMPLE_HEAD,
        pad_edge=plain,
    )


def _lines(report: MigrationReport) -> Iterable[str]:
    for run in report.runs:
        which = f"{run.strategy}, run {run.repeat}"
        if run.error is not None:
            yield f"{which}: {run.outcome}: {run.error}"
        if run.missed:
            yield f"{which}: {run.missed}"
        if run.precopy.note:
            yield f"{which}: switched over all the same: {run.precopy.note}"
    disk = report.machine.disk
    if disk is not None:
        completed = [run for run in report.runs if run.downtime_ms is not None]
        same = sum(report.disk_matches(run) for run in completed)
        yield f"disk: the guest read all of {disk.path}"
        share = f"{same} of {len(completed)} migrations"
        yield f"      across {share} with the digest that the host has,"
        yield f"      sha256 {report.disk_sha256}"
    for run in report.runs:
        if run.downtime_error_ms is not None:
            yield (
                f"{run.strategy}, run {run.repeat}: the clocks of both machines are compared by "
                f"round trips: the downtime is right to {run.downtime_error_ms:.3f} ms"
            )
    if any(run.checked_elsewhere for run in report.runs):
        yield "integrity: the destination checks the guest's books when its run ends"
    else:
        yield integrity_line(report.integrity, "while the VM was down")


def render(report: MigrationReport, *, plain: bool, width: int) -> RenderableType:
    """The whole report."""
    blackout = PhaseTable(report, in_blackout=True)
    outside = PhaseTable(report, in_blackout=False)
    parts: list[RenderableType] = [Text(vm_line(report.machine, report.accel)), Text()]
    sums = plain or _fits(blackout.table(sums=True, plain=plain), width)
    parts += [part.table(sums=sums, plain=plain) for part in (blackout, outside) if part]
    if not sums:
        parts += [Text("a wider terminal also shows the sums of the spans", style="dim"), Text()]
    parts += [downtime_table(report, plain=plain), *map(Text, _beside(report))]
    parts += map(Text, _lines(report))
    return Group(*parts)


def _fits(table: Table, width: int) -> bool:
    console = Console(width=PLAIN_WIDTH, file=io.StringIO())
    return Measurement.get(console, console.options, table).maximum <= width


def console_for(stream: TextIO) -> Console:
    """A console that breaks no line and draws no colour where no terminal is."""
    console = Console(file=stream, highlight=False)
    if console.is_terminal:
        return console
    return Console(file=stream, highlight=False, width=PLAIN_WIDTH, color_system=None)


def show(report: MigrationReport, stream: TextIO) -> None:
    """Print the report."""
    console = console_for(stream)
    plain = not console.is_terminal
    console.print(render(report, plain=plain, width=console.width), soft_wrap=plain)
