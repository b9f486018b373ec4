"""The growth of a process's table of open files, from 256 to 2048 descriptors.

A round is the three times that the kernel doubles the table for a new descriptor, in a process of
its own. Descriptors of rings arrive in a blackout: see `vhost_user.descriptor_table`.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench.replay import recorded, replay

if TYPE_CHECKING:
    from bench.figures import Figure

ROUNDS = 9
TIMEOUT = 20.0
_CODE = """
import fcntl, os, resource, sys, threading, time
from vhost_user import descriptor_table
descriptor_table.raise_limit()
if sys.argv[2] == "reserved":
    descriptor_table.reserve()
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 255)
took = 0
for highest in (256, 512, 1024):
    start = time.perf_counter()
    fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, highest)
    took += time.perf_counter() - start
print(took)
"""


@pytest.mark.benchmark(timer=recorded)
@pytest.mark.parametrize(
    "reserved", [pytest.param("as it is", marks=pytest.mark.smoke), "reserved"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_growth(benchmark: Any, figure: Figure, threads: int, reserved: str) -> None:
    """With one thread or two, and with room that was made before."""
    rounds = 1 if benchmark.disabled else ROUNDS
    argv = [sys.executable, "-c", _CODE, str(threads), reserved]
    times = [
        float(subprocess.run(argv, capture_output=True, timeout=TIMEOUT, check=True).stdout)
        for _ in range(rounds)
    ]
    benchmark.group = "table of open files"
    figure.name = f"{threads} thread{'s' if threads > 1 else ''}, {reserved}"
    figure.unit, figure.units = "doubling", 3
    replay(benchmark, times)
