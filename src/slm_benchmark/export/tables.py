"""The tidy tables: which columns they have, and the rows that a record gives.

A row is one measured value with all that says what it is of. Nothing here holds the text of a
document, a prompt or an answer.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from slm_benchmark.common.files import canonical_json
from slm_benchmark.leaderboard.board import Kind, columns
from slm_benchmark.records.store import read_documents
from slm_benchmark.records.types import (
    FidelityMetric,
    FidelityRecord,
    MeasuredRecord,
    NoiseRecord,
    ScoreRecord,
)

Row = dict[str, Any]
"""Column → cell, of whatever kind."""

UNITS = {
    "_tokens_per_s": "tokens/s",
    "_mwh_per_token": "mWh/token",
    "_bytes": "bytes",
    "_nats": "nats",
    "_ms": "ms",
    "_s": "s",
    "_w": "W",
}
"""Ending of a metric's name → its unit; the first that fits counts."""

SHARES = ("mbu", "mfu", "top_token_agreement")
"""Metrics that are shares of one."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name, with the unit where it has one.
        kind: What its values are; every one can be missing.
        about: What they mean.
        source: Dotted path in the record; empty where `Table.rows` gives the value.
    """

    name: str
    kind: Kind
    about: str
    source: str = ""


@dataclass(frozen=True)
class Table:
    """A table: ``rows`` gives, for a record and its path, the cells that the record does not.

    Attributes:
        kind: Of which records.
        about: What a row is.
        columns: In order.
        rows: One mapping of the columns without a source for each row.
        as_csv: Whether it is written as CSV too; not where it is long.
    """

    kind: str
    about: str
    columns: tuple[Column, ...]
    rows: Callable[[Path, Any], Iterator[Row]]
    as_csv: bool = True


@dataclass(frozen=True)
class Entry:
    """A record of the store.

    Attributes:
        path: Its file.
        name: Its place in the store, such as ``results/{model}/…/{run_id}.json``.
        current: Whether it stands for its cell.
        record: Its content, checked.
    """

    path: Path
    name: str
    current: bool
    record: MeasuredRecord


RUN = (
    Column("record", "text", "The record's file, from the repository's root.", "record"),
    Column("run_id", "text", "Name of that file: when it began, and what came out.", "run_id"),
    Column("result_sha256", "text", "Digest of all that was measured.", "result_sha256"),
    Column("current", "flag", "Whether it stands for its cell; earlier runs are kept.", "current"),
)
_FIELDS = {field.name: field for column in columns((), ()) for field in column.fields}


def _of_board(name: str, source: str) -> Column:
    """A column that means what the leaderboard's of the same name means."""
    return Column(name, _FIELDS[name].kind, _FIELDS[name].about, source)


CELL = tuple(_of_board(name, f"{name}.id") for name in ("model", "variant", "hardware", "protocol"))
EVIDENCE = (
    Column("label", "text", "The protocol's name where it is not ranked.", "label"),
    Column("state", "text", "ok, failed, not_run or not_applicable.", "state"),
    Column("reason", "text", "Why there is no result; the type of an error.", "reason"),
    _of_board("model_name", "model.name"),
    Column("model_repo", "text", "The model's repository on the hub.", "model.repo"),
    Column("model_revision", "text", "Commit of the weights, where known.", "model.revision"),
    Column("model_source", "text", "Where the weights came from.", "model.source.type"),
    Column(
        "dequantised_from",
        "text",
        "Format that the base weights were dequantized from, if they were.",
        "model.source.dequantised_from",
    ),
    Column("model_sha256", "text", "Digest of the base model's files.", "model.sha256"),
    Column("variant_sha256", "text", "Digest of the variant's files.", "variant.sha256"),
    Column("variant_method", "text", "How the variant was made.", "variant.method"),
    _of_board("effective_bits_per_weight", "variant.effective_bits_per_weight"),
    _of_board("size_bytes", "variant.size_bytes"),
    Column("protocol_version", "integer", "Version of the protocol.", "protocol.version"),
    Column("protocol_sha256", "text", "Digest of its measured choices.", "protocol.sha256"),
    _of_board("engine", "engine.name"),
    Column("engine_version", "text", "Its version.", "engine.version"),
    _of_board("kernel", "engine.kernel"),
    Column("dtype", "text", "Number format of weights and cache.", "engine.dtype"),
    Column("threads", "integer", "CPU threads.", "engine.threads"),
    _of_board("hardware_fingerprint", "hardware.fingerprint"),
    Column(
        "lock_sha256", "text", "Digest of the locked package versions.", "environment.lock_sha256"
    ),
    Column(
        "workflow_sha256",
        "text",
        "Digest of the files that decide a measurement.",
        "workflow.sha256",
    ),
    Column("commit", "text", "Commit of those files.", "workflow.commit"),
    Column("started", "time", "When the measurement began.", "started"),
    Column("duration_s", "number", "How long it took, in seconds.", "duration_s"),
)
TASK = (
    Column("task", "text", "Task, by its id in config/tasks.yaml.", "task.id"),
    Column("dataset", "text", "Dataset, by its id in config/datasets.yaml.", "dataset.id"),
    Column("dataset_sha256", "text", "Digest of the prepared dataset.", "dataset.sha256"),
)
TASK_EVIDENCE = (
    Column("dataset_source", "text", "hub, package, local or generated.", "dataset.source"),
    Column("dataset_revision", "text", "Commit, or package and version.", "dataset.revision"),
    Column("split", "text", "Split that the documents are of.", "dataset.split"),
    Column("documents", "integer", "Documents that were scored.", "dataset.documents"),
    Column("documents_total", "integer", "Documents in the split.", "dataset.documents_total"),
    Column("harness_task", "text", "Name of the task in lm_eval.", "task.harness_task"),
    Column("task_version", "text", "Version that lm_eval gives it.", "task.version"),
    Column("task_config_sha256", "text", "Digest of its configuration.", "task.config_sha256"),
    Column("num_fewshot", "integer", "Few-shot examples before each question.", "task.num_fewshot"),
    Column(
        "chat_template_sha256",
        "text",
        "Digest of the chat template; missing where none was applied.",
        "task.chat_template_sha256",
    ),
    Column("lm_eval", "text", "Version of lm_eval.", "environment.packages.lm-eval"),
)
VALUE = (
    Column("value", "number", "The value; missing where there is none."),
    Column("ci95_low", "number", "Lower end of its 95 % interval."),
    Column("ci95_high", "number", "Upper end of its 95 % interval."),
)
METRIC = (
    Column("metric", "text", "Name of the quantity."),
    Column("unit", "text", "Its unit, from its name; share: of one."),
    *VALUE,
    Column("value_reason", "text", "Why the value is missing."),
)


def build_rows(table: Table, entry: Entry) -> Iterator[Row]:
    """The rows of one record, each with every column of ``table``."""
    record = entry.record
    shared = {**record, "record": entry.name, "run_id": entry.path.stem, "current": entry.current}
    shared["reason"] = reason(record)
    fixed = {c.name: _typed(_look_up(shared, c.source), c.kind) for c in table.columns if c.source}
    computed = [column for column in table.columns if not column.source]
    for cells in table.rows(entry.path, record):
        yield fixed | {c.name: _typed(cells.get(c.name), c.kind) for c in computed}


def reason(record: Mapping[str, Any]) -> str | None:
    """Why a record has no result, in words that hold nothing of a document.

    An error's message can quote what broke it, so its type alone is given.
    """
    if record.get("error"):
        return str(record["error"]["type"])
    why: str | None = record.get("reason")
    return why


def unit_of(metric: str) -> str | None:
    """The unit that a metric's name ends in; ``share``, or None for a plain number."""
    if metric in SHARES:
        return "share"
    return next((unit for ending, unit in UNITS.items() if metric.endswith(ending)), None)


def _look_up(record: Mapping[str, Any], source: str) -> Any:
    """The value at a dotted path, None where the record lacks it."""
    value: Any = record
    for name in source.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _typed(value: Any, kind: Kind) -> Any:
    """A JSON value as a column's kind; an empty text counts as missing, as CSV cannot tell."""
    if value is None or value == "":
        return None
    if kind == "time":
        return datetime.datetime.fromisoformat(value).astimezone(datetime.UTC)
    kinds: dict[str, Callable[[Any], Any]] = {
        "text": str,
        "number": float,
        "integer": int,
        "flag": bool,
    }
    return kinds[kind](value)


def interval_ends(name: str, interval: list[float] | None) -> Row:
    """The cells of an interval's ends: ``{name}_low`` and ``{name}_high``."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _score_rows(path: Path, record: ScoreRecord) -> Iterator[Row]:
    """One row for each score; one without a value where a record has none."""
    task = record["task"]
    nothing: Any = {"metric": task["metric"], "filter": task["filter"], "headline": True}
    shared: Row = {"unit": task.get("unit", "share")}
    if record.get("scoring"):
        shared["scoring"] = canonical_json(record["scoring"])
    for score in record["scores"] or [nothing]:
        why = {"interval_reason": score.get("reason")}
        yield {**score, **shared, **why, **interval_ends("ci95", score.get("ci95"))}


def _performance_rows(path: Path, record: Any) -> Iterator[Row]:
    """One row for each metric at the reference point, and at every other point of the grid."""
    processes = record["raw"].get("processes")
    # In version 1 the only process's repetitions are the whole of ``raw``.
    reference = processes[0]["points"][0] if processes else record["raw"]
    points = [{**point_lengths(reference), "point": "reference", "metrics": record["metrics"]}]
    points += [{**point, "point": "grid"} for point in record.get("grid", [])]
    shared = {"warnings": "; ".join(record["host"].get("warnings", []))}
    for point in points:
        where = {**shared, **point_lengths(point), "point": point["point"]}
        for name, quantity in point["metrics"].items():
            ends = interval_ends("ci95", quantity["ci95"]) | interval_ends(
                "pi95", quantity.get("pi95")
            )
            yield _metric(name, quantity) | ends | where


def point_lengths(block: Mapping[str, Any]) -> Row:
    """The cells that tell a point of the profiling plan."""
    return {name: block.get(name) for name in ("prompt_tokens", "output_tokens", "sequences")}


def _metric(name: str, quantity: Mapping[str, Any]) -> Row:
    shown = {"metric": name, "unit": unit_of(name), "value_reason": quantity.get("reason")}
    return {**quantity, **shown}


def _document_rows(path: Path, record: ScoreRecord) -> Iterator[Row]:
    """One row for each document, filter and metric."""
    for document in read_documents(path, record):
        for metric, value in document["values"].items():
            several = isinstance(value, list)
            yield {
                **document,
                "document_index": document["index"],
                "metric": metric,
                "value": None if several else value,
                "statistics": canonical_json(value) if several else None,
            }


def _fidelity_rows(path: Path, record: FidelityRecord) -> Iterator[Row]:
    metrics = cast(Mapping[str, FidelityMetric], record["metrics"])
    for name, quantity in metrics.items():
        yield _metric(name, quantity) | interval_ends("ci95", quantity["ci95"])


def _noise_rows(path: Path, record: NoiseRecord) -> Iterator[Row]:
    for perturbation in record["perturbations"]:
        named = {
            "perturbation": perturbation["name"],
            "perturbation_kind": perturbation["kind"],
        }
        setting = canonical_json(perturbation.get("setting"))
        yield {**perturbation, **named, "setting": setting}


_FLOOR_WORDS = ("by", "families", "reason")
"""Of a floor, what is no number of its own."""


def _floor_rows(path: Path, record: NoiseRecord) -> Iterator[Row]:
    for kind, floor in cast(Mapping[str, Mapping[str, Any]], record["floor"]).items():
        values = {name: value for name, value in floor.items() if name not in _FLOOR_WORDS}
        for family, spread in floor.get("families", {}).items():
            values |= {f"{family}.{name}": value for name, value in spread.items()}
        for name, value in values.items():
            shown = {"metric": name, "value": value, "value_reason": floor.get("reason")}
            yield {"perturbation_kind": kind, **shown}


TABLES = {
    "scores": Table(
        "score",
        "A score: a record's metric after a filter, of all documents or of a part.",
        (
            *RUN,
            *CELL,
            *TASK,
            Column("metric", "text", "Name of the metric in lm_eval."),
            Column("filter", "text", "What took the answer from the text; none where nothing did."),
            Column("part", "text", "Part of the task; missing for the whole."),
            Column("headline", "flag", "Whether it is the score that the leaderboard shows."),
            Column("unit", "text", "share: of one; points: as they are."),
            *VALUE,
            Column("stderr", "number", "Standard error of the value."),
            Column("ci_method", "text", "How the interval was found."),
            Column("interval_reason", "text", "Why there is no interval."),
            Column("clusters", "integer", "Groups of documents that are not independent."),
            Column("combine", "text", "parts: the mean of the parts; missing: over all documents."),
            Column("n", "integer", "Documents with a value."),
            Column("missing", "integer", "Documents without one; missing where there are none."),
            Column("chance", "number", "Expected score of guessing, where known."),
            *EVIDENCE,
            *TASK_EVIDENCE,
            Column("scoring", "text", "Judge, classifiers and limits that decided it, as JSON."),
            Column(
                "truncated_contexts",
                "integer",
                "Documents whose context was cut.",
                "checks.truncated_contexts",
            ),
            Column(
                "truncated_generations",
                "integer",
                "Answers cut at the token limit.",
                "checks.truncated_generations",
            ),
            Column(
                "empty_generations", "integer", "Answers without text.", "checks.empty_generations"
            ),
            Column("unparsed", "integer", "Answers that could not be read.", "checks.unparsed"),
            Column(
                "at_chance",
                "flag",
                "Whether the headline interval holds the chance level.",
                "checks.at_chance",
            ),
        ),
        _score_rows,
    ),
    "performance": Table(
        "performance",
        "A quantity of speed, memory or energy, at one point of the profiling plan.",
        (
            *RUN,
            *CELL,
            *METRIC,
            Column("pi95_low", "number", "Lower end of the 95 % interval of a repeat."),
            Column("pi95_high", "number", "Upper end of the 95 % interval of a repeat."),
            Column("n", "integer", "Processes behind the value."),
            Column("point", "text", "reference, or grid for the other points of the plan."),
            Column("prompt_tokens", "integer", "Tokens of each prompt at the point."),
            Column("output_tokens", "integer", "Tokens generated after each prompt."),
            Column("sequences", "integer", "Sequences processed together."),
            Column("warnings", "text", "What may have disturbed the measurement."),
            _of_board("energy_label", "energy.label"),
            _of_board("energy_source", "energy.source"),
            _of_board("bandwidth_bytes_per_s", "roofline.bandwidth_bytes_per_s"),
            _of_board("matrix_flops_per_s", "roofline.matrix_flops_per_s"),
            *EVIDENCE,
        ),
        _performance_rows,
    ),
    "documents": Table(
        "score",
        "The value of a metric for one document, known by its digest.",
        (
            *RUN,
            *CELL,
            *TASK,
            Column("part", "text", "Part of the task; missing where it has none."),
            Column("document", "text", "Digest of the document."),
            Column("document_index", "integer", "Its number in the split."),
            Column("cluster", "text", "Digest of the group that it is of, where it has one."),
            Column("filter", "text", "What took the answer from the text."),
            Column("metric", "text", "Name of the metric."),
            Column("value", "number", "The document's value; missing where there is none."),
            Column("statistics", "text", "Several numbers instead of a value, as JSON."),
            Column(
                "margin", "number", "Right choice over the best wrong one, in nats, where choices."
            ),
        ),
        _document_rows,
        as_csv=False,
    ),
    "fidelity": Table(
        "fidelity",
        "How far a variant's predictions lie from its base's, on a fixed text.",
        (
            *RUN,
            *CELL,
            *METRIC,
            Column("tokens", "integer", "Tokens that were compared.", "tokens"),
            Column("text", "text", "The text, by its id.", "text.id"),
            Column("text_sha256", "text", "Digest of the text.", "text.sha256"),
            *EVIDENCE,
        ),
        _fidelity_rows,
    ),
    "noise": Table(
        "noise",
        "A score under a named perturbation.",
        (
            *RUN,
            *CELL,
            *TASK,
            Column("perturbation", "text", "Name of the perturbation."),
            Column("perturbation_kind", "text", "numerical or prompt."),
            Column("setting", "text", "What was set, as JSON."),
            Column("value", "number", "The score."),
            Column("delta", "number", "The score minus that without the perturbation."),
            Column("flips_to_right", "integer", "Documents that became right."),
            Column("flips_to_wrong", "integer", "Documents that became wrong."),
            Column("n", "integer", "Documents with a value."),
            *EVIDENCE,
        ),
        _noise_rows,
    ),
    "noise_floor": Table(
        "noise",
        "The floor that the perturbations of a kind set: smaller differences tell nothing.",
        (
            *RUN,
            *CELL,
            *TASK,
            Column("perturbation_kind", "text", "numerical or prompt."),
            Column("metric", "text", "Name of the quantity."),
            Column("value", "number", "The value; missing where there is none."),
            Column("value_reason", "text", "Why the value is missing."),
        ),
        _floor_rows,
    ),
}
"""The tables, by the names of their files."""
