"""What to run and how: config/*.yaml, validated, and the plan of cells that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.custom import read_custom
from slm_benchmark.catalog.model_cards import Model, load_registry
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.common.paths import CONFIG, CUSTOM, MODELS, relative
from slm_benchmark.common.schemas import read_config

VARIANTS = ("base", "gptq-4bit", "awq-4bit", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m")
"""Every weight format, in the order in which tables show them."""

_UNMEASURED = (
    "title",
    "note",
    "description",
    "license",
    "category",
    "languages",
    "state",
    "gated",
    "ranked",
    "benchmark",
    "default",
    "best",
    "columns",
    "higher_is_better",
    # It decides how wide an interval is, and neither what is asked nor any score.
    "cluster",
)


def measured(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A catalogue entry without the keys that only readers see."""
    return {key: value for key, value in entry.items() if key not in _UNMEASURED}


@dataclass(frozen=True)
class Catalogue:
    """Everything that exists: models, tasks, datasets, protocols, profiling, hardware, each by id.

    ``equivalence`` is config/equivalence.yaml, the documents and bounds of the gate; ``sandbox``
    the limits of generated code; ``judges`` what may judge texts; ``checks`` the bounds beyond
    which a score is shown with a warning. Tasks and datasets of custom/ are among the others.
    """

    models: dict[str, Model]
    tasks: dict[str, dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    protocols: dict[str, dict[str, Any]]
    profiling: dict[str, dict[str, Any]]
    hardware: dict[str, dict[str, Any]]
    equivalence: dict[str, Any]
    sandbox: dict[str, Any]
    judges: dict[str, dict[str, Any]]
    checks: dict[str, Any]

    def dataset_id(self, task: str, protocol: str) -> str | None:
        """The dataset that ``task`` reads under ``protocol``; None when that source has none."""
        datasets = self.tasks[task]["datasets"]
        found = datasets.get(self.protocols[protocol]["dataset_source"], datasets.get("own"))
        return None if found is None else str(found)

    def parts(self, task: str, model: str) -> list[str]:
        """The parts of ``task`` that ``model`` is asked; a task without parts has one, unnamed.

        Parts with languages are asked where the model's card names them all: none, where the task
        does not apply to the model.
        """
        parts = self.tasks[task].get("parts", ("",))
        if not isinstance(parts, Mapping):
            return list(parts)
        known = set(self.models[model].languages)
        return [
            part
            for part, languages in parts.items()
            if known.issuperset([languages] if isinstance(languages, str) else languages)
        ]

    def protocol_tasks(self, protocol: str) -> list[str]:
        """The columns of a protocol, in order; ``all`` leaves out second forms of a benchmark."""
        listed = self.protocols[protocol]["tasks"]
        if listed == "all":
            return [task for task, entry in self.tasks.items() if entry.get("default", True)]
        return list(listed)

    def bounds(self, task: str) -> dict[str, float]:
        """Check → the share of documents of ``task`` that it may find without a warning."""
        return {**self.checks["default"], **self.checks["tasks"].get(task, {})}

    def answers_of(self, task: str) -> str:
        """The task whose kept answers are scored for ``task``: itself, in most cases."""
        return str(self.tasks[task].get("answers_of", task))

    def scoring_choices(self, task: str, protocol: str) -> dict[str, Any]:
        """What a protocol decides about the scores of one task."""
        entry = {
            **self.protocols[protocol],
            "max_gen_toks": self.max_gen_toks(task, protocol),
            "engine": self.engine(protocol),
        }
        # In this order: Snakemake compares parameters as texts.
        keys = (
            "seed",
            "fewshot_sampler",
            "chat_template",
            "max_gen_toks",
            "max_context_tokens",
            "dtype",
            "engine",
        )
        return {
            "documents": self.documents(task, protocol),
            "task": self._task_choices(task),
            **{key: entry[key] for key in keys},
        }

    def profiling_choices(self, protocol: str) -> dict[str, Any]:
        """What a protocol decides about performance."""
        entry = self.protocols[protocol]
        return {"plan": self.profiling_plan(protocol), "dtype": entry["dtype"]}

    def profiling_plan(self, protocol: str) -> dict[str, Any]:
        """The measured part of the profiling plan that a protocol names."""
        return measured(self.profiling[self.protocols[protocol]["performance"]])

    def comparison_choices(self) -> dict[str, Any]:
        """What decides the equivalence of two formats, datasets and engines apart."""
        return {
            **self.equivalence,
            "entries": {task: self._task_choices(task) for task in self.equivalence["tasks"]},
        }

    def engine(self, protocol: str) -> str:
        """What runs the models under ``protocol``: default or vllm."""
        return str(self.protocols[protocol].get("engine", "default"))

    def documents(self, task: str, protocol: str) -> int | None:
        """How many documents of ``task`` the protocol asks for; None = all."""
        documents = self.protocols[protocol]["documents"]
        found: int | None = documents.get(self.answers_of(task), documents["default"])
        return found

    def max_gen_toks(self, task: str, protocol: str) -> int | None:
        """Most tokens of an answer under the protocol; None = as many as the task allows."""
        limit = self.protocols[protocol].get("max_gen_toks")
        if isinstance(limit, Mapping):
            limit = limit.get(self.answers_of(task), limit["default"])
        return None if limit is None else int(limit)

    def _task_choices(self, task: str) -> dict[str, Any]:
        """The measured part of a task's entry, without its datasets, which are files."""
        return {k: v for k, v in measured(self.tasks[task]).items() if k != "datasets"}


def load_catalogue(
    config: Path = CONFIG, models: Path = MODELS, custom: Path = CUSTOM
) -> Catalogue:
    """Read and validate the registry and all catalogue files.

    Raises:
        UserError: for the first thing that is wrong in any of them.
    """
    read = {
        name: read_config(config / f"{name}.yaml", name)
        for name in ("tasks", "datasets", "protocols", "profiling", "hardware")
    }
    tasks, datasets = read_custom(custom, read["tasks"], read["datasets"])
    read["tasks"] |= tasks
    read["datasets"] |= datasets
    catalogue = Catalogue(
        models=load_registry(models),
        equivalence=read_config(config / "equivalence.yaml", "equivalence_config"),
        **{
            name: read_config(config / f"{name}.yaml", name)
            for name in ("sandbox", "judges", "checks")
        },
        **read,
    )
    tasks_file = relative(config / "tasks.yaml")
    for task, entry in catalogue.tasks.items():
        for source, dataset in entry["datasets"].items():
            require_known(
                "dataset",
                dataset,
                catalogue.datasets,
                tasks_file,
                f"{task}.datasets.{source}",
            )
        asked = catalogue.answers_of(task)
        require_known("task", asked, catalogue.tasks, tasks_file, f"{task}.answers_of")
        if entry["chance"] == entry.get("best", 1):
            raise UserError(
                "a guesser cannot be as good as a perfect answer",
                file=tasks_file,
                field=f"{task}.chance",
                value=entry["chance"],
                fix="write null where there is no level of chance",
            )
    for task in catalogue.checks["tasks"]:
        require_known("task", task, catalogue.tasks, relative(config / "checks.yaml"), "tasks")
    for protocol, entry in catalogue.protocols.items():
        file = relative(config / "protocols.yaml")
        plan = entry["performance"]
        require_known("profiling plan", plan, catalogue.profiling, file, f"{protocol}.performance")
        limits = entry.get("max_gen_toks")
        for field, by_task in (("documents", entry["documents"]), ("max_gen_toks", limits)):
            for task in by_task if isinstance(by_task, Mapping) else ():
                if task != "default":
                    require_known("task", task, catalogue.tasks, file, f"{protocol}.{field}")
        for task in [] if entry["tasks"] == "all" else entry["tasks"]:
            require_known("task", task, catalogue.tasks, file, f"{protocol}.tasks")
            if catalogue.dataset_id(task, protocol) is None:
                raise UserError(
                    f"the task has no {entry['dataset_source']} dataset",
                    file=file,
                    field=f"{protocol}.tasks",
                    value=task,
                    fix=f"name one in config/tasks.yaml: {task}.datasets, or drop the task",
                )
    _check_equivalence(catalogue, relative(config / "equivalence.yaml"))
    return catalogue


def _check_equivalence(catalogue: Catalogue, file: str) -> None:
    """Refuse tasks and datasets that the gate cannot compare."""
    for task, entry in catalogue.equivalence["tasks"].items():
        require_known("task", task, catalogue.tasks, file, "tasks")
        require_known(
            "dataset", entry["dataset"], catalogue.datasets, file, f"tasks.{task}.dataset"
        )
        chosen = catalogue.tasks[task]
        # Other metrics decide by more than the likelihoods of the options.
        if chosen["kind"] != "loglikelihood" or chosen["metric"] not in ("acc", "acc_norm"):
            raise UserError(
                "only multiple-choice tasks with the metric acc or acc_norm can be compared",
                file=file,
                field="tasks",
                value=task,
                fix="use another task, such as arc_challenge",
            )
