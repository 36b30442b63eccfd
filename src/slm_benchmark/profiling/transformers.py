"""Base, GPTQ and AWQ variants on Transformers."""

from __future__ import annotations

import gc
import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from slm_benchmark.engines.positions import learned_positions
from slm_benchmark.profiling.job import Job, Point, check_positions
from slm_benchmark.profiling.memory import release_mappings
from slm_benchmark.profiling.roofline import compute_dtype
from slm_benchmark.profiling.traffic import transformers_traffic
from slm_benchmark.profiling.types import DeviceMemory, RawTraffic, RunnerEngine

_CACHES = ("past_key_values", "cache_params")
"""What models call the cache that they make for themselves."""


class TransformersRunner:
    """One model folder on one device, with the growing cache that its own ``generate`` uses."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._on_gpu = job.runs_on == "cuda"
        _import_modeling(job)
        # Like the libraries in main memory, the driver's context is no part of what a model takes.
        self._device_baseline_bytes = _device_used_bytes() if self._on_gpu else 0

    def load(self) -> None:
        """Read the weights onto the device, in the number format that evaluations use too."""
        torch.set_num_threads(self._job.threads)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            self._job.weights,
            dtype=getattr(torch, compute_dtype(self._job.runs_on, self._job.dtype)),
            device_map=self._job.runs_on,
            local_files_only=True,
            trust_remote_code=self._job.trust_remote_code,
        ).eval()
        parameters = inspect.signature(self.model.forward).parameters
        # Full logits of a long prompt cost more than the layers of a small model.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._cache_name = next(name for name in _CACHES if name in parameters)
        self._synchronize()

    def release_files(self) -> None:
        """Let go of the files' pages; those of weights that are used in place come back."""
        release_mappings(self._job.weight_files())

    def prepare(self, point: Point) -> None:
        """Give memory back to the device; the cache itself grows with its tokens."""
        check_positions(point, learned_positions(self.model))
        self._sequences = point.sequences
        self.reset()
        if self._on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def reset(self) -> None:
        """Drop the cache."""
        self._cache: Any = None
        self._logits: Any = None

    def prefill(self, tokens: Sequence[int]) -> None:
        """One forward over the whole prompt of all sequences."""
        self._forward([list(tokens)] * self._sequences)

    def decode(self, tokens: Sequence[int]) -> None:
        """One forward over one token of each sequence."""
        self._forward([[token] for token in tokens])

    def greedy(self) -> list[int]:
        """Argmax over the last logits of each sequence."""
        tokens: list[int] = self._logits.argmax(-1).tolist()
        return tokens

    def check_finite(self) -> None:
        """See `Runner.check_finite`."""
        if not torch.isfinite(self._logits).all():
            raise ArithmeticError(
                f"the logits are not finite: a value overflowed in {self._dtype_name()}; bfloat16 "
                "and float32 reach further"
            )

    def engine(self) -> RunnerEngine:
        """Versions, and what does the matrix products; ``kernel_detail`` in parts."""
        layers = _linear_layers(self.model)
        library = _library(self._job.runs_on)
        return {
            "name": "transformers",
            "version": transformers.__version__,
            "kernel": ", ".join([*_kernel_classes(layers), *library]),
            "kernel_detail": {
                "linear_layers": layers,
                "library": library,
                "torch": torch.__version__,
                "attention": getattr(self.model.config, "_attn_implementation", None),
            },
            "dtype": self._dtype_name(),
            "schedule": (
                "prompts of all sequences in one forward, then one token of each a forward"
            ),
        }

    def traffic(self) -> RawTraffic:
        """See `Runner.traffic`."""
        return transformers_traffic(self.model).as_json()

    def device_memory(self) -> DeviceMemory | None:
        """See `Runner.device_memory`; ``reserved_peak_bytes`` is what torch took for its blocks.

        torch keeps what it took from the device until `prepare` gives it back. So what is taken now
        is the peak, and nothing needs to sample it beside the measurement.
        """
        if not self._on_gpu:
            return None
        return {
            "device_peak_bytes": max(0, _device_used_bytes() - self._device_baseline_bytes),
            "device_baseline_bytes": self._device_baseline_bytes,
            "allocator_peak_bytes": int(torch.cuda.max_memory_allocated()),
            "reserved_peak_bytes": int(torch.cuda.max_memory_reserved()),
        }

    def _forward(self, rows: list[list[int]]) -> None:
        with torch.inference_mode():
            output = self.model(
                input_ids=torch.tensor(rows, device=self.model.device),
                use_cache=True,
                **{self._cache_name: self._cache},
                **self._options,
            )
        self._cache, self._logits = getattr(output, self._cache_name), output.logits[:, -1]
        self._synchronize()

    def _synchronize(self) -> None:
        """Wait for the device: its work only begins when a call returns."""
        if self._on_gpu:
            torch.cuda.synchronize()

    def _dtype_name(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")


def _linear_layers(model: Any) -> dict[str, int]:
    """Class names of the layers that multiply by a matrix, and how many of each there are."""
    leaves = (type(module).__name__ for module in model.modules() if not any(module.children()))
    return dict(sorted(Counter(name for name in leaves if "Linear" in name).items()))


def _kernel_classes(layers: dict[str, int]) -> list[str]:
    """The quantized classes where there are any: the plain one is then the output layer's."""
    plain = torch.nn.Linear.__name__
    return [name for name in layers if name != plain] or [f"torch.nn.{plain}"]


def _library(device: str) -> list[str]:
    """What torch computes with: libraries and SIMD level of a CPU, or CUDA and the GPU."""
    if device == "cuda":
        return [f"CUDA {torch.version.cuda}", str(torch.cuda.get_device_name())]
    there = {
        "oneDNN": torch.backends.mkldnn.is_available(),
        "MKL": torch.backends.mkl.is_available(),
    }
    libraries = [name for name, is_there in there.items() if is_there]
    return [*libraries, str(torch.backends.cpu.get_cpu_capability())]


def _device_used_bytes() -> int:
    """Memory of the GPU that anything holds."""
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return int(total_bytes - free_bytes)


def _import_modeling(job: Job) -> None:
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
