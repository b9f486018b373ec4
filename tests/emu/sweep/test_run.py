"""A sweep as a whole: which points run, and what has become of all."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError, PreflightError, SignalError
from emu.report.progress import SilentProgress
from emu.sweep.point import PointResult
from emu.sweep.results import ResultsDirectory, settings_of
from emu.sweep.run import run_here, run_sweep
from tests.emu.sweep.plans import document, finished, planned

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from emu.config.plan import MigrationPlan
    from emu.sweep.matrix import SweepPoint
    from emu.sweep.run import Runner

    Jobs = Sequence[tuple[SweepPoint, MigrationPlan]]
    Results = Generator[tuple[SweepPoint, PointResult], None, None]


class Stop(EmuError):
    """Ends a runner."""


def finishing(ran: list[SweepPoint], error: EmuError | None = None, most: int = 99) -> Runner:
    """Finishes points, and notes them; after ``most`` of them the error ends it."""

    def run(jobs: Jobs) -> Results:
        for point, plan in jobs:
            if len(ran) >= most and error is not None:
                raise error
            ran.append(point)
            yield point, finished(plan)

    return run


def test_the_points_that_are_kept_do_not_run_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: vhost-emu[cluster]")
    plans = planned(1, 2, 3, 4)
    ran: list[SweepPoint] = []
    lines: list[str] = []
    settings = settings_of(next(iter(plans.values())))
    with ResultsDirectory(tmp_path / "new", settings) as results:
        first = run_sweep(plans, finishing(ran, Stop("stop"), 2), lines.append, results)
    assert (str(first.error), first.not_run, len(first.documents)) == ("stop", 2, 2)
    with ResultsDirectory(tmp_path / "new", settings) as results:
        second = run_sweep(plans, finishing(ran), lines.append, results)
    assert ran == list(plans)
    assert (second.error, second.not_run, second.failure) == (None, 0, "")
    assert list(second.documents.values()) == [document(plan) for plan in plans.values()]
    assert [line.partition(",")[0] for line in lines] == [
        "1 of 4",
        "2 of 4",
        f"--results {tmp_path}/new: 2 of 4 points are finished",
        "3 of 4",
        "4 of 4: blk 4x1",
    ]


def test_a_point_that_is_not_complete_is_not_kept(tmp_path: Path) -> None:
    """It counts for the report of this sweep all the same."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: vhost-emu[cluster]")
    plans = planned(1, repeat=3)
    ((point, plan),) = plans.items()

    def run(_jobs: Jobs) -> Results:
        yield point, PointResult(document(plan), "ended by SIGINT")
        raise SignalError(2, "SIGINT")

    with ResultsDirectory(tmp_path / "new", settings_of(plan)) as results:
        outcome = run_sweep(plans, run, lambda _: None, results)
        assert results.load(point) is None
    assert (outcome.planned, outcome.not_run) == (3, 2)
    assert isinstance(outcome.error, SignalError)


def test_the_documents_have_the_order_of_the_matrix() -> None:
    """Not that in which the points were finished."""
    plans = planned(1, 2, 3)

    def run(jobs: Jobs) -> Results:
        for point, plan in reversed(jobs):
            yield point, finished(plan)

    assert list(run_sweep(plans, run, lambda _: None).documents) == list(plans)


def test_one_line_names_the_points_that_failed() -> None:
    plans = planned(1, 2, 3)

    def run(jobs: Jobs) -> Results:
        for point, plan in jobs:
            failure = "lost 1" if point.spec.rings > 1 else ""
            yield point, finished(plan, failure)

    outcome = run_sweep(plans, run, lambda _: None)
    assert outcome.failure == "2 of 3 points failed, such as blk 2x1, soft: lost 1"


def test_an_error_here_ends_the_sweep() -> None:
    """As no point can run on this host."""
    plans = planned(1, 2, plugins=())
    beyond = {
        point: plan.__class__(plan.machine.__class__(plan.machine.spec, "none"), ("split",))
        for point, plan in plans.items()
    }
    outcome = run_sweep(beyond, run_here(SilentProgress), lambda _: None)
    assert isinstance(outcome.error, PreflightError)
    assert "unknown accelerator 'none'" in str(outcome.error)
    assert (outcome.documents, outcome.not_run) == ({}, 2)
