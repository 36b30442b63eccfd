"""From scored documents to a record's numbers: scores with intervals, checks, values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_bytes
from slm_benchmark.statistics.estimates import estimate, sample_of
from slm_benchmark.tasks.clusters import cluster_ids
from slm_benchmark.tasks.extra import GROUP_FIELDS, GROUP_SCORES

Value = float | list[float] | None
"""A document's value of a metric: a number, several (sufficient statistics), or missing."""


@dataclass(frozen=True)
class Measurement:
    """What came out of a measurement.

    Attributes:
        scores: The cell schema's ``scores``.
        checks: The cell schema's ``checks``.
        documents: Per-document values without text: hash, one value per metric, margin, and the
            groups that it belongs to, if any.
        samples: Per-document samples with text.
    """

    scores: list[dict[str, Any]]
    checks: dict[str, Any]
    documents: list[dict[str, Any]]
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """What is known of the answers apart from their texts.

    Attributes:
        truncated_contexts: Documents whose context was cut from the left.
        truncated_generations: Documents whose answer was cut at its limit; None where the engine
            does not tell.
    """

    truncated_contexts: int | None = None
    truncated_generations: int | None = None


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


def summarise(
    samples: list[dict[str, Any]], entry: Mapping[str, Any], parts: Sequence[Any], given: Given
) -> Measurement:
    """Scores with intervals, sanity checks and per-document values.

    Args:
        samples: What `score_documents` gave.
        entry: The task's entry in config/tasks.yaml.
        parts: The loaded parts.
        given: What is known of the answers.

    Raises:
        UserError: when the task does not give the entry's metric.
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
        checks=sanity_checks(samples, headline, entry, given),
        documents=[compact(sample, entry["kind"]) for sample in samples],
        samples=[plain_sample(sample) for sample in samples],
    )


def with_groups(
    samples: Sequence[dict[str, Any]], entry: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The samples with what tells where their documents belong.

    ``cluster`` is the group within which documents are not independent, for a task with the key of
    that name; see `cluster_ids`. ``group`` has the names under which `GROUP_SCORES` compares them.
    """
    found = list(samples)
    if fields := GROUP_FIELDS.get(entry["harness_task"]):
        found = [{**s, "group": [str(s["doc"][name]) for name in fields]} for s in found]
    clusters = cluster_ids(found, entry["cluster"]) if "cluster" in entry else None
    if clusters is None:
        return found
    return [
        sample if cluster is None else {**sample, "cluster": cluster}
        for sample, cluster in zip(found, clusters, strict=True)
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
    samples: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], parts: Sequence[Any]
) -> list[dict[str, Any]]:
    """The cell schema's ``scores``: for each filter and metric the column's, then its parts'."""
    tasks = {part.name: part.task for part in parts}
    found: dict[tuple[str, str], _Values] = {}
    for sample in samples:
        for metric, value in sample["values"].items():
            key = (sample["filter"], metric)
            if key not in found:
                how = tasks[sample["part"]].aggregation().get(metric)
                share = entry.get("unit", "share") == "share"
                found[key] = _Values(metric, sample["filter"], how, share)
            group = found[key].by_part.setdefault(sample["part"], [])
            group.append((_plain_value(value), sample.get("cluster")))
    rows = []
    for values in found.values():
        of_parts = [_row(values, [part], "documents", part) for part in values.by_part if part]
        whole = _row(values, list(values.by_part), entry.get("combine", "documents"), None)
        named = (values.metric, values.filter) == (entry["metric"], entry.get("filter", "none"))
        whole |= {"headline": named, "chance": _chance(samples, entry) if named else None}
        rows += [whole, *of_parts]
    return rows


def _empty_row(entry: Mapping[str, Any], missing: int) -> dict[str, Any]:
    """The column's score where no document has a value."""
    nothing = dict.fromkeys(("value", "stderr", "ci95", "ci_method", "chance"))
    named = {"metric": entry["metric"], "filter": entry.get("filter", "none")}
    return {**named, **nothing, "n": 0, "missing": missing, "headline": True}


def _row(values: _Values, parts: Sequence[str], combine: str, name: str | None) -> dict[str, Any]:
    """One score: over all documents of the parts, or the mean of the parts' own scores."""
    known = [(p, v, c) for p in parts for v, c in values.by_part[p] if v is not None]
    missing = sum(len(values.by_part[part]) for part in parts) - len(known)
    over_parts = combine == "parts" and len(parts) > 1
    nothing = dict.fromkeys(("value", "stderr", "ci95", "ci_method"))
    # A part without a value would be missing from the mean without a word.
    complete = len({part for part, _, _ in known}) == len(parts)
    sample = sample_of(known, values.is_share, values.aggregation, over_parts=over_parts)
    return {
        "metric": values.metric,
        "filter": values.filter,
        **({} if name is None else {"part": name}),
        **({"combine": "parts"} if over_parts else {}),
        **(estimate(sample).row() if complete else nothing),
        "n": len(known),
        **({"missing": missing} if missing else {}),
        "chance": None,
        "headline": False,
    }


def _chance(samples: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> float | None:
    """The score that a guesser is expected to get: the entry's, or from the documents' options."""
    if entry["chance"] != "options":
        return None if entry["chance"] is None else float(entry["chance"])
    options = [len(sample["arguments"]) for sample in samples]
    return math.fsum(1 / n for n in options) / len(options)


def sanity_checks(
    samples: Sequence[Mapping[str, Any]],
    headline: Mapping[str, Any],
    entry: Mapping[str, Any],
    given: Given,
) -> dict[str, Any]:
    """What a reader should know beside a score."""
    group = [s for s in samples if s["filter"] == entry.get("filter", "none")]
    generated = entry["kind"] == "generate"
    interval, chance = headline["ci95"], headline["chance"]

    def empty(sample: Mapping[str, Any]) -> bool:
        response = sample["resps"][0][0]
        turns = json.loads(response) if entry.get("conversation") else [response]
        return not all(turn.strip() for turn in turns)

    return {
        "truncated_contexts": given.truncated_contexts,
        "truncated_generations": given.truncated_generations if generated else None,
        "empty_generations": sum(map(empty, group)) if generated else None,
        "unparsed": sum(map(_is_unparsed, group))
        + (headline.get("missing", 0) if entry.get("judged") else 0)
        if generated
        else None,
        "at_chance": None
        if interval is None or chance is None
        else interval[0] <= chance <= interval[1],
    }


def _is_unparsed(sample: Mapping[str, Any]) -> bool:
    """Whether the filter found no answer in the text; the harness writes it so."""
    return bool(sample["filtered_resps"][0] == "[invalid]")


def compact(sample: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A document's values without its text.

    The margin is how far the right choice lies above the best wrong one, in nats; null for
    generated answers.
    """
    margin = None
    target = sample["target"]
    options = len(sample["filtered_resps"])
    if kind == "loglikelihood" and isinstance(target, Integral) and 0 <= int(target) < options:
        sums = [float(response[0]) for response in sample["filtered_resps"]]
        right = sums.pop(int(target))
        margin = round(right - max(sums), 6) if sums else None
    return {
        "document": sample["doc_hash"],
        "index": sample["doc_id"],
        **_part(sample),
        **{key: sample[key] for key in ("cluster", "group") if key in sample},
        "filter": sample["filter"],
        "values": {metric: _plain_value(value) for metric, value in sample["values"].items()},
        "margin": margin,
    }


def plain_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A document's sample as JSON values, with prompts and answers."""
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


def _part(sample: Mapping[str, Any]) -> dict[str, str]:
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


def plain_response(response: Any) -> Any:
    """A response as the harness keeps it, as JSON values."""
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
