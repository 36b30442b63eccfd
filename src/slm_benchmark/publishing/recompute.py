"""A record's scores computed again from its documents' values: no model, no text, no harness.

Numbers have a mean. Lists are counts of a corpus metric (`slm_benchmark.tasks.corpus_metrics`), or
the marks of the several instructions of one prompt, of which the share over all prompts is the
score; `STATISTICS` has them. How sure a score is follows from the name of its interval
(`slm_benchmark.statistics.estimates`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from slm_benchmark.records.types import DocumentRow, Score, ScoreRecord
from slm_benchmark.statistics.bootstrap import Statistic
from slm_benchmark.statistics.estimates import Estimate, by_method, sample_of
from slm_benchmark.statistics.groups import GAP_METHOD, group_gap
from slm_benchmark.tasks.corpus_metrics import bleu, chrf


def share_of_all(values: Sequence[Sequence[float]]) -> float:
    """The share of ones among all items of all documents, which have several each."""
    items = [item for document in values for item in document]
    return sum(items) / len(items)


STATISTICS: dict[tuple[str, str], Statistic] = {
    ("flores", "chrf"): chrf,
    ("flores", "bleu"): bleu,
    ("ifeval", "inst_level_strict_acc"): share_of_all,
    ("ifeval", "inst_level_loose_acc"): share_of_all,
}
"""Harness task and metric → from the documents' lists to the score."""

_MT_BENCH = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
"""Categories of MT-Bench in the order of its 80 questions, ten each."""


class CannotRecompute(ValueError):
    """The documents do not say what a score follows from."""


def recompute(record: ScoreRecord, documents: Sequence[DocumentRow]) -> list[Score]:
    """The record's score rows as they follow from the documents.

    On the machine that wrote a record they are equal to it bit for bit. Other versions of numpy and
    scipy may differ in the last digits: compare floats with a relative tolerance of 1e-9.

    Args:
        record: A record of the schema ``cell``.
        documents: The per-document values beside it.

    Returns:
        For each of the record's rows, in their order: the row with ``value``, ``stderr``, ``ci95``,
        ``n``, ``missing`` and ``clusters`` computed again, and the other keys as they are. Then a
        row for each metric of the documents that the record has no row of, without an interval.

    Raises:
        CannotRecompute: when the documents do not say which group they are of, a metric's lists
            have no known statistic, or an interval has a name that is not known or does not fit.
    """
    rows = [_recomputed(row, record, documents) for row in record["scores"]]
    recorded = {(row["metric"], row["filter"], row.get("part")) for row in rows}
    return rows + [
        _recomputed(row, record, documents)
        for row in _expected(documents)
        if (row["metric"], row["filter"], row.get("part")) not in recorded
    ]


def _expected(documents: Sequence[DocumentRow]) -> Iterator[Score]:
    """The rows that every record of these documents has, with their names alone."""
    columns = dict.fromkeys(
        (metric, document["filter"], part)
        for document in documents
        for metric in document["values"]
        for part in dict.fromkeys((None, document.get("part")))
    )
    for metric, filter_name, part in columns:
        names = {"metric": metric, "filter": filter_name, "ci_method": None}
        yield cast(Score, names if part is None else {**names, "part": part})


def _recomputed(row: Score, record: ScoreRecord, documents: Sequence[DocumentRow]) -> Score:
    if row["ci_method"] == GAP_METHOD:
        return _gap(row, record, documents)
    metric = row["metric"]
    chosen = [
        document
        for document in _of_part(row.get("part"), record, documents)
        if document["filter"] == row["filter"] and metric in document["values"]
    ]
    known = [
        (document.get("part", ""), document["values"][metric], document.get("cluster"))
        for document in chosen
        if document["values"][metric] is not None
    ]
    missing = len(chosen) - len(known)
    if not chosen and row["value"] is None:
        # No document has the metric: all of them are missing.
        missing = len(documents)
    parts = {document.get("part", "") for document in chosen}
    estimate = None
    if known and {part for part, _, _ in known} == parts:
        estimate = _estimated(row, record, known)
    interval = None if estimate is None else estimate.ci95
    again: Score = {
        **row,
        "value": None if estimate is None else estimate.value,
        "stderr": None if estimate is None else estimate.stderr,
        "ci95": None if interval is None else list(interval),
        "n": len(known),
    }
    again.pop("missing", None)
    if missing:
        again["missing"] = missing
    if row["ci_method"] is not None or estimate is None:
        again.pop("clusters", None)
    if row["ci_method"] is not None and estimate is not None and estimate.clusters is not None:
        again["clusters"] = estimate.clusters
    return again


def _estimated(
    row: Score, record: ScoreRecord, known: Sequence[tuple[str, Any, str | None]]
) -> Estimate:
    """The row's numbers, by the interval that it names."""
    method = row["ci_method"]
    over_parts = row.get("combine") == "parts" or method == "normal over parts"
    statistic = STATISTICS.get((record["task"]["harness_task"], row["metric"]))
    share = record["task"].get("unit", "share") == "share"
    sample = sample_of(known, share, statistic, over_parts=over_parts)
    try:
        return by_method(sample, method)
    except ValueError as error:
        raise CannotRecompute(f"{row['metric']}: {error}") from error


def _of_part(
    part: str | None, record: ScoreRecord, documents: Sequence[DocumentRow]
) -> list[DocumentRow]:
    """The documents of a part or of a named group; all of them for the whole column."""
    if part is None:
        return list(documents)
    of_part = [document for document in documents if document.get("part") == part]
    if of_part:
        return of_part
    names = part.split("/")
    return [d for d in documents if _groups(d, record)[: len(names)] == names]


def _groups(document: DocumentRow, record: ScoreRecord) -> list[str]:
    """The names of a document's groups, from the widest to the narrowest."""
    if "group" in document:
        return list(document["group"])
    # Records before documents named their groups: the questions' own order says the category.
    whole = record["dataset"]["documents_total"] == 10 * len(_MT_BENCH)
    if record["task"]["harness_task"].startswith("mt_bench") and whole:
        return [_MT_BENCH[document["index"] // 10]]
    raise CannotRecompute("the documents do not say which group they are of")


def _gap(row: Score, record: ScoreRecord, documents: Sequence[DocumentRow]) -> Score:
    """The gap between the groups of a domain, as `group_gap` gives it."""
    metric = row["metric"].removesuffix("_gap")
    grouped: dict[str, list[float]] = {}
    for document in sorted(documents, key=lambda document: int(document["index"])):
        domain, group = _groups(document, record)
        value = document["values"].get(metric)
        if (document["filter"], domain) == (row["filter"], row["part"]) and value is not None:
            grouped.setdefault(group, []).append(value)
    gap = group_gap(dict(sorted(grouped.items())))
    if gap is None:
        raise CannotRecompute(f"{row['metric']}: fewer than two groups can be compared")
    return {
        **row,
        "value": gap.value,
        "stderr": gap.stderr,
        "ci95": list(gap.ci95),
        "n": gap.n,
        "chance": gap.expected_if_equal,
    }
