"""Sweeps on the workers of dask.distributed: here, and of a scheduler that a user has started."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from emu.errors import EmuError, OptionError, SignalError
from emu.orchestrator.signals import SignalWatcher
from emu.report.progress import LineProgress, SilentProgress
from emu.sweep import cluster
from emu.sweep.cluster import check_scheduler, cores_of, run_on_workers
from emu.sweep.worker import TIMING
from tests.emu.runs import Ended, Run
from tests.emu.sweep.plans import planned
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("distributed", reason="distributed is not installed: vhost-emu[cluster]")

VM = ("--vcpus", "1", "--memory", "256M", "--load", "light", "-s", "prewired", "--accel", "soft")


@pytest.mark.parametrize(
    ("scheduler", "workers", "line"),
    [
        ("tcp://127.0.0.1", None, "write local, or an address such as tcp://127.0.0.1:8786"),
        ("127.0.0.1:8786", None, "write local"),
        ("tcp://127.0.0.1:0", None, "write local"),
        ("tcp://127.0.0.1:65536", None, "write local"),
        ("http://127.0.0.1:80", None, "write local"),
        ("tcp://127.0.0.1:8786", 2, "--workers goes with --scheduler local"),
        ("local", 1 << 20, "each needs a core"),
    ],
)
def test_an_invalid_scheduler_is_one_line(scheduler: str, workers: int | None, line: str) -> None:
    with pytest.raises(OptionError, match=line):
        check_scheduler(scheduler, workers)


@pytest.mark.parametrize("scheduler", ["local", "tcp://[::1]:8786", "tls://host.example:8786"])
def test_a_valid_scheduler(scheduler: str) -> None:
    check_scheduler(scheduler, None)


@pytest.mark.parametrize("module", ["distributed", "cryptography"])
def test_a_missing_extra_is_one_line(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(OptionError, match=rf"needs {module}: pip install 'vhost-emu\[cluster\]'"):
        check_scheduler("local", None)
    if module == "cryptography":
        check_scheduler("tcp://127.0.0.1:8786", None)


def test_workers_share_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5, 6, 7})
    assert cores_of(None) == [[1, 3], [5, 6, 7]]
    assert cores_of(5) == [[1], [3], [5], [6], [7]]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2})
    assert cores_of(None) == [[2]]


def results(
    scheduler: str, *disks: int, watcher: SignalWatcher | None = None
) -> list[tuple[int, str]]:
    """The disks of the points in the order in which they were finished, and their failures."""
    with ExitStack() as stack:
        used = stack.enter_context(SignalWatcher()) if watcher is None else watcher
        jobs = list(planned(*disks).items())
        found = run_on_workers(scheduler, None, jobs, watcher=used, progress=SilentProgress())
        return [(point.spec.rings, result.failure) for point, result in found]


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EmuError, match=rf"--scheduler {address}: [^\n]*$"):
            results(address, 1)


def test_ctrl_c_ends_the_wait_for_a_scheduler() -> None:
    with socket.socket() as silent, SignalWatcher() as watcher:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SignalError):
            results(f"tcp://127.0.0.1:{silent.getsockname()[1]}", 1, watcher=watcher)


def test_nothing_to_run_needs_no_scheduler() -> None:
    """All points were finished before."""
    assert results("tcp://127.0.0.1:1") == []


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


@pytest.mark.slow
@pytest.mark.timeout(4 * PROGRAM_TIMEOUT)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_a_sweep_that_is_killed_and_interrupted_is_resumed(tmp_path: Path) -> None:
    """Each point runs once; no process is left, and no file but the results."""
    from pyarrow.parquet import read_table

    killed = sweep(tmp_path, "killed")
    wait_until(lambda: finished_in(tmp_path) >= 3, "three points are finished")
    family = psutil.Process(killed.process.pid).children(recursive=True)
    killed.process.kill()
    killed.process.wait(TIMEOUT)
    wait_until(lambda: not running(family), "the workers and their programs have ended")
    killed.close()
    first = {path: path.read_bytes() for path in (tmp_path / "results").glob("*.parquet")}
    assert 3 <= len(first) < 12

    interrupted = sweep(tmp_path, "interrupted")
    interrupted.await_line(f"{len(first)} of 12 points are finished")
    wait_until(lambda: finished_in(tmp_path) >= len(first) + 2, "two more points are finished")
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

    wait_until(point, "a point runs")
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


# -- a scheduler that the user has started


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a scheduler without workers, and its process."""
    file = tmp_path / "scheduler.json"
    process = _dask(tmp_path, "scheduler", "--host", "127.0.0.1", "--port", "0",
                    "--scheduler-file", str(file))  # fmt: skip
    try:
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), "the scheduler runs")
        yield str(json.loads(file.read_text())["address"]), process
    finally:
        _end(process)


def _dask(folder: Path, command: str, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / f"{command}-{time.monotonic_ns()}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", command, *arguments, "--no-dashboard"],
            stdout=log,
            stderr=log,
            env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder)},
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT)
    finally:
        process.kill()


@pytest.fixture
def worker(scheduler: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the scheduler that takes points."""
    process = _dask(tmp_path, "worker", scheduler[0], "--nthreads", "1", "--resources",
                    f"{TIMING}=1", "--no-nanny")  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


@pytest.mark.slow
def test_the_points_run_on_the_workers_of_a_scheduler(scheduler: Any, worker: Any) -> None:
    """One after the other, in the order of the matrix."""
    assert results(scheduler[0], 1, 2) == [(1, ""), (2, "")]
    assert worker.poll() is None


@pytest.mark.slow
def test_without_a_worker_that_takes_points_it_is_one_line(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_WORKER_TIMEOUT", 0.5)
    with (tmp_path / "log").open("w") as log, SignalWatcher() as watcher:
        jobs = list(planned(1).items())
        found = run_on_workers(
            scheduler[0], None, jobs, watcher=watcher, progress=LineProgress(log)
        )
        with pytest.raises(EmuError, match="no worker with the resource timing: start one on"):
            list(found)
    assert "wait for a worker" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_the_points_end_with_the_scheduler(
    scheduler: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, as their worker ends or loses its scheduler."""
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT", 2.0)
    address, process = scheduler
    with SignalWatcher() as watcher:
        jobs = list(planned(1, 2, repeat=1000).items())

        class Killer(SilentProgress):
            """Kills the scheduler when a point runs."""

            def step(self, text: str) -> None:
                if text.startswith("run: "):
                    process.kill()

        found = run_on_workers(address, None, jobs, watcher=watcher, progress=Killer())
        with pytest.raises(EmuError, match="the scheduler has ended"):
            list(found)
    _end(worker)


@pytest.mark.slow
def test_ctrl_c_ends_the_points_on_the_workers(scheduler: Any, worker: Any) -> None:
    """The worker itself is the user's, and takes the points of the next sweep."""
    with SignalWatcher() as watcher:
        jobs = list(planned(1, repeat=1000).items())
        child = psutil.Process(worker.pid)

        class Interrupter(SilentProgress):
            """Ctrl-C, when the point runs."""

            def step(self, text: str) -> None:
                if text.startswith("run: "):
                    wait_until(child.children, "the point runs")
                    os.kill(os.getpid(), signal.SIGINT)

        found = run_on_workers(scheduler[0], None, jobs, watcher=watcher, progress=Interrupter())
        with pytest.raises(SignalError):
            list(found)
    assert child.children() == []
    assert results(scheduler[0], 1) == [(1, "")]
