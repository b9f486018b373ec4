"""A session of benchmarks, read from the JSON that it has written."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

from bench.recorder import FAILED, NotMeasured
from emu.report.cells import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: The command line of `make bench`.
WHOLE = "pytest bench"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark that was measured.

    Attributes:
        function: ``bench_data_path.test_disk``.
        group: what it is compared within.
        params: of the function. Those that JSON cannot represent have a value without a meaning.
        info: what the benchmark has recorded beside its time.
    """

    function: str
    group: str
    params: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def cells(self) -> dict[str, str]:
        """Its row in the summary, by column."""
        return dict(self.info["cells"])

    @property
    def name(self) -> str:
        """Its name in the summary."""
        return self.cells["benchmark"]

    @property
    def seconds(self) -> float:
        """The median of its rounds."""
        return float(self.info["median_ms"]) / 1e3


class Session:
    """The results of one session.

    Args:
        document: of pytest-benchmark, from a session with `bench.recorder.Recorder`.

    Raises:
        ValueError: it is from a session without one.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        if "session" not in document:
            raise ValueError("the JSON has no 'session': it was not written by these benchmarks")
        self._document = document
        self._session = document["session"]
        self.not_measured = [NotMeasured(**each) for each in self._session["not_measured"]]
        failed = {each.fullname for each in self.not_measured if each.outcome == FAILED}
        self.benchmarks = [
            Benchmark(
                function_of(each["fullname"]),
                each["group"],
                each["params"] or {},
                each["extra_info"],
            )
            for each in document["benchmarks"]
            if each["fullname"] not in failed and "cells" in each["extra_info"]
        ]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The session of a file."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def command(self) -> str:
        """What was run."""
        command = str(self._session["command"])
        return "make bench" if self.is_whole else f".venv/bin/{command}"

    @property
    def is_whole(self) -> bool:
        """Whether all benchmarks were selected."""
        return str(self._session["command"]) == WHOLE

    @property
    def seconds(self) -> float:
        """How long it took."""
        return float(self._session["seconds"])

    @property
    def load_averages(self) -> tuple[float, float]:
        """Of one minute, when it began and when it ended."""
        begin, end = self._session["load_averages"]
        return begin, end

    @property
    def busy(self) -> bool:
        """Whether other programs had a half of the CPUs or more before it began."""
        return self.load_averages[0] >= int(self._document["machine_info"]["cpus"]) / 2

    @property
    def host(self) -> str:
        """Properties of the host."""
        machine = self._document["machine_info"]
        model = machine["cpu"].get("brand_raw", machine["machine"])
        memory = machine["memory_bytes"] / (1 << 30)
        return (
            f"{counted(machine['cpus'], 'CPU')} ({model}), {memory:.1f} GiB of memory, "
            f"{machine['system']} {machine['release'].partition('-')[0]}, "
            f"{machine['python_implementation']} {machine['python_version']}"
        )

    @property
    def date(self) -> str:
        """The day on which it ended."""
        return dt.datetime.fromisoformat(self._document["datetime"]).date().isoformat()

    @property
    def revision(self) -> str:
        """The commit, or the empty string if there is none."""
        commit = self._document["commit_info"]
        changed = " with changes that are not committed" if commit.get("dirty") else ""
        return f"commit {commit['id'][:12]}{changed}" if commit.get("id") else ""

    @cached_property
    def groups(self) -> dict[str, list[Benchmark]]:
        """The benchmarks by group, both in the order in which they ran."""
        found: dict[str, list[Benchmark]] = {}
        for group, members in groupby(self.benchmarks, key=lambda each: each.group):
            found.setdefault(group, []).extend(members)
        return found

    def of(self, function: str) -> Iterator[Benchmark]:
        """The benchmarks of a function, such as ``bench_data_path.test_disk``."""
        return (each for each in self.benchmarks if each.function == function)

    def missing(self, pattern: str) -> list[NotMeasured]:
        """The benchmarks with such a name that were not measured."""
        return [each for each in self.not_measured if re.search(pattern, each.fullname)]


def function_of(fullname: str) -> str:
    """``bench_tap.test_data_path`` of ``bench/bench_tap.py::test_data_path[x]``."""
    path, _, name = fullname.partition("[")[0].partition("::")
    return f"{path.rpartition('/')[2].removesuffix('.py')}.{name}"
