"""The points of a sweep as tasks of workers."""

from __future__ import annotations

import pickle
from contextlib import closing
from typing import TYPE_CHECKING

from emu.cluster.scheduler import run_on_workers
from emu.cluster.worker import Output, Task
from emu.json_input import JsonInputError, Maybe, Members, read
from emu.sweep.point import PointResult

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from emu.config.plan import MigrationPlan
    from emu.orchestrator.signals import SignalWatcher
    from emu.report.progress import Progress
    from emu.sweep.matrix import SweepPoint
    from emu.sweep.run import Runner

_RESULT = Members({"document": Maybe(object), "failure": str, "complete": bool})


def run_there(
    scheduler: str, workers: int | None, watcher: SignalWatcher, progress: Progress
) -> Runner:
    """Runs points on the workers of a scheduler: see `run_on_workers`."""

    def run(
        jobs: Sequence[tuple[SweepPoint, MigrationPlan]],
    ) -> Generator[tuple[SweepPoint, PointResult], None, None]:
        tasks = [
            Task(point.label, ("emu.sweep.point",), pickle.dumps(plan)) for point, plan in jobs
        ]
        outputs = run_on_workers(scheduler, workers, tasks, watcher=watcher, progress=progress)
        with closing(outputs):
            for number, output in outputs:
                yield jobs[number][0], _result(output)

    return run


def _result(output: Output) -> PointResult:
    if output.status != 0:
        return PointResult(None, output.failure)
    try:
        return PointResult(**read(output.data, _RESULT))
    except JsonInputError as error:
        return PointResult(None, f"its process wrote something else than a result: {error}")
