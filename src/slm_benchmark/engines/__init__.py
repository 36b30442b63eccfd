"""What runs a model: llama.cpp for GGUF files, Transformers for everything else."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.engines.backend import Backend
from slm_benchmark.engines.identity import VERSIONS, engine_name


@dataclass(frozen=True)
class Engine:
    """A model ready to be asked by the harness.

    Attributes:
        lm: The harness's language model.
        identity: The cell schema's ``engine`` block.
    """

    lm: Any
    identity: dict[str, Any]


def load_engine(
    variant: str,
    weights: Path,
    base: Path,
    *,
    dtype: str,
    max_length: int,
    device: str,
    threads: int,
    trust_remote_code: bool,
    progress: Callable[[int, int], None],
) -> Engine:
    """Load a variant on its engine, with the tokenizer of the base model.

    Args:
        variant: Such as base or gguf-q8_0.
        weights: Folder of the variant.
        base: Folder of the base model.
        dtype: Number format of Transformers' activations; see `load_transformers`.
        max_length: Longest context and continuation together, in tokens.
        device: cpu or cuda, for Transformers.
        threads: CPU threads.
        trust_remote_code: Whether the model's own code may run.
        progress: Told (documents done, documents in all).
    """
    from slm_benchmark.engines.harness import BenchmarkLM

    backend: Backend
    if engine_name(variant) == "llama.cpp":
        from slm_benchmark.engines import llamacpp
        from slm_benchmark.quantize.gguf import weight_file

        backend = llamacpp.LlamaCpp(weight_file(weights), threads, max_length)
        identity = _identity(
            "llama.cpp",
            version=importlib.metadata.version("llama-cpp-python"),
            kernel=llamacpp.build_description(),
            dtype="activations as llama.cpp chooses; float16 cache",
            threads=threads,
            schedule=llamacpp.SCHEDULE,
        )
    else:
        import torch

        from slm_benchmark.engines.transformers import Transformers, load_transformers

        torch.set_num_threads(threads)
        loaded = load_transformers(weights, dtype, device, trust_remote_code)
        backend = Transformers(loaded, max_length)
        identity = _identity(
            "transformers",
            version=importlib.metadata.version("transformers"),
            kernel=loaded.kernel,
            dtype=loaded.dtype,
            threads=threads,
            schedule=backend.schedule,
        )
    return Engine(BenchmarkLM(backend, base, progress), identity)


def _identity(name: str, *, version: str, **facts: Any) -> dict[str, Any]:
    return {"name": name, "version": f"{version} (engine {VERSIONS[name]})", **facts}
