"""How often the intervals of overall scores hold the truth, and groups part what is equal.

Simulated boards with known truth; prints the tables of docs/methods/aggregates.md:

    python benchmarks/aggregates.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.leaderboard.ranking import normalized
from slm_benchmark.records.types import LeaderboardScore
from slm_benchmark.statistics.mover import Term, weighted_sum
from slm_benchmark.statistics.proportion import PROPORTION_INTERVALS, proportion_method
from slm_benchmark.statistics.ties import tied_groups

BOARDS = 4000
CHANCE = 0.25

TRUTHS: dict[str, list[tuple[float, int]]] = {
    "14 tasks at 30, 50, 70 %, n = 200, 500, 1000": [(0.3, 200), (0.5, 500), (0.7, 1000)] * 5,
    "14 tasks of guessing, n = 50": [(0.25, 50)] * 14,
    "14 tasks at 2 %, n = 50": [(0.02, 50)] * 14,
    "14 tasks at 0.5 %, n = 50": [(0.005, 50)] * 14,
    "14 tasks at 98 %, n = 200": [(0.98, 200)] * 14,
    "14 tasks at 10 %, n = 4": [(0.1, 4)] * 14,
    "14 mixed tasks from 0 to 90 %, n = 4 … 50": [(0.05, 4), (0.3, 50), (0.0, 4), (0.9, 10)] * 4,
    "7 tasks at 90 %, n = 100": [(0.9, 100)] * 7,
    "2 tasks at 2 % and 50 %, n = 50 and 200": [(0.02, 50), (0.5, 200)],
    "1 task at 50 %, n = 50": [(0.5, 50)],
}


def term(right: int, n: int) -> Term:
    """The normalized score of ``right`` out of ``n``."""
    share = right / n
    interval = PROPORTION_INTERVALS[proportion_method(right, n)](right, n)
    stderr = math.sqrt(share * (1 - share) / (n - 1))
    cell = {"value": share, "stderr": stderr, "ci95": interval, "n": n, "chance": CHANCE}
    rescaled = normalized(cast(LeaderboardScore, cell), 1.0)
    assert rescaled is not None
    assert rescaled[1] is not None
    return rescaled[1]


def coverage(tasks: Sequence[tuple[float, int]], seed: int) -> tuple[float, float]:
    """Share of boards whose interval holds the truth: as it is, and without the shrinkage."""
    draw = np.random.default_rng(seed)
    truth = math.fsum((p - CHANCE) / (1 - CHANCE) for p, _ in tasks) / len(tasks)
    terms = {n: [term(right, n) for right in range(n + 1)] for _, n in tasks}
    weights = [1 / len(tasks)] * len(tasks)
    held = plain = 0
    for _ in range(BOARDS):
        drawn = [terms[n][draw.binomial(n, p)] for p, n in tasks]
        value, low, high = weighted_sum(drawn, weights)
        held += low <= truth <= high
        down = math.hypot(*(t.value - t.low for t in drawn)) / len(tasks)
        up = math.hypot(*(t.high - t.value for t in drawn)) / len(tasks)
        plain += value - down <= truth <= value + up
    return held / BOARDS, plain / BOARDS


def parted(share: float, documents: int, spread: float, seed: int) -> tuple[float, float]:
    """Share of boards of 8 equal rows and 3 tasks with more than one group: paired, and apart.

    Args:
        share: What every row truly gets right.
        documents: Of each task, the same for all rows.
        spread: Standard deviation of their difficulty, in that of a row's luck.
        seed: Of the draws.
    """
    from scipy.special import ndtri

    draw = np.random.default_rng(seed)
    limit = ndtri(share) * math.hypot(1, spread)
    counts = [0, 0]
    errors_of = np.array([term(right, documents).error for right in range(documents + 1)])
    for _ in range(BOARDS // 4):
        difficulty = draw.normal(0, spread, (1, 3, documents)) if spread else 0.0
        answers = (draw.normal(size=(8, 3, documents)) + difficulty < limit).astype(float)
        right = answers.sum(axis=2)
        values, errors = right / documents / (1 - CHANCE), errors_of[right.astype(int)]
        centered = answers - answers.mean(axis=2, keepdims=True)
        lengths = np.linalg.norm(centered, axis=2, keepdims=True)
        units = np.divide(centered, lengths, out=np.zeros_like(centered), where=lengths > 0)

        def shared(
            leader: int,
            others: NDArray[np.intp],
            terms: NDArray[np.intp],
            units: NDArray[np.float64] = units,
        ) -> NDArray[np.float64]:
            chosen = units[:, terms]
            correlations: NDArray[np.float64] = (
                (chosen[others] * chosen[leader]).sum(axis=2).clip(0, 1)
            )
            return correlations

        def apart(
            leader: int, others: NDArray[np.intp], terms: NDArray[np.intp]
        ) -> NDArray[np.float64]:
            return np.zeros((len(others), len(terms)))

        for index, correlation in enumerate((shared, apart)):
            counts[index] += bool((tied_groups(values, errors, correlation) > 1).any())
    return counts[0] / (BOARDS // 4), counts[1] / (BOARDS // 4)


def main() -> None:
    """Print both tables as Markdown."""
    print(f"Chance {CHANCE:.0%}, {BOARDS} boards for each line\n")
    print("| Board | Coverage | Without shrinking the asymmetry |\n| --- | --- | --- |")
    for seed, (name, tasks) in enumerate(TRUTHS.items()):
        held, plain = coverage(tasks[:14], seed)
        print(f"| {name} | {100 * held:.1f} % | {100 * plain:.1f} % |")
    print("\n| Truth | Documents | Difficulty | Paired | Independent |")
    print("| --- | --- | --- | --- | --- |")
    cases = ((0.5, 100, 0.0), (0.5, 100, 2.0), (0.3, 50, 1.0), (0.03, 50, 1.0), (0.97, 200, 1.0))
    for seed, (share, documents, spread) in enumerate(cases):
        paired, independent = parted(share, documents, spread, seed)
        facts = f"{100 * share:.0f} % | {documents} | {spread:g}"
        print(f"| {facts} | {100 * paired:.1f} % | {100 * independent:.1f} % |")


if __name__ == "__main__":
    main()
