"""Every Eval Ever: one JSON file for each evaluation, as the EvalEval Coalition's schema wants it.

The schema, version 0.3.0, and the rules of its data store are those of the package every-eval-ever:
a path of ``data/{collection}/{developer}/{model}/{UUID}.json``, details that are all texts, times
as seconds since 1970, and scores inside the bounds that are stated with them.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Mapping
from typing import Any, cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.files import canonical_json, digest
from slm_benchmark.export.project import Project
from slm_benchmark.export.tables import Entry
from slm_benchmark.records.types import Score, ScoreRecord

SCHEMA_VERSION = "0.3.0"

COLLECTION = "slm-benchmark"

KNOWN_METRICS: Mapping[str, tuple[str, str]] = {
    "acc": ("accuracy", "Accuracy"),
    "acc_norm": ("accuracy_norm", "Accuracy, choices weighed by length"),
    "exact_match": ("exact_match", "Exact match"),
    "pass@1": ("pass_at_k", "pass@1"),
    "pass_at_1": ("pass_at_k", "pass@1"),
    "prompt_level_strict_acc": ("accuracy", "Prompt-level accuracy, strict"),
    "prompt_level_loose_acc": ("accuracy", "Prompt-level accuracy, loose"),
    "inst_level_strict_acc": ("accuracy", "Instruction-level accuracy, strict"),
    "inst_level_loose_acc": ("accuracy", "Instruction-level accuracy, loose"),
}
"""Shares of one of which more is better: metric of lm_eval → its kind and its name."""

_NOT_IN_A_NAME = re.compile(r'[<>:"\\|?*/\x00-\x1f]')


def file_name(entry: Entry) -> str:
    """Where a record's file lies; its UUID, of version 4 in form, comes from the evaluation."""
    developer, _, model = entry.record["model"]["repo"].rpartition("/")
    folders = [_portable(part) for part in (developer or "unknown", model)]
    name = uuid.UUID(hex=digest(_evaluation_id(entry))[:32], version=4)
    return "/".join(["data", COLLECTION, *folders, f"{name}.json"])


def evaluation(entry: Entry, catalogue: Catalogue, project: Project) -> dict[str, object] | None:
    """A score record as an evaluation log; None where it has no score that the schema can hold.

    Args:
        entry: A score record.
        catalogue: The catalogue of the checkout: which way a metric is better, and where on the hub
            a dataset lies.
        project: Who publishes the results.
    """
    record = cast(ScoreRecord, entry.record)
    results = [
        _result(record, score, catalogue)
        for score in record["scores"]
        if score["value"] is not None and _known_direction(record, score["metric"], catalogue)
    ]
    if not results:
        return None
    task = record["task"]
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(entry),
        "evaluation_timestamp": _epoch(record),
        "retrieved_timestamp": _epoch(record),
        "source_metadata": _source(entry, catalogue, project),
        "eval_library": {
            "name": "lm_eval",
            "version": record["environment"]["packages"].get("lm-eval", "unknown"),
            "additional_details": _texts(
                harness_task=task["harness_task"],
                task_version=task["version"],
                run_by=f"{project.title} {project.version}",
                scoring=record.get("scoring") or None,
                workflow=record["workflow"],
                environment=record["environment"],
            ),
        },
        "model_info": _model(record),
        "evaluation_results": results,
    }


def _evaluation_id(entry: Entry) -> str:
    """What tells an evaluation from every other: its task, model, variant, place and run."""
    record = cast(ScoreRecord, entry.record)
    places = [record[name]["id"] for name in ("variant", "hardware", "protocol")]
    return "/".join([record["task"]["id"], record["model"]["repo"], *places, entry.path.stem])


def _source(entry: Entry, catalogue: Catalogue, project: Project) -> dict[str, object]:
    record = cast(ScoreRecord, entry.record)
    protocol = catalogue.protocols.get(record["protocol"]["id"])
    source: dict[str, object] = {
        "source_name": project.title,
        "source_type": "evaluation_run",
        "source_organization_name": ", ".join(project.authors),
        "evaluator_relationship": "third_party",
        "additional_details": _texts(
            record=entry.name,
            result_sha256=record["result_sha256"],
            current=entry.current,
            protocol=record["protocol"],
            ranked=protocol is not None and protocol["ranked"],
            label=record.get("label"),
            checks=record["checks"],
            hardware=record["hardware"],
            duration_s=record["duration_s"],
        ),
    }
    return source | ({"source_organization_url": project.url} if project.url else {})


def _model(record: ScoreRecord) -> dict[str, object]:
    model, variant, engine = record["model"], record["variant"], record["engine"]
    developer, _, _ = model["repo"].rpartition("/")
    return {
        "name": model["name"],
        "id": model["repo"],
        "developer": developer or "unknown",
        "inference_engine": {"name": engine["name"], "version": engine["version"]},
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": "open_weights",
            **_texts(
                revision=model["revision"],
                sha256=model["sha256"],
                source=model["source"],
                dequantised_from=model["source"].get("dequantised_from"),
                variant=variant["id"],
                quantization_method=variant["method"],
                variant_sha256=variant["sha256"],
                effective_bits_per_weight=variant["effective_bits_per_weight"],
                size_bytes=variant["size_bytes"],
                kernel=engine["kernel"],
                dtype=engine["dtype"],
                threads=engine["threads"],
                schedule=engine["schedule"],
            ),
        },
    }


def _result(record: ScoreRecord, score: Score, catalogue: Catalogue) -> dict[str, object]:
    task = record["task"]
    name = ".".join(["slm-benchmark", task["id"], *([score["part"]] if "part" in score else [])])
    return {
        "evaluation_result_id": ",".join(
            [score["metric"], score["filter"], *([score["part"]] if "part" in score else [])]
        ),
        "evaluation_name": name,
        "source_data": _dataset(record, catalogue),
        "evaluation_timestamp": _epoch(record),
        "metric_config": _metric(record, score, catalogue),
        "score_details": {
            "score": score["value"],
            "uncertainty": _uncertainty(score),
            "details": _texts(
                headline=score["headline"],
                chance=score["chance"],
                n=score["n"],
                missing=score.get("missing"),
                clusters=score.get("clusters"),
                combine=score.get("combine"),
                no_interval=score.get("reason"),
            ),
        },
        "generation_config": _generation(record),
    }


def _dataset(record: ScoreRecord, catalogue: Catalogue) -> dict[str, object]:
    """The dataset; one of the hub by its repository, where the catalogue still knows it."""
    dataset = record["dataset"]
    entry = catalogue.datasets.get(dataset["id"])
    details = _texts(**{k: v for k, v in dataset.items() if k != "documents_total"})
    common = {"dataset_name": dataset["id"], "additional_details": details}
    if dataset["source"] != "hub" or entry is None or entry["source"] != "hub":
        return {**common, "source_type": "other"}
    return {
        **common,
        "source_type": "hf_dataset",
        "hf_repo": entry["repo"],
        "hf_split": dataset["split"],
        "samples_number": dataset["documents_total"],
    }


def _known_direction(record: ScoreRecord, metric: str, catalogue: Catalogue) -> bool:
    """Whether it is known that more, or less, of a metric is better: the schema asks for it."""
    headline = metric == record["task"]["metric"] and record["task"]["id"] in catalogue.tasks
    return headline or metric in KNOWN_METRICS


def _metric(record: ScoreRecord, score: Score, catalogue: Catalogue) -> dict[str, object]:
    """What the number means. Bounds are stated for shares; of points only the best is known."""
    task, metric = record["task"], score["metric"]
    kind, name = KNOWN_METRICS.get(metric, (metric, metric))
    is_share = task.get("unit", "share") == "share"
    higher = True
    if metric == task["metric"] and task["id"] in catalogue.tasks:
        higher = catalogue.tasks[task["id"]].get("higher_is_better", True)
    described: dict[str, object] = {
        "evaluation_description": f"{metric} of {task['harness_task']}, filter {score['filter']}",
        "metric_id": kind if metric in KNOWN_METRICS else f"slm-benchmark.{metric}",
        "metric_name": name,
        "metric_kind": kind,
        "metric_unit": "proportion" if is_share else "points",
        **({"metric_parameters": {"k": 1}} if kind == "pass_at_k" else {}),
        "lower_is_better": not higher,
        "additional_details": _texts(metric=metric, filter=score["filter"]),
    }
    bounds: dict[str, object] = {"score_type": "continuous", "min_score": 0, "max_score": 1}
    return described | bounds if is_share else described


def _uncertainty(score: Score) -> dict[str, object]:
    block: dict[str, object] = {"num_samples": score["n"]}
    if score["stderr"] is not None:
        block["standard_error"] = {"value": score["stderr"]}
    if score["ci95"] is not None:
        low, high = score["ci95"]
        interval = {"lower": low, "upper": high, "confidence_level": 0.95}
        block["confidence_interval"] = interval | {"method": score["ci_method"] or "not named"}
    return block


def _generation(record: ScoreRecord) -> dict[str, object]:
    """How answers were generated, and the command; nothing of a prompt."""
    task = record["task"]
    settings = dict(task["generation"] or {})
    named = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
    named["max_gen_toks"] = "max_tokens"
    arguments = {theirs: settings.pop(ours) for ours, theirs in named.items() if ours in settings}
    arguments["execution_command"] = record["command"]
    return {
        "generation_args": arguments,
        "additional_details": _texts(
            num_fewshot=task["num_fewshot"],
            fewshot_sampler=task["fewshot_sampler"],
            chat_template_sha256=task["chat_template_sha256"],
            task_config_sha256=task["config_sha256"],
            **settings,
        ),
    }


def _texts(**values: Any) -> dict[str, str]:
    """Details as the schema wants them: every value a text, JSON where it is none; no nulls."""
    return {
        name: value if isinstance(value, str) else canonical_json(value)
        for name, value in values.items()
        if value is not None
    }


def _epoch(record: ScoreRecord) -> str:
    """When the measurement began, in seconds since 1970, as text."""
    return str(int(datetime.datetime.fromisoformat(record["started"]).timestamp()))


def _portable(name: str) -> str:
    """A folder's name that every system takes."""
    return _NOT_IN_A_NAME.sub("_", name).rstrip(". ") or "unknown"
