"""One VM of a measured evacuation: boots, waits until it may migrate, and reports what it took.

``python -m bench.evacuation.vm NUMBER`` reads a pickled plan from stdin. It writes a line of JSON
when the VM waits for a migration, when it has migrated, and at its end.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from typing import Any

import psutil

from emu.orchestrator.managed_process import end_with_parent
from emu.report.progress import SilentProgress
from emu.sweep.point import measure


class Gate(SilentProgress):
    """Holds each migration until a line comes on stdin, and reports when it began and ended."""

    def __init__(self) -> None:
        self._begin_ns = 0
        self._cpu = 0.0
        self._processes: list[psutil.Process] = []

    def step(self, text: str) -> None:
        """Wait before a migration."""
        if text.startswith("migrate "):
            if not self._processes:
                own = psutil.Process()
                self._processes = [own, *own.children(recursive=True)]
            say({"waits": True})
            if not sys.stdin.buffer.readline():
                sys.exit(1)  # the evacuation has ended
            self._begin_ns = time.monotonic_ns()
            self._cpu = self._cpu_seconds()

    def detail(self, text: str) -> None:
        """Report the end of a migration; its requests are checked after that."""
        if "then switched over" in text:
            end_ns = time.monotonic_ns()
            say(
                {
                    "begin_ns": self._begin_ns,
                    "end_ns": end_ns,
                    "cpu_seconds": self._cpu_seconds() - self._cpu,
                }
            )

    def _cpu_seconds(self) -> float:
        times = [each.cpu_times() for each in self._processes]
        return sum(each.user + each.system for each in times)


def say(value: dict[str, Any]) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the VM of stdin."""
    end_with_parent()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(sys.argv[1]) % len(cores)]})
    plan = pickle.load(sys.stdin.buffer)  # noqa: S301  from the parent's own pipe
    result, _error = measure(plan, Gate())
    runs = (result.document or {"runs": []})["runs"]
    say({"failure": result.failure, "downtimes_ms": [run["downtime_ms"] for run in runs]})


if __name__ == "__main__":
    main()
