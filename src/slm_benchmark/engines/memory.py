"""How much memory an engine may take for its key-value cache."""

from __future__ import annotations

import os

from slm_benchmark.common.machine import JOBS_AT_ONCE, free_memory_bytes

_SHARE = 0.5
"""Of what is free: the rest is for activations, logits, and whatever else runs."""


def declared_budget_bytes(memory_limit_bytes: int | None) -> int | None:
    """The budget on a machine that stands for a smaller one: a share of the declared memory.

    Args:
        memory_limit_bytes: What the hardware's entry declares; None = all that there is.
    """
    return None if memory_limit_bytes is None else int(_SHARE * memory_limit_bytes)


def budget_bytes(chosen: int | None, free_bytes: int | None = None) -> int:
    """The budget that was chosen, or a share of what is free.

    Args:
        chosen: In bytes, or None.
        free_bytes: What is free where the cache lies; None means main memory, of which this
            process takes the share of one job.
    """
    if chosen is not None:
        return chosen
    free = free_memory_bytes() // _jobs_at_once() if free_bytes is None else free_bytes
    return int(_SHARE * free)


def _jobs_at_once() -> int:
    """How many jobs of this run of the workflow share the memory; one outside of it."""
    return max(1, int(os.environ.get(JOBS_AT_ONCE, "1")))
