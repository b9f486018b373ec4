"""The report of a comparison."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.alternation import NEW, OLD, Alternation, Benchmark, Failure
from bench.checkout import Checkout
from bench.differences import Result
from emu.orchestrator.signals import SignalWatcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAST = (1.0, 1.1, 1.2, 1.3)
SLOW = (2.0, 2.2, 2.4, 2.6)


def result(
    old: Mapping[str, Sequence[float]],
    new: Mapping[str, Sequence[float]],
    failures: Sequence[Failure] = (),
    *,
    interrupted: bool = False,
) -> Result:
    """Of one file, ``bench_a``; each value is the median of one round."""
    sides = {
        OLD: Checkout(Path("/nowhere"), Path("python"), "aaaa", frozenset({"bench_a", "bench_o"})),
        NEW: Checkout(Path("/nowhere"), Path("python"), "bbbb+", frozenset({"bench_a", "bench_n"})),
    }
    measured = Alternation(
        sides, Path("/nowhere"), select="", timeout=1, watcher=SignalWatcher(), report=print
    )
    for side, values in ((OLD, old), (NEW, new)):
        for name, medians in values.items():
            measured.medians[side][Benchmark("bench_a", f"test_{name}")] = list(medians)
        measured.pythons[side] = "3.11.2"
    measured.failures = list(failures)
    measured.runs = 8
    return Result(sides, measured, 4, interrupted)


def test_a_benchmark_is_faster_slower_or_shows_no_difference() -> None:
    found = result(
        {"x": FAST, "y": SLOW, "z": FAST, "few": FAST[:3]},
        {"x": SLOW, "y": FAST, "z": (1.05, 1.15, 1.25, 1.2), "few": SLOW[:3]},
    )
    assert [each.verdict for each in found.differences] == [
        "slower",
        "faster",
        "no difference shown",
        "too few rounds",
    ]
    assert found.differences[0].ratio == pytest.approx(2)
    assert found.differences[0].p == pytest.approx(2 / 70)


def test_the_mean_of_the_ratios_is_geometric() -> None:
    found = result({"x": FAST, "y": SLOW}, {"x": SLOW, "y": FAST})
    assert found.mean_ratio == pytest.approx(1)
    assert result({}, {}).mean_ratio is None


def test_the_report() -> None:
    failures = [Failure(OLD, "bench_b", number, "no module") for number in (1, 3)]
    found = result(
        {"x": FAST, "gone": FAST}, {"x": SLOW, "added": FAST}, failures, interrupted=True
    )
    assert list(found.lines()) == [
        "old: aaaa, Python 3.11.2",
        "new: bbbb+, Python 3.11.2",
        "",
        "bench_a",
        "  benchmark  old median  new median  new/old      p  verdict",
        "  x              1.15 s      2.30 s     2.00  0.029   slower",
        "",
        "geometric mean of new/old: 2.000 (slower: 1)",
        (
            "faster, slower: p < 0.05 in a permutation test over the rounds; of 1 benchmark "
            "without any difference about 0.1 would seem to differ"
        ),
        "only in old: bench_o",
        "only in old: bench_a: gone",
        "only in new: bench_n",
        "only in new: bench_a: added",
        "2 runs of 8 failed:",
        "  old bench_b, round 1, 3: no module",
        "interrupted before the end of 4 rounds",
    ]


def test_too_few_rounds_are_said_to_be_so() -> None:
    lines = list(result({"x": FAST[:2]}, {"x": SLOW[:2]}).lines())
    assert "too few rounds: a verdict needs 4 or more" in lines
    assert not any("permutation" in line for line in lines)


def test_the_json_document() -> None:
    found = result({"x": FAST}, {"x": SLOW}, [Failure(NEW, "bench_a", 2, "why")])
    document = json.loads(json.dumps(found.to_json()))
    assert document["old"] == {"revision": "aaaa", "python": "3.11.2", "only": ["bench_o"]}
    (row,) = document["benchmarks"]
    assert (row["file"], row["name"], row["verdict"]) == ("bench_a", "test_x", "slower")
    assert (row["old_s"], row["new_s"]) == (list(FAST), list(SLOW))
    assert document["failures"] == [{"side": "new", "file": "bench_a", "round": 2, "reason": "why"}]
    assert (document["rounds"], document["runs"], document["interrupted"]) == (4, 8, False)
