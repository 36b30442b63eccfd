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
    """Splits of which an absent one is empty; the one that was last asked for in vain is kept.

    The harness opens the split for few-shot examples even where none are drawn, and a prepared
    dataset need not hold it then.
    """

    absent: str | None = None

    def __missing__(self, name: str) -> Any:
        self.absent = name
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
    splits = _Splits(load_splits(dataset))
    name = entry["harness_task"]
    manager = _task_manager(name)
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
        "custom_dataset": lambda **_: splits,
        "num_fewshot": entry["num_fewshot"],
        "fewshot_config": {"sampler": sampler},
    }
    try:
        (task,) = manager.load([{"group": "cell", "task": [definition]}])["tasks"].values()
    except IndexError:  # the harness looks at the first document
        if splits.absent is None:
            raise
    else:
        if splits.absent is None or not entry["num_fewshot"]:
            return task
    raise UserError(
        f"the task {task_id} reads the split {splits.absent!r}, which this dataset lacks",
        file="config/datasets.yaml",
        field=f"{dataset.name}.splits",
        value=sorted(splits),
        fix=f"add the split {splits.absent}",
    )


def _task_manager(task: str) -> Any:
    """The harness's index, of the task's own folder where its file is named like the task.

    The index of all 14 000 definitions takes ten seconds and more.
    """
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    for file in sorted(root.rglob(f"{task}.yaml")):
        manager = lm_eval.tasks.TaskManager(include_path=file.parent, include_defaults=False)
        if task in manager.all_tasks:
            return manager
    return lm_eval.tasks.TaskManager()


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
