"""What a worker runs, without a scheduler."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.sweep.point import PointResult
from emu.sweep.worker import CORES_VARIABLE, Job, WorkerError, end_points, run_point
from tests.emu.sweep.plans import planned
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.config.plan import MigrationPlan


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads of a worker. Each keeps the cores that it was bound to."""
    with ThreadPoolExecutor() as threads:
        yield threads


def job(sweep: str, plan: MigrationPlan) -> Job:
    return Job(sweep, plan, version("vhost-emu"))


def endless(load: str = "none") -> MigrationPlan:
    """A plan of a thousand migrations."""
    (plan,) = planned(1, repeat=1000, load=load).values()
    return plan


def points_of_this_process() -> list[psutil.Process]:
    """The processes of points that run, and that have begun to."""
    found = []
    for child in psutil.Process().children():
        try:
            if "emu.sweep.point" in child.cmdline() and child.children():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_another_version_of_the_package_runs_nothing() -> None:
    (plan,) = planned(1).values()
    with pytest.raises(WorkerError, match=r"a worker has vhost-emu .*, and this is 0.0"):
        run_point(Job("version", plan, "0.0"))


def test_a_point_ends_in_order_when_its_sweep_ends(pool: ThreadPoolExecutor) -> None:
    """And no further one begins."""
    running = pool.submit(run_point, job("ends", endless()))
    wait_until(points_of_this_process, "the point runs")
    asyncio.run(end_points("ends"))
    result = running.result(PROGRAM_TIMEOUT)
    assert (result.failure, result.complete) == ("ended by SIGTERM", False)
    assert points_of_this_process() == []
    assert run_point(job("ends", endless())) == PointResult(None, "ended")


@pytest.mark.slow
def test_a_process_that_was_killed_is_a_failure(pool: ThreadPoolExecutor) -> None:
    running = pool.submit(run_point, job("killed", endless()))
    wait_until(points_of_this_process, "the point runs")
    (point,) = points_of_this_process()
    programs = point.children(recursive=True)
    point.send_signal(signal.SIGKILL)
    assert running.result(PROGRAM_TIMEOUT).failure == "its process ended by SIGKILL"
    psutil.wait_procs(programs, PROGRAM_TIMEOUT)


def test_two_points_do_not_share_a_core(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits until the first one has ended, or its own sweep ends."""
    core = min(os.sched_getaffinity(0))
    monkeypatch.setenv(CORES_VARIABLE, str(core))
    first = pool.submit(run_point, job("first", endless()))
    wait_until(points_of_this_process, "the first point runs")
    (point,) = points_of_this_process()
    assert point.cpu_affinity() == [core]
    second = pool.submit(run_point, job("second", endless()))
    third = pool.submit(run_point, job("third", endless()))
    asyncio.run(end_points("third"))
    assert third.result(PROGRAM_TIMEOUT) == PointResult(None, "ended")
    assert points_of_this_process() == [point]
    asyncio.run(end_points("first"))
    assert first.result(PROGRAM_TIMEOUT).failure == "ended by SIGTERM"
    wait_until(points_of_this_process, "the second point runs")
    asyncio.run(end_points("second"))
    assert second.result(PROGRAM_TIMEOUT).failure == "ended by SIGTERM"
