"""The ranking: category and overall scores, tied groups of rows, and Pareto fronts."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.files import digest
from slm_benchmark.common.parallel import parallel_map
from slm_benchmark.leaderboard.board import COSTS
from slm_benchmark.records.store import documents_file
from slm_benchmark.records.types import (
    AggregateScore,
    LeaderboardScore,
    MeasuredRow,
    ParetoFront,
    Quantity,
    RankingRules,
    ScoreRecord,
)
from slm_benchmark.statistics.mover import Term, weighted_sum
from slm_benchmark.statistics.pareto import ON_FRONT, dominators, negated
from slm_benchmark.statistics.proportion import wilson_interval
from slm_benchmark.statistics.ties import ERROR_RATE, tied_groups

ScoreRun = tuple[Path, ScoreRecord]
"""A score's record and where it was read."""

Document = tuple[str, str, int]
"""Part, hash and index of a document."""

Outcomes = Callable[[Path, ScoreRecord], Mapping[Document, float]]
"""Reads the value of each document of a score."""


@dataclass(frozen=True)
class Rules:
    """config/standings.yaml: the least share of counted tasks that a score needs."""

    category_coverage: float
    overall_coverage: float

    def block(self) -> RankingRules:
        """The rules as leaderboard.json has them."""
        return {
            "category_coverage": self.category_coverage,
            "overall_coverage": self.overall_coverage,
            "group_error_rate": ERROR_RATE,
        }


@dataclass(frozen=True)
class Basis:
    """The tasks of a protocol that its category and overall scores rest on.

    Attributes:
        counted: Category → its tasks that count.
        left_out: Task → why it does not count.
    """

    counted: dict[str, list[str]]
    left_out: dict[str, str]

    @property
    def tasks(self) -> list[str]:
        """All tasks that count."""
        return [task for tasks in self.counted.values() for task in tasks]

    def weights(self, present: Iterable[str]) -> dict[str, float]:
        """Task → weight in the mean of the categories' means, of the tasks that are present."""
        known = set(present)
        groups = [[task for task in tasks if task in known] for tasks in self.counted.values()]
        groups = [group for group in groups if group]
        return {task: 1 / len(group) / len(groups) for group in groups for task in group}


def basis(catalogue: Catalogue, protocol: str) -> Basis:
    """What counts of a protocol's tasks: those with a level of chance, each benchmark once.

    Of several forms of one benchmark, which share documents, the default one counts; where none is
    the default, the one that the protocol names first.
    """
    entries = catalogue.tasks
    listed = catalogue.protocol_tasks(protocol)
    forms: dict[str, str] = {}
    left_out = {}
    for task in sorted(listed, key=lambda task: not entries[task].get("default", True)):
        benchmark = entries[task].get("benchmark", task)
        if entries[task]["category"] == "custom":
            left_out[task] = "a task of custom/ belongs to no category"
        elif entries[task]["chance"] is None:
            left_out[task] = "it has no level of chance"
        elif benchmark in forms:
            left_out[task] = f"another form of this benchmark counts: {forms[benchmark]}"
        else:
            forms[benchmark] = task
    counted: dict[str, list[str]] = {}
    for task in listed:
        if task not in left_out:
            counted.setdefault(entries[task]["category"], []).append(task)
    return Basis(counted, {task: left_out[task] for task in listed if task in left_out})


def normalized(cell: LeaderboardScore, best: float) -> tuple[float, Term | None] | None:
    """A score normalized to 0 at chance and 1 at the best, and the same of its interval.

    Scores below chance stay negative, so that guessing averages to zero. The level of chance is
    taken as known: where it follows from the documents, it is that of the scored documents.

    Args:
        cell: A score of a row.
        best: The score of a perfect answer.

    Returns:
        The normalized score, and its estimate where the score has an interval; None where there is
        no score or no scale for it.
    """
    value, chance = cell["value"], cell["chance"]
    if value is None or chance is None or chance == best:
        return None

    def scaled(score: float) -> float:
        return float((score - chance) / (best - chance))

    ends = _interval(cell, best)
    if ends is None:
        return scaled(value), None
    # Where less is better, the ends swap.
    low, high = sorted(scaled(end) for end in ends)
    stderr = (cell["stderr"] or 0.0) / abs(best - chance)
    return scaled(value), Term.of(scaled(value), low, high, stderr)


def _interval(cell: LeaderboardScore, best: float) -> tuple[float, float] | None:
    """The interval of a score; one without width gets that of a proportion of as many documents.

    Documents that all have the same value give a standard error of zero. Taken as it is, it would
    make a handful of documents count as certain. Of values between 0 and the best, zeros and ones
    vary most, so Wilson's interval is wide enough.
    """
    if cell["ci95"] is None:
        return None
    low, high = cell["ci95"]
    if low < high:
        return low, high
    value, n, scale = cell["value"], cell["n"], best or 1.0
    assert value is not None
    assert n is not None
    share = min(max(value / scale, 0.0), 1.0)
    low, high = wilson_interval(share * n, n)
    return scale * low, scale * high


def aggregate_scores(
    cells: Mapping[str, LeaderboardScore],
    bests: Mapping[str, float],
    basis: Basis,
    rules: Rules,
) -> tuple[AggregateScore, dict[str, AggregateScore]]:
    """The overall score of a row and the score of each category.

    A category's score is the mean over its tasks; the overall score is the mean over categories, so
    that a category does not weigh more for having more tasks. Both have an interval: the tasks of a
    row have no documents in common, so their errors are independent, and `weighted_sum` adds them.

    Args:
        cells: Task → the row's score; all tasks that count.
        bests: Task → score of a perfect answer.
        basis: What counts.
        rules: How much must be there.

    Returns:
        The overall score, and the scores by category, each as the schema of the leaderboard
        describes ``aggregate``.
    """
    known = {
        task: score
        for task in basis.tasks
        if (score := normalized(cells[task], bests[task])) is not None
    }
    categories = {
        category: _aggregate(known, tasks, dict.fromkeys(tasks, 1.0), rules.category_coverage)
        for category, tasks in basis.counted.items()
    }
    lacking = [category for category, score in categories.items() if score["value"] is None]
    overall = _aggregate(
        known, basis.tasks, basis.weights(known), rules.overall_coverage, lacking=lacking
    )
    return overall, categories


def _aggregate(
    known: Mapping[str, tuple[float, Term | None]],
    tasks: Sequence[str],
    weights: Mapping[str, float],
    coverage: float,
    lacking: Sequence[str] = (),
) -> AggregateScore:
    """The weighted mean over the tasks that have a score, where enough of them have one."""
    present = [task for task in tasks if task in known]
    missing = [task for task in tasks if task not in known]
    block: AggregateScore = {
        "value": None,
        "ci95": None,
        "tasks": len(present),
        "of": len(tasks),
        "missing": missing,
        "reason": None,
    }
    # A share such as 0.29 of 100 is 28.999… in floating point.
    needed = max(1, math.ceil(coverage * len(tasks) - 1e-9))
    if not tasks:
        return {**block, "reason": "no task has a level of chance"}
    if len(present) < needed or lacking:
        reason = f"no score for {', '.join(missing)}"
        if len(present) < needed:
            reason += f"; {len(present)} of {len(tasks)} tasks are there, {needed} are needed"
        if lacking:
            reason += f"; no score for the category {', '.join(lacking)}"
        return {**block, "reason": reason}
    total = math.fsum(weights[task] for task in present)
    shares = [weights[task] / total for task in present]
    block["value"] = math.fsum(
        share * known[task][0] for share, task in zip(shares, present, strict=True)
    )
    terms = [term for task in present if (term := known[task][1]) is not None]
    if len(terms) < len(present):
        unknown = ", ".join(task for task in present if known[task][1] is None)
        return {**block, "reason": f"no interval for {unknown}"}
    _, low, high = weighted_sum(terms, shares)
    return {**block, "ci95": [low, high]}


def not_comparable(row: MeasuredRow, reference: bool) -> str | None:
    """Why a row is in no group and on no front; None where it can be compared.

    Means over unlike sets of tasks mislead, so a row that lacks a task is not compared.
    """
    overall = row["overall"]
    if reference:
        return "a reference is not compared"
    if overall["value"] is None:
        return str(overall["reason"])
    if overall["missing"]:
        return f"rows are compared over all tasks; no score for {', '.join(overall['missing'])}"
    if overall["ci95"] is None:
        return str(overall["reason"])
    return None


def groups_of(
    rows: Sequence[MeasuredRow],
    evidence: Sequence[Mapping[str, ScoreRun]],
    bests: Mapping[str, float],
    basis: Basis,
    by_part: Iterable[str],
    outcomes: Outcomes,
) -> list[int]:
    """The rank of each comparable row's tied group; the rows are of one protocol.

    Args:
        rows: All comparable rows of one protocol, on whatever machines.
        evidence: For each row, task → the record of its score.
        bests: Task → score of a perfect answer.
        basis: What counts.
        by_part: Tasks whose score is the mean over parts.
        outcomes: Reads the values of documents. Each file is read at most once, but for one of each
            set of documents where sets differ.
    """
    tasks, weights = basis.tasks, basis.weights(basis.tasks)
    # Shape (rows, tasks, 2).
    terms = np.array(
        [[_term(row["scores"][task], bests[task], weights[task]) for task in tasks] for row in rows]
    ).reshape(len(rows), len(tasks), 2)
    shared = SharedDocuments(evidence, tasks, by_part, outcomes)
    groups = tied_groups(terms[..., 0], terms[..., 1], shared.correlation)
    return [int(group) for group in groups]


def _term(cell: LeaderboardScore, best: float, weight: float) -> tuple[float, float]:
    """A task's part in the overall score of a comparable row, and its standard error."""
    score = normalized(cell, best)
    assert score is not None
    assert score[1] is not None
    return weight * score[1].value, weight * score[1].error


_Score = tuple[int, str]
"""Row and task."""


@dataclass(frozen=True)
class _Influence:
    """What the documents of a score move it by, as a vector of length one.

    Attributes:
        layout: Which documents, in which order.
        vector: Shape (documents,).
    """

    layout: int
    vector: NDArray[np.float32]


class SharedDocuments:
    """How far the scores of rows err together, because they come from the same documents.

    Two scores are paired where dataset and task are the same bytes. The correlation of their errors
    is that of the documents' influences on them, over the documents that both have. A correlation
    below zero counts as none: it is what noise makes of a small one. Where documents come in groups
    the correlation is still that of documents, while the intervals are wider for the groups.
    """

    def __init__(
        self,
        evidence: Sequence[Mapping[str, ScoreRun]],
        tasks: Sequence[str],
        by_part: Iterable[str],
        outcomes: Outcomes,
    ) -> None:
        self._evidence = evidence
        self._tasks = tasks
        self._by_part = frozenset(by_part)
        self._outcomes = outcomes
        self._influences: dict[_Score, _Influence | None] = {}
        self._layouts: dict[tuple[str, ...], int] = {}
        self._examples: list[_Score] = []
        self._positions: dict[int, dict[tuple[Any, ...], int]] = {}
        self._common: dict[tuple[int, int], tuple[NDArray[np.intp], NDArray[np.intp]]] = {}

    def correlation(
        self, leader: int, others: NDArray[np.intp], terms: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """The correlation of other rows' scores with the leader's, shape (others, terms).

        Args:
            leader: A row.
            others: Rows, shape (others,).
            terms: Indices of tasks, shape (terms,).
        """
        rows, tasks = others.tolist(), [self._tasks[term] for term in terms]
        self._read([(leader, task) for task in tasks])
        firsts = {task: self._influences[leader, task] for task in tasks}
        self._read([(row, task) for row in rows for task in tasks if firsts[task]])
        correlations = np.zeros((len(rows), len(tasks)))
        for column, task in enumerate(tasks):
            first = firsts[task]
            if first is None:
                continue
            for index, row in enumerate(rows):
                second = self._influences[row, task]
                if second is not None:
                    correlations[index, column] = self._correlate(first, second)
        clipped: NDArray[np.float64] = correlations.clip(0.0, 1.0)
        return clipped

    def _correlate(self, first: _Influence, second: _Influence) -> float:
        if first.layout == second.layout:
            return float(first.vector @ second.vector)
        pair = (first.layout, second.layout)
        if pair not in self._common:
            one, other = (self._documents(layout) for layout in pair)
            keys = [key for key in one if key in other]
            self._common[pair] = (
                np.array([one[key] for key in keys], dtype=np.intp),
                np.array([other[key] for key in keys], dtype=np.intp),
            )
        here, there = self._common[pair]
        return float(first.vector[here] @ second.vector[there])

    def _documents(self, layout: int) -> Mapping[tuple[Any, ...], int]:
        """Position of each document of a layout; those of other bytes or tasks are others."""
        if layout not in self._positions:
            path, record = self._evidence_of(self._examples[layout])
            keys = self._outcomes(path, record)
            same = _source(record)
            self._positions[layout] = {(*same, *key): i for i, key in enumerate(keys)}
        return self._positions[layout]

    def _read(self, scores: Iterable[_Score]) -> None:
        """Read the documents of those scores whose influences are not known yet."""
        unread = [score for score in scores if score not in self._influences]
        vectors = parallel_map(self._vector, unread, batch=64)
        for score, influence in zip(unread, vectors, strict=True):
            if influence is None:
                self._influences[score] = None
                continue
            documents, vector = influence
            source = _source(self._evidence_of(score)[1])
            layout = self._layouts.setdefault((*source, documents), len(self._examples))
            if layout == len(self._examples):
                self._examples.append(score)
            self._influences[score] = _Influence(layout, vector)

    def _evidence_of(self, score: _Score) -> ScoreRun:
        row, task = score
        return self._evidence[row][task]

    def _vector(self, score: _Score) -> tuple[str, NDArray[np.float32]] | None:
        """Digest of a score's documents in their order, and the vector of their influences."""
        path, record = self._evidence_of(score)
        if not documents_file(path).exists():
            return None
        values = self._outcomes(path, record)
        if not values:
            return None
        documents = tuple(values)
        _, task = score
        vector = _centered(documents, list(values.values()), task in self._by_part)
        length = float(np.linalg.norm(vector))
        if length > 0:
            vector /= length
        return _layout(documents), vector.astype(np.float32)


@functools.lru_cache(maxsize=64)
def _layout(documents: tuple[Document, ...]) -> str:
    """Digest of some documents in their order; most scores of a task have the same."""
    return digest(documents)


@functools.lru_cache(maxsize=64)
def _parts(documents: tuple[Document, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of each document the index of its part among all parts, and of each part its size."""
    names = [document[0] for document in documents]
    _, part, sizes = np.unique(names, return_inverse=True, return_counts=True)
    return part, sizes


def _source(record: ScoreRecord) -> tuple[str, str]:
    """The bytes that a score's documents come from: its dataset and its task."""
    return record["dataset"]["sha256"], record["task"]["config_sha256"]


def _centered(
    documents: tuple[Document, ...], values: Sequence[float], by_part: bool
) -> NDArray[np.float64]:
    """The documents' deviations from the mean; by part, from its own mean and by its weight."""
    array = np.asarray(values, dtype=np.float64)
    if not by_part:
        centered: NDArray[np.float64] = array - array.mean()
        return centered
    part, sizes = _parts(documents)
    means = np.bincount(part, weights=array) / sizes
    weighted: NDArray[np.float64] = (array - means[part]) / sizes[part]
    return weighted


def fronts_of(
    rows: Sequence[MeasuredRow], reasons: Sequence[str | None]
) -> list[dict[str, ParetoFront]]:
    """For each row of one protocol and each cost, whether the row is on the Pareto front.

    The size of files is exact and the same on every machine. All other costs compare only between
    rows of one machine.

    Args:
        rows: All rows of one protocol.
        reasons: Why a row cannot be compared; None where it can.
    """
    fronts: list[dict[str, ParetoFront]] = [{} for _ in rows]
    for cost, more_is_better in COSTS.items():
        machines: dict[object, list[int]] = defaultdict(list)
        quantities = [_cost(row, cost) for row in rows]
        for index, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
            _, lacking = quantities[index]
            why = reason or lacking
            fronts[index][cost] = {"front": None, "reason": why}
            if why is None:
                machine = None if cost == "size_bytes" else (row["hardware"], row["fingerprint"])
                machines[machine].append(index)
        for members in machines.values():
            quality = np.array([_points(rows[i]["overall"]) for i in members])
            points = np.array([quantities[i][0] for i in members])
            leaders = dominators(quality, points if more_is_better else negated(points))
            for index, leader in zip(members, leaders, strict=True):
                dominator = None if leader == ON_FRONT else rows[members[leader]]
                fronts[index][cost] = _front(dominator)
    return fronts


def _cost(row: MeasuredRow, cost: str) -> tuple[tuple[float, float, float] | None, str | None]:
    """Lower end, value and upper end of a row's cost, or why it is not known."""
    if cost == "size_bytes":
        size = row["size_bytes"]
        return (None, "the size is not known") if size is None else ((size, size, size), None)
    quantity = row["performance"][cost]
    if quantity["value"] is None:
        return None, str(quantity["reason"])
    if quantity["ci95"] is None:
        return None, "the measurement has no interval"
    return _points(quantity), None


def _points(quantity: AggregateScore | Quantity) -> tuple[float, float, float]:
    value, interval = quantity["value"], quantity["ci95"]
    assert value is not None
    assert interval is not None
    low, high = interval
    return min(low, value), value, max(high, value)


def _front(dominator: MeasuredRow | None) -> ParetoFront:
    if dominator is None:
        return {"front": True, "reason": None}
    name = f"{dominator['model']} {dominator['variant']}"
    return {"front": False, "reason": f"dominated by {name} on {dominator['hardware']}"}
