"""Points and plans of small sweeps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from emu.config.plan import MachinePlan, MigrationPlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.report.results import COMPLETED, MigrationReport, MigrationResult
from emu.sweep.matrix import SweepPoint
from emu.sweep.point import PointResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.qmp.protocol import JsonObject


def planned(*disks: int, repeat: int = 1, **machine: Any) -> dict[SweepPoint, MigrationPlan]:
    """A point with each number of disks, and its plan."""
    plan = MigrationPlan(MachinePlan(VmSpec(), **machine), ("split",), repeat=repeat)
    found = {}
    for number in disks:
        spec = VmSpec(1, 256 << 20, (DeviceGroup("blk", number, 1),))
        point = SweepPoint(spec, "soft")
        sized = dataclasses.replace(plan.machine, spec=spec, accel=point.accel)
        found[point] = dataclasses.replace(plan, machine=sized)
    return found


def document(plan: MigrationPlan, downtimes: Sequence[float] = (2.0,)) -> JsonObject:
    """The document of the point's migrations, with these downtimes in milliseconds."""
    runs = [
        MigrationResult("split", number, COMPLETED, downtime_ms=downtime, stop_ms=1.0, start_ms=0.5)
        for number, downtime in enumerate(downtimes, 1)
    ]
    return MigrationReport(plan.machine, "soft", runs).to_json(timelines=False)


def finished(plan: MigrationPlan, failure: str = "") -> PointResult:
    """The result of a point whose migrations were all finished."""
    return PointResult(document(plan, [2.0] * plan.repeat), failure, complete=True)
