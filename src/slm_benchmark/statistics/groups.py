"""How far the means of several groups lie apart, and how far they would by chance alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GAP_METHOD = "bootstrap_range"
"""Name of the interval that `group_gap` gives."""

DRAWS = 1000
"""Bootstrap resamples, and permutations."""

SMALLEST_GROUP = 5
"""Values that a group needs to be compared: resamples of fewer say little of their mean."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """The largest minus the smallest of several group means.

    Attributes:
        value: The gap, in the unit of the values; biased upward, see ``expected_if_equal``.
        stderr: Standard deviation of the gap over bootstrap resamples.
        ci95: Interval that holds the true gap in at least 95 % of cases.
        expected_if_equal: Mean gap after the group labels are permuted: what the gap would be if
            the groups did not differ at all.
        n: Values in all groups that were compared.
    """

    value: float
    stderr: float
    ci95: tuple[float, float]
    expected_if_equal: float
    n: int


def group_gap(groups: Mapping[str, Sequence[float]], seed: int = 0) -> Gap | None:
    """The gap between group means, with an interval and its noise floor.

    A maximum minus a minimum is never below zero and grows with the number of groups, even where
    all are equal. A percentile bootstrap adds that bias once more: with a dozen equal groups of 40
    its interval never holds the true gap. So the interval here rests on a bound. The
    gap of the observed means and the gap of the true means differ at most by the range of the
    errors, that is the largest error minus the smallest. The 95 % quantile of that range, over
    resamples within the groups, goes to either side of the gap; the lower end is cut at zero. The
    interval is wide for many groups, and honest.

    Resampled errors of a group of n are widened by √(n / (n − 1)), because a resample varies less
    than a sample. Groups of zeros and ones are drawn from a binomial distribution with half a
    success and half a failure added, as resampling a group without a success would claim certainty.

    Args:
        groups: Values by group; groups of fewer than SMALLEST_GROUP are left out.
        seed: Seed of the resamples and permutations.

    Returns:
        The gap, or None when fewer than two groups are left.
    """
    samples = [np.asarray(values, dtype=np.float64) for values in groups.values()]
    samples = [values for values in samples if len(values) >= SMALLEST_GROUP]
    if len(samples) < 2:
        return None
    generator = np.random.default_rng(seed)
    means = np.array([values.mean() for values in samples])
    pooled = np.concatenate(samples)
    binary = bool(np.isin(pooled, (0.0, 1.0)).all())
    draw = _binomial_errors if binary else _resampled_errors
    errors = np.stack([draw(values, generator) for values in samples], axis=1)
    value = float(np.ptp(means))
    half = float(np.quantile(np.ptp(errors, axis=1), 0.95))
    return Gap(
        value=value,
        stderr=float(np.ptp(means + errors, axis=1).std(ddof=1)),
        ci95=(max(0.0, value - half), value + half),
        expected_if_equal=_permuted_gap(pooled, [len(values) for values in samples], generator),
        n=len(pooled),
    )


def _resampled_errors(values: Values, generator: np.random.Generator) -> Values:
    """Errors of the mean over resamples, shape (DRAWS,)."""
    n = len(values)
    drawn = values[generator.integers(0, n, (DRAWS, n))].mean(axis=1)
    errors: Values = (drawn - values.mean()) * np.sqrt(n / (n - 1))
    return errors


def _binomial_errors(values: Values, generator: np.random.Generator) -> Values:
    """Errors of a proportion over draws, shape (DRAWS,)."""
    n = len(values)
    p = (values.sum() + 0.5) / (n + 1)
    errors: Values = generator.binomial(n, p, DRAWS) / n - p
    return errors


def _permuted_gap(pooled: Values, sizes: Sequence[int], generator: np.random.Generator) -> float:
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    shuffled = generator.permuted(np.tile(pooled, (DRAWS, 1)), axis=1)
    means = np.add.reduceat(shuffled, starts, axis=1) / np.asarray(sizes)
    return float(np.ptp(means, axis=1).mean())
