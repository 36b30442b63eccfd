"""From logits to the scores of a part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.engines.backend import Logits, Scored
from slm_benchmark.engines.schedule import Part

_ROWS = 32
"""Rows that are normalised together: few enough to stay in the processor's cache."""


def read_scores(part: Part, logits: Logits) -> list[Scored]:
    """Scores of a part's continuations.

    Args:
        part: What was forwarded.
        logits: Of the nodes in ``part.wanted``, shape (wanted, vocabulary).
    """
    log_total = np.empty(len(logits))
    likeliest = np.empty(len(logits), dtype=np.int64)
    for start in range(0, len(logits), _ROWS):
        block = slice(start, start + _ROWS)
        log_total[block], likeliest[block] = log_sum_exp(logits[block])
    row = {node: number for number, node in enumerate(part.wanted)}
    scored = []
    for nodes, targets in zip(part.predictors, part.targets, strict=True):
        rows = [row[node] for node in nodes]
        chosen = logits[rows, targets].astype(np.float64)
        greedy = bool((likeliest[rows] == targets).all())
        scored.append((float((chosen - log_total[rows]).sum()), greedy))
    return scored


def log_sum_exp(logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logarithm of the summed exponentials of each row, and its likeliest token.

    Args:
        logits: Shape (rows, vocabulary).

    Returns:
        Two arrays of shape (rows,).
    """
    likeliest = logits.argmax(axis=1)
    top = logits[np.arange(len(logits)), likeliest]
    # Each exponential is rounded to float32; their sum is not.
    total = np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)
    return top + np.log(total), likeliest
