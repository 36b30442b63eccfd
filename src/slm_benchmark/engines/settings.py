"""How an engine runs a model; light enough to plan with."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    max_length: int
    threads: int
    dtype: str = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    seed: int = 0
    memory_budget_bytes: int | None = None
