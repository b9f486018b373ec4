"""A sweep: runs the points that are not finished yet, and collects the results of all."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.report.cells import counted, milliseconds, rough_time
from emu.report.sweep import points_of
from emu.sweep.point import measure
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from emu.config.plan import MigrationPlan
    from emu.qmp.protocol import JsonObject
    from emu.report.progress import Progress
    from emu.sweep.matrix import SweepPoint
    from emu.sweep.point import PointResult
    from emu.sweep.results import ResultsDirectory

    #: Runs points and yields the result of each when it is finished.
    Runner = Callable[
        [Sequence[tuple[SweepPoint, MigrationPlan]]],
        Generator[tuple[SweepPoint, PointResult], None, None],
    ]


@dataclass(slots=True)
class SweepOutcome:
    """What has become of the points.

    Attributes:
        plans: of all points, in the order of the matrix.
        results: of the points that were begun.
        error: what ended the sweep before all points were begun; None if nothing did.
    """

    plans: Mapping[SweepPoint, MigrationPlan]
    results: dict[SweepPoint, PointResult] = field(default_factory=dict)
    error: EmuError | VhostUserError | None = None

    @property
    def documents(self) -> dict[SweepPoint, JsonObject]:
        """The documents of the points with migrations that were finished, in order."""
        return {
            point: result.document
            for point in self.plans
            if (result := self.results.get(point)) is not None and result.document is not None
        }

    @property
    def planned(self) -> int:
        """The number of migrations of all points."""
        return sum(len(plan.sequence) for plan in self.plans.values())

    @property
    def not_run(self) -> int:
        """The number of migrations that were not finished."""
        return self.planned - sum(len(each["runs"]) for each in self.documents.values())

    @property
    def failure(self) -> str:
        """Why the sweep fails, if its points do: one line; empty if none does."""
        failed = [point for point in self.plans if self._failure_of(point)]
        if not failed:
            return ""
        line = f"{failed[0].label}: {self._failure_of(failed[0])}"
        if len(failed) == 1:
            return line
        return f"{len(failed)} of {len(self.plans)} points failed, such as {line}"

    def _failure_of(self, point: SweepPoint) -> str:
        return self.results[point].failure if point in self.results else ""


def run_here(make_progress: Callable[[], Progress]) -> Runner:
    """Runs points one after the other in this process; an error ends them."""

    def run(
        jobs: Sequence[tuple[SweepPoint, MigrationPlan]],
    ) -> Generator[tuple[SweepPoint, PointResult], None, None]:
        for point, plan in jobs:
            result, error = measure(plan, make_progress())
            yield point, result
            if error is not None:
                raise error

    return run


def run_sweep(
    plans: Mapping[SweepPoint, MigrationPlan],
    runner: Runner,
    report: Callable[[str], None],
    results: ResultsDirectory | None = None,
) -> SweepOutcome:
    """Run the points, except for those whose results are kept.

    Args:
        plans: of all points, in the order of the matrix.
        runner: runs them.
        report: is called with a line for each point that is finished.
        results: where the results are kept.

    Raises:
        EmuError: the kept results cannot be read.
    """
    outcome = SweepOutcome(plans)
    if results is not None:
        kept = {point: results.load(point) for point in plans}
        outcome.results = {point: result for point, result in kept.items() if result is not None}
        if outcome.results:
            found = f"{len(outcome.results)} of {counted(len(plans), 'point')}"
            report(f"--results {results.path}: {found} are finished")
    missing = [(point, plan) for point, plan in plans.items() if point not in outcome.results]
    begin, before = time.monotonic(), len(outcome.results)
    try:
        with closing(runner(missing)) as finished:
            for point, result in finished:
                outcome.results[point] = result
                if results is not None and result.complete:
                    results.save(point, result)
                done = len(outcome.results)
                left = (time.monotonic() - begin) / (done - before) * (len(plans) - done)
                rest = f", about {rough_time(left)} left" if left else ""
                report(f"{done} of {len(plans)}{rest}: {_summary(point, result)}")
    except (EmuError, VhostUserError) as error:
        outcome.error = error
    return outcome


def _summary(point: SweepPoint, result: PointResult) -> str:
    if result.document is None:
        return f"{point.label}: {result.failure}"
    points = points_of(result.document)
    figures = [f"{each.strategy} {milliseconds(each.downtime_ms)} ms" for each in points]
    return f"{point.label}: {', '.join(figures) or result.failure}"
