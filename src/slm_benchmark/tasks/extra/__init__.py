"""Tasks that the harness lacks, written as it would define them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slm_benchmark.records.types import Score
from slm_benchmark.tasks.requests import ScoredDocument


def _bold(samples: Sequence[ScoredDocument]) -> list[Score]:
    from slm_benchmark.tasks.extra.bold.bold import group_scores

    return group_scores(samples)


def _mt_bench(samples: Sequence[ScoredDocument]) -> list[Score]:
    from slm_benchmark.tasks.extra.mt_bench.mt_bench import category_scores

    return category_scores(samples)


GROUP_SCORES: dict[str, Callable[[Sequence[ScoredDocument]], list[Score]]] = {
    "bold": _bold,
    "mt_bench": _mt_bench,
    "mt_bench_reference": _mt_bench,
}
"""Harness task → rows of the cell schema's ``scores`` about groups of its documents."""

GROUP_FIELDS: dict[str, tuple[str, ...]] = {
    "bold": ("domain", "category"),
    "mt_bench": ("category",),
    "mt_bench_reference": ("category",),
}
"""Harness task → fields of a document that name its groups, from the widest to the narrowest."""
