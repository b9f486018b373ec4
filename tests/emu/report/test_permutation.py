"""The permutation test."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.report.permutation import (
    FASTER,
    MANY,
    NO_DIFFERENCE,
    SLOWER,
    TOO_FEW,
    least_p_value,
    p_value,
    shown_p_value,
    verdict,
)

VALUES = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=5)


def by_hand(one: list[float], other: list[float]) -> float:
    """Each division, one after the other."""
    values = [*one, *other]
    ranks = [
        sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
        for value in values
    ]
    mean = len(one) * (len(values) + 1) / 2
    seen = abs(sum(ranks[: len(one)]) - mean)
    divisions = list(itertools.combinations(ranks, len(one)))
    return sum(abs(sum(part) - mean) >= seen for part in divisions) / len(divisions)


@given(VALUES, VALUES)
def test_it_counts_the_divisions(one: list[float], other: list[float]) -> None:
    assert p_value(one, other) == pytest.approx(by_hand(one, other))
    assert p_value(one, other) == pytest.approx(p_value(other, one))


@pytest.mark.parametrize(
    ("sizes", "least"), [((1, 1), 1), ((3, 3), 0.1), ((4, 4), 2 / 70), ((5, 5), 2 / 252)]
)
def test_separate_series_have_the_least_p_value(sizes: tuple[int, int], least: float) -> None:
    one, other = ([float(n + 100 * k) for n in range(size)] for k, size in enumerate(sizes))
    assert p_value(one, other) == pytest.approx(least)
    assert least_p_value(*sizes) == pytest.approx(least)


def test_a_published_value() -> None:
    """The table of Mann and Whitney (1947), n = m = 5: U = 2 has the one-sided probability .016."""
    assert p_value([1, 2, 3, 4, 7], [5, 6, 8, 9, 10]) == pytest.approx(0.032, abs=5e-4)


def test_without_values_nothing_is_shown() -> None:
    assert p_value([], [1.0]) == p_value([1.0], []) == 1
    assert p_value([3.0] * 30, [3.0] * 30) == 1


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((5.0, 6.0, 7.0, 8.0), SLOWER),
        ((-4.0, -3.0, -2.0, -1.0), FASTER),
        ((0.5, 1.5, 2.5, 3.5), NO_DIFFERENCE),
        ((5.0, 6.0), TOO_FEW),
        ((), TOO_FEW),
    ],
)
def test_the_verdict(after: tuple[float, ...], expected: str) -> None:
    before = (1.0, 2.0, 3.0, 4.0)
    assert verdict(before, after, shown_p_value(before, after)) == expected


def test_the_same_median_is_no_difference() -> None:
    assert verdict((1.0, 2.0, 3.0), (2.0, 2.0, 2.0), 0.0) == NO_DIFFERENCE


def test_many_values_give_about_the_same() -> None:
    """Where the normal distribution begins, it is near to the exact one."""
    dice = random.Random(7)
    one = [dice.gauss(10, 1) for _ in range(MANY)]
    other = [dice.gauss(10.7, 1) for _ in range(MANY)]
    assert p_value(one[1:], other) == pytest.approx(p_value(one, other), abs=0.02)
    assert p_value(one, other) < 0.05


def test_a_short_series_and_a_very_long_one() -> None:
    """They are not counted for hours."""
    dice = random.Random(7)
    one = [dice.gauss(10, 1) for _ in range(25)]
    other = [dice.gauss(10, 1) for _ in range(20_000)]
    assert 0.05 < p_value(one, other) == p_value(other, one) < 1
    assert p_value([value + 2 for value in one], other) < 0.001
