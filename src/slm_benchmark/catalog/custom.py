"""A user's own tasks: each folder of custom/ adds to the catalogue without a change of the code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from slm_benchmark.common.errors import UserError, require_known, suggestion
from slm_benchmark.common.files import digest, sha256_file
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.common.schemas import read_config

Entries = dict[str, dict[str, Any]]

DESCRIPTION = "benchmark.yaml"
"""The file of a folder that holds its entries."""


def read_custom(
    custom: Path, tasks: Mapping[str, Mapping[str, Any]], datasets: Mapping[str, Any]
) -> tuple[Entries, Entries]:
    """The entries of all folders of ``custom``, in alphabetical order.

    A task's entry has one key more than its file: ``code_sha256``, the digest of the folder's code,
    as scores follow from it.

    Args:
        custom: Holds one folder for each set of tasks; it need not be there.
        tasks: The catalogue's entries, whose ids and harness tasks are taken.
        datasets: The catalogue's datasets, which tasks may read and whose ids are taken.

    Returns:
        Tasks and datasets, by id.

    Raises:
        UserError: when a folder has no benchmark.yaml or an entry that does not fit the schema, an
            id or a harness task that is taken, or names something that is not there.
    """
    custom_tasks: Entries = {}
    custom_datasets: Entries = {}
    files: dict[str, Path] = {}
    # Files of the harness tasks that are taken; None where another place defines them.
    defined: dict[str, Path | None] = {
        name: None for entry in tasks.values() for name in _harness_tasks(entry)
    }
    for folder in _folders(custom):
        file = folder / DESCRIPTION
        if not file.is_file():
            raise UserError(
                f"this folder has no {DESCRIPTION}",
                file=relative(folder),
                fix="describe its tasks there, or move the folder elsewhere",
            )
        described = read_config(file, "benchmark")
        own_datasets = described.get("datasets", {})
        _refuse_taken("dataset", own_datasets, {**datasets, **custom_datasets}, file)
        _refuse_taken("task", described["tasks"], {**tasks, **custom_tasks}, file)
        for name, entry in own_datasets.items():
            _check_paths(name, entry, folder, file)
        custom_datasets |= own_datasets
        own_defined = _definitions(folder, defined)
        code = _code_sha256(folder, own_datasets)
        for name, entry in described["tasks"].items():
            _check_harness_tasks(name, entry, own_defined, file)
            custom_tasks[name] = {**entry, "code_sha256": code}
            files[name] = file
    for name, entry in custom_tasks.items():  # the dataset may stand in a later folder
        _check_datasets(name, entry, {**datasets, **custom_datasets}, files[name])
    return custom_tasks, custom_datasets


def _folders(custom: Path) -> list[Path]:
    """The folders of ``custom``, less what tools leave there."""
    if not custom.is_dir():
        return []
    named = (path for path in custom.iterdir() if not path.name.startswith((".", "__")))
    return sorted(path for path in named if path.is_dir())


def _refuse_taken(kind: str, ids: Mapping[str, Any], taken: Mapping[str, Any], file: Path) -> None:
    for name in ids:
        if name in taken:
            raise UserError(
                f"another {kind} has this id",
                file=relative(file),
                field=f"{kind}s.{name}",
                value=name,
                fix="choose another id, such as one that begins with the folder's name",
            )


def _check_paths(name: str, entry: Mapping[str, Any], folder: Path, file: Path) -> None:
    """Refuse a script or a relative data file that lies elsewhere: the folder is to be complete."""
    paths = {f"files.{split}": path for split, path in entry.get("files", {}).items()}
    if "script" in entry:
        paths["script"] = entry["script"]
    for field, path in paths.items():
        if Path(path).is_absolute() and field != "script":
            continue
        problem = None
        if not (ROOT / path).resolve().is_relative_to(folder.resolve()):
            problem = "this file lies outside the folder of the tasks"
        elif not (ROOT / path).is_file():
            problem = "there is no such file"
        if problem:
            raise UserError(
                problem,
                file=relative(file),
                field=f"datasets.{name}.{field}",
                value=path,
                fix=f"write it as it reads from the repository's root: {relative(folder)}/…",
            )


def _check_harness_tasks(
    name: str, entry: Mapping[str, Any], defined: Mapping[str, Path], file: Path
) -> None:
    for harness_task in _harness_tasks(entry):
        if harness_task not in defined:
            raise UserError(
                "no YAML file of this folder defines this task",
                file=relative(file),
                field=f"tasks.{name}.harness_task",
                value=harness_task,
                fix=suggestion(harness_task, list(defined))
                if defined
                else f"add {harness_task}.yaml, with the line 'task: {harness_task}'",
            )


def _check_datasets(
    name: str, entry: Mapping[str, Any], datasets: Mapping[str, Any], file: Path
) -> None:
    for source, dataset in entry["datasets"].items():
        field = f"tasks.{name}.datasets.{source}"
        require_known("dataset", dataset, datasets, relative(file), field)


def _harness_tasks(entry: Mapping[str, Any]) -> list[str]:
    """The harness tasks of an entry, one for each part if its name tells parts apart."""
    name = entry["harness_task"]
    parts = entry.get("parts", ()) if name and "{part}" in name else ("",)
    return [name.replace("{part}", part) for part in parts if name]


class _HarnessLoader(yaml.SafeLoader):
    """YAML of the harness: ``!function`` is left as text, so that no code is imported."""


_HarnessLoader.add_constructor(
    "!function",
    lambda loader, node: loader.construct_scalar(node),  # type: ignore[arg-type]
)


def _definitions(folder: Path, taken: dict[str, Path | None]) -> dict[str, Path]:
    """The harness tasks that a folder's YAML files define, which join those that are taken."""
    definitions = {}
    for path in _code(folder, ".yaml"):
        try:
            config = yaml.load(path.read_text(encoding="utf-8"), Loader=_HarnessLoader)
        except (yaml.YAMLError, UnicodeError) as error:
            raise UserError(
                f"malformed YAML: {' '.join(str(error).split())}",
                file=relative(path),
                fix="correct the file",
            ) from error
        name = config.get("task") if isinstance(config, dict) else None
        if not isinstance(name, str):
            continue  # a file for others to include, or a group
        if name in taken:
            other = taken[name]
            raise UserError(
                f"{relative(other) if other else 'the catalogue'} has a harness task of this name",
                file=relative(path),
                field="task",
                value=name,
                fix="choose another name, such as one that begins with the folder's name",
            )
        taken[name] = definitions[name] = path
    return definitions


def _code(folder: Path, *endings: str) -> Iterator[Path]:
    """Files of a folder that prompts and scores follow from, in order."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
        if path.suffix in endings and not hidden and inside != Path(DESCRIPTION):
            yield path


def _code_sha256(folder: Path, datasets: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of a folder's code, less the scripts that only make datasets."""
    scripts = {ROOT / entry["script"] for entry in datasets.values() if "script" in entry}
    return digest(
        {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in _code(folder, ".yaml", ".py")
            if path not in scripts
        }
    )


def class_task(config: Mapping[str, Any], splits: Mapping[str, Any], file: Path) -> Any:
    """A task that a Python class defines, reading ``splits`` instead of downloading anything.

    The harness gives such a class its YAML with the key ``class`` still in it, which
    `ConfigurableTask` refuses; so the classes that come with the harness take the YAML and drop it,
    dataset, few-shot count and all (0.4.13, ``TaskFactory._build_task``). Here the YAML becomes the
    class's ``CONFIG``, which `ConfigurableTask.__init__` begins from and updates with what the
    class passes on. So both forms work: a class that passes ``config`` on, and one that does not.

    Args:
        config: The YAML's keys, with functions resolved, and over them those to be replaced.
        splits: The rows by split.
        file: The YAML file, for messages.

    Raises:
        UserError: when ``class`` is no `ConfigurableTask`, or the YAML names no split to score.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.config.task import TaskConfig

    task_class = config["class"]
    if not (isinstance(task_class, type) and issubclass(task_class, ConfigurableTask)):
        raise UserError(
            "the class must derive from lm_eval.api.task.ConfigurableTask",
            file=relative(file),
            field="class",
            value=getattr(task_class, "__name__", task_class),
            fix="derive it from ConfigurableTask, which knows few-shot examples and chat templates",
        )
    if not (config.get("test_split") or config.get("validation_split")):
        raise UserError(
            "a task with a class must name the split that is scored",
            file=relative(file),
            field="test_split",
            fix="add test_split, also where the class chooses the split itself",
        )
    not_config = ("class", "tag", "group", "task_list")
    settings = {key: value for key, value in config.items() if key not in not_config}

    def download(self: Any, *_: Any, **__: Any) -> None:
        self.dataset = splits

    prepared: Any = type(
        task_class.__name__,
        (task_class,),
        {
            "CONFIG": TaskConfig(**settings),
            "download": download,
            "__module__": task_class.__module__,
        },
    )
    takes_config = "config" in inspect.signature(task_class).parameters
    return prepared(config={}) if takes_config else prepared()
