"""How performance records of schema version 1 came from their repetitions.

Nothing measures so any more; the records stay, and their numbers can be checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from slm_benchmark.profiling.energy.metrics import MWH_PER_JOULE
from slm_benchmark.statistics.median import median_interval


def first_metrics(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics that follow from the raw repetitions; none where the model broke.

    The time to load was kept nowhere else, and the memory was read once more after its peak was.

    Args:
        record: A performance record of schema version 1.

    Returns:
        By name ``value``, ``ci95``, ``n`` and ``reason``.
    """
    raw = record["raw"]
    if not raw:
        return {}
    repetitions = raw["repetitions"]
    later = raw["output_tokens"] - 1
    milliseconds = [sorted(1000 * s for s in r["latencies_s"]) for r in repetitions]
    joules = [r["energy_j"] for r in repetitions if r["energy_j"] is not None]
    return {
        "prompt_throughput_tokens_per_s": _quantity(
            [raw["prompt_tokens"] / r["prefill_s"] for r in repetitions]
        ),
        "generation_throughput_tokens_per_s": _quantity(
            [later / math.fsum(r["latencies_s"]) for r in repetitions]
        ),
        "ttft_ms": _quantity([1000 * r["first_token_s"] for r in repetitions]),
        "inter_token_latency_ms": _quantity([median(ms) for ms in milliseconds]),
        # Nearest rank: with fewer than 100 tokens this is the longest.
        "inter_token_latency_p99_ms": _quantity(
            [ms[math.ceil(0.99 * len(ms)) - 1] for ms in milliseconds]
        ),
        "energy_mwh_per_token": _quantity(
            [j * MWH_PER_JOULE / later for j in joules],
            None if joules else record["metrics"]["energy_mwh_per_token"]["reason"],
        ),
        "size_bytes": _quantity([record["variant"]["size_bytes"]]),
    }


def _quantity(values: Sequence[float], reason: str | None = None) -> dict[str, Any]:
    """Median, interval and count; ``reason`` says why there are no values."""
    return {
        "value": median(values) if values else None,
        "ci95": list(median_interval(values)) if len(values) > 1 else None,
        "n": len(values),
        "reason": reason,
    }
