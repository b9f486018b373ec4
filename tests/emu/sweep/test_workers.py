"""Points as tasks of workers: their outputs, and sweeps that are interrupted and resumed."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.cluster.scheduler import cores_of
from emu.cluster.worker import Output
from emu.orchestrator.signals import SignalWatcher
from emu.report.progress import SilentProgress
from emu.sweep import workers
from emu.sweep.point import PointResult
from emu.sweep.workers import run_there
from tests.emu.runs import Ended, Run
from tests.emu.sweep.plans import finished, planned
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("distributed", reason="distributed is not installed: vhost-emu[cluster]")

VM = ("--vcpus", "1", "--memory", "256M", "--load", "light", "-s", "prewired", "--accel", "soft")


def results(monkeypatch: pytest.MonkeyPatch, *outputs: Output) -> list[PointResult]:
    """The results of points with these outputs."""
    pairs = (pair for pair in enumerate(outputs))
    monkeypatch.setattr(workers, "run_on_workers", lambda *_, **__: pairs)
    jobs = list(planned(*range(1, len(outputs) + 1)).items())
    with SignalWatcher() as watcher:
        found = list(run_there("local", None, watcher, SilentProgress())(jobs))
    assert [point for point, _ in found] == [point for point, _ in jobs]
    return [result for _, result in found]


def test_an_output_is_the_result_of_its_point(monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,) = planned(1).values()
    good = finished(plan)
    found = results(
        monkeypatch,
        Output(0, json.dumps(good._asdict()).encode()),
        Output(None, failure="the worker that ran it has ended"),
        Output(0, b"Segmentation fault"),
    )
    assert found[0] == good
    assert found[1] == PointResult(None, "the worker that ran it has ended")
    assert found[2].failure.startswith("its process wrote something else than a result: ")


# -- a cluster on this host


def sweep(folder: Path, log: str, *more: str) -> Run:
    """A sweep of 12 points with 3 repetitions on two workers."""
    return Run(
        folder / log,
        (
            *("sweep", "--net", "1..6x2", "--blk", "0,1x1", "--repeat", "3", *VM),
            *("--scheduler", "local", "--workers", "2", "--results", str(folder / "results")),
            *more,
        ),
    )


def end_of(run: Run) -> Ended:
    """The end of a sweep. Its workers have ended, and nothing is left in its directory.

    The resource tracker of `multiprocessing` ends by itself, when its parent has ended.
    """
    trackers: list[psutil.Process] = []
    family: list[psutil.Process] = []
    for child in psutil.Process(run.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            own = trackers if "resource_tracker" in " ".join(child.cmdline()) else family
            own.append(child)
    out, _ = run.process.communicate(timeout=PROGRAM_TIMEOUT)
    assert not running(family)
    wait_until(lambda: not running(trackers), "the resource tracker has ended")
    run.tmp.rmdir()
    return Ended(run.process.returncode, out, run.log.read_text())


def finished_in(folder: Path) -> int:
    return len(list((folder / "results").glob("*.parquet")))


def await_long(condition: Callable[[], object], what: str) -> None:
    """As `wait_until`, for what takes as long as whole programs."""
    end = time.monotonic() + PROGRAM_TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"not within {PROGRAM_TIMEOUT:g} s: {what}"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(4 * PROGRAM_TIMEOUT)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_a_sweep_that_is_killed_and_interrupted_is_resumed(tmp_path: Path) -> None:
    """Each point runs once; no process is left, and no file but the results."""
    from pyarrow.parquet import read_table

    killed = sweep(tmp_path, "killed")
    await_long(lambda: finished_in(tmp_path) >= 3, "three points are finished")
    family = psutil.Process(killed.process.pid).children(recursive=True)
    killed.process.kill()
    killed.process.wait(TIMEOUT)
    wait_until(lambda: not running(family), "the workers and their programs have ended")
    killed.close()
    first = {path: path.read_bytes() for path in (tmp_path / "results").glob("*.parquet")}
    assert 3 <= len(first) < 12

    interrupted = sweep(tmp_path, "interrupted")
    interrupted.await_line(f"{len(first)} of 12 points are finished")
    await_long(lambda: finished_in(tmp_path) >= len(first) + 2, "two more are finished")
    interrupted.interrupt()
    ended = end_of(interrupted)
    assert (ended.status, ended.last) == (130, "emu: ended by SIGINT")
    assert "migrations were not finished" in ended.out
    second = finished_in(tmp_path)
    assert len(first) + 2 <= second < 12

    report = tmp_path / "report.html"
    resumed = sweep(tmp_path, "resumed", "--json", str(tmp_path / "json"), "--report", str(report))
    ended = end_of(resumed)
    assert ended.status == 0, ended.err
    assert f"{second} of 12 points are finished" in ended.err
    assert {path: path.read_bytes() for path in first} == first
    table = read_table(tmp_path / "results").to_pydict()
    assert len(table["point"]) == 36
    assert set(table["host_cpus"]) == {len(part) for part in cores_of(2)}
    document = json.loads((tmp_path / "json").read_text())
    runs = [run for each in document["migrations"] for run in each["runs"]]
    assert sorted(map(json.dumps, runs)) == sorted(
        json.dumps(json.loads(run)) for run in table["run"]
    )
    assert [point["shape"] for point in document["points"]][:3] == [
        *("net 1x2", "net 1x2, blk 1x1", "net 2x2")
    ]
    assert "12 VMs of different sizes were migrated live, 36 times in all" in report.read_text()

    again = end_of(sweep(tmp_path, "again"))
    assert again.status == 0
    assert "12 of 12 points are finished" in again.err


@pytest.mark.slow
@pytest.mark.timeout(4 * PROGRAM_TIMEOUT)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_a_worker_that_dies_costs_its_own_point(tmp_path: Path) -> None:
    """Another worker takes its place; the same command runs what is missing."""
    few = ("--net", "1..2x2", "--repeat", "1")
    run = sweep(tmp_path, "first", *few)

    def point() -> psutil.Process | None:
        for child in psutil.Process(run.process.pid).children(recursive=True):
            if "emu.sweep.point" in child.cmdline():
                return child
        return None

    await_long(point, "a point runs")
    victim = point()
    assert victim is not None
    victim.parent().kill()  # type: ignore[union-attr]
    run.await_line("the worker that ran it has ended")
    ended = end_of(run)
    assert ended.status == 1
    assert ended.last.endswith("soft: the worker that ran it has ended")
    assert "1 of 4 migrations were not finished" in ended.out
    assert finished_in(tmp_path) == 3
    assert end_of(sweep(tmp_path, "second", *few)).status == 0
    assert finished_in(tmp_path) == 4
