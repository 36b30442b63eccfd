"""From logits to the scores of a planned forward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.engines.backend import Logits, Scored
from slm_benchmark.engines.schedule import PlannedForward

_ROWS = 32
"""Rows that are normalized together: few enough to stay in the processor's cache."""


def check_finite(logits: Logits, dtype: str) -> None:
    """Refuse logits that overflowed: nothing that follows from them is a score.

    Args:
        logits: Of shape (tokens, vocabulary). A token that a model masks may have minus infinity.
        dtype: The number format that overflowed, in words.

    Raises:
        ArithmeticError: when a row has a NaN, an infinity, or nothing but minus infinity.
    """
    if logits.size and not np.isfinite(logits.max(axis=-1)).all():  # a NaN is its row's maximum
        raise ArithmeticError(f"a logit is not finite: a value overflowed in {dtype}")


class ScoreReader:
    """Scores of a planned forward's continuations, read from its logits block by block.

    Args:
        planned: What is forwarded.
    """

    def __init__(self, planned: PlannedForward) -> None:
        row = {node: number for number, node in enumerate(planned.wanted)}
        self._lengths = [len(targets) for targets in planned.targets]
        self._rows = np.array([row[node] for nodes in planned.predictors for node in nodes])
        self._targets = np.array([token for targets in planned.targets for token in targets])
        self._chosen = np.empty(len(self._targets))
        self._log_total = np.empty(len(row))
        self._top_tokens = np.empty(len(row), dtype=np.int64)
        self._read = 0

    def add(self, logits: Logits) -> None:
        """Read the logits of the next nodes of ``planned.wanted``, shape (nodes, vocabulary)."""
        first, self._read = self._read, self._read + len(logits)
        for start in range(0, len(logits), _ROWS):
            block = slice(start, start + _ROWS)
            rows = slice(first + start, first + min(start + _ROWS, len(logits)))
            self._log_total[rows], self._top_tokens[rows] = log_sum_exp(logits[block])
        here = (self._rows >= first) & (self._rows < self._read)
        self._chosen[here] = logits[self._rows[here] - first, self._targets[here]]

    def scores(self) -> list[Scored]:
        """One score for each continuation, once all logits are read."""
        values = self._chosen - self._log_total[self._rows]
        is_top = self._top_tokens[self._rows] == self._targets
        scored, start = [], 0
        for length in self._lengths:
            span = slice(start, start + length)
            scored.append((float(values[span].sum()), bool(is_top[span].all())))
            start = span.stop
        return scored


def log_sum_exp(logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logarithm of the summed exponentials of each row, and its top-1 token.

    Args:
        logits: Shape (rows, vocabulary).

    Returns:
        Two arrays of shape (rows,).
    """
    top_token = logits.argmax(axis=1)
    top_logit = logits[np.arange(len(logits)), top_token]
    # Each exponential is rounded to float32; their sum is not.
    total = np.exp(logits - top_logit[:, None]).sum(axis=1, dtype=np.float64)
    return top_logit + np.log(total), top_token
