"""Two sets of outcomes on the same documents: how far they differ, and what chance would do.

A difference is *second minus first* everywhere: a variant's value minus its base's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, chdtrc, stdtr

from slm_benchmark.statistics.clusters import FEWEST, clustered_mean
from slm_benchmark.statistics.proportion import Z95, t_interval, t_quantile

Floats = NDArray[np.float64]

FEWEST_CHANGED = 15
"""Documents (or clusters) with a difference that the t interval of fractions needs."""

_FAR = 1e9
"""Stands for an infinite score, with which a root cannot be found."""


@dataclass(frozen=True)
class Inference:
    """What a difference is worth.

    Attributes:
        ci95: Interval of the difference; None where there are too few clusters.
        ci_method: ``tango``, ``tango of sums`` or ``t``; None without an interval.
        p: Two-sided p-value of no difference; None where there is no interval.
        p_method: ``mcnemar exact``, ``sign flips`` or ``t``; None without a p-value.
    """

    ci95: tuple[float, float] | None
    ci_method: str | None
    p: float | None
    p_method: str | None


@dataclass(frozen=True)
class Paired(Inference):
    """A comparison of two outcomes on the same documents.

    Attributes:
        n: Documents.
        first: Mean of the first outcomes, in their unit.
        second: Mean of the second outcomes.
        difference: ``second − first``.
        lost: Documents whose second value is lower: right before, wrong after.
        gained: Documents whose second value is higher.
        losses: Sum of what the lost ones lost; their number, where values are zeros and ones.
        gains: Sum of what the gained ones gained.
        sd: Standard deviation of the documents' differences; 0 for a single document.
        design_effect: How many times larger the variance of the mean difference is than for
            independent documents; at least 1.
        binary: Whether all values are 0 or 1.
    """

    n: int
    first: float
    second: float
    difference: float
    lost: int
    gained: int
    losses: float
    gains: float
    sd: float
    design_effect: float
    binary: bool

    @property
    def turnover(self) -> float:
        """Mean size of a document's difference; the share of flips for zeros and ones."""
        return (self.losses + self.gains) / self.n


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    span: float = 1.0,
) -> Paired:
    """Compare two outcomes of the same documents.

    Zeros and ones get Tango's score interval and the exact McNemar test. Other values get
    Student's t interval and test of their differences where at least FEWEST_CHANGED are not zero.
    With fewer, t intervals are too narrow: then Tango's interval takes the sums of losses and
    gains in place of counts. The variance of differences within ``span`` is at most that of zeros
    and ones with the same sums, so that interval is wide rather than narrow; the test is
    `sign_flip_p`.

    Where documents come in clusters, the variance of the mean difference is that of
    `clustered_mean`. Its ratio to that of independent documents, the design effect, divides the
    counts, after it is widened by the squared ratio of Student's t to the normal quantile.
    The test flips the signs of whole clusters. Fewer clusters than an interval needs give none.

    Sources: T. Tango, Statistics in Medicine 17 (1998), 891–908; Q. McNemar, Psychometrika 12
    (1947), 153–157; for counts divided by a design effect E. L. Korn and B. I. Graubard, Survey
    Methodology 24 (1998), 193–201.

    Args:
        first: One value for each document.
        second: The values of the same documents, in the same order.
        clusters: The cluster of each document; None = all documents are independent.
        span: Largest minus smallest value that a document can have, in the unit of the values.

    Raises:
        ValueError: without documents, or for sequences of unequal length.
    """
    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not len(before) or before.shape != after.shape:
        raise ValueError("every document needs two values, and there must be a document")
    differences = after - before
    binary = bool(np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    groups = range(len(differences)) if clusters is None else clusters
    sums = _sums(differences, groups)
    design = _design(differences, groups, int(np.count_nonzero(sums)))
    if design is None:
        inference = Inference(None, None, None, None)
    elif not binary and np.count_nonzero(sums) >= FEWEST_CHANGED:
        inference = _student(differences, design)
    else:
        inference = _counted(differences, sums, design, span, binary)
    return Paired(
        n=len(differences),
        first=float(before.mean()),
        second=float(after.mean()),
        difference=float(differences.mean()),
        lost=int((differences < 0).sum()),
        gained=int((differences > 0).sum()),
        losses=-float(differences[differences < 0].sum()),
        gains=float(differences[differences > 0].sum()),
        sd=_sd(differences),
        design_effect=design.effect if design else 1.0,
        binary=binary,
        **vars(inference),
    )


@dataclass(frozen=True)
class _Design:
    """What the groups of documents do to a mean's variance.

    Attributes:
        effect: Its ratio to that of independent documents, at least 1.
        degrees: Degrees of freedom of a standard error.
        clustered: Whether any group has more than one document.
    """

    effect: float
    degrees: float
    clustered: bool


def _design(differences: Floats, groups: Sequence[Hashable], telling: int) -> _Design | None:
    """The design of grouped documents; None where there are too few groups to judge by.

    Where fewer than FEWEST groups have a difference, nothing tells how alike their documents are:
    then each group counts as one document.
    """
    n = len(differences)
    if len(set(groups)) == n:
        return _Design(1.0, n - 1, clustered=False)
    mean = clustered_mean(differences.tolist(), groups)
    if mean.stderr is None or not mean.is_telling:
        return None
    effect = n / mean.effective_groups
    if telling >= FEWEST:
        effect = max(1.0, n * mean.stderr**2 / _sd(differences) ** 2)
    return _Design(effect, mean.degrees, clustered=True)


def _student(differences: Floats, design: _Design) -> Inference:
    mean = float(differences.mean())
    error = _sd(differences) * math.sqrt(design.effect / len(differences))
    # All differences can be equal and not zero.
    p = float(2 * stdtr(design.degrees, -abs(mean) / error)) if error else 0.0
    return Inference(t_interval(mean, error, design.degrees), "t", p, "t")


def _counted(
    differences: Floats, sums: Floats, design: _Design, span: float, binary: bool
) -> Inference:
    lost = -float(differences[differences < 0].sum()) / span
    gained = float(differences[differences > 0].sum()) / span
    widened = design.effect
    if design.clustered:
        widened *= (t_quantile(design.degrees) / Z95) ** 2
    low, high = tango_interval(lost / widened, gained / widened, len(differences) / widened)
    method = "tango" if binary else "tango of sums"
    if binary and not design.clustered:
        test = mcnemar_exact(round(lost), round(gained)), "mcnemar exact"
    else:
        test = sign_flip_p(sums.tolist()), "sign flips"
    return Inference((low * span, high * span), method, *test)


def tango_interval(lost: float, gained: float, n: float) -> tuple[float, float]:
    """Tango's 95 % score interval for the difference of two paired proportions.

    It holds the differences that the score test does not reject. Without any discordant pair it is
    ±z² / (n + z²), while Wald's interval would have no width. Effective counts need not be whole.

    Source: T. Tango, Statistics in Medicine 17 (1998), 891–908; recommended for small samples by
    M. W. Fagerland, S. Lydersen and P. Laake, Statistics in Medicine 33 (2014), 2850–2875.

    Args:
        lost: Documents that were right first and wrong second.
        gained: Documents that were wrong first and right second.
        n: All documents, more than 0.

    Returns:
        Lower and upper end of ``(gained − lost) / n``.
    """
    estimate = (gained - lost) / n

    def beyond(difference: float, quantile: float) -> float:
        return tango_statistic(lost, gained, n, difference) - quantile

    low = -1.0 if estimate <= -1 else float(brentq(beyond, -1, estimate, args=(Z95,)))
    high = 1.0 if estimate >= 1 else float(brentq(beyond, estimate, 1, args=(-Z95,)))
    return low, high


def tango_statistic(lost: float, gained: float, n: float, difference: float) -> float:
    """Tango's score statistic of the hypothesis that the true difference is ``difference``.

    Its variance is that of the most likely proportions under the hypothesis, so that it exists
    without discordant pairs. At 0 it is McNemar's statistic, (gained − lost) / √(gained + lost).
    """
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    losing = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * losing + difference * (1 - difference))
    distance = gained - lost - n * difference
    if distance == 0:
        return 0.0
    if variance <= 0:
        return math.copysign(_FAR, distance)
    return max(-_FAR, min(_FAR, distance / math.sqrt(variance)))


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact p-value of McNemar's test: a flip goes either way with probability ½.

    Source: Q. McNemar, Psychometrika 12 (1947), 153–157, with the binomial distribution in place
    of its approximation.
    """
    flips = lost + gained
    return min(1.0, 2 * float(bdtr(min(lost, gained), flips, 0.5)))


def sign_flip_p(sums: Sequence[float]) -> float:
    """Two-sided exact p-value of the hypothesis that each sum is as likely as its negative.

    All 2^k signs of k sums are counted, by the distinct totals that they lead to: quick for whole
    numbers, whatever k is, and for other numbers while they are few. With sums of −1, 0 and 1 it is
    the exact McNemar test.

    Source: R. A. Fisher, The Design of Experiments (1935), section 21.

    Args:
        sums: The sum of differences of each cluster, or the difference of each document.
    """
    totals: Floats = np.zeros(1)
    shares: Floats = np.ones(1)
    for size in (abs(total) for total in sums if total):
        moved = np.round(np.concatenate([totals - size, totals + size]), 9)
        totals, inverse = np.unique(moved, return_inverse=True)
        weights = np.concatenate([shares, shares]) / 2
        shares = np.bincount(inverse, weights=weights).astype(np.float64)
    reached = np.abs(totals) >= abs(math.fsum(sums)) - 1e-6
    return min(1.0, float(shares[reached].sum()))


@dataclass(frozen=True)
class Heterogeneity:
    """Whether several differences can be one and the same.

    Attributes:
        q: Cochran's Q with score statistics, which χ² with ``df`` degrees of freedom follows.
        df: Differences less one.
        p: Its p-value; None for a single difference.
        i2: Share of the variation between the differences that is more than chance, 0 … 1.
    """

    q: float
    df: int
    p: float | None
    i2: float


def heterogeneity(counts: Sequence[tuple[float, float, float]]) -> Heterogeneity:
    """Test whether tables of paired outcomes share one difference.

    Each table's distance from the common difference is taken in Tango's score statistic, whose
    variance is the one under the common difference: a table without a discordant pair then has
    a finite weight. With inverse variances as estimated from itself, it would outweigh all others.

    Sources: W. G. Cochran, Biometrics 10 (1954), 101–129; J. P. T. Higgins and S. G. Thompson,
    Statistics in Medicine 21 (2002), 1539–1558, for I².

    Args:
        counts: (lost, gained, n) of each table, effective where its documents come in clusters.
    """
    lost, gained, n = (math.fsum(column) for column in zip(*counts, strict=True))
    common = (gained - lost) / n
    q = math.fsum(tango_statistic(*table, common) ** 2 for table in counts)
    df = len(counts) - 1
    p = float(chdtrc(df, q)) if df else None
    return Heterogeneity(q=q, df=df, p=p, i2=max(0.0, (q - df) / q) if q else 0.0)


def _sums(differences: Floats, groups: Sequence[Hashable]) -> Floats:
    """The sum of the differences of each group."""
    totals: dict[Hashable, float] = {}
    for group, difference in zip(groups, differences.tolist(), strict=True):
        totals[group] = totals.get(group, 0.0) + difference
    return np.array(list(totals.values()))


def _sd(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
