"""What a session's JSON has besides the benchmarks: its host, and what was not measured."""

from __future__ import annotations

import os
import re
import shlex
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

SKIPPED, FAILED = "skipped", "failed"
#: Options whose value is the path of a file that is written.
_OUTPUTS = ("--benchmark-json", "--basetemp", "--junitxml")
#: The directories of an absolute path.
_DIRECTORIES = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+")


class NotMeasured(NamedTuple):
    """A benchmark without a result.

    Attributes:
        fullname: as pytest-benchmark has it: ``bench_tap.py::test_data_path``.
        outcome: `SKIPPED` or `FAILED`.
        reason: why it was skipped.
    """

    fullname: str
    outcome: str
    reason: str = ""


class Recorder:
    """A plug-in of pytest that adds ``session`` to the JSON. Nothing in it names the host.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = shlex.join(["pytest", *_without_outputs(arguments)])
        self._begin = time.monotonic()
        self._load = os.getloadavg()[0]
        self._not_measured: dict[str, NotMeasured] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was skipped, and what failed."""
        if report.failed:
            self._not_measured[report.nodeid] = NotMeasured(report.nodeid, FAILED)
        elif report.skipped:
            reason = without_directories(_reason(report))
            self._not_measured[report.nodeid] = NotMeasured(report.nodeid, SKIPPED, reason)

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """Add properties of the host, and remove its name: results may be published."""
        machine_info.pop("node", None)
        machine_info["cpus"] = len(os.sched_getaffinity(0))
        machine_info["memory_bytes"] = psutil.virtual_memory().total

    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Add ``session``."""
        output_json["session"] = {
            "command": self._command,
            "seconds": time.monotonic() - self._begin,
            "load_averages": [self._load, os.getloadavg()[0]],
            "not_measured": [each._asdict() for each in self._not_measured.values()],
        }


def _without_outputs(arguments: Sequence[str]) -> list[str]:
    """The arguments without the options that name files which are written."""
    left, kept = iter(arguments), []
    for argument in left:
        name, equals, _value = argument.partition("=")
        if name not in _OUTPUTS:
            kept.append(without_directories(argument))
        elif not equals:
            next(left, None)
    return kept


def _reason(report: pytest.TestReport) -> str:
    """What the test has given for a reason: the last element of the report's place and text."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def without_directories(text: str) -> str:
    """The text with each absolute path replaced by the last part of it."""
    return _DIRECTORIES.sub("", text)
