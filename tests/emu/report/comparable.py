"""Documents to be compared, as the commands write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devices.procedure import Phase
from emu.config.plan import MachinePlan, MigrationPlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.report import sweep
from emu.report.results import COMPLETED, ROLLED_BACK, MigrationReport, MigrationResult, PhaseRow
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.result import CaseResult, document
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vhost_user_conformance.model.verdict import Verdict


def _plan(disks: int, **changes: Any) -> MachinePlan:
    spec = VmSpec(2, 256 << 20, (DeviceGroup("blk", disks, 2),))
    return MachinePlan(**{"spec": spec, **changes})


def report(
    times: Mapping[str, Iterable[float | None]], *, disks: int = 2, accel: str = "soft"
) -> MigrationReport:
    """Migrations with these downtimes in milliseconds, by strategy; None was rolled back."""
    runs = [
        MigrationResult(
            strategy,
            number,
            ROLLED_BACK if downtime is None else COMPLETED,
            downtime_ms=downtime,
            stop_ms=None if downtime is None else downtime / 2,
            phases=(PhaseRow(Phase.GET_VRING_BASE, "blk", downtime or 0, 1, 1, in_blackout=True),),
        )
        for strategy, downtimes in times.items()
        for number, downtime in enumerate(downtimes, 1)
    ]
    return MigrationReport(_plan(disks), accel, runs)


def migration(times: Mapping[str, Iterable[float | None]], **more: Any) -> dict[str, Any]:
    """The document of `emu migrate`."""
    return report(times, **more).to_json()


def sweep_of(reports: Sequence[MigrationReport]) -> dict[str, Any]:
    """The document of `emu sweep`."""
    documents = [each.to_json(timelines=False) for each in reports]
    return sweep.document(MigrationPlan(_plan(2), ("prewired",)), documents)


def conformance(*verdicts: Verdict, role: str = BACK_END, first: int = 0) -> dict[str, Any]:
    """The document of `emu conform`: the first cases, with these verdicts."""
    cases = cases_of(role)[first:]
    results = [
        CaseResult(case, verdict, "this", "that", 1.0)
        for case, verdict in zip(cases, verdicts, strict=False)
    ]
    return document(role, {"command": "x"}, {}, results)
