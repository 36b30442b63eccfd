"""The choices of one run, config/config.yaml, and the cells that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_benchmark.catalog.catalog import VARIANTS, Catalogue
from slm_benchmark.catalog.types import Quantization
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import validate


@dataclass(frozen=True)
class Cell:
    """One measurement to make."""

    model: str
    variant: str
    hardware: str
    protocol: str
    task: str


@dataclass(frozen=True)
class RunConfig:
    """The choices of config/config.yaml, resolved against the catalogue."""

    catalogue: Catalogue
    models: list[str]
    variants: list[str]
    tasks: list[str]
    hardware: str
    protocol: str
    quantization: Quantization
    judge: str | None

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], catalogue: Catalogue, file: str = "config/config.yaml"
    ) -> RunConfig:
        """Resolve ``config``.

        Raises:
            UserError: for a bad key or value, or an unknown model, task, protocol or hardware id.
        """
        config = dict(config)
        validate(config, "config", file)
        require_known("protocol", config["protocol"], catalogue.protocols, file, "protocol")
        require_known("hardware", config["hardware"], catalogue.hardware, file, "hardware")
        quantization = config["quantization"]
        calibration = quantization["calibration"]["dataset"]
        judge = config.get("judge")
        if judge is not None:
            require_known("judge", judge, catalogue.judges, file, "judge")
        field = "quantization.calibration.dataset"
        require_known("dataset", calibration, catalogue.datasets, file, field)
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

    def warnings(self) -> list[str]:
        """What the planned models' cards warn of."""
        return [w for model in self.models for w in self.catalogue.models[model].warnings]

    def model_variants(self) -> list[tuple[str, str]]:
        """(model, variant) pairs, alphabetical by model, then in the order of `VARIANTS`."""
        return [(model, variant) for model in self.models for variant in self.variants_of(model)]

    def variants_of(self, model: str) -> list[str]:
        """The planned variants of one model: those of its card that its architecture allows."""
        possible = self.catalogue.models[model].possible_variants
        return [variant for variant in self.variants if variant in possible]

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
        require_known("model", model, catalogue.models, file, "models")
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

    ready = [task for task in catalogue.protocol_tasks(protocol) if runs(task)]
    if isinstance(chosen, str):
        return ready
    more = [task for task, e in catalogue.tasks.items() if not e.get("default", True)]
    offered = ready + [task for task in more if task not in ready and runs(task)]
    for task in chosen:
        require_known("task", task, catalogue.tasks, file, "tasks")
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
