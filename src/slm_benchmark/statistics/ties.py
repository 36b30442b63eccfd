"""Groups of scores that do not differ significantly, instead of ranks."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

ERROR_RATE = 0.05
"""Chance of one or more false significant differences on a board."""

ROUNDS = 4
"""Rounds in which the correlations of a row's terms are requested."""


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
    values: Floats, errors: Floats, correlation: Callable[[int, Indices, Indices], Floats]
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
        correlation: For a leader, other rows and terms, the correlation between the errors of the
            rows' terms, from 0 to 1, shape (others, terms). It is called only as long as it can
            decide something.

    Returns:
        Shape (rows,): one more than the number of rows in better groups. Of rows with equal sums
        the first one leads.
    """
    sums = values.sum(axis=1)
    groups = np.zeros(len(sums), dtype=np.intp)
    waiting = np.argsort(-sums, kind="stable")
    bound = critical_value(len(sums)) if len(sums) > 1 else np.inf
    while len(waiting):
        leader, others = int(waiting[0]), waiting[1:]
        least_variance = ((sums[leader] - sums[others]) / bound) ** 2
        tied = _reaches(least_variance, errors, leader, others, correlation)
        rank = len(sums) - len(waiting) + 1
        groups[leader] = rank
        groups[others[tied]] = rank
        waiting = others[~tied]
    return groups


def _reaches(
    least_variance: Floats,
    errors: Floats,
    leader: int,
    others: Indices,
    correlation: Callable[[int, Indices, Indices], Floats],
) -> NDArray[np.bool_]:
    """Whether the variances of the differences from the leader are at least ``least_variance``.

    Correlations are requested in rounds, of the terms first where they can tell most, and only for
    rows of which the bounds for what is not known yet, r = 0 and r = 1, leave it open.

    Args:
        least_variance: Shape (others,).
        errors: Standard errors of all rows, shape (rows, terms).
        leader: A row.
        others: Rows, shape (others,).
        correlation: As `tied_groups` takes it.
    """
    most = errors[leader] ** 2 + errors[others] ** 2
    products = 2 * errors[leader] * errors[others]
    # Rounding must not make a variance negative where two rows answered alike.
    least = np.maximum(most - products, 0.0)
    for terms in np.array_split(np.argsort(-products.sum(axis=0), kind="stable"), ROUNDS):
        (indices,) = np.nonzero(
            (least.sum(axis=1) < least_variance) & (least_variance <= most.sum(axis=1))
        )
        if len(indices) and len(terms):
            block = np.ix_(indices, terms)
            shared = correlation(leader, others[indices], terms) * products[block]
            most[block] = least[block] = np.maximum(most[block] - shared, 0.0)
    reached: NDArray[np.bool_] = least_variance <= most.sum(axis=1)
    return reached
