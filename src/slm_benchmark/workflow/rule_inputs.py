"""Files that rules read and make, by the wildcards of a rule."""

from __future__ import annotations

import os
from pathlib import Path

from slm_benchmark.catalog.custom import DESCRIPTION
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.common.paths import CONFIG, CUSTOM, MODELS, ROOT, relative
from slm_benchmark.download.at_hand import check_downloaded
from slm_benchmark.engines.identity import engine_name
from slm_benchmark.evaluation.noise_floor import noise_plan, noise_tasks
from slm_benchmark.evaluation.requirements import JUDGE_PROMPTS
from slm_benchmark.records.store import published_records
from slm_benchmark.workflow.rule_values import RuleValues


class RuleInputs(RuleValues):
    """File names of one run."""

    def cells(self) -> list[str]:
        """Records of all planned scores."""
        return [
            f"runs/{c.model}/{c.variant}/{c.hardware}/{c.protocol}/{c.task}.json"
            for c in self.run_config.cells()
        ]

    def performance(self) -> list[str]:
        """Records of all planned profiles; vLLM, which decides its own batches, has none."""
        if self.catalogue.engine(self.run_config.protocol) == "vllm":
            return []
        return [
            f"runs/{model}/{variant}/{self.run_config.hardware}/{self.run_config.protocol}/performance.json"
            for model, variant in self.run_config.model_variants()
        ]

    def session(self, model: str, variant: str, hardware: str, protocol: str) -> str:
        """Record of the profiling session that a variant's performance is taken from.

        Raises:
            UserError: when the plan's session of this model leaves the variant out.
        """
        planned = self.session_variants(model)
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
        variants = self.session_variants(model)
        return [f"resources/models/{model}/{variant}/weights.json" for variant in variants]

    def equivalence(self) -> list[str]:
        """Records of the gate, of each model with a planned GGUF variant."""
        pairs = self.run_config.model_variants()
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
            for model, variant in self.run_config.model_variants()
            if variant != "base"
        ]

    def fidelity_text(self) -> str:
        """Manifest of the dataset that the fixed text is taken from."""
        dataset = self.catalogue.fidelity["dataset"]
        require_known("dataset", dataset, self.catalogue.datasets, "config/fidelity.yaml")
        return f"resources/datasets/{dataset}/manifest.json"

    def noise(self) -> list[str]:
        """Records of the noise of all planned scores that config/noise.yaml names."""
        if self.catalogue.engine(self.run_config.protocol) == "vllm":
            return []
        variants = noise_plan(self.catalogue, self.run_config.protocol)["variants"]
        tasks = noise_tasks(self.catalogue, self.run_config.protocol, self.run_config.tasks)
        return [
            f"runs/{c.model}/{c.variant}/{c.hardware}/{c.protocol}/noise/{c.task}.json"
            for c in self.run_config.cells()
            if c.variant in variants and c.task in tasks
        ]

    def noise_with_all(self) -> list[str]:
        """Those of `noise` that a run without a target measures: all or none."""
        return (
            self.noise() if noise_plan(self.catalogue, self.run_config.protocol)["with_all"] else []
        )

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
        dataset = self.catalogue.dataset_id(task, protocol)
        if dataset is None:
            raise UserError(
                f"the protocol {protocol} has no dataset for this task",
                file="config/tasks.yaml",
                field=f"{task}.datasets",
                fix="use another protocol",
            )
        return f"resources/datasets/{dataset}/manifest.json"

    def generations(self, model: str, variant: str, hardware: str, protocol: str, task: str) -> str:
        """Record of the stored generations that a score is made from."""
        require_known("task", task, self.catalogue.tasks, "config/tasks.yaml")
        source = self.catalogue.answers_of(task)
        return f"runs/{model}/{variant}/{hardware}/{protocol}/{source}.answers.json"

    def generation_rows(
        self, model: str, variant: str, hardware: str, protocol: str, task: str
    ) -> str:
        """The stored generations themselves, beside their record."""
        record = self.generations(model, variant, hardware, protocol, task)
        return record.removesuffix(".json") + ".parquet"

    def task_resources(self, task: str) -> list[str]:
        """Manifests of the pinned inputs that a task has beside its dataset."""
        require_known("task", task, self.catalogue.tasks, "config/tasks.yaml")
        names = self.catalogue.tasks[task].get("resources", ())
        return [f"resources/tools/{name}/manifest.json" for name in names]

    def scoring_inputs(self, task: str, protocol: str) -> list[str]:
        """What scoring generations reads beside them: pinned inputs, prompts of the judge."""
        inputs = self.task_resources(task)
        if self.run_config.judge is not None and self.catalogue.tasks[task].get("judged"):
            judge = self.catalogue.judges[self.run_config.judge]
            inputs.append(f"resources/datasets/{JUDGE_PROMPTS}/manifest.json")
            # A judge on this machine may be a variant that the workflow makes.
            paths = (
                [Path(judge["weights"]), Path(judge["tokenizer"])]
                if judge["kind"] == "gguf"
                else []
            )
            folders = [file.parent if file.suffix == ".gguf" else file for file in paths]
            variants = [folder for folder in folders if folder.is_relative_to("resources/models")]
            inputs += [str(folder / "weights.json") for folder in variants]
        return inputs

    def local_source(self, model: str) -> list[str]:
        """Files of a model that lies on this machine; none for other sources.

        There are none either where the card names no readable file: the download says why, and
        other models go on.

        Raises:
            UserError: when the model was downloaded, and its card says otherwise than its files.
        """
        check_downloaded(self.model(model))
        source = self.model(model).source
        return _files(source["path"]) if source["type"] == "local" else []

    def local_dataset(self, dataset: str) -> list[str]:
        """Files of a dataset that lies, or is made, on this machine; none for other sources."""
        require_known("dataset", dataset, self.catalogue.datasets, "config/datasets.yaml")
        entry = self.catalogue.datasets[dataset]
        if entry["source"] == "generated":
            return [str(entry["script"])]
        return sorted(entry["files"].values()) if entry["source"] == "local" else []

    def calibration(self) -> str:
        """Manifest of the calibration dataset."""
        dataset = self.run_config.quantization["calibration"]["dataset"]
        return f"resources/datasets/{dataset}/manifest.json"

    def catalogue_files(self) -> list[str]:
        """Files with the facts that the leaderboard shows beside the records."""
        files = [path for folder in (CONFIG, MODELS) for path in sorted(folder.glob("*.yaml"))]
        return [relative(path) for path in [*files, *sorted(CUSTOM.glob(f"*/{DESCRIPTION}"))]]

    def page_files(self) -> list[str]:
        """Hand-written pages and what the generated ones are made with."""
        site = [p for p in (ROOT / "src/slm_benchmark/site").rglob("*") if p.suffix != ".pyc"]
        settings = [ROOT / "mkdocs.yml", ROOT / "pyproject.toml"]
        files = [*settings, *(ROOT / "docs").rglob("*"), *site]
        return sorted(relative(path) for path in files if path.is_file())

    @property
    def loglikelihood_tasks(self) -> str:
        """Pattern of the tasks that read likelihoods, for a wildcard."""
        return self._tasks("loglikelihood")

    @property
    def generation_tasks(self) -> str:
        """Pattern of the tasks that generate texts, for a wildcard."""
        return self._tasks("generate")

    def _tasks(self, kind: str) -> str:
        return "|".join(t for t, entry in self.catalogue.tasks.items() if entry["kind"] == kind)


def _files(path: str) -> list[str]:
    source = ROOT / path
    if not source.is_dir():
        return [path] if os.access(source, os.R_OK) else []
    files = (p for p in source.rglob("*") if p.is_file() and os.access(p, os.R_OK))
    return sorted(str(Path(path) / p.relative_to(source)) for p in files)
