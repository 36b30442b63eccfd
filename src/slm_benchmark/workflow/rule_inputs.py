"""What Snakemake asks about the plan: names of files, and the parameters that make a job rerun.

A parameter holds every choice that a job depends on and that is no file, so that Snakemake reruns
exactly the jobs whose parameters changed.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.catalog import measured
from slm_benchmark.catalog.custom import DESCRIPTION
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.common.paths import CONFIG, CUSTOM, MODELS, ROOT, relative
from slm_benchmark.engines.identity import VERSIONS, engine_name, engine_packages
from slm_benchmark.evaluation.fidelity import read_fidelity_config
from slm_benchmark.evaluation.noise_floor import noise_choices, noise_plan, noise_tasks
from slm_benchmark.evaluation.requirements import JUDGE_PROMPTS
from slm_benchmark.profiling.job import VERSION
from slm_benchmark.records.provenance import locked_versions
from slm_benchmark.records.store import published_records

BYTES_PER_WEIGHT = 4
"""Of the widest format that a job holds in memory."""


class Names:
    """File names and parameters of one plan, by the wildcards of a rule."""

    def __init__(self, plan: RunConfig) -> None:
        self.plan = plan
        self.catalogue = plan.catalogue

    # ── files ──

    def cells(self) -> list[str]:
        """Records of all planned scores."""
        return [
            f"runs/{c.model}/{c.variant}/{c.hardware}/{c.protocol}/{c.task}.json"
            for c in self.plan.cells()
        ]

    def performance(self) -> list[str]:
        """Records of all planned profiles; vLLM, which decides its own batches, has none."""
        if self.catalogue.engine(self.plan.protocol) == "vllm":
            return []
        return [
            f"runs/{model}/{variant}/{self.plan.hardware}/{self.plan.protocol}/performance.json"
            for model, variant in self.plan.model_variants()
        ]

    def session(self, model: str, variant: str, hardware: str, protocol: str) -> str:
        """Record of the profiling session that a variant's performance is taken from.

        Raises:
            UserError: when the plan's session of this model leaves the variant out.
        """
        planned = self._session_variants(model)
        if variant not in planned:
            raise UserError(
                f"no profile of {model} {variant} is planned",
                file="config/config.yaml",
                field="variants",
                value=planned,
                fix=f"name it: --config 'variants=[\"{variant}\"]'",
            )
        return f"runs/{model}/sessions/{hardware}/{protocol}.json"

    def session_weights(self, model: str) -> list[str]:
        """Weights of all variants that one session measures side by side."""
        variants = self._session_variants(model)
        return [f"resources/models/{model}/{variant}/weights.json" for variant in variants]

    def _session_variants(self, model: str) -> list[str]:
        return [v for v in self.plan.variants if v in self.model(model).variants]

    def equivalence(self) -> list[str]:
        """Records of the gate, of each model with a planned GGUF variant."""
        pairs = self.plan.model_variants()
        models = [model for model, variant in pairs if engine_name(variant) == "llama.cpp"]
        return [f"runs/{model}/equivalence.json" for model in dict.fromkeys(models)]

    def equivalence_datasets(self) -> list[str]:
        """Manifests of the datasets of the gate, in the order of its tasks."""
        entries = self.catalogue.equivalence["tasks"].values()
        return [f"resources/datasets/{entry['dataset']}/manifest.json" for entry in entries]

    def fidelity(self) -> list[str]:
        """Records of how far each planned variant lies from its base."""
        return [
            f"runs/{model}/{variant}/fidelity.json"
            for model, variant in self.plan.model_variants()
            if variant != "base"
        ]

    def fidelity_text(self) -> str:
        """Manifest of the dataset that the fixed text is taken from."""
        dataset = read_fidelity_config()["dataset"]
        require_known("dataset", dataset, self.catalogue.datasets, "config/fidelity.yaml")
        return f"resources/datasets/{dataset}/manifest.json"

    def noise(self) -> list[str]:
        """Records of the noise of all planned scores that config/noise.yaml names."""
        if self.catalogue.engine(self.plan.protocol) == "vllm":
            return []
        variants = noise_plan(self.plan.protocol)["variants"]
        tasks = noise_tasks(self.catalogue, self.plan.protocol, self.plan.tasks)
        return [
            f"runs/{c.model}/{c.variant}/{c.hardware}/{c.protocol}/noise/{c.task}.json"
            for c in self.plan.cells()
            if c.variant in variants and c.task in tasks
        ]

    def noise_with_all(self) -> list[str]:
        """Those of `noise` that a run without a target measures: all or none."""
        return self.noise() if noise_plan(self.plan.protocol)["with_all"] else []

    def records(self, edition: str) -> list[str]:
        """Records behind an edition: those of results/, and in a preview the plan's runs."""
        published = [relative(path) for path in published_records()]
        return published + (self.cells() + self.performance() if edition == "preview" else [])

    def compared(self, edition: str) -> list[str]:
        """Records behind an edition's quantization reports: of scores, fidelity and noise.

        The noise of a preview's scores counts where it was measured, and is not asked for.
        """
        noise = {*self.noise_with_all(), *filter(os.path.exists, self.noise())}
        runs = [*self.cells(), *self.fidelity(), *sorted(noise)] if edition == "preview" else []
        return [relative(path) for path in published_records()] + runs

    def dataset(self, task: str, protocol: str) -> str:
        """Manifest of the dataset that a cell reads."""
        require_known("task", task, self.catalogue.tasks, "config/tasks.yaml")
        require_known("protocol", protocol, self.catalogue.protocols, "config/protocols.yaml")
        found = self.catalogue.dataset_id(task, protocol)
        if found is None:
            raise UserError(
                f"the protocol {protocol} has no dataset for this task",
                file="config/tasks.yaml",
                field=f"{task}.datasets",
                fix="use another protocol",
            )
        return f"resources/datasets/{found}/manifest.json"

    def answers(self, model: str, variant: str, hardware: str, protocol: str, task: str) -> str:
        """Record of the kept answers that a score is made from."""
        require_known("task", task, self.catalogue.tasks, "config/tasks.yaml")
        asked = self.catalogue.answers_of(task)
        return f"runs/{model}/{variant}/{hardware}/{protocol}/{asked}.answers.json"

    def texts(self, *cell: str) -> str:
        """The kept answers themselves, beside their record."""
        return self.answers(*cell).removesuffix(".json") + ".parquet"

    def resources(self, task: str) -> list[str]:
        """Manifests of the pinned inputs that a task has beside its dataset."""
        require_known("task", task, self.catalogue.tasks, "config/tasks.yaml")
        wanted = self.catalogue.tasks[task].get("resources", ())
        return [f"resources/tools/{name}/manifest.json" for name in wanted]

    def scorer(self, task: str, protocol: str) -> list[str]:
        """What scoring a task's answers reads beside them: pinned inputs, prompts of the judge."""
        found = self.resources(task)
        if self.plan.judge is not None and self.catalogue.tasks[task].get("judged"):
            judge = self.catalogue.judges[self.plan.judge]
            found.append(f"resources/datasets/{JUDGE_PROMPTS}/manifest.json")
            # A judge on this machine may be a variant that the workflow makes.
            places = [Path(judge[key]) for key in ("weights", "tokenizer") if key in judge]
            folders = [place.parent if place.suffix == ".gguf" else place for place in places]
            made = [folder for folder in folders if folder.is_relative_to("resources/models")]
            found += [str(folder / "weights.json") for folder in made]
        return found

    def judge_threads(self, task: str, hardware: str) -> int:
        """Threads of one scoring: those of an evaluation for a judge on this machine, else one."""
        if self.plan.judge is None or not self.catalogue.tasks[task].get("judged"):
            return 1
        local = self.catalogue.judges[self.plan.judge]["kind"] == "gguf"
        return self.threads(hardware) if local else 1

    def task_pattern(self, kind: str) -> str:
        """Pattern of the tasks of a kind, loglikelihood or generate, for a wildcard."""
        tasks = [task for task, entry in self.catalogue.tasks.items() if entry["kind"] == kind]
        return "|".join(tasks)

    def local_source(self, model: str) -> list[str]:
        """Files of a model or dataset that lies on this machine; none for other sources."""
        source = self.model(model).source
        return _files(source["path"]) if source["type"] == "local" else []

    def local_dataset(self, dataset: str) -> list[str]:
        """Files of a dataset that lies, or is made, on this machine; none for other sources."""
        entry = self.entry("dataset", dataset)
        if entry["source"] == "generated":
            return [str(entry["script"])]
        return sorted(entry["files"].values()) if entry["source"] == "local" else []

    def calibration(self) -> str:
        """Manifest of the calibration dataset."""
        return (
            f"resources/datasets/{self.plan.quantization['calibration']['dataset']}/manifest.json"
        )

    def quantize_env(self, backend: str) -> str:
        """Environment of a 4-bit rule, from the folder of the rules."""
        legacy = self.plan.quantization[backend] != "gptqmodel"
        return f"../../envs/quantize{'-legacy' if legacy else ''}.yaml"

    def catalogue_files(self) -> list[str]:
        """Files with the facts that the leaderboard shows beside the records."""
        found = [path for folder in (CONFIG, MODELS) for path in sorted(folder.glob("*.yaml"))]
        return [relative(path) for path in [*found, *sorted(CUSTOM.glob(f"*/{DESCRIPTION}"))]]

    def page_files(self) -> list[str]:
        """Hand-written pages and what the generated ones are made with."""
        own = [p for p in (ROOT / "src/slm_benchmark/site").rglob("*") if p.suffix != ".pyc"]
        found = [ROOT / "mkdocs.yml", *(ROOT / "docs").rglob("*"), *own]
        return sorted(relative(path) for path in found if path.is_file())

    # ── parameters ──

    def model(self, model: str) -> Any:
        """The card of a model.

        Raises:
            UserError: for an unknown id.
        """
        require_known("model", model, self.catalogue.models, "models/")
        return self.catalogue.models[model]

    def entry(self, kind: str, key: str) -> dict[str, Any]:
        """The measured part of an entry of config/{kind}s.yaml (or hardware.yaml).

        Raises:
            UserError: for an unknown id.
        """
        catalogues = {
            "dataset": (self.catalogue.datasets, "config/datasets.yaml"),
            "hardware": (self.catalogue.hardware, "config/hardware.yaml"),
        }
        known, file = catalogues[kind]
        require_known(kind, key, known, file)
        return measured(known[key])

    def card(self, model: str) -> dict[str, Any]:
        """The measured part of a model's card."""
        measured_part: dict[str, Any] = self.model(model).measured
        return measured_part

    def dataset_entry(self, dataset: str) -> dict[str, Any]:
        """The measured part of a dataset's entry."""
        return self.entry("dataset", dataset)

    def quantization(self, backend: str) -> dict[str, Any]:
        """How a 4-bit variant is made; ``backend`` is gptq_backend or awq_backend."""
        settings = self.plan.quantization
        return {
            "backend": settings[backend],
            "group_size": settings["group_size"],
            "calibration": settings["calibration"],
        }

    def scoring(self, model: str, variant: str, protocol: str, task: str) -> dict[str, Any]:
        """Everything but files that a score depends on."""
        self.dataset(task, protocol)
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

    def fidelity_reference_choices(self, model: str) -> dict[str, Any]:
        """Everything but files that a base model's side of the fidelity depends on."""
        card = self.model(model)
        return {
            "text": read_fidelity_config(),
            "calibration": self.plan.quantization["calibration"],
            "remote_code": card.trust_remote_code,
            "device": self.entry("hardware", self.plan.hardware)["device"],
            "engine": _engine("base"),
        }

    def fidelity_choices(self, model: str, variant: str) -> dict[str, Any]:
        """Everything but files that the fidelity of a variant depends on."""
        return {**self.fidelity_reference_choices(model), "engine": _engine(variant)}

    def noise_choices(self, task: str, protocol: str) -> dict[str, Any]:
        """What decides the noise of a score beside what decides the score."""
        return noise_choices(task, protocol)

    def judging(self, task: str, protocol: str) -> dict[str, Any]:
        """Everything but files that the score of kept answers depends on."""
        entry = self.catalogue.tasks[task]
        judge = self.plan.judge if entry.get("judged") else None
        return {
            "choices": self.catalogue.scoring_choices(task, protocol),
            "judge": None if judge is None else measured(self.catalogue.judges[judge]),
            "code": self._code() if entry["runs_code"] else None,
            **_grouped(entry),
        }

    def _code(self) -> dict[str, Any]:
        """How generated code runs here; what could not be confined is tried again when it can."""
        from slm_benchmark.sandbox import Unavailable, confinement

        confined = not isinstance(confinement(), Unavailable)
        return {"limits": self.catalogue.sandbox["limits"], "confined": confined}

    def comparison(self, model: str) -> dict[str, Any]:
        """Everything but files that the equivalence of a model's formats depends on."""
        card = self.model(model)
        return {
            "choices": self.catalogue.comparison_choices(),
            "context_length": card.context_length,
            "remote_code": card.trust_remote_code,
            "device": self.entry("hardware", self.plan.hardware)["device"],
            "engines": [_engine("base"), _engine("gguf-f16")],
        }

    def profiling(self, model: str, hardware: str, protocol: str) -> dict[str, Any]:
        """Everything but files that a profile depends on."""
        require_known("protocol", protocol, self.catalogue.protocols, "config/protocols.yaml")
        variants = self._session_variants(model)
        return {
            "choices": self.catalogue.profiling_choices(protocol),
            "protocol": protocol,
            "hardware": self.entry("hardware", hardware),
            "remote_code": self.model(model).trust_remote_code,
            "instrument": VERSION,
            "packages": {variant: _profiled_packages(variant) for variant in variants},
        }

    # ── resources ──

    def threads(self, hardware: str) -> int:
        """Threads of one evaluation."""
        threads: int | None = self.entry("hardware", hardware)["threads"]
        return threads or 1

    def quantize_threads(self, cores: int | None) -> int:
        """Threads of a 4-bit job: half the cores, so that evaluations go on beside it.

        Args:
            cores: Cores of this run; None on a cluster.
        """
        return max(1, (cores or 8) // 2)

    def profile_threads(self, cores: int | None) -> Callable[[str], int]:
        """Threads of a profile: all cores, so that nothing runs beside it.

        Args:
            cores: Cores of this run; None on a cluster, where a profile takes its hardware's.
        """
        return lambda hardware: cores or self.threads(hardware)

    def gpus(self, variant: str, hardware: str) -> int:
        """GPUs of one job: GGUF variants run on the CPU."""
        on_gpu = self.entry("hardware", hardware)["device"] == "cuda"
        return int(on_gpu and engine_name(variant) == "transformers")

    def session_gpus(self, model: str, hardware: str) -> int:
        """GPUs of a profile: one where some variant of it needs one."""
        variants = self._session_variants(model)
        return max((self.gpus(variant, hardware) for variant in variants), default=0)

    def quantize_gpus(self, backend: str) -> int:
        """GPUs of a 4-bit job: the original libraries need one, gptqmodel takes one if it may."""
        legacy = self.plan.quantization[backend] != "gptqmodel"
        return int(legacy or self.entry("hardware", self.plan.hardware)["device"] == "cuda")

    def memory_mb(self, model: str) -> int:
        """Memory that a job with this model may need, in MB: its weights and as much again."""
        return int(1500 + 2 * BYTES_PER_WEIGHT * self.model(model).parameters / 1e6)

    def priority(self, model: str) -> int:
        """Higher for models earlier in the alphabet."""
        models = sorted(self.catalogue.models)
        return len(models) - models.index(model) if model in models else 0

    def warnings(self) -> list[str]:
        """What the planned models' cards warn of."""
        return [w for model in self.plan.models for w in self.catalogue.models[model].warnings]


def _grouped(entry: Mapping[str, Any]) -> dict[str, Any]:
    """How a task's documents come in groups, which decides its intervals and not its answers."""
    return {"cluster": entry["cluster"]} if "cluster" in entry else {}


def _engine(variant: str, choice: str = "default") -> dict[str, Any]:
    name = engine_name(variant, choice)
    return {"name": name, "version": VERSIONS[name], "packages": _packages(variant, choice)}


def _profiled_packages(variant: str) -> dict[str, str]:
    """Without the harness, which makes no requests there."""
    found = _packages(variant)
    del found["lm-eval"]
    return found


def _packages(variant: str, choice: str = "default") -> dict[str, str]:
    lock = locked_versions()
    return {package: lock[package] for package in engine_packages(variant, choice)}


def _files(path: str) -> list[str]:
    source = ROOT / path
    if not source.is_dir():
        return [path]
    return sorted(str(Path(path) / p.relative_to(source)) for p in source.rglob("*") if p.is_file())
