"""Loading a model on its engine, ready to be asked by the harness."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from slm_benchmark.engines.backend import Backend
    from slm_benchmark.engines.journal import Journal
    from slm_benchmark.engines.lm import Progress

from slm_benchmark.engines.engine import Engine
from slm_benchmark.engines.identity import VERSIONS, Name
from slm_benchmark.engines.settings import Settings
from slm_benchmark.records.types import EngineBlock


def load_engine(
    name: Name,
    weights: Path,
    tokenizer: Path,
    settings: Settings,
    *,
    progress: Progress | None = None,
    journal: Callable[[EngineBlock], Journal] | None = None,
) -> Engine:
    """Load a model on its engine.

    Args:
        name: The engine.
        weights: A Transformers folder; or a GGUF file, or a folder that holds one.
        tokenizer: Folder of the base model, whose tokenizer encodes for every weight format.
        settings: How the model is run. vLLM keeps no journal.
        progress: Told (documents done, documents in all).
        journal: Opens what keeps finished requests, given the ``engine`` block: a journal must
            name the engine among what decides its answers.

    Raises:
        UserError: for files that cannot be used; a tokenizer's before any weights are loaded.
    """
    if name == "vllm":
        from slm_benchmark.engines.vllm import load_vllm

        return load_vllm(weights, tokenizer, settings)

    from slm_benchmark.download.tokenizer import load_tokenizer
    from slm_benchmark.engines.decoding import rows_are_independent
    from slm_benchmark.engines.lm import BenchmarkLM, silent

    hub = load_tokenizer(tokenizer, settings.trust_remote_code)
    backend, build = _load_backend(name, weights, settings)
    if not rows_are_independent(backend):
        backend.rows = 1
    backend.free()
    backend.forwarded_tokens = 0
    identity: EngineBlock = {
        "name": name,
        "version": f"{build.version} (engine {VERSIONS[name]})",
        "kernel": build.kernel,
        "dtype": build.dtype,
        "threads": settings.threads,
        "schedule": backend.schedule,
    }
    opened = None if journal is None else journal(identity)
    lm = BenchmarkLM(backend, tokenizer, progress or silent, opened, settings.seed, hub)
    return Engine(lm, identity, settings)


class _Build(NamedTuple):
    """What the ``engine`` block says of a backend: library version, kernel and number format."""

    version: str
    kernel: str | None
    dtype: str


def _load_backend(name: Name, weights: Path, settings: Settings) -> tuple[Backend, _Build]:
    if name == "llama.cpp":
        from slm_benchmark.download.weights import weight_file
        from slm_benchmark.engines import llamacpp

        file = weight_file(weights) if weights.is_dir() else weights
        return llamacpp.LlamaCpp(file, settings), _Build(
            importlib.metadata.version("llama-cpp-python"),
            llamacpp.build_description(),
            f"activations as llama.cpp chooses; {settings.cache} cache",
        )
    import torch

    from slm_benchmark.engines.transformers import Transformers, load_transformers

    torch.set_num_threads(settings.threads)
    loaded = load_transformers(
        weights,
        settings.dtype,
        settings.device,
        settings.trust_remote_code,
        settings.attention,
    )
    return Transformers(loaded, settings), _Build(
        importlib.metadata.version("transformers"), loaded.kernel, loaded.dtype
    )
