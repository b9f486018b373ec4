"""The results of `emu sweep`: how the blackout grows with the number of rings."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from emu.config.vm_spec import DeviceGroup, VmSpec, default_groups
from emu.errors import OptionError
from emu.report.cells import milliseconds, new_table, times
from emu.report.results import document_head, median
from emu.report.tables import vm_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from emu.config.plan import MigrationPlan
    from emu.qmp.protocol import JsonObject
    from emu.report.results import MigrationReport

#: The most devices of a VM: the limit of open files does not allow for more.
MAX_DEVICES = 1000


def sizes(text: str) -> tuple[int, ...]:
    """Numbers of devices, as ``4,16,40,128``.

    Raises:
        OptionError: the text is invalid.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= MAX_DEVICES for number in numbers):
        raise OptionError(
            f"--devices {text!r}: write numbers from 1 to {MAX_DEVICES}, such as 4,16,40,128"
        )
    if len(set(numbers)) < len(numbers):
        raise OptionError(f"--devices {text}: a number is there twice; see --repeat")
    return numbers


def shape_of(devices: int, rings: int, base: VmSpec) -> VmSpec:
    """A VM with that many devices, the default VM's kinds in equal parts, with ``rings`` each.

    Raises:
        ShapeError: a kind does not support that number of rings.
    """
    kinds = [group.device_class for group in default_groups()]
    bounds = [devices * part // len(kinds) for part in range(len(kinds) + 1)]
    parts = zip(kinds, itertools.pairwise(bounds), strict=True)
    groups = tuple(
        DeviceGroup(kind, end - start, rings) for kind, (start, end) in parts if end > start
    )
    return dataclasses.replace(base, groups=groups)


class Point(NamedTuple):
    """The times of one strategy with one VM: medians in milliseconds.

    Attributes:
        devices, rings: of the VM, in total.
        strategy: its name.
        downtime_ms: by the timelines of both sides.
        stop_ms, start_ms: from the beginning of the first device's first step in the blackout to
            the end of the last step, at the source and at the destination.
    """

    devices: int
    rings: int
    strategy: str
    downtime_ms: float
    stop_ms: float
    start_ms: float


def points_of(report: MigrationReport) -> list[Point]:
    """A point for each strategy with completed runs."""
    spec = report.machine.spec
    points = []
    for name in report.strategies:
        runs = report.completed(name)
        figures = [
            median([getattr(run, key) for run in runs])
            for key in ("downtime_ms", "stop_ms", "start_ms")
        ]
        known = [value for value in figures if value is not None]
        if len(known) == len(figures):
            points.append(Point(len(spec.devices), spec.rings, name, *known))
    return points


def table(points: Sequence[Point], *, plain: bool) -> Table:
    """A row for each VM and strategy; growth is relative to the strategy's smallest VM."""
    result = new_table("medians, ms; growth since the smallest VM", plain=plain)
    for name in ("devices", "rings", "x", "strategy", "downtime", "stop", "x", "start", "x"):
        result.add_column(name, justify="left" if name == "strategy" else "right")
    smallest: dict[str, Point] = {}
    for point in sorted(points, key=lambda each: each.rings):
        smallest.setdefault(point.strategy, point)
    size = 0
    for point in points:
        if size not in (0, point.rings):
            result.add_section()
        size = point.rings
        base = smallest[point.strategy]
        rings = point.rings / base.rings
        result.add_row(
            str(point.devices),
            str(point.rings),
            times(rings),
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


def heading(plan: MigrationPlan, accel: str) -> str:
    """The settings that all VMs have in common."""
    line = vm_line(plan.machine, accel)
    return line.partition("; ")[2]


def document(
    plan: MigrationPlan, reports: Iterable[MigrationReport], *, not_run: int = 0
) -> JsonObject:
    """The JSON document: the points, and the migrations that they summarise.

    Args:
        plan: of each VM, but for its devices.
        reports: of the VMs that have migrated.
        not_run: number of migrations of all VMs that were not finished.
    """
    kept = list(reports)
    head = document_head(plan.machine, kept[0].accel if kept else plan.machine.accel)
    del head["vm"]
    return {
        **head,
        **({"not_run": not_run} if not_run else {}),
        "points": [point._asdict() for report in kept for point in points_of(report)],
        "migrations": [report.to_json(timelines=False) for report in kept],
    }
