"""The process of a task."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import subprocess
import sys

from tests.timeouts import PROGRAM_TIMEOUT

PROCESS = (sys.executable, "-m", "emu.cluster.process")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROCESS, *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )


def test_a_module_runs_as_a_program() -> None:
    done = run(str(os.getpid()), "platform", "--terse")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Linux")


def test_the_process_of_a_worker_that_has_ended_runs_nothing() -> None:
    done = run("1", "platform")  # not the parent
    assert (done.returncode, done.stdout) == (1, "")
