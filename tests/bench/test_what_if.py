"""The program that holds the tap's what-if against the truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.what_if import OWN, STRATEGIES
from emu.config.backend_commands import READY_MADE
from tests.peers.programs import need
from tests.timeouts import PROGRAM_TIMEOUT

LIMIT = 3 * PROGRAM_TIMEOUT
ROOT = Path(__file__).parents[2]
PROGRAMS = {
    OWN: ("", ""),
    "qemu-storage-daemon": ("qemu-storage-daemon", "qemu-system-common"),
    "testpmd": ("dpdk-testpmd", "dpdk-dev"),
}


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize(
    "backend", [OWN, *(pytest.param(name, marks=pytest.mark.peer) for name in READY_MADE)]
)
def test_each_strategy_has_an_estimate_and_a_measurement(backend: str) -> None:
    """On small VMs: no figure is asserted."""
    program, package = PROGRAMS[backend]
    if program:
        need(program, package)
    argv = [sys.executable, "-m", "bench.what_if", "--backend", backend, "--repeat", "1"]
    done = subprocess.run(
        [*argv, "--count", "2", "--rings", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip(" `") for line in done.stdout.splitlines()[2:-1]]
    assert rows == list(STRATEGIES)
    assert done.stdout.splitlines()[-1].startswith("1 repeats; load average ")
