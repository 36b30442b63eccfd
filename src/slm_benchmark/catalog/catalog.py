"""What to run and how: config/*.yaml, validated, and the plan of cells that follows from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slm_benchmark.catalog.custom import read_custom
from slm_benchmark.catalog.model_cards import Model, load_registry
from slm_benchmark.catalog.types import (
    ChecksConfig,
    Dataset,
    EquivalenceConfig,
    FidelityConfig,
    Hardware,
    Judge,
    NoiseConfig,
    ProfilingPlan,
    Protocol,
    RankingConfig,
    SandboxConfig,
    Task,
)
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
    # It decides how wide an interval is, and neither a prompt nor a score.
    "cluster",
)


def measured(entry: Mapping[str, object]) -> dict[str, object]:
    """The part of a catalogue entry that decides a measurement, as a rule's parameter."""
    return {key: value for key, value in entry.items() if key not in _UNMEASURED}


@dataclass(frozen=True)
class Catalogue:
    """Everything that exists: models, tasks, datasets, protocols, profiling, hardware, each by id.

    Attributes:
        equivalence: The documents and bounds of the gate before GGUF rows.
        fidelity: The fixed text of the fidelity records.
        noise: The perturbations of the noise records.
        ranking: config/standings.yaml, the share of counted tasks that an overall score needs.
        sandbox: The limits of generated code.
        judges: The models that may judge texts.
        checks: The bounds beyond which a score is shown with a warning.

    Tasks and datasets of custom/ are among the others.
    """

    models: dict[str, Model]
    tasks: dict[str, Task]
    datasets: dict[str, Dataset]
    protocols: dict[str, Protocol]
    profiling: dict[str, ProfilingPlan]
    hardware: dict[str, Hardware]
    equivalence: EquivalenceConfig
    fidelity: FidelityConfig
    noise: NoiseConfig
    ranking: RankingConfig
    sandbox: SandboxConfig
    judges: dict[str, Judge]
    checks: ChecksConfig

    def absent(self, **ids: str) -> tuple[str, str] | None:
        """The first kind of entry whose id is not there, and the file that would hold it.

        Args:
            ids: By kind, as records name it: ``model``, ``task``, ``protocol`` or ``dataset``.
        """
        known: dict[str, tuple[Collection[str], str]] = {
            "model": (self.models, "models/"),
            "task": (self.tasks, "config/tasks.yaml"),
            "protocol": (self.protocols, "config/protocols.yaml"),
            "dataset": (self.datasets, "config/datasets.yaml"),
        }
        for kind, name in ids.items():
            entries, file = known[kind]
            if name not in entries:
                return kind, file
        return None

    def dataset_id(self, task: str, protocol: str) -> str | None:
        """The dataset that ``task`` reads under ``protocol``; None when that source has none."""
        datasets = self.tasks[task]["datasets"]
        return datasets.get(self.protocols[protocol]["dataset_source"], datasets.get("own"))

    def parts(self, task: str, model: str) -> list[str]:
        """The parts of ``task`` for ``model``; a task without parts has one, unnamed.

        A part with languages applies where the model's card names them all. No part means that the
        task does not apply to the model.
        """
        parts = self.tasks[task].get("parts", [""])
        if not isinstance(parts, dict):
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
        """Check → the share of documents of ``task`` that may fail it without a warning."""
        bounds = {**self.checks["default"], **self.checks["tasks"].get(task, {})}
        return {check: float(str(bound)) for check, bound in bounds.items()}

    def answers_of(self, task: str) -> str:
        """The task whose stored generations are scored for ``task``: itself, in most cases."""
        return self.tasks[task].get("answers_of", task)

    def scoring_choices(self, task: str, protocol: str) -> dict[str, object]:
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

    def profiling_choices(self, protocol: str) -> dict[str, object]:
        """What a protocol decides about performance."""
        entry = self.protocols[protocol]
        return {"plan": self.profiling_plan(protocol), "dtype": entry["dtype"]}

    def profiling_plan(self, protocol: str) -> dict[str, object]:
        """The measured part of the profiling plan that a protocol names."""
        return measured(self.profiling[self.protocols[protocol]["performance"]])

    def comparison_choices(self) -> dict[str, object]:
        """What decides the equivalence of two formats, datasets and engines apart."""
        return {
            **self.equivalence,
            "entries": {task: self._task_choices(task) for task in self.equivalence["tasks"]},
        }

    def engine(self, protocol: str) -> Literal["default", "vllm"]:
        """What runs the models under ``protocol``: default or vllm."""
        return self.protocols[protocol].get("engine", "default")

    def documents(self, task: str, protocol: str) -> int | None:
        """Number of documents of ``task`` under the protocol; None = all."""
        documents = self.protocols[protocol]["documents"]
        return documents.get(self.answers_of(task), documents["default"])

    def max_gen_toks(self, task: str, protocol: str) -> int | None:
        """Most tokens of a generation under the protocol; None = as many as the task allows."""
        limit = self.protocols[protocol].get("max_gen_toks")
        if isinstance(limit, dict):
            limit = limit.get(self.answers_of(task), limit["default"])
        return limit

    def _task_choices(self, task: str) -> dict[str, object]:
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
        fidelity=read_config(config / "fidelity.yaml", "fidelity_config"),
        noise=read_config(config / "noise.yaml", "noise_config"),
        ranking=read_config(config / "standings.yaml", "standings"),
        **{
            name: read_config(config / f"{name}.yaml", name)
            for name in ("sandbox", "judges", "checks")
        },
        **read,
    )
    _check_tasks(catalogue, relative(config / "tasks.yaml"))
    for task in catalogue.checks["tasks"]:
        require_known("task", task, catalogue.tasks, relative(config / "checks.yaml"), "tasks")
    for protocol in catalogue.protocols:
        _check_protocol(catalogue, protocol, relative(config / "protocols.yaml"))
    _check_equivalence(catalogue, relative(config / "equivalence.yaml"))
    return catalogue


def _check_tasks(catalogue: Catalogue, file: str) -> None:
    """Refuse tasks that name what is not there, or whose scores have no scale."""
    for task, entry in catalogue.tasks.items():
        for source, dataset in entry["datasets"].items():
            field = f"{task}.datasets.{source}"
            require_known("dataset", str(dataset), catalogue.datasets, file, field)
        generating = catalogue.answers_of(task)
        require_known("task", generating, catalogue.tasks, file, f"{task}.answers_of")
        if entry["chance"] == entry.get("best", 1):
            raise UserError(
                "a guesser cannot be as good as a perfect answer",
                file=file,
                field=f"{task}.chance",
                value=entry["chance"],
                fix="write null where there is no level of chance",
            )


def _check_protocol(catalogue: Catalogue, protocol: str, file: str) -> None:
    """Refuse a protocol that names what is not there, or a task without its kind of dataset."""
    entry = catalogue.protocols[protocol]
    plan = entry["performance"]
    require_known("profiling plan", plan, catalogue.profiling, file, f"{protocol}.performance")
    limits = entry.get("max_gen_toks")
    for field, by_task in (("documents", entry["documents"]), ("max_gen_toks", limits)):
        for task in by_task if isinstance(by_task, dict) else ():
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
