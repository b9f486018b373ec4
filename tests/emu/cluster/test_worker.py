"""What a worker runs, without a scheduler."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from emu.cluster.worker import CORES_VARIABLE, Job, Output, Task, WorkerError, end_tasks, run_task
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads of a worker. Each keeps the cores that it was bound to."""
    with ThreadPoolExecutor() as threads:
        yield threads


#: No other session of tests has it.
SCHEDULER = f"of-{os.getpid()}"
#: A program that writes its number to the file that its argument names, and waits for SIGTERM.
ENDLESS = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
with open(sys.argv[1], "w") as file:
    print(os.getpid(), *os.sched_getaffinity(0), file=file)
signal.pause()
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of modules that tasks find."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    (tmp_path / "upper.py").write_text("import sys; print(sys.argv[1], input().upper())")
    (tmp_path / "failing.py").write_text("raise SystemExit('it is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def job(command: str, *words: str, data: bytes = b"") -> Job:
    return Job(command, SCHEDULER, Task("a task", words, data), version("vhost-emu"))


def endless(command: str, folder: Path) -> Job:
    return job(command, "endless", str(folder / command))


def await_start(command: str, folder: Path) -> tuple[int, list[int]]:
    """The process of an endless task that runs, and its cores."""
    file = folder / command
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), "the task runs")
    pid, *cores = map(int, file.read_text().split())
    return pid, cores


def test_a_task_gets_its_arguments_and_its_input() -> None:
    assert run_task(job("one", "upper", "said", data=b"hello\n")) == Output(0, b"said HELLO\n")


def test_a_task_that_fails_has_its_last_line() -> None:
    failed = run_task(job("fails", "failing"))
    assert failed == Output(1, b"", "its process ended with status 1: it is broken")
    missing = run_task(job("missing", "none_of_this_name"))
    assert "No module named none_of_this_name" in missing.failure


def test_another_version_of_the_package_runs_nothing() -> None:
    with pytest.raises(WorkerError, match=r"a worker has vhost-emu .*, and this is 0.0"):
        run_task(Job("version", SCHEDULER, Task("a task", ("upper",)), "0.0"))


def test_a_task_ends_in_order_when_its_command_ends(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """And no further one begins."""
    running = pool.submit(run_task, endless("ends", tmp_path))
    await_start("ends", tmp_path)
    asyncio.run(end_tasks("ends"))
    failure = "its process ended with status 1: ended by SIGTERM"
    assert running.result(PROGRAM_TIMEOUT) == Output(1, b"", failure)
    assert run_task(endless("ends", tmp_path)) == Output(None, failure="ended")


def test_a_process_that_was_killed_is_a_failure(pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    running = pool.submit(run_task, endless("killed", tmp_path))
    pid, _ = await_start("killed", tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert running.result(PROGRAM_TIMEOUT).failure == "its process ended by SIGKILL"


def test_two_tasks_do_not_share_a_core(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second one waits until the first one has ended, or its own command ends."""
    core = min(os.sched_getaffinity(0))
    monkeypatch.setenv(CORES_VARIABLE, str(core))
    first = pool.submit(run_task, endless("first", tmp_path))
    assert await_start("first", tmp_path)[1] == [core]
    second = pool.submit(run_task, endless("second", tmp_path))
    third = pool.submit(run_task, endless("third", tmp_path))
    asyncio.run(end_tasks("third"))
    assert third.result(PROGRAM_TIMEOUT) == Output(None, failure="ended")
    assert not (tmp_path / "second").exists()
    asyncio.run(end_tasks("first"))
    assert first.result(PROGRAM_TIMEOUT).failure.endswith("ended by SIGTERM")
    await_start("second", tmp_path)
    asyncio.run(end_tasks("second"))
    assert second.result(PROGRAM_TIMEOUT).failure.endswith("ended by SIGTERM")
