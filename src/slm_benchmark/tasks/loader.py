"""Tasks of lm-evaluation-harness, reading a prepared dataset instead of the hub."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from slm_benchmark.catalog.custom import class_task
from slm_benchmark.catalog.types import Task
from slm_benchmark.common.errors import UserError, suggestion
from slm_benchmark.common.files import digest
from slm_benchmark.common.paths import CUSTOM, relative
from slm_benchmark.download.datasets import is_divided, load_splits

EXTRA_TASKS = Path(__file__).parent / "extra"
"""Tasks that the harness lacks, as it would define them."""

_TASK_LINE = re.compile(r"^task:\s*[\"']?([^\s\"'#\[]+)", re.MULTILINE)

# Where a definition was found and what the dataset was called say nothing about the prompts.
_UNMEASURED_CONFIG = ("custom_dataset", "dataset_path", "dataset_name", "dataset_kwargs")


class _Splits(dict[str, Any]):
    """Splits of which an absent one is empty.

    The harness opens the split for few-shot examples even where none are drawn, and a prepared
    dataset need not hold it then.

    Args:
        rows: The splits by name.
        dataset: Folder of the prepared dataset.

    Attributes:
        absent: The split that was last looked up in vain.
    """

    absent: str | None = None

    def __init__(self, rows: Mapping[str, Any], dataset: Path) -> None:
        super().__init__(rows)
        self.dataset = dataset

    def __missing__(self, name: str) -> Any:
        self.absent = name
        return next(iter(self.values())).select([])


@dataclass(frozen=True)
class TaskPart:
    """One task of the harness in a column; most columns have a single one, without a name.

    Attributes:
        name: Such as a language or a subject; empty where the column has no parts.
        task: The harness's task.
    """

    name: str
    task: Any


def load_parts(
    task_id: str,
    entry: Task,
    dataset: Path,
    sampler: str,
    parts: Sequence[str] = ("",),
    seed: int = 0,
) -> list[TaskPart]:
    """The harness's own tasks behind a column, with dataset and few-shot settings replaced.

    Prompts, choices, metrics and filters stay those of the harness.

    Args:
        task_id: Id in config/tasks.yaml.
        entry: The task's entry there.
        dataset: Folder of the prepared dataset.
        sampler: The harness's few-shot sampler, ``first_n`` or ``default``.
        parts: Names of the parts to load.
        seed: For tasks that shuffle a document's options when they read it.

    Raises:
        UserError: when the harness does not know the task, or the dataset lacks its split.
    """
    # Parts that share one table share its reading and hashing too.
    read = functools.cache(functools.partial(load_splits, dataset))
    divided = is_divided(dataset)
    return [
        TaskPart(
            part,
            _load(
                task_id, entry, _Splits(read(part if divided else ""), dataset), sampler, part, seed
            ),
        )
        for part in parts
    ]


def load_task(task_id: str, entry: Task, dataset: Path, sampler: str) -> Any:
    """The only task of a column without parts; see `load_parts`."""
    (part,) = load_parts(task_id, entry, dataset, sampler)
    return part.task


def _load(
    task_id: str,
    entry: Task,
    splits: _Splits,
    sampler: str,
    part: str,
    seed: int,
) -> Any:
    from lm_eval.tasks._yaml_loader import load_yaml

    name = entry["harness_task"].replace("{part}", part)
    file = definitions().get(name)
    if file is None:
        raise UserError(
            "lm-evaluation-harness has no such task",
            file="config/tasks.yaml",
            field=f"{task_id}.harness_task",
            value=name,
            fix="use a name that `lm-eval ls tasks` prints",
        )
    _check_columns(task_id, entry, splits)
    task_yaml = load_yaml(file)
    _check_names(task_id, splits, task_yaml)
    if _is_ours(file) and "custom_dataset" in task_yaml:
        splits = _Splits(task_yaml["custom_dataset"](splits, part), splits.dataset)
    definition = {
        "task": name,
        "custom_dataset": lambda **_: splits,
        "num_fewshot": entry["num_fewshot"],
        # An override replaces the whole key: few-shot examples of the task's own must stay.
        "fewshot_config": {**(task_yaml.get("fewshot_config") or {}), "sampler": sampler},
    }
    manager = _task_manager(file.parent)
    random.seed(seed)
    try:
        if "class" in task_yaml:
            task = class_task({**task_yaml, **definition}, splits, file)
        else:
            (task,) = manager.load([{"group": "cell", "task": [definition]}])["tasks"].values()
    except _MISFITS as error:  # the harness looks at the first document
        if splits.absent is None:
            raise _unfit(task_id, splits, f"the first row: {_described(error)}") from error
    else:
        if splits.absent is None or not entry["num_fewshot"]:
            _read_documents_once(task_id, splits, task, seed)
            _check_kind(task_id, entry, task)
            if part and "{part}" not in entry["harness_task"]:
                # One definition for all parts; requests are known by the task's name.
                task.config.task = f"{name}_{part}"
            if "generation" in entry:
                task.set_config("generation_kwargs", dict(entry["generation"]), update=True)
            return task
    raise UserError(
        f"the task {task_id} reads the split {splits.absent!r}, which this dataset lacks",
        file="config/datasets.yaml",
        field=f"{splits.dataset.name}.splits",
        value=sorted(splits),
        fix=f"add the split {splits.absent}",
    )


def _check_kind(task_id: str, entry: Task, task: Any) -> None:
    """Refuse an entry that says of its task that it answers otherwise than it does."""
    output = task.get_config("output_type")
    kind = "generate" if output == "generate_until" else "loglikelihood"
    if "kind" in entry and entry["kind"] != kind:
        raise UserError(
            f"the harness task has the output type {output}",
            file="config/tasks.yaml, or custom/*/benchmark.yaml",
            field=f"{task_id}.kind",
            value=entry["kind"],
            fix=f"write kind: {kind}",
        )


def _check_columns(task_id: str, entry: Task, splits: _Splits) -> None:
    """Refuse a dataset without a column that is read: some tasks would say nothing and score 0.

    Raises:
        UserError: naming the column.
    """
    for split in splits.values():
        for column in entry.get("columns", ()):
            if column not in split.column_names:
                raise UserError(
                    f"the task {task_id} reads the column {column!r}, which "
                    f"{splits.dataset.name} lacks",
                    file="config/datasets.yaml",
                    field=splits.dataset.name,
                    value=split.column_names,
                    fix="pin a revision that has it, or write a reader that makes it",
                )


def _check_names(task_id: str, splits: _Splits, task_yaml: Mapping[str, Any]) -> None:
    """Refuse a definition that names a column which is not there: it would be taken for a text.

    Raises:
        UserError: naming the key and the column.
    """
    if any(task_yaml.get(key) for key in ("process_docs", "custom_dataset", "class")):
        return
    columns = next(iter(splits.values())).column_names
    for key in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        name = task_yaml.get(key)
        if isinstance(name, str) and name.isidentifier() and name not in columns:
            raise UserError(
                f"the task {task_id}: {key} names no column of the rows, which have {columns}",
                file=relative(splits.dataset),
                field=key,
                value=name,
                fix=suggestion(name, columns),
            )


_MISFITS = (KeyError, ValueError, TypeError, AttributeError, IndexError, SyntaxError, TemplateError)
"""What a task raises for rows of another shape."""


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _unfit(task_id: str, splits: _Splits, problem: str) -> UserError:
    return UserError(
        f"the task {task_id} cannot read {problem}",
        file=relative(splits.dataset),
        field=", ".join(sorted(splits)),
        value=next(iter(splits.values())).column_names,
        fix="correct the rows, or the task's definition",
    )


def _first_misfit(process: Callable[[Any], Any], split: Any) -> int:
    """The first row, from 1, that a task's ``process_docs`` fails on alone; 0 where none does."""
    for index in range(len(split)):
        try:
            len(process(split.select([index])))
        except _MISFITS:
            return index + 1
    return 0


def _read_documents_once(task_id: str, splits: _Splits, task: Any, seed: int) -> None:
    """Let a task that changes its documents do so once, from a seed.

    The harness calls ``process_docs`` for every look at the documents, and some tasks shuffle there
    with Python's global generator: every look would find other options.
    """
    process = task.config.process_docs
    if process is None:
        return
    known: dict[int, tuple[Any, Any]] = {}

    @functools.wraps(process)
    def processed(split: Any) -> Any:
        if id(split) not in known:
            random.seed(seed)
            # The split is kept too, so that its id stays its own.
            try:
                known[id(split)] = split, process(split)
            except _MISFITS as error:
                row = _first_misfit(process, split)
                where = f"row {row}" if row else "the rows"
                raise _unfit(task_id, splits, f"{where}: {_described(error)}") from error
        return known[id(split)][1]

    task.config.process_docs = processed


@functools.cache
def definitions() -> dict[str, Path]:
    """File of each harness task by name: those of this project, of custom/, then the harness's.

    The harness's own index of its 14 000 definitions takes ten seconds and more.
    """
    import lm_eval.tasks

    files: dict[str, Path] = {}
    for root in (EXTRA_TASKS, CUSTOM, Path(lm_eval.tasks.__file__).parent):
        for file in sorted(root.rglob("*.yaml")):
            inside = file.relative_to(root).parts
            if root == CUSTOM and any(name.startswith((".", "__")) for name in inside):
                continue
            named = _TASK_LINE.search(file.read_text(encoding="utf-8"))
            if named:
                files.setdefault(named[1], file)
    return files


def _is_ours(file: Path) -> bool:
    """Whether a definition is this project's or the user's: its ``custom_dataset``, if any, is a
    function of the prepared splits and the part's name."""
    return any(file.is_relative_to(root) for root in (EXTRA_TASKS, CUSTOM))


@functools.cache
def _task_manager(folder: Path) -> Any:
    """The harness's index of one folder."""
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)


def evaluation_split(task: Any) -> str:
    """The split that a harness task is scored on: test where it has one, else validation."""
    return str(task.config.test_split or task.config.validation_split)


def evaluation_file(part: TaskPart, dataset: Path) -> Path:
    """The prepared file of the documents that a part is scored on."""
    split = f"{evaluation_split(part.task)}.parquet"
    divided = dataset / part.name / split
    return divided if divided.is_file() else dataset / split


def task_digest(task: Any) -> str:
    """Digest of the definition that prompts and scores follow from."""
    config = task.dump_config()
    config["metadata"] = {"version": str(task.VERSION)}
    measured = {key: value for key, value in config.items() if key not in _UNMEASURED_CONFIG}
    return digest(_plain(measured))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        # A function without a name is printed with its address.
        return re.sub(r" at 0x[0-9a-f]+", "", value)
    if value is None or isinstance(value, int | float | bool):
        return value
    return getattr(value, "__name__", type(value).__name__)


def parts_digest(parts: Sequence[TaskPart]) -> str:
    """`task_digest` of a column: that of its only task, or over those of all parts."""
    digests = [task_digest(part.task) for part in parts]
    return digests[0] if len(digests) == 1 else digest(digests)
