"""The error of a mean whose documents come in groups: passages, subjects, translations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.statistics.proportion import Z95, t_quantile

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

FEWEST = 5
"""Effective groups that an interval needs; with fewer, coverage is a matter of luck."""


@dataclass(frozen=True)
class ClusteredMean:
    """A mean, or a mean of parts' means, over documents in groups.

    Attributes:
        value: The mean, in the unit of the values.
        stderr: Its cluster-robust standard error; None where a part has a single group.
        degrees: Degrees of freedom of ``stderr``: effective groups, less one.
        groups: Groups of documents.
        effective_groups: Groups of one size that weigh as these do; see `effective`.
        effective_documents: The same of documents, which weigh more in a small part.
        telling_groups: Groups that hold a one, or those that hold a zero, whichever are fewer.
    """

    value: float
    stderr: float | None
    degrees: float
    groups: int
    effective_groups: float
    effective_documents: float
    telling_groups: int

    @property
    def is_telling(self) -> bool:
        """Whether there are enough groups for an interval."""
        # Five groups of one size are 5 up to rounding.
        return self.stderr is not None and self.effective_groups > FEWEST - 1e-6

    def independent_documents(self) -> float:
        """How many independent documents of zeros and ones are worth as much as these.

        p (1 − p) / stderr², and never more than there are: a standard error that is small by luck
        claims no more. A share of Student's quantile is taken off, because the standard error is
        an estimate from few groups. Where fewer than FEWEST groups hold a success, or a failure,
        nothing tells how alike the documents of a group are: then each group counts as one.

        Source: E. L. Korn and B. I. Graubard, Confidence Intervals for Proportions with Small
        Expected Number of Positive Counts Estimated from Survey Data, Survey Methodology 24
        (1998), 193–201.

        Raises:
            ValueError: without a standard error.
        """
        if self.stderr is None:
            raise ValueError("there is no standard error")
        n = self.effective_groups
        if self.stderr > 0 and self.telling_groups >= FEWEST:
            n = min(self.value * (1 - self.value) / self.stderr**2, self.effective_documents)
        return n * (Z95 / t_quantile(self.degrees)) ** 2


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Any], parts: Sequence[Any] | None = None
) -> ClusteredMean:
    """The mean of documents in groups, with a standard error that allows for the groups.

    The CR2 estimator: residuals are summed within each group, each sum is divided by √(1 − share of
    the group), squared and added up. It makes no assumption of how documents of a group depend on
    each other, and is unbiased where they do not. For groups of one size it is CR1, which
    statsmodels computes as ``cov_type="cluster"``; for groups of one document it is the textbook's
    standard error. With parts, which each have a mean of their own and count the same, a group may
    reach through several parts, as a sentence and its translations do, or lie in one.

    Student's t belongs to it, with the effective number of groups less one: fewer than G − 1 where
    groups differ in size.

    Sources: K.-Y. Liang and S. L. Zeger, Biometrika 73 (1986), 13–22; R. M. Bell and
    D. F. McCaffrey, Survey Methodology 28 (2002), 169–181, for CR2; A. C. Cameron and D. L. Miller,
    Journal of Human Resources 50 (2015), 317–372, for few groups and unequal ones; E. Miller,
    Adding Error Bars to Evals (2024), https://arxiv.org/abs/2411.00640, for evaluations.

    Args:
        values: One for each document.
        clusters: The group of each document.
        parts: The part of each document, for the mean of the parts' means; None = one mean.

    Raises:
        ValueError: without documents, or for lists of different lengths.
    """
    if not len(values) or len({len(values), len(clusters), len(parts or values)}) > 1:
        raise ValueError("every document needs a value and a group, and there is at least one")
    y = np.asarray(values, dtype=np.float64)
    part = _numbers_of(["" for _ in values] if parts is None else parts)
    group = _numbers_of(clusters)
    sizes = np.bincount(part).astype(np.float64)
    means = np.bincount(part, y) / sizes
    weights = 1 / (len(sizes) * sizes)  # of a document, by its part
    # A cell is the documents of one group in one part.
    _, first, cell = np.unique(
        np.stack([group, part]), axis=1, return_index=True, return_inverse=True
    )
    cell = cell.ravel()
    cell_part, cell_group = part[first], group[first]
    counts = np.bincount(cell)
    sums = np.bincount(cell, y - means[part])
    shares = counts / sizes[cell_part]
    weighed = weights[cell_part]
    loads = np.bincount(cell_group, weighed * counts).astype(np.float64)
    error = None
    if shares.max() < 1:
        residuals = np.bincount(cell_group, weighed * sums / np.sqrt(1 - shares))
        error = math.sqrt(math.fsum(residuals**2))
    groups = effective(loads)
    return ClusteredMean(
        value=math.fsum(means) / len(means) if parts is not None else math.fsum(y) / len(y),
        stderr=error,
        degrees=groups - 1,
        groups=len(loads),
        effective_groups=groups,
        effective_documents=1 / math.fsum(weights[part] ** 2),
        telling_groups=min(len(np.unique(group[y == value])) for value in (0, 1)),
    )


def effective(weights: Floats) -> float:
    """How many groups of one size weigh as these do: (Σ w)² / Σ w².

    Source: L. Kish, Survey Sampling (Wiley 1965), section 11.7.

    Args:
        weights: The weight of each group in the score, shape (groups,).
    """
    return float(weights.sum() ** 2 / (weights**2).sum())


def _numbers_of(names: Sequence[Any]) -> Indices:
    """Each name as its number, from 0."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)
