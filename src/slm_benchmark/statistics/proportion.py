"""Intervals for scores that are means over documents."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
"""Quantile of the standard normal distribution at 97.5 %."""


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval at 95 % for a proportion.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209–212.

    Args:
        successes: Number of successes, 0 … n.
        n: Number of trials, at least 1.
    """
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # Rounding must not push the bounds over the estimate at p = 0 and p = 1.
    return min(p, max(0.0, (centre - half) / scale)), max(p, min(1.0, (centre + half) / scale))


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean with the n − 1 denominator; None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def mean_interval(values: Sequence[float]) -> tuple[tuple[float, float] | None, str | None]:
    """The 95 % interval of a mean and the name of its method.

    Zeros and ones get Wilson's interval; other values the normal approximation around the mean;
    a single such value gets none.
    """
    n = len(values)
    if all(value in (0.0, 1.0) for value in values):
        return wilson_interval(math.fsum(values), n), "wilson"
    error = standard_error(values)
    if error is None:
        return None, None
    mean = math.fsum(values) / n
    return (mean - Z95 * error, mean + Z95 * error), "normal"
