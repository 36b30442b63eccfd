"""How an engine runs a model; light enough to plan with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CacheFormat = Literal["float32", "float16", "q8_0"]
"""Number formats of llama.cpp's cache; q8_0 holds the keys alone, beside float16 values."""


@dataclass(frozen=True)
class Settings:
    """How an engine runs a model.

    Attributes:
        max_length: Longest context and continuation together, in tokens.
        threads: CPU threads.
        dtype: Number format of Transformers' activations: float32, bfloat16, float16, or auto
            (float16 on CUDA, float32 on a CPU).
        device: cpu or cuda, for Transformers.
        trust_remote_code: Whether the model's own code may run.
        seed: Seed of sampled generations.
        memory_budget_bytes: Bound of the key-value cache; None means half of what is free. It
            decides how many generations run together, never what comes out. One document alone
            gets what it needs.
        chunk: Tokens of a shared prefix that are forwarded together, and the multiple at which a
            prefix is reused.
        flash_attention: Whether llama.cpp computes attention in one pass over the cache.
        cache: Number format of llama.cpp's cache.
        attention: Transformers' attention: sdpa, eager, or None for what it chooses for the model.
    """

    max_length: int
    threads: int
    dtype: str = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    seed: int = 0
    memory_budget_bytes: int | None = None
    chunk: int = 64
    flash_attention: bool = True
    cache: CacheFormat = "float16"
    attention: str | None = None
