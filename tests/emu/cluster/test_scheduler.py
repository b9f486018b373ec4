"""Tasks on the workers of dask.distributed, of a scheduler that a user has started."""
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
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from emu.cluster import scheduler as module_under_test
from emu.cluster.scheduler import check_scheduler, cores_of, run_on_workers
from emu.cluster.worker import TIMING, Output, Task
from emu.errors import EmuError, OptionError, SignalError
from emu.orchestrator.signals import SignalWatcher
from emu.report.progress import LineProgress, SilentProgress
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("distributed", reason="distributed is not installed: vhost-emu[cluster]")

#: Prints a line, and ends.
TERSE = Task("terse", ("platform", "--terse"))
#: Serves HTTP until SIGTERM, on a port of loopback.
ENDLESS = Task("endless", ("http.server", "--bind", "127.0.0.1", "0"))


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
    monkeypatch.setattr(
        module_under_test, "find_spec", lambda name: None if name == module else find(name)
    )
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


def outputs(
    scheduler: str, *tasks: Task, watcher: SignalWatcher | None = None
) -> list[tuple[int, Output]]:
    """The outputs of the tasks, in the order in which they were finished."""
    with ExitStack() as stack:
        used = stack.enter_context(SignalWatcher()) if watcher is None else watcher
        found = run_on_workers(scheduler, None, tasks, watcher=used, progress=SilentProgress())
        return list(found)


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "_CONNECT_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EmuError, match=rf"--scheduler {address}: [^\n]*$"):
            outputs(address, TERSE)


def test_ctrl_c_ends_the_wait_for_a_scheduler() -> None:
    with socket.socket() as silent, SignalWatcher() as watcher:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SignalError):
            outputs(f"tcp://127.0.0.1:{silent.getsockname()[1]}", TERSE, watcher=watcher)


def test_nothing_to_run_needs_no_scheduler() -> None:
    """All work was finished before."""
    assert outputs("tcp://127.0.0.1:1") == []


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
def worker(
    scheduler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the scheduler that takes tasks; on a busy host it takes its time to begin."""
    monkeypatch.setattr(module_under_test, "_WORKER_TIMEOUT", PROGRAM_TIMEOUT)
    process = _dask(tmp_path, "worker", scheduler[0], "--nthreads", "1", "--resources",
                    f"{TIMING}=1", "--no-nanny")  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


@pytest.mark.slow
def test_the_tasks_run_on_the_workers_of_a_scheduler(scheduler: Any, worker: Any) -> None:
    """One after the other, in their order."""
    (one, first), (two, second) = outputs(scheduler[0], TERSE, Task("bad", ("no_such_module",)))
    assert (one, two) == (0, 1)
    assert (first.status, first.data[:5]) == (0, b"Linux")
    assert second.status == 1
    assert second.failure.endswith("No module named no_such_module")
    assert worker.poll() is None


@pytest.mark.slow
def test_without_a_worker_that_takes_tasks_it_is_one_line(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module_under_test, "_WORKER_TIMEOUT", 0.5)
    with (tmp_path / "log").open("w") as log, SignalWatcher() as watcher:
        found = run_on_workers(
            scheduler[0], None, [TERSE], watcher=watcher, progress=LineProgress(log)
        )
        with pytest.raises(EmuError, match="no worker with the resource timing: start one on"):
            list(found)
    assert "wait for a worker" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_the_tasks_end_with_the_scheduler(
    scheduler: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, as their worker ends or loses its scheduler."""
    monkeypatch.setattr(module_under_test, "_CONNECT_TIMEOUT", 2.0)
    address, process = scheduler
    with SignalWatcher() as watcher:

        class Killer(SilentProgress):
            """Kills the scheduler when a task runs."""

            def step(self, text: str) -> None:
                if text.startswith("run: "):
                    process.kill()

        found = run_on_workers(address, None, [ENDLESS] * 2, watcher=watcher, progress=Killer())
        with pytest.raises(EmuError, match="the scheduler has ended"):
            list(found)
    _end(worker)


@pytest.mark.slow
def test_ctrl_c_ends_the_tasks_on_the_workers(scheduler: Any, worker: Any) -> None:
    """The worker itself is the user's, and takes the tasks of the next command."""
    with SignalWatcher() as watcher:
        child = psutil.Process(worker.pid)

        class Interrupter(SilentProgress):
            """Ctrl-C, when the task runs."""

            def step(self, text: str) -> None:
                if text.startswith("run: "):
                    wait_until(child.children, "the task runs")
                    os.kill(os.getpid(), signal.SIGINT)

        found = run_on_workers(
            scheduler[0], None, [ENDLESS], watcher=watcher, progress=Interrupter()
        )
        with pytest.raises(SignalError):
            list(found)
    assert child.children() == []
    assert outputs(scheduler[0], TERSE)[0][1].status == 0
