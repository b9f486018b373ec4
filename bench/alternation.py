"""Runs the benchmark files of two work trees in alternation, and collects the medians."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest

from emu.orchestrator.managed_process import ManagedProcess, await_end, end
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.checkout import Checkout
    from emu.orchestrator.signals import SignalWatcher

OLD, NEW = SIDES = ("old", "new")
#: Seconds for pytest to end its fixtures after SIGINT.
END_TIMEOUT = 20.0
_MOST = 300
#: Exit statuses of pytest without a failure.
_PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
#: Statuses that come again each time: a file cannot be imported, an option is wrong.
_FINAL = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR)


class Benchmark(NamedTuple):
    """One benchmark.

    Attributes:
        file: such as ``bench_protocol``.
        name: of the function, with its parameters: ``test_encode[set-mem-table]``.
    """

    file: str
    name: str


class Failure(NamedTuple):
    """A run of a file that failed: some of its benchmarks have no time in this round, or all.

    Attributes:
        side: `OLD` or `NEW`.
        file: such as ``bench_protocol``.
        round: from 1.
        reason: one line.
    """

    side: str
    file: str
    round: int
    reason: str


class Alternation:
    """The rounds, in each of which both sides run each file.

    The side that begins changes from round to round and from file to file: what changes slowly on
    the machine is the same for both.

    Args:
        sides: by `OLD` and `NEW`.
        folder: for temporary files.
        select: pytest's ``-k``; all benchmarks if it is empty.
        timeout: seconds of one run of a file.
        watcher: interrupts the waits.
        report: gets a line before each run.

    Attributes:
        medians: of each side's benchmarks, in seconds, one per round that measured it.
        failures: in order.
        runs: how many runs of a file have ended.
        pythons: the Python version of each side.
    """

    def __init__(
        self,
        sides: dict[str, Checkout],
        folder: Path,
        *,
        select: str,
        timeout: float,
        watcher: SignalWatcher,
        report: Callable[[str], None],
    ) -> None:
        self._sides = sides
        self._folder = folder
        self._select = select
        self._timeout = timeout
        self._watcher = watcher
        self._report = report
        self.medians: dict[str, dict[Benchmark, list[float]]] = {
            side: defaultdict(list) for side in SIDES
        }
        self.failures: list[Failure] = []
        self.runs = 0
        self.pythons: dict[str, str] = {}

    def run(self, files: Sequence[str], rounds: int) -> None:
        """Run them; what was measured before an error stays.

        Args:
            files: names of files that both sides have.
            rounds: how many times each side runs each file.

        Raises:
            SignalError: a signal arrived.
        """
        running = list(enumerate(files))
        for number in range(1, rounds + 1):
            for position, file in list(running):
                useful = [self._run(side, file, number) for side in _order(number + position)]
                if not all(useful):
                    running.remove((position, file))

    def _run(self, side: str, file: str, number: int) -> bool:
        """Run one file; false if it would measure nothing in the next round, either."""
        self._report(f"round {number}: {file}, {side}")
        log, results, verdicts = (
            self._folder / name for name in ("pytest.log", "results.json", "verdicts.xml")
        )
        for path in (results, verdicts):
            path.unlink(missing_ok=True)
        checkout = self._sides[side]
        program = ManagedProcess(
            file,
            self._argv(checkout, file, results, verdicts),
            log=log,
            directory=checkout.directory,
            whole_group=True,
        )
        try:
            late = not self._watcher.wait([program.pidfd], self._timeout)
        finally:
            if program.running:
                program.send(signal.SIGINT)  # pytest ends the programs of its fixtures
                await_end([program], END_TIMEOUT)
            end([program])
        self.runs += 1
        found = self._collect(side, file, results, _failed(verdicts))
        if late:
            reason = f"has not ended within {self._timeout:g} s"
        elif program.status in _PASSED:
            return found
        else:
            reason = _cause(log.read_text(errors="replace"))
            reason = reason or f"pytest ended with status {program.status}"
        self.failures.append(Failure(side, file, number, one_line(reason, _MOST)))
        return found or late or program.status not in _FINAL

    def _argv(self, checkout: Checkout, file: str, results: Path, verdicts: Path) -> list[str]:
        return [
            *(str(checkout.python), "-m", "pytest", f"bench/{file}.py"),
            *(f"--benchmark-json={results}", f"--junitxml={verdicts}"),
            f"--basetemp={self._folder / 'base'}",  # is removed with the folder
            *(("-k", self._select) if self._select else ()),
        ]

    def _collect(self, side: str, file: str, results: Path, failed: set[str]) -> bool:
        """Whether the run has measured anything. The times of benchmarks that failed do not count.

        pytest-benchmark has a time also for a function that fails after it was timed.
        """
        try:
            document: dict[str, Any] = json.loads(results.read_bytes())
        except (OSError, ValueError):  # nothing was measured, or pytest was killed
            return False
        self.pythons[side] = str(document["machine_info"]["python_version"])
        for benchmark in document["benchmarks"]:
            name = benchmark["fullname"].partition("::")[2]
            if benchmark["name"] in failed:
                continue
            self.medians[side][Benchmark(file, name)].append(benchmark["stats"]["median"])
        return bool(document["benchmarks"])


def _order(number: int) -> Sequence[str]:
    return SIDES if number % 2 else SIDES[::-1]


def _failed(verdicts: Path) -> set[str]:
    """Names of the functions that failed."""
    try:
        cases = list(ET.parse(verdicts).iter("testcase"))  # noqa: S314  of our own pytest
    except (OSError, ET.ParseError):  # pytest was killed, or has not begun
        return set()
    return {
        case.attrib["name"]
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }


def _cause(output: str) -> str:
    """The first line of pytest's output that names a failure; or the last line."""
    last = ""
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ", "ERROR: ")):
            return line
        last = line.strip() or last
    return last
