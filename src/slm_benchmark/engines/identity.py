"""Which engine runs a variant, and what decides its numbers; light enough to plan with."""

from __future__ import annotations

from typing import Any

VERSIONS = {"llama.cpp": 1, "transformers": 1}
"""Raised when an engine of ours may give other numbers: it reruns the cells that used it."""


def engine_name(variant: str) -> str:
    """The engine that runs a variant."""
    return "llama.cpp" if variant.startswith("gguf-") else "transformers"


def engine_packages(variant: str) -> list[str]:
    """Packages of the lock whose versions decide a variant's numbers."""
    if engine_name(variant) == "llama.cpp":
        return ["llama-cpp-python", "lm-eval", "tokenizers"]
    quantized = ["gptqmodel"] if variant in ("gptq-4bit", "awq-4bit") else []
    return ["lm-eval", "tokenizers", "torch", "transformers", *quantized]


def unknown_engine(variant: str, threads: int) -> dict[str, Any]:
    """The records' ``engine`` block where the engine did not come up."""
    return {
        "name": engine_name(variant),
        "version": "unknown",
        "kernel": None,
        "dtype": "unknown",
        "threads": threads,
        "schedule": "none",
    }
