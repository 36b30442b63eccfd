"""From logits to the scores of a part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.engines.backend import Logits, Scored
from slm_benchmark.engines.schedule import PlannedForward

_ROWS = 32
"""Rows that are normalised together: few enough to stay in the processor's cache."""


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
    """Scores of a part's continuations, read from its logits block by block.

    Args:
        part: What is forwarded.
    """

    def __init__(self, part: PlannedForward) -> None:
        row = {node: number for number, node in enumerate(part.wanted)}
        self._lengths = [len(targets) for targets in part.targets]
        self._rows = np.array([row[node] for nodes in part.predictors for node in nodes])
        self._targets = np.array([token for targets in part.targets for token in targets])
        self._chosen = np.empty(len(self._targets))
        self._log_total = np.empty(len(row))
        self._likeliest = np.empty(len(row), dtype=np.int64)
        self._read = 0

    def add(self, logits: Logits) -> None:
        """Read the logits of the next nodes of ``part.wanted``, shape (nodes, vocabulary)."""
        first, self._read = self._read, self._read + len(logits)
        for start in range(0, len(logits), _ROWS):
            block = slice(start, start + _ROWS)
            found = slice(first + start, first + min(start + _ROWS, len(logits)))
            self._log_total[found], self._likeliest[found] = log_sum_exp(logits[block])
        here = (self._rows >= first) & (self._rows < self._read)
        self._chosen[here] = logits[self._rows[here] - first, self._targets[here]]

    def scores(self) -> list[Scored]:
        """One score for each continuation, once all logits are read."""
        values = self._chosen - self._log_total[self._rows]
        likeliest = self._likeliest[self._rows] == self._targets
        scored, start = [], 0
        for length in self._lengths:
            part = slice(start, start + length)
            scored.append((float(values[part].sum()), bool(likeliest[part].all())))
            start = part.stop
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
