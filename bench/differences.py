"""What differs between the benchmarks of two work trees: the table and the JSON document."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.alternation import NEW, OLD, SIDES
from bench.figures import duration, table
from emu.report.cells import counted
from emu.report.permutation import (
    ALPHA,
    FASTER,
    NO_DIFFERENCE,
    SLOWER,
    TOO_FEW,
    least_p_value,
    shown_p_value,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.alternation import Alternation, Benchmark
    from bench.checkout import Checkout

SCHEMA = 1
_SHOWN = {NO_DIFFERENCE: "no difference shown", TOO_FEW: "too few rounds"}


class Difference(NamedTuple):
    """A benchmark that both sides have.

    Attributes:
        benchmark: which one.
        old, new: its median in each round, in seconds.
        p: the p-value of the difference; None if the rounds are too few to show any.
    """

    benchmark: Benchmark
    old: list[float]
    new: list[float]
    p: float | None

    @property
    def ratio(self) -> float:
        """The new median by the old one: below 1 if the benchmark has become faster."""
        return statistics.median(self.new) / statistics.median(self.old)

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``no difference shown`` or ``too few rounds``."""
        found = verdict(self.old, self.new, self.p)
        return _SHOWN.get(found, found)


@dataclass(frozen=True)
class Result:
    """The comparison, also of rounds that were interrupted.

    Attributes:
        sides: the two work trees, by `OLD` and `NEW`.
        measured: what they have run.
        rounds: as many were to be run.
        interrupted: whether a signal has ended them before.
    """

    sides: dict[str, Checkout]
    measured: Alternation
    rounds: int
    interrupted: bool = False

    @cached_property
    def differences(self) -> list[Difference]:
        """Of the benchmarks of both sides, in the order of the old side, by file."""
        old, new = (self.measured.medians[side] for side in SIDES)
        common = sorted((each for each in old if each in new), key=lambda each: each.file)
        return [
            Difference(each, old[each], new[each], shown_p_value(old[each], new[each]))
            for each in common
        ]

    @property
    def mean_ratio(self) -> float | None:
        """The geometric mean of all ratios; None without any."""
        ratios = [each.ratio for each in self.differences]
        return statistics.geometric_mean(ratios) if ratios else None

    def only(self, side: str) -> list[str]:
        """The files and benchmarks that this side alone has, by name.

        A benchmark that failed or was skipped in each round of the other side is one of them.
        """
        other = NEW if side == OLD else OLD
        files = sorted(self.sides[side].files - self.sides[other].files)
        names = self.measured.medians[side].keys() - self.measured.medians[other].keys()
        return [*files, *(_name(each) for each in sorted(names))]

    def lines(self) -> Iterator[str]:
        """The report, for people."""
        for side in SIDES:
            python = self.measured.pythons.get(side)
            yield f"{side}: {self.sides[side].revision}" + (f", Python {python}" if python else "")
        rows = self.differences
        for file, members in groupby(rows, key=lambda each: each.benchmark.file):
            yield ""
            yield file
            yield from ("  " + line for line in table([_cells(each) for each in members]))
        yield ""
        if self.mean_ratio is not None:
            counts = {each.verdict: 0 for each in rows}
            for each in rows:
                counts[each.verdict] += 1
            totals = ", ".join(f"{name}: {number}" for name, number in counts.items())
            yield f"geometric mean of new/old: {self.mean_ratio:.3f} ({totals})"
        yield from self._notes(rows)

    def _notes(self, rows: list[Difference]) -> Iterator[str]:
        tested = sum(each.p is not None for each in rows)
        if tested:
            yield (
                f"{FASTER}, {SLOWER}: p < {ALPHA:g} in a permutation test over the rounds; of "
                f"{counted(tested, 'benchmark')} without any difference about "
                f"{tested * ALPHA:.1f} would seem to differ"
            )
        if tested < len(rows):
            yield f"too few rounds: a verdict needs {_least_rounds()} or more"
        for side in SIDES:
            for name in self.only(side):
                yield f"only in {side}: {name}"
        measured = self.measured
        if measured.failures:
            yield f"{counted(len(measured.failures), 'run')} of {measured.runs} failed:"
        for (side, file, reason), numbers in self._failures().items():
            rounds = ", ".join(str(number) for number in numbers)
            yield f"  {side} {file}, round {rounds}: {reason}"
        if self.interrupted:
            yield f"interrupted before the end of {counted(self.rounds, 'round')}"

    def _failures(self) -> dict[tuple[str, str, str], list[int]]:
        """The rounds of each failure."""
        found: dict[tuple[str, str, str], list[int]] = {}
        for each in self.measured.failures:
            found.setdefault((each.side, each.file, each.reason), []).append(each.round)
        return found

    def to_json(self) -> dict[str, Any]:
        """The document of ``--json``; all times are seconds."""
        return {
            "schema": SCHEMA,
            "rounds": self.rounds,
            "interrupted": self.interrupted,
            **{
                side: {
                    "revision": self.sides[side].revision,
                    "python": self.measured.pythons.get(side),
                    "only": self.only(side),
                }
                for side in SIDES
            },
            "benchmarks": [
                {
                    "file": each.benchmark.file,
                    "name": each.benchmark.name,
                    "old_s": each.old,
                    "new_s": each.new,
                    "ratio": each.ratio,
                    "p": each.p,
                    "verdict": each.verdict,
                }
                for each in self.differences
            ],
            "mean_ratio": self.mean_ratio,
            "runs": self.measured.runs,
            "failures": [each._asdict() for each in self.measured.failures],
        }


def _name(benchmark: Benchmark) -> str:
    return f"{benchmark.file}: {benchmark.name.removeprefix('test_')}"


def _cells(each: Difference) -> dict[str, str]:
    return {
        "benchmark": each.benchmark.name.removeprefix("test_"),
        "old median": duration(statistics.median(each.old)),
        "new median": duration(statistics.median(each.new)),
        "new/old": f"{each.ratio:.2f}",
        "p": "-" if each.p is None else f"{each.p:.3f}",
        "verdict": each.verdict,
    }


def _least_rounds() -> int:
    """How many rounds can show a difference."""
    rounds = 1
    while least_p_value(rounds, rounds) >= ALPHA:
        rounds += 1
    return rounds
