"""From records to the leaderboard: a row for each variant, machine and protocol."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from slm_benchmark.catalog.catalog import VARIANTS, Catalogue
from slm_benchmark.common.files import atomic_directory, digest, write_text
from slm_benchmark.common.parallel import gc_paused
from slm_benchmark.common.paths import relative
from slm_benchmark.leaderboard.board import NOT_RUN, metric_names
from slm_benchmark.leaderboard.comparison import outcomes
from slm_benchmark.leaderboard.ranking import (
    Basis,
    Rules,
    aggregate_scores,
    basis,
    fronts_of,
    groups_of,
    not_comparable,
)
from slm_benchmark.leaderboard.report import write_tables
from slm_benchmark.records.store import Slim, current_records
from slm_benchmark.records.types import (
    Leaderboard,
    LeaderboardModel,
    LeaderboardRow,
    LeaderboardScore,
    LeaderboardTask,
    MeasuredRow,
    Measurement,
    MeasurementPoint,
    ModelPackage,
    PerformanceRecord,
    Quantity,
    ScoreRecord,
)

RowKey = tuple[str, str, str, str]
"""(model, variant, hardware, protocol)"""

NOT_DEFINED = "measured before this quantity was defined"
FIRST_METHOD = "measured in one process, by the first version of the method"


@dataclass
class Evidence:
    """The records behind a row, each with its path.

    Attributes:
        scores: Task → score.
        profile: Its performance; None where it was not measured.
    """

    scores: dict[str, tuple[Path, ScoreRecord]] = field(default_factory=dict)
    profile: tuple[Path, PerformanceRecord] | None = None

    @property
    def records(self) -> list[ScoreRecord | PerformanceRecord]:
        """All of them, the profile first."""
        scores = [record for _, record in self.scores.values()]
        return [self.profile[1], *scores] if self.profile else [*scores]


def aggregate(
    catalogue: Catalogue,
    paths: Sequence[Path],
    edition: str,
    leaderboard: Path,
    table: Path,
    models: Path,
) -> None:
    """Write leaderboard.json, leaderboard.csv and one folder of summaries for each model.

    Args:
        catalogue: The catalogue of the checkout.
        paths: Records.
        edition: published or preview.
        leaderboard: File to write.
        table: File to write.
        models: Folder to write.

    Raises:
        UserError: for an invalid record, naming the file.
    """
    with gc_paused():
        board = build_leaderboard(catalogue, current_records(paths, reduced=Slim()), edition)
        with atomic_directory(models) as work:
            write_tables(board, leaderboard, table, work, write_text)


def build_leaderboard(
    catalogue: Catalogue, records: Sequence[tuple[Path, Any]], edition: str
) -> Leaderboard:
    """The leaderboard as its schema describes it.

    Records are never deleted, so a record of a retired model, variant, protocol or machine, of
    which nothing is known any more, is left out.

    Args:
        catalogue: The catalogue of the checkout.
        records: Scores and profiles, one of each cell.
        edition: published or preview.
    """
    evidence = _by_row(catalogue, records)
    keys = sorted(evidence, key=lambda k: (k[3], k[2], k[0], VARIANTS.index(k[1])))
    rules = Rules(**catalogue.ranking)
    bases = {protocol: basis(catalogue, protocol) for protocol in catalogue.protocols}
    measured: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        measured[key[3]].update(evidence[key].scores)
    tasks = {
        protocol: protocol_columns(catalogue, protocol, measured[protocol])
        for protocol in catalogue.protocols
    }
    bests = {task: entry.get("best", 1) for task, entry in catalogue.tasks.items()}
    rows: dict[RowKey, LeaderboardRow] = {}
    for protocol, counted in bases.items():
        chosen = [key for key in keys if key[3] == protocol]
        parts = [
            build_row(catalogue, key, tasks[protocol], evidence[key], (counted, bests, rules))
            for key in chosen
        ]
        compared = compare_rows(
            catalogue, bests, counted, parts, [evidence[key].scores for key in chosen]
        )
        rows |= zip(chosen, compared, strict=True)
    return {
        "schema_version": 3,
        "edition": cast(Literal["published", "preview"], edition),
        "records_sha256": digest([record["result_sha256"] for _, record in records]),
        "rules": rules.block(),
        "categories": list(dict.fromkeys(t["category"] for t in catalogue.tasks.values())),
        "tasks": [_task(catalogue, task) for task in catalogue.tasks],
        "protocols": {
            key: {
                "title": entry["title"],
                "ranked": entry["ranked"],
                "counted": bases[key].counted,
                "left_out": bases[key].left_out,
            }
            for key, entry in catalogue.protocols.items()
        },
        "hardware": {key: {"title": e["title"]} for key, e in catalogue.hardware.items()},
        "models": {model: _card(catalogue, model) for model in sorted({key[0] for key in keys})},
        "rows": [rows[key] for key in keys],
    }


def _by_row(catalogue: Catalogue, records: Sequence[tuple[Path, Any]]) -> dict[RowKey, Evidence]:
    """Row → its records, of what the catalogue still knows."""
    kinds: tuple[Collection[str], ...] = (
        catalogue.models,
        VARIANTS,
        catalogue.hardware,
        catalogue.protocols,
    )
    rows: dict[RowKey, Evidence] = defaultdict(Evidence)
    for path, record in records:
        key = (
            record["model"]["id"],
            record["variant"]["id"],
            record["hardware"]["id"],
            record["protocol"]["id"],
        )
        if not all(name in kind for name, kind in zip(key, kinds, strict=True)):
            continue
        if record["kind"] == "score":
            rows[key].scores[record["task"]["id"]] = (path, record)
        else:
            rows[key].profile = (path, record)
    return rows


def compare_rows(
    catalogue: Catalogue,
    bests: Mapping[str, float],
    counted: Basis,
    rows: Sequence[MeasuredRow],
    scores: Sequence[Mapping[str, tuple[Path, ScoreRecord]]],
) -> list[LeaderboardRow]:
    """The rows of one protocol with their tied groups and Pareto fronts.

    Args:
        catalogue: The catalogue of the checkout.
        bests: Task → score of a perfect answer.
        counted: What counts of the protocol's tasks.
        rows: Rows with their overall scores.
        scores: Of each row, task → the record of its score.
    """
    reasons = [not_comparable(row, catalogue.models[row["model"]].reference) for row in rows]
    comparable = [index for index, reason in enumerate(reasons) if reason is None]
    groups = groups_of(
        [rows[index] for index in comparable],
        [scores[index] for index in comparable],
        bests,
        counted,
        [task for task in counted.tasks if catalogue.tasks[task].get("combine") == "parts"],
        outcomes,
    )
    ranks: dict[int, int] = dict(zip(comparable, groups, strict=True))
    sizes = Counter(groups)
    fronts = fronts_of(rows, reasons)
    return [
        {
            **row,
            "group": {
                "rank": (rank := ranks.get(index)),
                "rows": 0 if rank is None else sizes[rank],
                "reason": reasons[index],
            },
            "pareto": fronts[index],
        }
        for index, row in enumerate(rows)
    ]


def protocol_columns(catalogue: Catalogue, protocol: str, measured: Collection[str]) -> list[str]:
    """The tasks that all rows of a protocol show: the protocol's, then others that were measured.

    A second form of a benchmark, or a task of custom/, is a column where some row has it.
    """
    listed = catalogue.protocol_tasks(protocol)
    return listed + [task for task in catalogue.tasks if task in measured and task not in listed]


def build_row(
    catalogue: Catalogue,
    key: RowKey,
    tasks: Sequence[str],
    evidence: Evidence,
    aggregation: tuple[Basis, Mapping[str, float], Rules],
) -> MeasuredRow:
    """One row of the leaderboard: a variant of a model on one machine under one protocol.

    Args:
        catalogue: The catalogue of the checkout.
        key: What the row is of.
        tasks: The tasks that it shows.
        evidence: Its records, at least one.
        aggregation: What counts, task → score of a perfect answer, and how much must be there.
    """
    model, variant, hardware, protocol = key
    counted, bests, rules = aggregation
    records, profile = evidence.records, evidence.profile
    weights, made = records[0]["variant"], _made_with(records[-1])
    cells = {
        task: build_score(catalogue, task, model, evidence.scores.get(task), made) for task in tasks
    }
    overall, categories = aggregate_scores(cells, bests, counted, rules)
    return {
        "model": model,
        "variant": variant,
        "quantization": cast(
            Literal["base", "gptq", "awq", "gguf"], variant.split("-", maxsplit=1)[0]
        ),
        "hardware": hardware,
        "fingerprint": profile[1]["hardware"]["fingerprint"] if profile else None,
        "protocol": protocol,
        "ranked": catalogue.protocols[protocol]["ranked"] and not catalogue.models[model].reference,
        "size_bytes": weights["size_bytes"],
        "effective_bits_per_weight": weights["effective_bits_per_weight"],
        "engine": made["engine"],
        "weights_sha256": made["weights_sha256"],
        "scores": cells,
        "performance": build_performance(profile[1] if profile else None),
        "measurement": build_measurement(*profile) if profile else None,
        "overall": overall,
        "categories": categories,
    }


def _made_with(record: ScoreRecord | PerformanceRecord) -> dict[str, str]:
    """Engine and weights of a record, which its row's other records have in common as a rule."""
    engine = record["engine"]
    return {
        "engine": f"{engine['name']} {engine['version']}",
        "weights_sha256": record["variant"]["sha256"],
    }


def build_performance(record: PerformanceRecord | None) -> dict[str, Quantity]:
    """Every metric of a row; one that the record lacks has the reason."""
    metrics = cast(Mapping[str, Quantity], record["metrics"]) if record else {}
    nothing: Any = {"value": None, "n": 0, "reason": NOT_DEFINED if record else NOT_RUN}
    return {name: _complete(metrics.get(name, nothing)) for name in metric_names()}


def build_measurement(path: Path, record: PerformanceRecord) -> Measurement:
    """How a row's performance was measured, and what a reader should know beside it."""
    if record["schema_version"] == 1:
        return _first_measurement(path, record)
    engine, energy, roofline = record["engine"], record["energy"], record["roofline"]
    processes = record["raw"]["processes"]
    return {
        "record": relative(path),
        "engine": f"{engine['name']} {engine['version']}",
        "kernel": engine["kernel"],
        "reference": _point(processes[0]["points"][0]) if processes else None,
        "processes": record["session"]["processes"],
        "together": record["session"]["variants"],
        "energy": {
            "label": energy["label"],
            "source": energy["source"],
            "reason": energy["reason"],
        },
        "roofline": {
            "bandwidth_bytes_per_s": roofline["bandwidth_bytes_per_s"],
            "matrix_flops_per_s": roofline["matrix_flops_per_s"],
            "reason": roofline["reason"],
        },
        "warnings": record["host"]["warnings"],
        "grid": [
            {
                **_point(point),
                "sequences": point["sequences"],
                "metrics": {
                    name: _complete(quantity)
                    for name, quantity in cast(Mapping[str, Quantity], point["metrics"]).items()
                },
            }
            for point in record["grid"]
        ],
    }


def _first_measurement(path: Path, record: Any) -> Measurement:
    """What a record of schema version 1 tells of its measurement."""
    engine, raw = record["engine"], record["raw"]
    source = raw.get("energy_source")
    return {
        "record": relative(path),
        "engine": f"{engine['name']} {engine['version']}",
        "kernel": engine["kernel"],
        "reference": _point(raw) if raw else None,
        "processes": 1,
        "together": [],
        "energy": {
            "label": "measured" if source else "unavailable",
            "source": source,
            "reason": record["metrics"]["energy_mwh_per_token"]["reason"],
        },
        "roofline": {
            "bandwidth_bytes_per_s": None,
            "matrix_flops_per_s": None,
            "reason": NOT_DEFINED,
        },
        "warnings": [*record["host"].get("warnings", []), FIRST_METHOD],
        "grid": [],
    }


def _point(block: Any) -> MeasurementPoint:
    return {"prompt_tokens": block["prompt_tokens"], "output_tokens": block["output_tokens"]}


def _complete(quantity: Quantity) -> Quantity:
    """A quantity with all of its keys; the first records have no prediction interval."""
    return {"value": None, "ci95": None, "pi95": None, **quantity}


def build_score(
    catalogue: Catalogue,
    task: str,
    model: str,
    evidence: tuple[Path, ScoreRecord] | None,
    made: Mapping[str, str],
) -> LeaderboardScore:
    """One cell of a row, with its state.

    Args:
        catalogue: The catalogue of the checkout.
        task: Id of the task.
        model: Id of the model.
        evidence: The record of the score; None where there is none.
        made: The row's engine and weights; a score with others names them.
    """
    entry = catalogue.tasks[task]
    cell: LeaderboardScore = {
        "state": "not_run",
        "reason": NOT_RUN if entry["state"] == "ready" else "no rule runs this task yet",
        "value": None,
        "stderr": None,
        "ci95": None,
        "n": None,
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "chance": entry["chance"] if entry["chance"] != "options" else None,
        "unit": entry.get("unit", "share"),
        "parts": [],
        "dataset": None,
        "dataset_sha256": None,
        "record": None,
        "warnings": [],
    }
    if evidence is None:
        if not catalogue.parts(task, model):
            reason = "not in a language of the model"
            return {**cell, "state": "not_applicable", "reason": reason}
        return cell
    path, record = evidence
    error = record["error"]
    cell = {
        **cell,
        "state": record["state"],
        "reason": f"{error['type']}: {error['message']}" if error else record.get("reason"),
        "parts": record["task"].get("parts", []),
        "dataset": record["dataset"]["id"],
        "dataset_sha256": record["dataset"]["sha256"],
        "record": relative(path),
    }
    if judge := record.get("scoring", {}).get("judge"):
        cell["judge"] = judge["id"]
    headline = next((score for score in record["scores"] if score["headline"]), None)
    if headline is not None:
        cell = {
            **cell,
            "value": headline["value"],
            "stderr": headline["stderr"],
            "ci95": headline["ci95"],
            "n": headline["n"],
            "metric": headline["metric"],
            "filter": headline["filter"],
            "chance": headline["chance"],
            "warnings": warnings(record, catalogue.bounds(task)),
        }
        if headline["value"] is None:
            cell |= {"state": "not_run", "reason": "no document has a value", "chance": None}
    other = {name: value for name, value in _made_with(record).items() if made[name] != value}
    return cast(LeaderboardScore, {**cell, **other})


def warnings(record: ScoreRecord, bounds: Mapping[str, float]) -> list[str]:
    """Sentences about what a reader should know beside a score.

    Args:
        record: A cell's record.
        bounds: Check → the share of documents that passes without a word (config/checks.yaml).
    """
    checks = cast(Mapping[str, Any], record["checks"])
    n = record["dataset"]["documents"]
    texts = {
        "truncated_contexts": "contexts were cut to fit the model",
        "truncated_generations": "answers were cut at the token limit",
        "empty_generations": "answers were empty",
        "unparsed": "answers could not be read",
    }
    sentences = [
        f"{checks[name]} of {n} {text}"
        for name, text in texts.items()
        if checks[name] and checks[name] / n > bounds[name]
    ]
    return sentences + (["not significantly different from chance"] if checks["at_chance"] else [])


def _task(catalogue: Catalogue, task: str) -> LeaderboardTask:
    entry = catalogue.tasks[task]
    return {
        "id": task,
        "title": entry["title"],
        "category": entry["category"],
        "benchmark": entry.get("benchmark", task),
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "chance": entry["chance"],
        "best": entry.get("best", 1),
        "unit": entry.get("unit", "share"),
        "higher_is_better": entry.get("higher_is_better", True),
        "num_fewshot": entry["num_fewshot"],
        "answers": catalogue.answers_of(task) if entry["kind"] == "generate" else None,
        "note": entry.get("note", ""),
    }


def _card(catalogue: Catalogue, model: str) -> LeaderboardModel:
    card = catalogue.models[model]
    return {
        "name": card.name,
        "repo": card.hf_model_id,
        "revision": card.revision,
        "parameters": card.parameters,
        "architecture": card.architecture,
        "context_length": card.context_length,
        "languages": card.languages,
        "tags": card.tags,
        "license": card.license,
        "gated": card.gated,
        "reference": card.reference,
        "description": card.description,
        "source": card.source["type"],
        "package": _package(card.source),
    }


def _package(source: Mapping[str, Any]) -> ModelPackage | None:
    """The Python package that a model comes from; None for one of another source."""
    if source["type"] != "package":
        return None
    return {
        "name": source["package"],
        "version": source["version"],
        "sha256": source["sha256"],
        "file": source["file"],
    }
