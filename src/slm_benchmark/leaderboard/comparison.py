"""Two scores of a task compared on the documents that both have, such as base and variant."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from scipy.special import erfc, ndtri

from slm_benchmark.catalog.types import Task
from slm_benchmark.common.files import read_json
from slm_benchmark.records.store import documents_file
from slm_benchmark.records.types import DocumentRow, ReportTask, ScoreRecord
from slm_benchmark.statistics.bootstrap import bootstrap_interval, estimate, of_totals
from slm_benchmark.statistics.paired import Paired, compare_paired
from slm_benchmark.statistics.power import (
    ALPHA,
    POWER,
    smallest_detectable_loss,
    smallest_detectable_shift,
)
from slm_benchmark.tasks.corpus_metrics import bleu, chrf

ScoreRun = tuple[Path, ScoreRecord]
"""A score and the file that it was read from; its documents lie beside it."""

DocumentKey = tuple[str, str, int]
"""Part ("" where the task has none), hash and index of a document."""

CORPUS_METRICS = {"chrf": chrf, "bleu": bleu}
"""Metrics of which a document has statistics, not a value of its own."""


@dataclass(frozen=True)
class Shared:
    """The values of two records on the documents that both have.

    Attributes:
        keys: The documents.
        first: Their values in the base's record.
        second: Their values in the variant's record.
        clusters: The cluster of each, itself where it has none.
        available: Documents with a value in either record.
    """

    keys: list[DocumentKey]
    first: list[Any]
    second: list[Any]
    clusters: list[Any]
    available: tuple[int, int]


@dataclass(frozen=True)
class Difference:
    """A variant's score against its base's; more is better in ``first``, ``second`` and below.

    Attributes:
        n: Shared documents.
        first: The base's score.
        second: The variant's score.
        difference: ``second − first``.
        ci95: Its interval; None where there is none.
        ci_method: The interval's method.
        p: Two-sided p-value of no difference; None where there is none.
        p_method: The test.
        lost: Documents that got worse; None for a corpus metric.
        gained: Documents that got better; None for a corpus metric.
        detectable: Smallest loss that the test detects; None where it detects none.
    """

    n: int
    first: float
    second: float
    difference: float
    ci95: tuple[float, float] | None
    ci_method: str | None
    p: float | None
    p_method: str | None
    lost: int | None
    gained: int | None
    detectable: float | None


# ── documents ──


def outcomes(path: Path, record: ScoreRecord) -> dict[DocumentKey, float]:
    """The value of each document of a score, in the column's metric after its filter.

    Documents without a value are left out, and all those of a corpus metric, which has values of
    whole sets only.

    Args:
        path: The record's file; its documents lie beside it.
        record: A score.
    """
    return {
        key: float(value)
        for key, value, _ in _with_values(path, record)
        if not isinstance(value, list)
    }


def _documents(path: Path, record: ScoreRecord) -> dict[DocumentKey, tuple[Any, Any]]:
    """Value and cluster of each document that has a value."""
    return {key: (value, row.get("cluster", key)) for key, value, row in _with_values(path, record)}


def _with_values(path: Path, record: ScoreRecord) -> Iterator[tuple[DocumentKey, Any, DocumentRow]]:
    """Key, value and entry of each document that has a value."""
    metric, filter_name = record["task"]["metric"], record["task"]["filter"]
    for row in read_json(documents_file(path)):
        if row["filter"] == filter_name and (value := row["values"].get(metric)) is not None:
            yield (row.get("part", ""), row["document"], row["index"]), value, row


def shared_documents(base: ScoreRun, variant: ScoreRun) -> Shared:
    """The documents of which both records have a value, in one order."""
    first, second = _documents(*base), _documents(*variant)
    keys = sorted(first.keys() & second.keys())
    return Shared(
        keys=keys,
        first=[first[key][0] for key in keys],
        second=[second[key][0] for key in keys],
        clusters=[first[key][1] for key in keys],
        available=(len(first), len(second)),
    )


def incomparable_reason(base: ScoreRun, variant: ScoreRun) -> str | None:
    """Why two scores must not be compared document by document; None where they can be.

    Under one version of a protocol, the numbers of documents may differ: those that both have are
    compared.
    """
    for name, (path, record) in (("base", base), ("variant", variant)):
        if record["state"] != "ok":
            return f"the {name}'s score is {record['state'].replace('_', ' ')}"
        if not documents_file(path).exists():
            return f"the {name}'s values of single documents are missing"
    first, second = (cast(Mapping[str, Any], record) for _, record in (base, variant))
    unlike = (
        ("model", "sha256", "the variant was made from another base"),
        ("dataset", "sha256", "the dataset's bytes differ"),
        ("task", "config_sha256", "the task's configuration differs"),
        ("task", "metric", "the metric differs"),
        ("task", "filter", "the filter of answers differs"),
        ("protocol", "id", "the protocol differs"),
        ("protocol", "version", "the protocol's version differs"),
    )
    for block, key, reason in unlike:
        if first[block][key] != second[block][key]:
            return f"{reason}: measure both again"
    same_number = first["dataset"]["documents"] == second["dataset"]["documents"]
    if same_number and first["protocol"]["sha256"] != second["protocol"]["sha256"]:
        return "the protocol's choices changed without a new version: measure both again"
    return None


# ── one difference ──


def compare_task(shared: Shared, entry: Task, metric: str) -> Difference:
    """Compare the scores of a task on shared documents.

    Args:
        shared: At least one document.
        entry: The task's entry in the catalogue.
        metric: The column's metric.
    """
    parts = [key[0] for key in shared.keys]
    by_parts = entry.get("combine") == "parts" and len(set(parts)) > 1
    if metric in CORPUS_METRICS:
        return _corpus_difference(shared, metric, parts if by_parts else None)
    first, second = oriented(shared, entry)
    span = span_of(entry)
    sizes = Counter(parts)
    if by_parts and len(set(sizes.values())) > 1:
        # Each part counts the same, so a document of a small one counts more.
        weights = [len(parts) / (len(sizes) * sizes[part]) for part in parts]
        first = [w * value for w, value in zip(weights, first, strict=True)]
        second = [w * value for w, value in zip(weights, second, strict=True)]
        span *= max(weights)
    return difference_of(compare_paired(first, second, clusters=shared.clusters, span=span), span)


def difference_of(paired: Paired, span: float) -> Difference:
    """A paired comparison with the smallest loss that its test detects.

    Args:
        paired: The comparison; more is better.
        span: Largest minus smallest value that a document can have.
    """
    names = ("n", "first", "second", "difference", "ci95", "ci_method", "p", "p_method")
    numbers = {name: getattr(paired, name) for name in (*names, "lost", "gained")}
    return Difference(**numbers, detectable=_detectable(paired, span))


def _detectable(paired: Paired, span: float) -> float | None:
    """Smallest loss that the test of ``paired`` detects, in the unit of its values."""
    if paired.p is None:
        return None
    effective = max(1, int(paired.n / paired.design_effect))
    if paired.p_method == "t" and paired.sd:
        return smallest_detectable_shift(effective, paired.sd)
    loss = smallest_detectable_loss(effective, paired.turnover / span)
    return None if loss is None else span * loss


def _corpus_difference(shared: Shared, metric: str, strata: Sequence[str] | None) -> Difference:
    """Compare a corpus metric by drawing the same documents for both sides.

    Source: P. Koehn, EMNLP 2004, https://aclanthology.org/W04-3250.
    """
    function = CORPUS_METRICS[metric].function
    width = len(shared.first[0])

    @of_totals
    def gain(totals: Any, n: int) -> float:
        return function(totals[width:], n) - function(totals[:width], n)

    both = [[*one, *other] for one, other in zip(shared.first, shared.second, strict=True)]
    value = estimate(both, gain, strata)
    interval = bootstrap_interval(both, gain, strata=strata)
    p = detectable = None
    if interval and interval.stderr:
        p = float(erfc(abs(value) / interval.stderr / math.sqrt(2)))
        detectable = float(ndtri(1 - ALPHA / 2) + ndtri(POWER)) * interval.stderr
    return Difference(
        n=len(shared.keys),
        first=estimate(shared.first, CORPUS_METRICS[metric], strata),
        second=estimate(shared.second, CORPUS_METRICS[metric], strata),
        difference=value,
        ci95=(interval.low, interval.high) if p is not None and interval else None,
        ci_method="paired bootstrap" if p is not None else None,
        p=p,
        p_method="paired bootstrap" if p is not None else None,
        lost=None,
        gained=None,
        detectable=detectable,
    )


def oriented(shared: Shared, entry: Task) -> tuple[list[float], list[float]]:
    """Values of both sides of which more is better."""
    if entry.get("higher_is_better", True):
        return shared.first, shared.second
    span = span_of(entry)
    return [span - v for v in shared.first], [span - v for v in shared.second]


def span_of(entry: Task) -> float:
    """Largest minus smallest value that a document of a task can have."""
    return 1.0 if is_share(entry) else float(entry.get("best", 0)) or 100.0


def is_share(entry: Task | ReportTask) -> bool:
    """Whether a task's scores are shares of one, and not points."""
    return bool(entry.get("unit", "share") == "share")
