"""Evaluation results for model repositories of the Hugging Face Hub: ``.eval_results/*.yaml``.

The Hub shows such a result on the model's page and on the leaderboard of the benchmark's dataset,
where that dataset is registered as a benchmark: https://huggingface.co/docs/hub/eval-results
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.errors import NotApplicable
from slm_benchmark.export.project import Project
from slm_benchmark.export.tables import Entry
from slm_benchmark.records.types import Score, ScoreRecord


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that is registered on the Hub: its dataset, and the task in its eval.yaml."""

    dataset: str
    task: str


BENCHMARKS: Mapping[str, Benchmark] = {
    "mmlu_pro": Benchmark("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    "mmlu_pro_cot": Benchmark("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    "gpqa_diamond": Benchmark("Idavidrein/gpqa", "diamond"),
    "gsm8k": Benchmark("openai/gsm8k", "gsm8k"),
}
"""Task here → the benchmark of the Hub that it measures."""


def file_name(entry: Entry) -> str:
    """Where a record's result lies: below a folder of its model and variant."""
    record = cast(ScoreRecord, entry.record)
    folder = f"{record['model']['id']}/{record['variant']['id']}/.eval_results"
    return f"{folder}/slm_benchmark_{record['task']['id']}.yaml"


def eval_result(entry: Entry, catalogue: Catalogue, project: Project) -> list[dict[str, Any]]:
    """The content of a file: one result, in per cent as on the Hub's leaderboards.

    Raises:
        NotApplicable: with the reason why the record has no place on the Hub.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    record = cast(ScoreRecord, entry.record)
    _check_protocol(record, catalogue)
    _check_model(record)
    benchmark = _benchmark(record, catalogue)
    headline = next((s for s in record["scores"] if s["headline"]), None)
    if headline is None or headline["value"] is None:
        raise NotApplicable(f"no score: {record['state']}")
    result = EvalResultEntry(
        dataset_id=benchmark.dataset,
        task_id=benchmark.task,
        value=round(100 * headline["value"], 10),
        dataset_revision=record["dataset"]["revision"],
        date=record["started"],
        source_url=project.url,
        source_name=project.title if project.url else None,
        notes=_notes(record, headline),
    )
    content: list[dict[str, Any]] = eval_result_entries_to_yaml([result])
    return content


def as_yaml(content: list[dict[str, Any]]) -> str:
    """A file's text."""
    import yaml

    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def _check_protocol(record: ScoreRecord, catalogue: Catalogue) -> None:
    protocol = record["protocol"]["id"]
    entry = catalogue.protocols.get(protocol)
    if entry is None or not entry["ranked"] or "label" in record:
        raise NotApplicable(f"the protocol {protocol} is not ranked")


def _check_model(record: ScoreRecord) -> None:
    """Refuse weights that no repository of the Hub holds, so that no repository is credited."""
    model = record["model"]
    if model["source"].get("dequantised_from"):
        raise NotApplicable(
            f"{model['id']} was dequantized from {model['source']['dequantised_from']}: "
            f"these are not the weights of {model['repo']}"
        )
    if model["source"]["type"] != "hub":
        raise NotApplicable(f"{model['id']} did not come from the hub")


def _benchmark(record: ScoreRecord, catalogue: Catalogue) -> Benchmark:
    """The benchmark that a record measures whole."""
    task, dataset = record["task"]["id"], record["dataset"]
    benchmark = BENCHMARKS.get(task)
    if benchmark is None:
        raise NotApplicable(f"{task} is not registered as a benchmark on the hub")
    entry = catalogue.datasets.get(dataset["id"])
    repo = entry["repo"] if entry is not None and entry["source"] == "hub" else None
    if dataset["source"] != "hub" or repo != benchmark.dataset:
        raise NotApplicable(f"{task} was not measured on the hub's {benchmark.dataset}")
    if dataset["documents"] != dataset["documents_total"]:
        raise NotApplicable(f"{task} was measured on a part of its documents")
    return benchmark


def _notes(record: ScoreRecord, headline: Score) -> str:
    """How the number came about, in one line."""
    variant, task, protocol = record["variant"], record["task"], record["protocol"]
    stated = [
        f"{variant['id']} (weights {variant['sha256'][:12]}) on {record['engine']['name']}",
        f"protocol {protocol['id']} {protocol['version']}",
        f"{task['harness_task']}: {headline['metric']}, filter {headline['filter']}",
        f"{task['num_fewshot']}-shot",
        f"n = {headline['n']}",
    ]
    if headline["ci95"] is not None:
        low, high = (f"{100 * end:.2f}" for end in headline["ci95"])
        stated.append(f"95 % interval {low} to {high}")
    return "; ".join(stated)
