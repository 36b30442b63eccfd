"""Base, GPTQ and AWQ variants on Transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from slm_benchmark.profile.runner import Job


class TransformersRunner:
    """One model folder on one device, with a growing key-value cache, batch 1."""

    def __init__(self, job: Job) -> None:
        self.device = job.device
        self._job = job
        _import_modelling(job)

    def load(self) -> None:
        """Read the weights onto the device, in the number format that evaluations use too."""
        torch.set_num_threads(self._job.threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            self._job.weights,
            dtype=_dtype(self._job),
            device_map=self.device,
            local_files_only=True,
            trust_remote_code=self._job.trust_remote_code,
        ).eval()
        # Full logits of a long prompt cost more than the layers of a small model.
        last_only = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._options = {"logits_to_keep": 1} if last_only else {}
        self._synchronise()
        self.reset()

    def reset(self) -> None:
        """Drop the cache."""
        self._cache: Any = None
        self._logits: Any = None

    def prefill(self, tokens: Sequence[int]) -> None:
        """One forward over the whole prompt."""
        self._forward(tokens)

    def decode(self, token: int) -> None:
        """One forward over one token."""
        self._forward([token])

    def greedy(self) -> int:
        """Argmax over the last logits."""
        return int(self._logits.argmax())

    def engine(self) -> dict[str, Any]:
        """Versions, and the class of the layers that do the matrix products."""
        return {
            "name": "transformers",
            "version": transformers.__version__,
            "kernel": self._kernel(),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "schedule": "prompt in one forward, then one token a forward",
        }

    def device_memory_bytes(self) -> int | None:
        """Peak bytes that torch reserved on the GPU; None on a CPU."""
        return int(torch.cuda.max_memory_reserved()) if self.device == "cuda" else None

    def _forward(self, tokens: Sequence[int]) -> None:
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.tensor([tokens], device=self.device),
                past_key_values=self._cache,
                use_cache=True,
                **self._options,
            )
        self._cache, self._logits = out.past_key_values, out.logits[0, -1]
        self._synchronise()

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _kernel(self) -> str:
        quantized = {type(m).__name__ for m in self._model.modules() if hasattr(m, "qweight")}
        if quantized:
            return ", ".join(sorted(quantized))
        if self.device == "cuda":
            return f"torch.nn.Linear, CUDA {torch.version.cuda}"
        libraries = {
            "oneDNN": torch.backends.mkldnn.is_available(),
            "MKL": torch.backends.mkl.is_available(),
        }
        built_with = [name for name, there in libraries.items() if there]
        capability = torch.backends.cpu.get_cpu_capability()
        return ", ".join(["torch.nn.Linear", *built_with, capability])


def _import_modelling(job: Job) -> None:
    """Import now what `from_pretrained` would: code is no part of a model's load time or memory."""
    if job.variant != "base":
        import gptqmodel  # noqa: F401
    config = transformers.AutoConfig.from_pretrained(
        job.weights, local_files_only=True, trust_remote_code=job.trust_remote_code
    )
    with torch.device("meta"):
        transformers.AutoModelForCausalLM.from_config(
            config, trust_remote_code=job.trust_remote_code
        )


def _dtype(job: Job) -> Any:
    if job.dtype == "auto":
        return torch.float16 if job.device == "cuda" else torch.float32
    return getattr(torch, job.dtype)
