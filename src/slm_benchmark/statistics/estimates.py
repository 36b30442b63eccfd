"""A score from the values of its documents: value, standard error, and an interval by name.

A name says all that the interval follows from beside the documents, and means the same for ever, so
that anyone can compute a published interval again:

    [cluster ] METHOD [ over parts]

METHOD is ``wilson`` or ``clopper-pearson`` for zeros and ones, ``t`` for other values, and
``expanded bootstrap`` for what is no mean. ``cluster`` says that documents of one group were not
taken for independent; ``over parts`` that the score is the mean of its parts' scores. Earlier
records have ``normal``, ``normal over parts`` and ``bootstrap`` (the plain percentiles), which are
computed still and given no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

from slm_benchmark.statistics.bootstrap import (
    Interval,
    Statistic,
    bootstrap_interval,
    expanded_bootstrap,
)
from slm_benchmark.statistics.bootstrap import estimate as statistic_of
from slm_benchmark.statistics.clusters import FEWEST, ClusteredMean, clustered_mean
from slm_benchmark.statistics.proportion import (
    PROPORTION_INTERVALS,
    normal_interval,
    proportion_method,
    standard_error,
    t_interval,
)

CLUSTER, OVER_PARTS = "cluster ", " over parts"


@dataclass(frozen=True)
class Sample:
    """The documents that a score is of.

    Attributes:
        values: Of the documents that have one: numbers, or lists that ``statistic`` understands.
        share: Whether numbers that are all 0 or 1 are successes and failures.
        statistic: From lists to a score; None where only means can be computed.
        parts: The part of each document, where the score is the mean of its parts' scores.
        clusters: The group of each document; None where all are independent.
    """

    values: Sequence[Any]
    share: bool = True
    statistic: Statistic | None = None
    parts: Sequence[str] | None = None
    clusters: Sequence[Any] | None = None


def sample_of(
    documents: Sequence[tuple[str, Any, str | None]],
    share: bool,
    statistic: Statistic | None,
    *,
    over_parts: bool,
) -> Sample:
    """The sample of some documents.

    Args:
        documents: Part, value, and group or None of each; one without a group stands alone.
        share: As in `Sample`.
        statistic: As in `Sample`.
        over_parts: Whether the score is the mean of the parts' scores.
    """
    clusters = [index if name is None else name for index, (_, _, name) in enumerate(documents)]
    return Sample(
        values=[value for _, value, _ in documents],
        share=share,
        statistic=statistic,
        parts=[part for part, _, _ in documents] if over_parts else None,
        clusters=clusters if any(name is not None for _, _, name in documents) else None,
    )


class EstimateRow(TypedDict):
    """What an estimate decides of a score."""

    value: float
    stderr: float | None
    ci95: list[float] | None
    ci_method: str | None
    clusters: NotRequired[int]
    reason: NotRequired[str]


@dataclass(frozen=True)
class Estimate:
    """A score, as the cell schema's ``scores`` have it.

    Attributes:
        value: In the unit of the metric.
        stderr: Its standard error; None where there is no interval.
        ci95: 95 % interval.
        method: Name of the interval.
        clusters: Groups of documents, where the method allows for them.
        reason: Why there is no interval.
    """

    value: float
    stderr: float | None = None
    ci95: tuple[float, float] | None = None
    method: str | None = None
    clusters: int | None = None
    reason: str | None = None

    def row(self) -> EstimateRow:
        """The keys of the cell schema's ``scores`` that it decides."""
        row: EstimateRow = {
            "value": self.value,
            "stderr": self.stderr,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "ci_method": self.method,
        }
        if self.clusters is not None:
            row["clusters"] = self.clusters
        if self.reason is not None:
            row["reason"] = self.reason
        return row


def estimate(sample: Sample) -> Estimate:
    """The score with the interval that fits its documents, under the name that it has.

    Documents in groups are worth fewer than they are. Where every document is a group of its own,
    or all of them are one (a score of a single subject says how the model does on that subject),
    they count as independent.

    Raises:
        ValueError: without documents, or for lists without a statistic.
    """
    groups = len(set(sample.clusters or ()))
    if sample.clusters is not None and not 1 < groups < len(sample.clusters):
        sample = replace(sample, clusters=None)
    if not _numbers(sample):
        return _named(sample, "expanded bootstrap")
    binary = sample.share and all(value in (0.0, 1.0) for value in sample.values)
    if sample.clusters is None and sample.parts is None:
        if not binary:
            return _named(sample, "t")
        method = proportion_method(math.fsum(sample.values), len(sample.values))
        return _named(sample, method)
    if not binary:
        return _named(sample, "t")
    mean = _clustered(sample)
    if not mean.is_telling:
        return _named(sample, "t")  # which says why there is no interval
    n = mean.independent_documents()
    return _named(sample, proportion_method(mean.value * n, n))


def by_method(sample: Sample, name: str | None) -> Estimate:
    """The score with the interval of a name; without a name the score alone.

    Raises:
        ValueError: for a name that is not known, or one that does not fit the documents.
    """
    if name is None:
        return Estimate(_value(sample))
    method = name.removeprefix(CLUSTER).removesuffix(OVER_PARTS)
    if method not in _METHODS:
        raise ValueError(f"no interval is called {name!r}")
    # The plain bootstrap has been drawn within parts under the one name.
    if name.endswith(OVER_PARTS) and sample.parts is None:
        raise ValueError(f"{name!r} needs the parts of the documents")
    if not name.startswith(CLUSTER):
        sample = replace(sample, clusters=None)
    elif sample.clusters is None:
        raise ValueError(f"{name!r} needs the groups of the documents")
    return _METHODS[method](sample, name)


def _named(sample: Sample, method: str) -> Estimate:
    before = "" if sample.clusters is None else CLUSTER
    after = "" if sample.parts is None else OVER_PARTS
    return _METHODS[method](sample, f"{before}{method}{after}")


def _numbers(sample: Sample) -> bool:
    return all(isinstance(value, float) for value in sample.values)


def _value(sample: Sample) -> float:
    """The score alone."""
    if not _numbers(sample):
        return statistic_of(sample.values, _statistic(sample), sample.parts)
    if sample.parts is None:
        return math.fsum(sample.values) / len(sample.values)
    grouped: dict[str, list[float]] = {}
    for part, value in zip(sample.parts, sample.values, strict=True):
        grouped.setdefault(part, []).append(value)
    return math.fsum(math.fsum(v) / len(v) for v in grouped.values()) / len(grouped)


def _statistic(sample: Sample) -> Statistic:
    if sample.statistic is None:
        raise ValueError("the values are lists, and nothing says how they make a score")
    return sample.statistic


def _clustered(sample: Sample) -> ClusteredMean:
    """The mean with its error; a document without a group is one of its own."""
    clusters = range(len(sample.values)) if sample.clusters is None else sample.clusters
    return clustered_mean(sample.values, clusters, sample.parts)


def _too_few(sample: Sample, mean: ClusteredMean) -> str | None:
    """Why documents in groups or parts have no interval; None if they may have one."""
    if mean.stderr is None:
        return "a part has documents of a single group" if sample.clusters else "a single document"
    if sample.clusters is not None and not mean.is_telling:
        return (
            f"the documents come from {mean.groups} groups, which weigh as "
            f"{mean.effective_groups:.1f} of one size do; an interval needs {FEWEST}"
        )
    return None


def _t(sample: Sample, name: str) -> Estimate:
    value = _value(sample)
    if sample.clusters is None and sample.parts is None:
        error, degrees = standard_error(sample.values), float(len(sample.values) - 1)
        lacking, groups = None if error is not None else "a single document", None
    else:
        mean = _clustered(sample)
        error, degrees, lacking = mean.stderr, mean.degrees, _too_few(sample, mean)
        groups = None if sample.clusters is None else mean.groups
    if not lacking and not error:
        lacking = "all documents have the same value"
    if lacking or error is None:
        return Estimate(value, clusters=groups, reason=lacking)
    return Estimate(value, error, t_interval(value, error, degrees), name, groups)


def _proportion(method: str) -> Callable[[Sample, str], Estimate]:
    """The interval of a proportion, of so many documents as those are worth."""
    interval = PROPORTION_INTERVALS[method]

    def estimate_of(sample: Sample, name: str) -> Estimate:
        value, n = _value(sample), len(sample.values)
        if sample.clusters is None and sample.parts is None:
            error = standard_error(sample.values)
            return Estimate(value, error, interval(math.fsum(sample.values), n), name)
        mean = _clustered(sample)
        worth = mean.independent_documents()
        # Rounding of p × n must not put the score outside of its interval.
        low, high = interval(value * worth, worth)
        groups = None if sample.clusters is None else mean.groups
        return Estimate(value, mean.stderr, (min(low, value), max(high, value)), name, groups)

    return estimate_of


def _normal(sample: Sample, name: str) -> Estimate:
    """Of earlier records; the parts' errors are added as those of independent samples."""
    value = _value(sample)
    if sample.parts is None:
        error = standard_error(sample.values)
    else:
        grouped: dict[str, list[float]] = {}
        for part, number in zip(sample.parts, sample.values, strict=True):
            grouped.setdefault(part, []).append(number)
        errors = [standard_error(group) for group in grouped.values()]
        known = [e for e in errors if e is not None]
        total = math.sqrt(math.fsum(e**2 for e in known)) / len(errors)
        error = total if len(known) == len(errors) else None
    if error is None:
        return Estimate(value)
    return Estimate(value, error, normal_interval(value, error), name)


def _bootstrap(sample: Sample, name: str) -> Estimate:
    """Of earlier records: plain percentiles, over independent documents."""
    interval = bootstrap_interval(sample.values, _statistic(sample), strata=sample.parts)
    return _of_interval(sample, name, interval)


def _expanded(sample: Sample, name: str) -> Estimate:
    if sample.clusters is not None:
        ones = [1.0] * len(sample.values)  # only groups and parts are looked at
        mean = clustered_mean(ones, sample.clusters, sample.parts)
        if lacking := _too_few(sample, mean):
            return Estimate(_value(sample), clusters=mean.groups, reason=lacking)
    interval = expanded_bootstrap(
        sample.values, _statistic(sample), clusters=sample.clusters, strata=sample.parts
    )
    if interval is not None and not interval.stderr:
        return Estimate(_value(sample), reason="every resample has the same value")
    return _of_interval(sample, name, interval)


def _of_interval(sample: Sample, name: str, interval: Interval | None) -> Estimate:
    value = _value(sample)
    groups = None if sample.clusters is None else len(set(sample.clusters))
    if interval is None:
        return Estimate(value, clusters=groups, reason="a single document")
    return Estimate(value, interval.stderr, (interval.low, interval.high), name, groups)


_METHODS: dict[str, Callable[[Sample, str], Estimate]] = {
    "wilson": _proportion("wilson"),
    "clopper-pearson": _proportion("clopper-pearson"),
    "t": _t,
    "expanded bootstrap": _expanded,
    "normal": _normal,
    "bootstrap": _bootstrap,
}
