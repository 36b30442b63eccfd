"""Which engine runs a variant, and what decides its numbers; light enough to plan with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from slm_benchmark.common.files import digest, sha256_file
from slm_benchmark.records.types import EngineBlock

Name = Literal["llama.cpp", "transformers", "vllm"]

VERSIONS = {"llama.cpp": 2, "transformers": 2, "vllm": 1}
"""Raised when an engine of ours may give other numbers: it reruns the cells that used it."""


def engine_name(variant: str, choice: str = "default") -> Name:
    """The engine that runs a variant.

    Args:
        variant: Such as base or gguf-q8_0.
        choice: The protocol's ``engine``.
    """
    if variant.startswith("gguf-"):
        return "llama.cpp"
    return "vllm" if choice == "vllm" else "transformers"


def engine_packages(variant: str, choice: str = "default") -> list[str]:
    """Packages of the lock whose versions decide a variant's numbers; vLLM is not in the lock."""
    name = engine_name(variant, choice)
    if name == "llama.cpp":
        return ["llama-cpp-python", "lm-eval", "tokenizers"]
    if name == "vllm":
        return ["lm-eval", "tokenizers", "transformers"]
    quantized = ["gptqmodel"] if variant in ("gptq-4bit", "awq-4bit") else []
    return ["lm-eval", "tokenizers", "torch", "transformers", *quantized]


def sources_sha256() -> str:
    """Digest of the engines' own sources: finished requests are taken over under the same only."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return digest({file.name: sha256_file(file) for file in files})


def unknown_engine(variant: str, threads: int, choice: str = "default") -> EngineBlock:
    """The records' ``engine`` block where the engine did not come up."""
    return {
        "name": engine_name(variant, choice),
        "version": "unknown",
        "kernel": None,
        "dtype": "unknown",
        "threads": threads,
        "schedule": "none",
    }
