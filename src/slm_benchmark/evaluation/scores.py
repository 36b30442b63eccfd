"""From scored documents to a record's numbers: scores with intervals, checks, values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from slm_benchmark.catalog.types import Task
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_bytes
from slm_benchmark.records.types import Checks, DocumentRow, Interval, Score
from slm_benchmark.statistics.estimates import estimate, sample_of
from slm_benchmark.tasks.clusters import cluster_ids
from slm_benchmark.tasks.extra import GROUP_FIELDS, GROUP_SCORES

if TYPE_CHECKING:
    from slm_benchmark.tasks.loader import TaskPart
    from slm_benchmark.tasks.requests import ScoredDocument

Plain = float | str | bool | list["Plain"]
"""A JSON value of a response."""

Value = float | list[float] | None
"""A document's value of a metric: a number, several (sufficient statistics), or missing."""


@dataclass(frozen=True)
class Measurement:
    """The numbers of a measurement.

    Attributes:
        scores: The cell schema's ``scores``.
        checks: The cell schema's ``checks``.
        documents: Per-document values without text: hash, one value per metric, margin, and the
            groups that it belongs to, if any.
        samples: Per-document samples with text.
    """

    scores: list[Score]
    checks: Checks
    documents: list[DocumentRow]
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Truncated:
    """Numbers of documents of which something was cut.

    Attributes:
        contexts: Documents whose context was cut from the left.
        generations: Documents with a generation that was cut at its limit; None where the engine
            does not report it.
    """

    contexts: int | None = None
    generations: int | None = None


NOTHING = Measurement(
    scores=[],
    checks={
        "truncated_contexts": None,
        "truncated_generations": None,
        "empty_generations": None,
        "unparsed": None,
        "at_chance": None,
    },
    documents=[],
    samples=[],
)


def summarize(
    samples: Sequence[ScoredDocument], entry: Task, parts: Sequence[TaskPart], truncated: Truncated
) -> Measurement:
    """Scores with intervals, sanity checks and per-document values.

    Args:
        samples: What `score_documents` returned.
        entry: The task's entry in config/tasks.yaml.
        parts: The loaded parts.
        truncated: Numbers of cut documents.

    Raises:
        UserError: when the task does not have the entry's metric.
    """
    samples = with_groups(samples, entry)
    scores = score_rows(samples, entry, parts)
    if not scores:
        # No document of a subset has the metric, such as a reference to be compared with.
        scores = [_empty_row(entry, len(samples))]
    headline = next((score for score in scores if score["headline"]), None)
    if headline is None:
        named = f"{entry['metric']!r} after the filter {entry.get('filter', 'none')!r}"
        raise UserError(
            f"the harness gave no metric {named}",
            file="config/tasks.yaml",
            field="metric",
            value=entry["metric"],
            fix="use one of " + ", ".join(f"{s['metric']} ({s['filter']})" for s in scores),
        )
    if group_scores := GROUP_SCORES.get(entry["harness_task"]):
        scores += group_scores(samples)
    return Measurement(
        scores=scores,
        checks=sanity_checks(samples, headline, entry, truncated),
        documents=[compact(sample, entry["kind"]) for sample in samples],
        samples=[plain_sample(sample) for sample in samples],
    )


def with_groups(samples: Sequence[ScoredDocument], entry: Task) -> list[ScoredDocument]:
    """The samples with the groups that their documents belong to.

    ``cluster`` is the group within which documents are not independent, for a task with the key of
    that name; see `cluster_ids`. ``group`` has the names under which `GROUP_SCORES` compares them.
    """
    grouped = list(samples)
    if fields := GROUP_FIELDS.get(entry["harness_task"]):
        grouped = [{**s, "group": [str(s["doc"][name]) for name in fields]} for s in grouped]
    clusters = cluster_ids(grouped, entry["cluster"]) if "cluster" in entry else None
    if clusters is None:
        return grouped
    return [
        sample if cluster is None else {**sample, "cluster": cluster}
        for sample, cluster in zip(grouped, clusters, strict=True)
    ]


@dataclass
class _Values:
    """The values of one metric after one filter, by part, and the groups of their documents."""

    metric: str
    filter: str
    aggregation: Any
    is_share: bool
    by_part: dict[str, list[tuple[Value, str | None]]] = field(default_factory=dict)


def score_rows(
    samples: Sequence[ScoredDocument], entry: Task, parts: Sequence[TaskPart]
) -> list[Score]:
    """The cell schema's ``scores``: for each filter and metric the column's, then its parts'."""
    tasks = {part.name: part.task for part in parts}
    metrics: dict[tuple[str, str], _Values] = {}
    for sample in samples:
        for metric, value in sample["values"].items():
            key = (sample["filter"], metric)
            if key not in metrics:
                how = tasks[sample["part"]].aggregation().get(metric)
                share = entry.get("unit", "share") == "share"
                metrics[key] = _Values(metric, sample["filter"], how, share)
            group = metrics[key].by_part.setdefault(sample["part"], [])
            group.append((_plain_value(value), sample.get("cluster")))
    rows = []
    for values in metrics.values():
        of_parts = [_row(values, [part], "documents", part) for part in values.by_part if part]
        whole = _row(values, list(values.by_part), entry.get("combine", "documents"), None)
        if (values.metric, values.filter) == (entry["metric"], entry.get("filter", "none")):
            whole["headline"], whole["chance"] = True, _chance(samples, entry)
        rows += [whole, *of_parts]
    return rows


def _empty_row(entry: Task, missing: int) -> Score:
    """The column's score where no document has a value."""
    return {
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "value": None,
        "stderr": None,
        "ci95": None,
        "ci_method": None,
        "chance": None,
        "n": 0,
        "missing": missing,
        "headline": True,
    }


class _Estimate(TypedDict):
    """What a score has in common with an `EstimateRow`, or with none."""

    value: float | None
    stderr: float | None
    ci95: Interval | None
    ci_method: str | None
    clusters: NotRequired[int]
    reason: NotRequired[str]


_NO_ESTIMATE: _Estimate = {"value": None, "stderr": None, "ci95": None, "ci_method": None}


class _Optional(TypedDict, total=False):
    """Keys that some scores lack."""

    part: str
    combine: Literal["parts"]
    missing: int


def _row(values: _Values, parts: Sequence[str], combine: str, name: str | None) -> Score:
    """One score: over all documents of the parts, or the mean of the scores of the parts."""
    known = [(p, v, c) for p in parts for v, c in values.by_part[p] if v is not None]
    missing = sum(len(values.by_part[part]) for part in parts) - len(known)
    over_parts = combine == "parts" and len(parts) > 1
    # A part without a value would be missing from the mean without a word.
    complete = len({part for part, _, _ in known}) == len(parts)
    sample = sample_of(known, values.is_share, values.aggregation, over_parts=over_parts)
    optional: _Optional = {}
    if name is not None:
        optional["part"] = name
    if over_parts:
        optional["combine"] = "parts"
    estimated: _Estimate = {**estimate(sample).row()} if complete else _NO_ESTIMATE
    absent: _Optional = {"missing": missing} if missing else {}
    return {
        "metric": values.metric,
        "filter": values.filter,
        **optional,
        **estimated,
        "n": len(known),
        **absent,
        "chance": None,
        "headline": False,
    }


def _chance(samples: Sequence[ScoredDocument], entry: Task) -> float | None:
    """The score that a guesser is expected to get: the entry's, or from the documents' options."""
    chance = entry["chance"]
    if chance != "options":
        return None if chance is None else float(chance)
    options = [len(sample["arguments"]) for sample in samples]
    return math.fsum(1 / n for n in options) / len(options)


def sanity_checks(
    samples: Sequence[ScoredDocument],
    headline: Score,
    entry: Task,
    truncated: Truncated,
) -> Checks:
    """The records' ``checks``: counts of documents that something went wrong with."""
    group = [s for s in samples if s["filter"] == entry.get("filter", "none")]
    generated = entry["kind"] == "generate"
    interval, chance = headline["ci95"], headline["chance"]

    def empty(sample: ScoredDocument) -> bool:
        response = sample["resps"][0][0]
        turns = json.loads(response) if entry.get("conversation") else [response]
        return not all(turn.strip() for turn in turns)

    return {
        "truncated_contexts": truncated.contexts,
        "truncated_generations": truncated.generations if generated else None,
        "empty_generations": sum(map(empty, group)) if generated else None,
        "unparsed": sum(map(_is_unparsed, group))
        + (headline.get("missing", 0) if entry.get("judged") else 0)
        if generated
        else None,
        "at_chance": None
        if interval is None or chance is None
        else interval[0] <= chance <= interval[1],
    }


def _is_unparsed(sample: ScoredDocument) -> bool:
    """Whether the filter matched no answer in the text; the harness writes it so."""
    return bool(sample["filtered_resps"][0] == "[invalid]")


def compact(sample: ScoredDocument, kind: str) -> DocumentRow:
    """A document's values without its text.

    The margin is how far the right choice lies above the best wrong one, in nats; null for
    generations.
    """
    margin = None
    target = sample["target"]
    options = len(sample["filtered_resps"])
    if kind == "loglikelihood" and isinstance(target, Integral) and 0 <= int(target) < options:
        sums = [float(response[0]) for response in sample["filtered_resps"]]
        right = sums.pop(int(target))
        margin = round(right - max(sums), 6) if sums else None
    optional: _Membership = {}
    if sample["part"]:
        optional["part"] = sample["part"]
    if "cluster" in sample:
        optional["cluster"] = sample["cluster"]
    if "group" in sample:
        optional["group"] = sample["group"]
    return {
        "document": sample["doc_hash"],
        "index": sample["doc_id"],
        **optional,
        "filter": sample["filter"],
        "values": {metric: _plain_value(value) for metric, value in sample["values"].items()},
        "margin": margin,
    }


class _Membership(TypedDict, total=False):
    """Part, cluster and groups of a document, each where it has one."""

    part: str
    cluster: str
    group: list[str]


def plain_sample(sample: ScoredDocument) -> dict[str, Any]:
    """A document's sample as JSON values, with prompts and responses."""
    return {
        "index": sample["doc_id"],
        **_part(sample),
        "filter": sample["filter"],
        "document": sample["doc_hash"],
        "target": str(sample["target"]),
        "prompts": [[str(part) for part in argument] for argument in sample["arguments"]],
        "responses": [plain_response(r) for response in sample["resps"] for r in response],
        "answers": [plain_response(response) for response in sample["filtered_resps"]],
        "values": {metric: _plain_value(value) for metric, value in sample["values"].items()},
    }


def _part(sample: ScoredDocument) -> dict[str, str]:
    return {"part": sample["part"]} if sample["part"] else {}


def _plain_value(value: Any) -> Value:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return _finite(value)


def _finite(value: Any) -> float:
    """A number that JSON has.

    Raises:
        ValueError: for NaN and infinity.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the model or the task gave {number} where a number is needed")
    return number


def plain_response(response: Any) -> Plain:
    """A response of the harness as JSON values."""
    if isinstance(response, tuple | list):
        return [plain_response(part) for part in response]
    if isinstance(response, str | bool):
        return response
    return _finite(response)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Write rows as parquet: some keys as columns, each whole row as JSON text in ``sample``.

    Args:
        path: The file.
        rows: JSON objects.
        keys: The keys that become columns, numbers or texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    types = {"index": pa.int64()}
    columns = {
        key: pa.array([row.get(key) for row in rows], type=types.get(key, pa.string()))
        for key in keys
    }
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    table = pa.table({**columns, "sample": pa.array(texts, type=pa.string())})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    atomic_write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_table` wrote."""
    import pyarrow.parquet as pq

    return [
        json.loads(text) for text in pq.read_table(path, columns=["sample"])["sample"].to_pylist()
    ]
