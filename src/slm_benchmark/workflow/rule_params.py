"""Parameters that make a job run again.

A parameter holds every choice that a job depends on and that is no file, so that Snakemake reruns
exactly the jobs whose parameters changed. It compares them as texts, so the order of keys matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm_benchmark.catalog.catalog import measured
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.engines.identity import VERSIONS, engine_name, engine_packages
from slm_benchmark.evaluation.noise_floor import noise_choices
from slm_benchmark.profiling.job import VERSION
from slm_benchmark.records.provenance import locked_versions
from slm_benchmark.workflow.rule_inputs import RuleInputs
from slm_benchmark.workflow.rule_values import RuleValues


class RuleParams(RuleValues):
    """What jobs depend on beside their files."""

    def card(self, model: str) -> dict[str, object]:
        """The measured part of a model's card."""
        measured_part: dict[str, object] = self.model(model).measured
        return measured_part

    def dataset_entry(self, dataset: str) -> dict[str, object]:
        """The measured part of a dataset's entry."""
        return self.entry("dataset", dataset)

    def gptq(self) -> dict[str, object]:
        """How the GPTQ variant is made."""
        return self._quantization("gptq_backend")

    def awq(self) -> dict[str, object]:
        """How the AWQ variant is made."""
        return self._quantization("awq_backend")

    def _quantization(self, backend: str) -> dict[str, object]:
        settings: Mapping[str, object] = self.run_config.quantization
        return {
            "backend": settings[backend],
            "group_size": settings["group_size"],
            "calibration": settings["calibration"],
        }

    def scoring(self, model: str, variant: str, protocol: str, task: str) -> dict[str, object]:
        """Everything but files that a score depends on."""
        RuleInputs(self.run_config).dataset(task, protocol)
        card, entry = self.model(model), self.catalogue.tasks[task]
        if self.catalogue.engine(protocol) == "vllm" and engine_name(variant) == "llama.cpp":
            raise UserError(
                "vLLM runs no GGUF variant",
                file="config/protocols.yaml",
                field=f"{protocol}.engine",
                value=variant,
                fix="choose another protocol",
            )
        parts = self.catalogue.parts(task, model)
        if not parts:
            raise UserError(
                f"the task {task} has no part in the languages of this model",
                file=card.file,
                field="languages",
                value=card.languages,
                fix="ask for another task, or name the languages that the model was made for",
            )
        return {
            "choices": self.catalogue.scoring_choices(task, protocol),
            **({} if parts == [""] else {"parts": parts}),
            "context_length": card.context_length,
            "chat": card.chat,
            "remote_code": card.trust_remote_code,
            "engine": _engine(variant, self.catalogue.engine(protocol)),
            **(_grouped(entry) if entry["kind"] == "loglikelihood" else {}),
        }

    def fidelity_reference(self, model: str) -> dict[str, object]:
        """Everything but files that a base model's side of the fidelity depends on."""
        card = self.model(model)
        return {
            "text": self.catalogue.fidelity,
            "calibration": self.run_config.quantization["calibration"],
            "remote_code": card.trust_remote_code,
            "device": self.entry("hardware", self.run_config.hardware)["device"],
            "engine": _engine("base"),
        }

    def fidelity(self, model: str, variant: str) -> dict[str, object]:
        """Everything but files that the fidelity of a variant depends on."""
        return {**self.fidelity_reference(model), "engine": _engine(variant)}

    def noise(self, task: str, protocol: str) -> dict[str, object]:
        """What decides the noise of a score beside what decides the score."""
        return noise_choices(self.catalogue, task, protocol)

    def judging(self, task: str, protocol: str) -> dict[str, object]:
        """Everything but files that the score of stored generations depends on."""
        entry = self.catalogue.tasks[task]
        judge = self.run_config.judge if entry.get("judged") else None
        return {
            "choices": self.catalogue.scoring_choices(task, protocol),
            "judge": None if judge is None else measured(self.catalogue.judges[judge]),
            "code": self._code() if entry["runs_code"] else None,
            **_grouped(entry),
        }

    def _code(self) -> dict[str, object]:
        """How generated code runs here; what could not be confined is tried again when it can."""
        from slm_benchmark.sandbox import Unavailable, confinement

        confined = not isinstance(confinement(), Unavailable)
        return {"limits": self.catalogue.sandbox["limits"], "confined": confined}

    def comparison(self, model: str) -> dict[str, object]:
        """Everything but files that the equivalence of a model's formats depends on."""
        card = self.model(model)
        return {
            "choices": self.catalogue.comparison_choices(),
            "context_length": card.context_length,
            "remote_code": card.trust_remote_code,
            "device": self.entry("hardware", self.run_config.hardware)["device"],
            "engines": [_engine("base"), _engine("gguf-f16")],
        }

    def profiling(self, model: str, hardware: str, protocol: str) -> dict[str, object]:
        """Everything but files that a profile depends on."""
        require_known("protocol", protocol, self.catalogue.protocols, "config/protocols.yaml")
        variants = self.session_variants(model)
        return {
            "choices": self.catalogue.profiling_choices(protocol),
            "protocol": protocol,
            "hardware": self.entry("hardware", hardware),
            "remote_code": self.model(model).trust_remote_code,
            "instrument": VERSION,
            "packages": {variant: _profiled_packages(variant) for variant in variants},
        }


def _grouped(entry: Mapping[str, Any]) -> dict[str, object]:
    """How a task's documents come in groups, which decides its intervals and not its answers."""
    return {"cluster": entry["cluster"]} if "cluster" in entry else {}


def _engine(variant: str, choice: str = "default") -> dict[str, object]:
    name = engine_name(variant, choice)
    return {"name": name, "version": VERSIONS[name], "packages": _packages(variant, choice)}


def _profiled_packages(variant: str) -> dict[str, str]:
    """Without the harness, which makes no requests there."""
    packages = _packages(variant)
    del packages["lm-eval"]
    return packages


def _packages(variant: str, choice: str = "default") -> dict[str, str]:
    lock = locked_versions()
    return {package: lock[package] for package in engine_packages(variant, choice)}
