"""The median of repeated timings, with an interval that is free of their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95
"""Wanted coverage."""


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Distribution-free 95 % confidence interval of the median.

    Takes the k-th smallest and the k-th largest value, with the largest k whose coverage is still
    95 %. Fewer than six values cannot reach it; they give their minimum and maximum, and
    `median_coverage` says what that is worth.

    Source: order-statistic intervals for a quantile; Hahn and Meeker, Statistical Intervals
    (Wiley 1991), section 5.2.

    Args:
        values: At least two independent observations, in any order and unit.

    Returns:
        Lower and upper end, in the unit of the values.

    Raises:
        ValueError: for fewer than two values.
    """
    rank = _rank(len(values))
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


def median_coverage(n: int) -> float:
    """Least coverage of `median_interval` for ``n`` values; exact for a continuous distribution.

    Raises:
        ValueError: for fewer than two values.
    """
    return _coverage(n, _rank(n))


def _rank(n: int) -> int:
    if n < 2:
        raise ValueError(f"an interval needs two values or more (got {n})")
    rank = 1
    while rank + 1 <= n // 2 and _coverage(n, rank + 1) >= LEVEL:
        rank += 1
    return rank


def _coverage(n: int, rank: int) -> float:
    """P(rank-th smallest ≤ median ≤ rank-th largest): a binomial count of values below it."""
    outside = sum(math.comb(n, below) for below in range(rank))
    return float(1 - 2 * outside / 2**n)
