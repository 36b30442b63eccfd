"""What to run and how: config/*.yaml, validated, and the plan of cells that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.errors import UserError
from slm_benchmark.paths import CONFIG, CUSTOM, MODELS, relative
from slm_benchmark.registry import Model, load_registry
from slm_benchmark.schemas import read_config, suggestion, validate
from slm_benchmark.tasks.custom import read_custom

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
    for task, entry in catalogue.tasks.items():
        for source, dataset in entry["datasets"].items():
            _known(
                "dataset",
                dataset,
                catalogue.datasets,
                config / "tasks.yaml",
                f"{task}.datasets.{source}",
            )
        asked = catalogue.answers_of(task)
        _known("task", asked, catalogue.tasks, config / "tasks.yaml", f"{task}.answers_of")
        if entry["chance"] == entry.get("best", 1):
            raise UserError(
                "a guesser cannot be as good as a perfect answer",
                file=relative(config / "tasks.yaml"),
                field=f"{task}.chance",
                value=entry["chance"],
                fix="write null where there is no level of chance",
            )
    for task in catalogue.checks["tasks"]:
        _known("task", task, catalogue.tasks, config / "checks.yaml", "tasks")
    for protocol, entry in catalogue.protocols.items():
        file = config / "protocols.yaml"
        plan = entry["performance"]
        _known("profiling plan", plan, catalogue.profiling, file, f"{protocol}.performance")
        limits = entry.get("max_gen_toks")
        for field, by_task in (("documents", entry["documents"]), ("max_gen_toks", limits)):
            for task in by_task if isinstance(by_task, Mapping) else ():
                if task != "default":
                    _known("task", task, catalogue.tasks, file, f"{protocol}.{field}")
        for task in [] if entry["tasks"] == "all" else entry["tasks"]:
            _known("task", task, catalogue.tasks, file, f"{protocol}.tasks")
            if catalogue.dataset_id(task, protocol) is None:
                raise UserError(
                    f"the task has no {entry['dataset_source']} dataset",
                    file=relative(file),
                    field=f"{protocol}.tasks",
                    value=task,
                    fix=f"name one in config/tasks.yaml: {task}.datasets, or drop the task",
                )
    _check_equivalence(catalogue, config / "equivalence.yaml")
    return catalogue


def _check_equivalence(catalogue: Catalogue, file: Path) -> None:
    """Refuse tasks and datasets that the gate cannot compare."""
    for task, entry in catalogue.equivalence["tasks"].items():
        _known("task", task, catalogue.tasks, file, "tasks")
        _known("dataset", entry["dataset"], catalogue.datasets, file, f"tasks.{task}.dataset")
        chosen = catalogue.tasks[task]
        # Other metrics decide by more than the likelihoods of the options.
        if chosen["kind"] != "loglikelihood" or chosen["metric"] not in ("acc", "acc_norm"):
            raise UserError(
                "only multiple-choice tasks with the metric acc or acc_norm can be compared",
                file=relative(file),
                field="tasks",
                value=task,
                fix="use another task, such as arc_challenge",
            )


def _known(kind: str, value: str, known: Mapping[str, Any], file: Path | str, field: str) -> None:
    if value not in known:
        raise UserError(
            f"unknown {kind}",
            file=relative(file),
            field=field,
            value=value,
            fix=suggestion(value, list(known)),
        )


@dataclass(frozen=True)
class Cell:
    """One measurement to make."""

    model: str
    variant: str
    hardware: str
    protocol: str
    task: str


@dataclass(frozen=True)
class Plan:
    """The choices of config/config.yaml, resolved against the catalogue."""

    catalogue: Catalogue
    models: list[str]
    variants: list[str]
    tasks: list[str]
    hardware: str
    protocol: str
    quantization: dict[str, Any]
    judge: str | None

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], catalogue: Catalogue, file: str = "config/config.yaml"
    ) -> Plan:
        """Resolve ``config``.

        Raises:
            UserError: for a bad key or value, or an unknown model, task, protocol or hardware id.
        """
        config = dict(config)
        validate(config, "config", file)
        _known("protocol", config["protocol"], catalogue.protocols, file, "protocol")
        _known("hardware", config["hardware"], catalogue.hardware, file, "hardware")
        quantization = config["quantization"]
        calibration = quantization["calibration"]["dataset"]
        judge = config.get("judge")
        if judge is not None:
            _known("judge", judge, catalogue.judges, file, "judge")
        field = "quantization.calibration.dataset"
        _known("dataset", calibration, catalogue.datasets, file, field)
        return cls(
            catalogue=catalogue,
            models=_models(config["models"], catalogue, file),
            variants=_variants(config, catalogue, file),
            tasks=_tasks(config["tasks"], config["protocol"], catalogue, file),
            hardware=config["hardware"],
            protocol=config["protocol"],
            quantization={
                "gptq_backend": quantization.get("gptq_backend", "gptqmodel"),
                "awq_backend": quantization.get("awq_backend", "gptqmodel"),
                "group_size": quantization.get("group_size", "auto"),
                "calibration": quantization["calibration"],
            },
            judge=judge,
        )

    def model_variants(self) -> list[tuple[str, str]]:
        """(model, variant) pairs, alphabetical by model, then in the order of `VARIANTS`."""
        return [
            (model, variant)
            for model in self.models
            for variant in self.variants
            if variant in self.catalogue.models[model].variants
        ]

    def cells(self) -> list[Cell]:
        """All planned measurements, in evaluation order, where the task applies to the model."""
        return [
            Cell(model, variant, self.hardware, self.protocol, task)
            for model, variant in self.model_variants()
            for task in self.tasks
            if self.catalogue.parts(task, model)
        ]


def _variants(config: Mapping[str, Any], catalogue: Catalogue, file: str) -> list[str]:
    """The chosen formats that the protocol's engine runs, in the order of `VARIANTS`."""
    chosen = [variant for variant in VARIANTS if variant in config["variants"]]
    if catalogue.engine(config["protocol"]) != "vllm":
        return chosen
    device = catalogue.hardware[config["hardware"]]["device"]
    if device != "cuda":
        raise UserError(
            f"the protocol {config['protocol']} runs on vLLM, which needs hardware with CUDA",
            file=relative(file),
            field="hardware",
            value=config["hardware"],
            fix="choose hardware with device: cuda, or another protocol",
        )
    planned = [variant for variant in chosen if not variant.startswith("gguf-")]
    if not planned:
        raise UserError(
            f"the protocol {config['protocol']} runs on vLLM, which has none of these variants",
            file=relative(file),
            field="variants",
            value=chosen,
            fix="add base, gptq-4bit or awq-4bit, or choose another protocol",
        )
    return planned


def _models(chosen: str | list[str], catalogue: Catalogue, file: str) -> list[str]:
    """Ids in alphabetical order; a choice by group leaves out what may not run."""
    if isinstance(chosen, str):
        return sorted(
            model.id
            for model in catalogue.models.values()
            if model.runnable and (chosen == "all" or model.source["type"] != "hub")
        )
    for model in chosen:
        _known("model", model, catalogue.models, file, "models")
        if not catalogue.models[model].runnable:
            raise UserError(
                "the model needs its own code, which no maintainer has allowed",
                file=relative(file),
                field="models",
                value=model,
                fix=f"drop it, or see remote_code in {catalogue.models[model].file}",
            )
    return sorted(chosen)


def _tasks(chosen: str | list[str], protocol: str, catalogue: Catalogue, file: str) -> list[str]:
    """Ids in the given order; a choice by group leaves out what cannot run yet.

    Beside the protocol's own columns a second form of a benchmark, or a task of custom/, may be
    named: they are columns of their own.
    """

    def runs(task: str) -> bool:
        ready = catalogue.tasks[task]["state"] == "ready"
        return ready and catalogue.dataset_id(task, protocol) is not None

    own = [task for task in catalogue.protocol_tasks(protocol) if runs(task)]
    if isinstance(chosen, str):
        return own
    more = [task for task, e in catalogue.tasks.items() if not e.get("default", True)]
    offered = own + [task for task in more if task not in own and runs(task)]
    for task in chosen:
        _known("task", task, catalogue.tasks, file, "tasks")
        if task not in offered:
            planned = catalogue.tasks[task]["state"] == "planned"
            raise UserError(
                "the task is planned: no rule runs it yet"
                if planned
                else f"the protocol {protocol} does not have this task",
                file=relative(file),
                field="tasks",
                value=task,
                fix=f"use one of: {', '.join(offered)}",
            )
    return list(chosen)
