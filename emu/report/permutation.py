"""Whether two series of measurements differ: a permutation test of their ranks.

If the two series were of the same kind, each way to divide all values into two series of these
sizes would be equally likely. The *p-value* is the share of the divisions whose rank sum is at
least as far from the expected one as that of the division that was measured: the exact
Wilcoxon-Mann-Whitney test (Mann and Whitney, Annals of Mathematical Statistics 18, 1947). Ranks,
and not the values themselves, are summed, so that a single slow run does not decide.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A difference is real if its p-value is below this: one of twenty that is not would seem so.
ALPHA = 0.05
#: Verdicts.
FASTER, SLOWER, NO_DIFFERENCE, TOO_FEW = "faster", "slower", "no difference", "too few runs"
#: The size of both series from which on the normal distribution is used: the divisions are too
#: many to be counted, and it differs from their distribution by less than 0.001.
MANY = 26
#: The same, also of a short series and a very long one: steps of the count, some seconds.
MAX_STEPS = 20_000_000


def p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """The two-sided p-value of two series, 1 if one of them is empty."""
    if not one or not other:
        return 1.0
    ranks = _doubled_ranks([*one, *other])
    size, total = len(one), len(ranks)
    # Doubled ranks are integers, also where values are equal; their mean is total + 1.
    distance = abs(sum(ranks[:size]) - size * (total + 1))
    shorter = min(size, total - size)
    # Each value is added to the sums of up to as many values as the shorter series has.
    if shorter >= MANY or (shorter * total) ** 2 > MAX_STEPS:
        return _normal(ranks, size, distance)
    far = sum(
        count
        for rank_sum, count in _rank_sums(ranks, size).items()
        if abs(rank_sum - size * (total + 1)) >= distance
    )
    return far / math.comb(total, size)


def least_p_value(one: int, other: int) -> float:
    """The smallest p-value that series of these sizes can have."""
    return min(1.0, 2 / math.comb(one + other, one))


def shown_p_value(before: Sequence[float], after: Sequence[float]) -> float | None:
    """The p-value; None if the series are too short for any difference to be real."""
    if least_p_value(len(before), len(after)) >= ALPHA:
        return None
    return p_value(before, after)


def verdict(before: Sequence[float], after: Sequence[float], p: float | None) -> str:
    """`FASTER`, `SLOWER`, `NO_DIFFERENCE` or `TOO_FEW`.

    Args:
        before: times of the first series.
        after: those of the second one, in the same unit.
        p: the `shown_p_value` of both.
    """
    if p is None:
        return TOO_FEW
    old, new = statistics.median(before), statistics.median(after)
    if p >= ALPHA or old == new:
        return NO_DIFFERENCE
    return SLOWER if new > old else FASTER


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, from 1; equal values have the mean of their ranks."""
    counts = Counter(values)
    ranks, below = {}, 0
    for value in sorted(counts):
        ranks[value] = 2 * below + counts[value] + 1
        below += counts[value]
    return [ranks[value] for value in values]


def _rank_sums(ranks: Sequence[int], size: int) -> Counter[int]:
    """The sums of all subsets of this size, and how many subsets have each."""
    # The sums do not depend on which of the two series is taken, but for their mirror image.
    if 2 * size > len(ranks):
        whole = sum(ranks)
        smaller = _rank_sums(ranks, len(ranks) - size)
        return Counter({whole - rank_sum: count for rank_sum, count in smaller.items()})
    sums: list[Counter[int]] = [Counter({0: 1}), *(Counter() for _ in range(size))]
    for rank in ranks:
        for taken in range(size, 0, -1):
            for rank_sum, count in sums[taken - 1].items():
                sums[taken][rank_sum + rank] += count
    return sums[size]


def _normal(ranks: Sequence[int], size: int, distance: float) -> float:
    total = len(ranks)
    # The variance of a sum of ``size`` values that are drawn without replacement.
    variance = statistics.pvariance(ranks) * size * (total - size) / (total - 1)
    if not variance:
        return 1.0
    return 2 * (1 - statistics.NormalDist().cdf(distance / math.sqrt(variance)))
