"""Tasks of lm-evaluation-harness, reading a prepared dataset instead of the hub."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.errors import UserError
from slm_benchmark.files import digest
from slm_benchmark.tasks.datasets import load_splits

# Where a definition was found and what the dataset was called say nothing about the prompts.
_UNMEASURED_CONFIG = ("custom_dataset", "dataset_path", "dataset_name", "dataset_kwargs")


class _Splits(dict[str, Any]):
    """Splits of which an absent one is empty.

    The harness opens the split for few-shot examples even where none are drawn, and a prepared
    dataset need not hold it then.
    """

    def __missing__(self, name: str) -> Any:
        return next(iter(self.values())).select([])


def load_task(task_id: str, entry: Mapping[str, Any], dataset: Path, sampler: str) -> Any:
    """The harness's own task, with its dataset and few-shot settings replaced.

    Prompts, choices, metrics and filters stay those of the harness.

    Args:
        task_id: Id in config/tasks.yaml.
        entry: The task's entry there.
        dataset: Folder of the prepared dataset.
        sampler: The harness's few-shot sampler, ``first_n`` or ``default``.

    Raises:
        UserError: when the harness does not know the task, or the dataset lacks its split.
    """
    from lm_eval.tasks import TaskManager

    splits = load_splits(dataset)
    manager = TaskManager()
    name = entry["harness_task"]
    if name not in manager.all_tasks:
        raise UserError(
            "lm-evaluation-harness has no such task",
            file="config/tasks.yaml",
            field=f"{task_id}.harness_task",
            value=name,
            fix="use a name that `lm-eval ls tasks` prints",
        )
    definition = {
        "task": name,
        "custom_dataset": lambda **_: _Splits(splits) if not entry["num_fewshot"] else splits,
        "num_fewshot": entry["num_fewshot"],
        "fewshot_config": {"sampler": sampler},
    }
    loaded = manager.load([{"group": "cell", "task": [definition]}])["tasks"]
    (task,) = loaded.values()
    split = evaluation_split(task)
    if split not in splits:
        raise UserError(
            f"the task {task_id} is scored on the split {split!r}, which this dataset lacks",
            file="config/datasets.yaml",
            field=f"{dataset.name}.splits",
            value=sorted(splits),
            fix=f"add the split {split}",
        )
    return task


def evaluation_split(task: Any) -> str:
    """The split that a harness task is scored on: test where it has one, else validation."""
    return str(task.config.test_split or task.config.validation_split)


def task_digest(task: Any) -> str:
    """Digest of the definition that prompts and scores follow from."""
    config = task.dump_config()
    config["metadata"] = {"version": str(task.VERSION)}
    kept = {key: value for key, value in config.items() if key not in _UNMEASURED_CONFIG}
    return digest(_plain(kept))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__name__", type(value).__name__)


def document_subset(total: int, wanted: int | None, seed: int) -> list[int]:
    """Indices of the documents to score, ascending.

    A shuffle of all indices is cut, so that a smaller subset lies inside every larger one.

    Args:
        total: Documents in the split.
        wanted: Documents asked for; None, or more than there are, means all.
        seed: Seed of the shuffle.
    """
    order = list(range(total))
    random.Random(seed).shuffle(order)
    return sorted(order[:wanted])
