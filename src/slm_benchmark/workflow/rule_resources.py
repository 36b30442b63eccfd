"""What jobs need of the machine: threads, memory, GPUs, environments."""

from __future__ import annotations

from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.common.errors import require_known
from slm_benchmark.common.machine import usable_memory_bytes
from slm_benchmark.engines.identity import engine_name
from slm_benchmark.workflow.rule_values import RuleValues

BYTES_PER_WEIGHT = 4
"""Of the widest format that a job holds in memory."""


class RuleResources(RuleValues):
    """Threads, memory, GPUs and environments of jobs.

    Args:
        run_config: The choices of this run.
        cores: Cores of this run; None on a cluster.
    """

    def __init__(self, run_config: RunConfig, cores: int | None) -> None:
        super().__init__(run_config)
        self._cores = cores

    def threads(self, hardware: str) -> int:
        """Threads of one evaluation."""
        require_known("hardware", hardware, self.catalogue.hardware, "config/hardware.yaml")
        return self.catalogue.hardware[hardware]["threads"] or 1

    def run_threads(self) -> int:
        """Threads of one measurement whose path names no hardware: those of the run's."""
        return self.threads(self.run_config.hardware)

    def quantize_threads(self) -> int:
        """Threads of a 4-bit job: half the cores, so that evaluations go on beside it."""
        return max(1, (self._cores or 8) // 2)

    def profile_threads(self, hardware: str) -> int:
        """Threads of a profile: all cores, so that nothing runs beside it.

        On a cluster a profile takes its hardware's.
        """
        return self._cores or self.threads(hardware)

    def judge_threads(self, task: str, hardware: str) -> int:
        """Threads of one scoring: those of an evaluation for a judge on this machine, else one."""
        if self.run_config.judge is None or not self.catalogue.tasks[task].get("judged"):
            return 1
        local = self.catalogue.judges[self.run_config.judge]["kind"] == "gguf"
        return self.threads(hardware) if local else 1

    def gpus(self, variant: str, hardware: str) -> int:
        """GPUs of one job: GGUF variants run on the CPU."""
        on_gpu = self.entry("hardware", hardware)["device"] == "cuda"
        return int(on_gpu and engine_name(variant) == "transformers")

    def run_gpus(self) -> int:
        """GPUs of one measurement on Transformers whose path names no hardware."""
        return self.gpus("base", self.run_config.hardware)

    def session_gpus(self, model: str, hardware: str) -> int:
        """GPUs of a profile: one where some variant of it needs one."""
        variants = self.session_variants(model)
        return max((self.gpus(variant, hardware) for variant in variants), default=0)

    def gptq_gpus(self) -> int:
        """GPUs of a GPTQ job."""
        return self._quantize_gpus("gptq_backend")

    def awq_gpus(self) -> int:
        """GPUs of an AWQ job."""
        return self._quantize_gpus("awq_backend")

    def _quantize_gpus(self, backend: str) -> int:
        """The original libraries need one, gptqmodel takes one if it may."""
        on_gpu = self.entry("hardware", self.run_config.hardware)["device"] == "cuda"
        return int(self._legacy(backend) or on_gpu)

    @property
    def gptq_env(self) -> str:
        """Environment of the GPTQ rule, from the folder of the rules."""
        return self._quantize_env("gptq_backend")

    @property
    def awq_env(self) -> str:
        """Environment of the AWQ rule, from the folder of the rules."""
        return self._quantize_env("awq_backend")

    def _quantize_env(self, backend: str) -> str:
        return f"../../envs/quantize{'-legacy' if self._legacy(backend) else ''}.yaml"

    def _legacy(self, backend: str) -> bool:
        backends = {key: str(value) for key, value in self.run_config.quantization.items()}
        return backends[backend] != "gptqmodel"

    def memory_mb(self, model: str) -> int:
        """Memory that a job with this model may need, in MB: its weights and as much again."""
        return int(1500 + 2 * BYTES_PER_WEIGHT * self.model(model).parameters / 1e6)

    def memory_warnings(self) -> list[str]:
        """A sentence for each model of this run that may need more memory than may be used."""
        usable_mb = usable_memory_bytes() // 1_000_000
        return [
            f"{model}: its jobs may need {self.memory_mb(model)} MB of memory, and {usable_mb} MB "
            "may be used here; they may be killed"
            for model in self.run_config.models
            if self._cores is not None and self.memory_mb(model) > usable_mb
        ]

    def priority(self, model: str) -> int:
        """Higher for models earlier in the alphabet."""
        models = sorted(self.catalogue.models)
        return len(models) - models.index(model) if model in models else 0
