"""Groups of scores that are not told apart, in place of ranks."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

ERROR_RATE = 0.05
"""Chance that anything at all is told apart wrongly on a board."""


def critical_value(rows: int, error_rate: float = ERROR_RATE) -> float:
    """Standard errors by which two of some rows must differ before one counts as better.

    Bonferroni over all ordered pairs of rows: whichever rows turn out to lead, the chance that one
    of them is called better than a row that is truly as good stays below ``error_rate``.

    Args:
        rows: At least 2.
        error_rate: Of the whole board.
    """
    return NormalDist().inv_cdf(1 - error_rate / (rows * (rows - 1)))


def tied_groups(
    values: Floats, errors: Floats, correlation: Callable[[int, Indices], Floats]
) -> Indices:
    """Group of each row, counted as ranks are: 1, 1, 1, 4.

    The best row that has no group yet leads the next one; every row without a group that is not
    significantly worse than this leader joins it. A row is significantly worse when its sum lies
    below the leader's by more than `critical_value` standard errors of the difference. Its variance
    is the sum over terms of ``a² + b² − 2 r a b``, where a and b are the standard errors of the two
    rows' terms and r is the correlation between them: for scores of the same documents it is the
    variance of the differences by document.

    Args:
        values: Terms of the rows' sums, shape (rows, terms); the terms of a row are independent.
        errors: Their standard errors, of the same shape.
        correlation: For a leader and other rows, the correlation between their terms' errors, from
            0 to 1, shape (others, terms). It is asked only about rows that would be tied if all
            were independent, because what is shared can only tell more rows apart.

    Returns:
        Shape (rows,): one more than the number of rows in better groups. Of rows with equal sums
        the first one leads.
    """
    sums = values.sum(axis=1)
    groups = np.zeros(len(sums), dtype=np.intp)
    waiting = np.argsort(-sums, kind="stable")
    bound = critical_value(len(sums)) if len(sums) > 1 else 0.0
    while len(waiting):
        leader, others = waiting[0], waiting[1:]
        gaps = sums[leader] - sums[others]
        squares = errors[leader] ** 2 + errors[others] ** 2
        tied = gaps <= bound * np.sqrt(squares.sum(axis=1))
        near = others[tied]
        if len(near):
            shared = 2 * correlation(int(leader), near) * errors[leader] * errors[near]
            # Rounding must not make a variance negative where two rows answered alike.
            variances = np.maximum(squares[tied] - shared, 0.0).sum(axis=1)
            tied[tied] = gaps[tied] <= bound * np.sqrt(variances)
        rank = len(sums) - len(waiting) + 1
        groups[leader] = rank
        groups[others[tied]] = rank
        waiting = others[~tied]
    return groups
