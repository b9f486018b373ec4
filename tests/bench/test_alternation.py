"""Files of two work trees, run in alternation."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.alternation import NEW, OLD, SIDES, Alternation, Benchmark
from bench.checkout import existing
from emu.orchestrator.signals import SignalWatcher
from tests.bench import project
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HANGS = "import signal\n\ndef test_one(benchmark):\n    signal.pause()\n"


def run(
    folder: Path,
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    rounds: int = 1,
    select: str = "",
    timeout: float = PROGRAM_TIMEOUT,
) -> tuple[Alternation, list[str]]:
    """The alternation after its rounds, and what it has reported."""
    sides = {
        side: existing(project.installed(folder / side, files))
        for side, files in zip(SIDES, (old, new), strict=True)
    }
    said: list[str] = []
    with SignalWatcher() as watcher:
        alternation = Alternation(
            sides, folder, select=select, timeout=timeout, watcher=watcher, report=said.append
        )
        alternation.run([f"bench_{name}" for name in old], rounds)
    return alternation, said


@pytest.mark.slow
def test_the_side_that_begins_changes(tmp_path: Path) -> None:
    found, said = run(tmp_path, {"a": project.GOOD}, {"a": project.BOTH}, rounds=2)
    assert said == [
        "round 1: bench_a, old",
        "round 1: bench_a, new",
        "round 2: bench_a, new",
        "round 2: bench_a, old",
    ]
    one, two = (Benchmark("bench_a", f"test_{name}") for name in ("one", "two"))
    assert {each: len(values) for each, values in found.medians[OLD].items()} == {one: 2}
    assert {each: len(values) for each, values in found.medians[NEW].items()} == {one: 2, two: 2}
    assert min(found.medians[OLD][one]) > 0
    assert (found.runs, found.failures) == (4, [])
    assert found.pythons[OLD] == found.pythons[NEW]


def test_a_file_that_cannot_be_imported_is_run_once(tmp_path: Path) -> None:
    found, said = run(tmp_path, {"a": project.BROKEN}, {"a": project.GOOD}, rounds=3)
    assert len(said) == found.runs == 2
    (failure,) = found.failures
    assert failure[:3] == (OLD, "bench_a", 1)
    assert "bench_a" in failure.reason
    assert len(found.medians[NEW]) == 1


def test_of_a_file_that_fails_in_part_the_other_times_are_kept(tmp_path: Path) -> None:
    found, _ = run(tmp_path, {"a": project.GOOD}, {"a": project.HALF})
    (failure,) = found.failures
    assert failure[:3] == (NEW, "bench_a", 1)
    assert failure.reason.startswith("FAILED bench/bench_a.py::test_two")
    assert [each.name for each in found.medians[NEW]] == ["test_one"]


def test_a_file_without_a_selected_case_is_no_failure_and_run_once(tmp_path: Path) -> None:
    files = {"a": project.GOOD}
    found, said = run(tmp_path, files, {"a": project.BOTH}, rounds=2, select="two")
    assert len(said) == 2
    assert found.failures == []
    assert not found.medians[OLD]
    assert [each.name for each in found.medians[NEW]] == ["test_two"]


def test_a_file_that_hangs_fails_at_its_limit(tmp_path: Path) -> None:
    found, _ = run(tmp_path, {"a": _HANGS}, {"a": _HANGS}, timeout=0.5)
    assert [each[0] for each in found.failures] == [OLD, NEW]
    assert {each.reason for each in found.failures} == {"has not ended within 0.5 s"}


def test_an_expression_that_is_wrong_is_a_failure_with_pytests_words(tmp_path: Path) -> None:
    files = {"a": project.GOOD}
    found, _ = run(tmp_path, files, files, rounds=2, select="and and")
    assert len(found.failures) == 2
    assert found.failures[0].reason.startswith("ERROR: Wrong expression passed to '-k'")
