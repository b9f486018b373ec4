"""The results of `emu sweep`: how the blackout grows with the number of rings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from emu.report.cells import milliseconds, new_table, times
from emu.report.results import COMPLETED, document_head, median, shape_of_groups, totals
from emu.report.tables import back_end_lines, vm_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from emu.config.plan import MigrationPlan
    from emu.qmp.protocol import JsonObject


class Point(NamedTuple):
    """The times of one strategy with one VM: medians in milliseconds.

    Attributes:
        devices, rings: of the VM, in total.
        strategy: its name.
        downtime_ms: by the timelines of both sides.
        stop_ms, start_ms: from the beginning of the first device's first step in the blackout to
            the end of the last step, at the source and at the destination.
        shape: the VM's devices, such as ``net 4x8, blk 2x4``.
        accel: the accelerator that was used.
    """

    devices: int
    rings: int
    strategy: str
    downtime_ms: float
    stop_ms: float
    start_ms: float
    shape: str = ""
    accel: str = ""


def points_of(document: JsonObject) -> list[Point]:
    """A point for each strategy with completed runs, of a document of `emu migrate`."""
    groups = document["vm"]["devices"]
    completed = [run for run in document["runs"] if run["outcome"] == COMPLETED]
    points = []
    for name in dict.fromkeys(run["strategy"] for run in document["runs"]):
        runs = [run for run in completed if run["strategy"] == name]
        figures = [
            median([run[key] for run in runs]) for key in ("downtime_ms", "stop_ms", "start_ms")
        ]
        known = [value for value in figures if value is not None]
        if len(known) == len(figures):
            devices, rings = totals(groups)
            downtime, stop, start = known
            shape, accel = shape_of_groups(groups), document["accel"]
            points.append(Point(devices, rings, name, downtime, stop, start, shape, accel))
    return points


def table(points: Sequence[Point], *, plain: bool, shapes: bool = False) -> Table:
    """A row for each VM, accelerator and strategy; growth is since the smallest VM of both latter.

    Args:
        points: in the order of the rows.
        plain: for a file or a pipe.
        shapes: each VM has its devices instead of their number.
    """
    accels = len({point.accel for point in points}) > 1
    result = new_table("medians, ms; growth since the smallest VM", plain=plain)
    left = {"VM", "accel", "strategy"}
    for name in (
        "VM" if shapes else "devices",
        *("rings", "x", *(["accel"] if accels else []), "strategy"),
        *("downtime", "stop", "x", "start", "x"),
    ):
        result.add_column(name, justify="left" if name in left else "right")
    smallest: dict[tuple[str, str], Point] = {}
    for point in sorted(points, key=lambda each: each.rings):
        smallest.setdefault((point.accel, point.strategy), point)
    size: tuple[int, str] | None = None
    for point in points:
        if size not in (None, (point.rings, point.shape)):
            result.add_section()
        size = (point.rings, point.shape)
        base = smallest[point.accel, point.strategy]
        rings = point.rings / base.rings
        result.add_row(
            point.shape if shapes else str(point.devices),
            str(point.rings),
            times(rings),
            *([point.accel] if accels else []),
            point.strategy,
            milliseconds(point.downtime_ms),
            milliseconds(point.stop_ms),
            _growth(point.stop_ms / base.stop_ms, rings),
            milliseconds(point.start_ms),
            _growth(point.start_ms / base.start_ms, rings),
        )
    return result


def _growth(factor: float, rings: float) -> Text:
    """Green if the time grew less than the number of rings, red if more."""
    style = "green" if factor < rings else "red" if factor > rings else ""
    return Text(f"{factor:.1f}x", style=style)


def heading(plan: MigrationPlan, documents: Sequence[JsonObject]) -> str:
    """The settings that all VMs have in common, and whether their hosts differ."""
    line = vm_line(plan.machine, _accel_of(documents) or plan.machine.accel).partition("; ")[2]
    line = "\n".join([line, *back_end_lines(plan.machine)])
    hosts = [each["host"] for each in documents]
    if any(host != hosts[0] for host in hosts):
        return f"{line}\nthe hosts differ: compare the strategies of each VM only"
    return line


def document(
    plan: MigrationPlan, documents: Iterable[JsonObject], *, not_run: int = 0
) -> JsonObject:
    """The JSON document: the points, and the migrations that they summarise.

    Args:
        plan: of each VM, but for its devices.
        documents: of `emu migrate`, of the VMs that have migrated.
        not_run: number of migrations of all VMs that were not finished.
    """
    kept = list(documents)
    head = document_head(plan.machine, _accel_of(kept) or plan.machine.accel)
    if kept:
        head["host"] = kept[0]["host"]
    del head["vm"]
    return {
        **head,
        **({"not_run": not_run} if not_run else {}),
        "points": [point._asdict() for each in kept for point in points_of(each)],
        "migrations": kept,
    }


def _accel_of(documents: Iterable[JsonObject]) -> str:
    """The accelerators that were used: ``soft``, or ``kvm, soft``."""
    return ", ".join(sorted({each["accel"] for each in documents}))
