"""Intervals for scores that are means over independent documents."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
"""Quantile of the standard normal distribution at 97.5 %."""

EXACT_BELOW = 10
"""Successes or failures below which a proportion gets the exact interval."""


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """Wilson's score interval at 95 % for a proportion.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209–212.

    Args:
        successes: Number of successes, 0 … n; not whole where ``n`` is an effective number.
        n: Number of trials, above 0.
    """
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # Rounding must not push the bounds over the estimate at p = 0 and p = 1.
    return min(p, max(0.0, (centre - half) / scale)), max(p, min(1.0, (centre + half) / scale))


def exact_interval(successes: float, n: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval: it covers every proportion in at least 95 % of cases.

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), 404–413, in the form of beta
    quantiles, which is defined for numbers that are not whole too.

    Args:
        successes: As for `wilson_interval`.
        n: As for `wilson_interval`.
    """
    from scipy.special import betaincinv

    failures = n - successes
    low = 0.0 if successes <= 0 else float(betaincinv(successes, failures + 1, 0.025))
    high = 1.0 if failures <= 0 else float(betaincinv(successes + 1, failures, 0.975))
    return low, high


PROPORTION_INTERVALS = {"wilson": wilson_interval, "clopper-pearson": exact_interval}
"""Intervals of a proportion by the names that records give them."""


def proportion_method(successes: float, n: float) -> str:
    """The interval that a proportion gets: the exact one near 0 and 1, else Wilson's.

    Wilson's covers 95 % on average, and down to 84 % where a handful of successes or failures is to
    be expected. The exact one never covers less than 95 %, and is wider than it need be. The rule
    covers 93 % and more for every n and proportion: `benchmarks.coverage` has the exact sums.

    Args:
        successes: As for `wilson_interval`.
        n: As for `wilson_interval`.

    Returns:
        A name of `PROPORTION_INTERVALS`.
    """
    return "clopper-pearson" if min(successes, n - successes) < EXACT_BELOW else "wilson"


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean with the n − 1 denominator; None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def t_quantile(degrees: float) -> float:
    """Quantile of Student's t at 97.5 %; the degrees of freedom need not be whole."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def t_interval(mean: float, error: float, degrees: float) -> tuple[float, float]:
    """mean ± Student's t × standard error, at 95 %.

    Source: Student, The Probable Error of a Mean, Biometrika 6 (1908), 1–25.
    """
    half = t_quantile(degrees) * error
    return mean - half, mean + half


def normal_interval(mean: float, error: float) -> tuple[float, float]:
    """mean ± 1.96 × standard error: what records before `t_interval` have. Too narrow for few."""
    return mean - Z95 * error, mean + Z95 * error
