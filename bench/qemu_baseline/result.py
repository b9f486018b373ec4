"""The result of the control run: tables for people, and a JSON document."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from bench.qemu_baseline.qemu_vm import STRATEGY
from bench.qemu_baseline.rounds import EMU, QEMU
from emu.report.cells import counted, milliseconds, new_table, ratio, size
from emu.report.results import host_facts
from vhost_user.console import console_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from rich.table import Table

    from bench.qemu_baseline.measurement import MigrationFigures, StopFigures
    from bench.qemu_baseline.qemu_vm import Qemu
    from bench.qemu_baseline.rounds import BackEnds, Rounds, Series
    from emu.config.plan import MachinePlan

SCHEMA = 1


class _Column(NamedTuple):
    """A VM, or a strategy of its migrations: its title, and its figures."""

    title: str
    figures: Sequence[StopFigures] | Sequence[MigrationFigures]

    def of(self, name: str) -> list[float]:
        return [getattr(each, name) for each in self.figures]


@dataclass(frozen=True)
class Result:
    """All figures, also of rounds that were interrupted.

    Attributes:
        qemu: the QEMU that was measured.
        plan: of both VMs.
        sets: the sets of back-ends.
        measured: the rounds.
        rounds: as many were to be run.
        stops: of each VM in each round.
        strategies: of this project's migrations.
        command: that was given.
        notes: what was not measured, and why.
        interrupted: whether a signal has ended them before.
    """

    qemu: Qemu
    plan: MachinePlan
    sets: Sequence[BackEnds]
    measured: Rounds
    rounds: int
    stops: int
    strategies: Sequence[str]
    command: str
    notes: Sequence[str] = ()
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing failed."""
        return not self.measured.failures

    @property
    def empty(self) -> bool:
        """Whether no VM was measured."""
        return not any(
            series.stops for vms in self.measured.series.values() for series in vms.values()
        )

    def print(self, stream: TextIO) -> None:
        """Print the tables, and what failed."""
        console = console_for(stream)
        plain = not stream.isatty()
        console.print(self._head())
        for back_ends in self.sets:
            console.print(f"\nback-ends: {back_ends.programs}")
            for table in self._tables(back_ends, plain=plain):
                console.print(table)
        for line in self._notes():
            console.print(line)

    def _head(self) -> str:
        spec = self.plan.spec
        devices = ", ".join(
            f"{counted(group.count, _NOUNS[group.device_class])} x {group.rings} rings"
            for group in spec.groups
        )
        loads = self.measured.loads
        cpus = host_facts()["cpus"]
        return (
            f"{devices}; {counted(spec.vcpus, 'vCPU')}, {size(spec.memory_bytes)}, no I/O\n"
            f"accelerators: {self.qemu.accel} of QEMU, {self.plan.accel} of this project\n"
            f"load average {min(loads):.1f} to {max(loads):.1f} on {counted(cpus, 'CPU')}\n"
            "medians in milliseconds; ratio: QEMU's to that of the last column"
        )

    def _tables(self, back_ends: BackEnds, *, plain: bool) -> Iterator[Table]:
        vms = self.measured.series[back_ends.name]
        qemu, emu = vms[QEMU], vms[EMU]
        yield _table(
            "stop and cont",
            [_Column(f"QEMU {self.qemu.version}", qemu.stops), _Column("emu run", emu.stops)],
            {"gap_ms": _GAP, "stop_ms": "stop", "cont_ms": "cont"},
            plain=plain,
        )
        strategies = [_Column(name, emu.migrations.get(name, ())) for name in self.strategies]
        qemus = _Column(f"QEMU {self.qemu.version}", qemu.migrations.get(STRATEGY, ()))
        yield _table(
            "live migration",
            [qemus, *strategies],
            {"gap_ms": _GAP, "downtime_ms": "reported downtime"},
            plain=plain,
        )

    def _notes(self) -> Iterator[str]:
        yield from (*self.qemu.rejected, *self.notes)
        failures = self.measured.failures
        if failures:
            yield f"{counted(len(failures), 'VM')} failed:"
        for each in failures:
            yield f"  round {each.round}, {each.vm} on {each.back_ends}: {each.reason}"
        if self.interrupted:
            yield f"interrupted before the end of {counted(self.rounds, 'round')}"

    def to_json(self) -> dict[str, Any]:
        """The document of ``--json``; see bench/README.md."""
        spec = self.plan.spec
        return {
            "schema": SCHEMA,
            "command": self.command,
            "host": host_facts(),
            "vm": {
                "vcpus": spec.vcpus,
                "memory_bytes": spec.memory_bytes,
                "devices": [
                    {"class": group.device_class, "count": group.count, "rings": group.rings}
                    for group in spec.groups
                ],
            },
            "qemu": {"version": self.qemu.version, "accel": self.qemu.accel},
            "accel": self.plan.accel,
            "load_averages": self.measured.loads,
            "rounds": self.rounds,
            "stops": self.stops,
            "interrupted": self.interrupted,
            "series": [
                {
                    "back_ends": back_ends.name,
                    "programs": back_ends.programs,
                    "vm": vm,
                    **_series_to_json(series),
                }
                for back_ends in self.sets
                for vm, series in self.measured.series[back_ends.name].items()
            ],
            "failures": [each._asdict() for each in self.measured.failures],
            "notes": [*self.qemu.rejected, *self.notes],
        }


_NOUNS = {"blk": "disk", "net": "NIC"}
_GAP = "heartbeat's gap"


def _series_to_json(series: Series) -> dict[str, Any]:
    return {
        "stops": [each._asdict() for each in series.stops],
        "migrations": {
            strategy: [each._asdict() for each in figures]
            for strategy, figures in series.migrations.items()
        },
    }


def _table(title: str, columns: Sequence[_Column], rows: dict[str, str], *, plain: bool) -> Table:
    """A table whose last column has how many times faster the last VM is than the first.

    Args:
        title: of the table.
        columns: QEMU first.
        rows: titles of figures, by their names; the first one also gets its range.
        plain: without colours and lines, for a pipe.
    """
    table = new_table(title, plain=plain)
    table.add_column("")
    for column in columns:
        table.add_column(column.title, justify="right")
    table.add_column("ratio", justify="right")
    for number, (name, text) in enumerate(rows.items()):
        values = [column.of(name) for column in columns]
        medians = [statistics.median(each) if each else None for each in values]
        # QEMU's own downtime is not the same as this project's.
        faster = Text("") if name == "downtime_ms" else ratio(medians[0], medians[-1])
        table.add_row(text, *map(milliseconds, medians), faster)
        if not number:
            table.add_row("  least to most", *map(_range, values), Text(""))
    return table


def _range(values: Sequence[float]) -> str:
    return f"{_short(min(values))} to {_short(max(values))}" if values else "-"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
