"""What to run and how: config/*.yaml, validated, and the plan of cells that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.errors import UserError
from slm_benchmark.paths import CONFIG, MODELS, relative
from slm_benchmark.registry import Model, load_registry
from slm_benchmark.schemas import read_config, suggestion, validate

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
)


def measured(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A catalogue entry without the keys that only readers see."""
    return {key: value for key, value in entry.items() if key not in _UNMEASURED}


@dataclass(frozen=True)
class Catalogue:
    """Everything that exists: models, tasks, datasets, protocols, hardware, each by id.

    ``equivalence`` is config/equivalence.yaml, the documents and bounds of the gate.
    """

    models: dict[str, Model]
    tasks: dict[str, dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    protocols: dict[str, dict[str, Any]]
    hardware: dict[str, dict[str, Any]]
    equivalence: dict[str, Any]

    def dataset_id(self, task: str, protocol: str) -> str | None:
        """The dataset that ``task`` reads under ``protocol``; None when that source has none."""
        source = self.protocols[protocol]["dataset_source"]
        found = self.tasks[task]["datasets"].get(source)
        return None if found is None else str(found)

    def scoring_choices(self, task: str, protocol: str) -> dict[str, Any]:
        """What a protocol decides about the scores of one task."""
        entry = self.protocols[protocol]
        return {
            "documents": self.documents(task, protocol),
            "task": self._task_choices(task),
            **{
                key: entry[key]
                for key in (
                    "seed",
                    "fewshot_sampler",
                    "chat_template",
                    "max_gen_toks",
                    "max_context_tokens",
                    "dtype",
                )
            },
            "engine": self.engine(protocol),
        }

    def profiling_choices(self, protocol: str) -> dict[str, Any]:
        """What a protocol decides about performance."""
        entry = self.protocols[protocol]
        return {"performance": entry["performance"], "dtype": entry["dtype"]}

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
        found: int | None = documents.get(task, documents["default"])
        return found

    def _task_choices(self, task: str) -> dict[str, Any]:
        """The measured part of a task's entry, without its datasets, which are files."""
        return {k: v for k, v in measured(self.tasks[task]).items() if k != "datasets"}


def load_catalogue(config: Path = CONFIG, models: Path = MODELS) -> Catalogue:
    """Read and validate the registry and all catalogue files.

    Raises:
        UserError: for the first thing that is wrong in any of them.
    """
    read = {
        name: read_config(config / f"{name}.yaml", name)
        for name in ("tasks", "datasets", "protocols", "hardware")
    }
    equivalence = read_config(config / "equivalence.yaml", "equivalence_config")
    catalogue = Catalogue(models=load_registry(models), equivalence=equivalence, **read)
    for task, entry in catalogue.tasks.items():
        for source, dataset in entry["datasets"].items():
            _known(
                "dataset",
                dataset,
                catalogue.datasets,
                config / "tasks.yaml",
                f"{task}.datasets.{source}",
            )
    for protocol, entry in catalogue.protocols.items():
        file = config / "protocols.yaml"
        for task in entry["documents"]:
            if task != "default":
                _known("task", task, catalogue.tasks, file, f"{protocol}.documents")
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
        """All planned measurements, in evaluation order."""
        return [
            Cell(model, variant, self.hardware, self.protocol, task)
            for model, variant in self.model_variants()
            for task in self.tasks
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
    """Ids in the given order; a choice by group leaves out what cannot run yet."""
    listed = catalogue.protocols[protocol]["tasks"]
    offered = [
        task
        for task in (catalogue.tasks if listed == "all" else listed)
        if catalogue.tasks[task]["state"] == "ready"
        and catalogue.dataset_id(task, protocol) is not None
    ]
    if isinstance(chosen, str):
        return offered
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
