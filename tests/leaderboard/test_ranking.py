"""Aggregate scores and tied groups: by hand, against known truth, and with shared documents."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.types import Protocol
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_text
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.leaderboard.board import COSTS
from slm_benchmark.leaderboard.ranking import (
    Basis,
    Rules,
    SharedDocuments,
    aggregate_scores,
    basis,
    fronts_of,
    groups_of,
    normalized,
    not_comparable,
)
from slm_benchmark.records.store import documents_file
from slm_benchmark.statistics.mover import Term, weighted_sum
from slm_benchmark.statistics.proportion import (
    PROPORTION_INTERVALS,
    Z95,
    proportion_method,
    standard_error,
    wilson_interval,
)
from slm_benchmark.statistics.ties import critical_value, tied_groups

Record = Any
Floats = NDArray[np.float64]

STRICT = Rules(category_coverage=1.0, overall_coverage=1.0)
SHIPPED = Rules(category_coverage=0.5, overall_coverage=0.9)


def cell(right: float, n: int, chance: float | None = 0.25, *, scale: float = 1.0) -> Record:
    """A score of ``right`` out of ``n`` with the interval that records give it."""
    low, high = PROPORTION_INTERVALS[proportion_method(right, n)](right, n)
    ends = [scale * min(low, right / n), scale * max(high, right / n)]
    error = math.sqrt(right / n * (1 - right / n) / (n - 1)) if n > 1 else None
    stderr = None if error is None else scale * error
    return {"value": scale * right / n, "stderr": stderr, "ci95": ends, "n": n, "chance": chance}


NOTHING: Record = {"value": None, "stderr": None, "ci95": None, "n": None, "chance": 0.25}

TWO = Basis(counted={"one": ["a", "b"], "two": ["c"]}, left_out={})
BESTS = dict.fromkeys("abc", 1.0)


# --- normalized scores -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "best", "expected"),
    [
        (cell(25, 100), 1, 0.0),
        (cell(100, 100), 1, 1.0),
        (cell(10, 100), 1, -0.2),
        (cell(40, 100, 0.0, scale=100), 100, 0.4),
        (cell(10, 100, 0.5), 0, 0.8),
    ],
)
def test_a_score_is_its_share_of_the_way_from_chance_to_the_best(
    score: Record, best: float, expected: float
) -> None:
    found = normalized(score, best)
    assert found is not None
    share, term = found
    assert term is not None
    assert share == term.value == pytest.approx(expected)
    ends = sorted((end - score["chance"]) / (best - score["chance"]) for end in score["ci95"])
    assert (term.low, term.high) == pytest.approx(tuple(ends))
    assert term.low <= term.value <= term.high
    assert term.error >= score["stderr"] / abs(best - score["chance"])


@pytest.mark.parametrize(
    "score", [NOTHING, cell(1, 2, None), cell(1, 2, 1.0)], ids=["score", "chance", "span"]
)
def test_what_has_no_scale_has_no_share(score: Record) -> None:
    assert normalized(score, 1.0) is None


@pytest.mark.parametrize(
    ("value", "scale"), [(0.0, 1.0), (1.0, 1.0), (100.0, 100.0), (50.0, 100.0)]
)
def test_a_score_without_width_is_not_certain(value: float, scale: float) -> None:
    """Four documents that agree say little."""
    score: Any = {"value": value, "stderr": 0.0, "ci95": [value, value], "n": 4, "chance": 0.0}
    found = normalized(score, scale)
    assert found is not None
    assert found[1] is not None
    expected = wilson_interval(4 * value / scale, 4)
    assert (found[1].low, found[1].high) == pytest.approx(expected)
    assert expected[1] - expected[0] > 0.4
    assert found[1].error == pytest.approx((expected[1] - expected[0]) / 2 / Z95)


# --- sums ------------------------------------------------------------------------------------

TERMS = st.lists(
    st.tuples(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1)),
    min_size=1,
    max_size=9,
)


@given(TERMS)
def test_a_sum_of_symmetric_terms_is_the_usual_one(found: list[Any]) -> None:
    terms = [Term.of(v, v - half, v + half, half / Z95) for v, half, _, _ in found]
    weights = [weight for *_, weight in found]
    value, low, high = weighted_sum(terms, weights)
    half = math.sqrt(sum((w * h) ** 2 for _, h, _, w in found))
    assert value == pytest.approx(sum(w * v for v, *_, w in found), abs=1e-12)
    assert (low, high) == pytest.approx((value - half, value + half), abs=1e-9)


@given(TERMS)
def test_one_term_keeps_its_interval_and_no_sum_goes_beyond_all_limits(found: list[Any]) -> None:
    terms = [Term.of(v, v - down, v + up, 0.0) for v, down, up, _ in found]
    weights = [weight for *_, weight in found]
    alone = weighted_sum(terms[:1], weights[:1])
    assert alone == pytest.approx([weights[0] * end for end in terms[0][:3]], abs=1e-12)
    value, low, high = weighted_sum(terms, weights)
    limits = [
        sum(w * end for w, end in zip(weights, ends, strict=True))
        for ends in zip(*(term[:3] for term in terms), strict=True)
    ]
    assert limits[1] - 1e-9 <= low <= value <= high <= limits[2] + 1e-9


def test_the_lopsidedness_of_like_terms_shrinks_with_their_root() -> None:
    """As the skewness of a mean does; 16 of them have a quarter left."""
    term = Term.of(0.0, -0.5, 1.5, 0.0)
    for number in (1, 4, 16):
        _, low, high = weighted_sum([term] * number, [1 / number] * number)
        scale = math.sqrt(number)
        assert (-low * scale, high * scale) == pytest.approx((1 - 0.5 / scale, 1 + 0.5 / scale))


# --- what counts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def with_tasks(catalogue: Catalogue, *tasks: str) -> Catalogue:
    """The catalogue with other tasks in the demo."""
    demo: Protocol = {**catalogue.protocols["demo"], "tasks": list(tasks)}
    return dataclasses.replace(catalogue, protocols={**catalogue.protocols, "demo": demo})


def test_the_full_protocol_counts_what_has_a_level_of_chance(catalogue: Catalogue) -> None:
    found = basis(catalogue, "full")
    assert set(found.left_out) == {"flores_200", "mt_bench", "mt_bench_reference", "bold"}
    assert set(found.left_out.values()) == {"it has no level of chance"}
    assert sorted([*found.tasks, *found.left_out]) == sorted(catalogue.protocol_tasks("full"))
    assert list(found.counted) == [
        "knowledge",
        "reasoning",
        "code",
        "multilingual",
        "instruction",
        "truthfulness",
        "safety",
    ]
    weights = found.weights(found.tasks)
    assert math.fsum(weights.values()) == pytest.approx(1)
    for tasks in found.counted.values():
        assert math.fsum(weights[task] for task in tasks) == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("tasks", "counts"),
    [
        (("bbh_cot", "bbh", "arc_challenge"), "bbh"),
        (("bbh", "bbh_cot", "arc_challenge"), "bbh"),
        (("bbh_cot", "arc_challenge"), "bbh_cot"),
    ],
)
def test_several_forms_of_a_benchmark_count_once(
    catalogue: Catalogue, tasks: tuple[str, ...], counts: str
) -> None:
    found = basis(with_tasks(catalogue, *tasks), "demo")
    assert found.counted["reasoning"] == [counts]
    assert set(found.left_out) == {"bbh", "bbh_cot"} & set(tasks) - {counts}
    assert all(counts in why for why in found.left_out.values())


def test_a_user_s_own_task_has_no_category(catalogue: Catalogue) -> None:
    found = basis(with_tasks(catalogue, "arc_challenge", "synthetic_retrieval"), "demo")
    assert found.counted == {"knowledge": ["arc_challenge"]}
    assert "custom" in found.left_out["synthetic_retrieval"]


# --- aggregates ------------------------------------------------------------------------------


def test_aggregates_by_hand() -> None:
    cells = {"a": cell(40, 100), "b": cell(70, 100), "c": cell(50, 200, 0.0)}
    overall, categories = aggregate_scores(cells, BESTS, TWO, STRICT)
    shares = [0.15 / 0.75, 0.45 / 0.75, 0.25]
    assert categories["one"]["value"] == pytest.approx((shares[0] + shares[1]) / 2)
    assert categories["two"]["value"] == pytest.approx(shares[2])
    # Each category counts the same, however many tasks it has.
    weights = [0.25, 0.25, 0.5]
    value = sum(w * s for w, s in zip(weights, shares, strict=True))
    assert overall["value"] == pytest.approx(value)
    spans = {"a": 0.75, "b": 0.75, "c": 1.0}
    halves = []
    for w, t in zip(weights, "abc", strict=True):
        low, high = cells[t]["ci95"]
        # The error of a term is the record's, or what its interval says where that is more.
        error = max(cells[t]["stderr"], (high - low) / 2 / Z95)
        halves.append(Z95 * w * error / spans[t])
    total = math.sqrt(sum(half**2 for half in halves))
    for side, place in ((0, -1), (1, 1)):
        far = 0.0
        for w, t, half in zip(weights, "abc", halves, strict=True):
            own = w * abs(cells[t]["ci95"][side] - cells[t]["value"]) / spans[t]
            far += (half + half / total * (own - half)) ** 2
        assert overall["ci95"] is not None
        assert overall["ci95"][side] == pytest.approx(value + place * math.sqrt(far))
    assert categories["two"]["ci95"] == pytest.approx(cells["c"]["ci95"])
    for block in (overall, *categories.values()):
        assert (block["missing"], block["reason"]) == ([], None)
        assert block["tasks"] == block["of"]


def test_a_partial_score_says_what_it_lacks() -> None:
    cells = {"a": cell(40, 100), "b": NOTHING, "c": cell(50, 200, 0.0)}
    some = Rules(category_coverage=0.5, overall_coverage=0.6)
    overall, categories = aggregate_scores(cells, BESTS, TWO, some)
    assert categories["one"]["value"] == pytest.approx(0.2)
    assert overall["value"] == pytest.approx((0.2 + 0.25) / 2)
    for block in (overall, categories["one"]):
        assert (block["missing"], block["reason"]) == (["b"], None)
        assert (block["tasks"], block["of"]) == (block["of"] - 1, block["of"])
    assert categories["two"]["missing"] == []
    why = not_comparable(cast(Any, {"overall": overall}), reference=False)
    assert why == "rows are compared over all tasks; no score for b"


def test_too_little_gives_no_score_and_a_reason() -> None:
    cells = {"a": cell(40, 100), "b": NOTHING, "c": cell(50, 200, 0.0)}
    overall, categories = aggregate_scores(cells, BESTS, TWO, STRICT)
    assert categories["one"] == {
        "value": None,
        "ci95": None,
        "tasks": 1,
        "of": 2,
        "missing": ["b"],
        "reason": "no score for b; 1 of 2 tasks are there, 2 are needed",
    }
    assert overall["reason"] == (
        "no score for b; 2 of 3 tasks are there, 3 are needed; no score for the category one"
    )
    assert not_comparable(cast(Any, {"overall": overall}), reference=False) == overall["reason"]
    # Enough tasks in all, and a category without any.
    cells = {"a": cell(40, 100), "b": cell(40, 100), "c": NOTHING}
    overall, _ = aggregate_scores(cells, BESTS, TWO, Rules(0.5, 0.6))
    assert (overall["value"], overall["tasks"]) == (None, 2)
    assert overall["reason"] == "no score for c; no score for the category two"


def test_a_score_without_interval_leaves_none_to_the_mean() -> None:
    cells = {"a": cell(40, 100), "b": cell(1, 1) | {"ci95": None}, "c": cell(50, 200, 0.0)}
    overall, categories = aggregate_scores(cells, BESTS, TWO, STRICT)
    for block in (overall, categories["one"]):
        assert block["value"] is not None
        assert (block["ci95"], block["reason"]) == (None, "no interval for b")
    assert categories["two"]["ci95"]
    assert not_comparable(cast(Any, {"overall": overall}), reference=False) == "no interval for b"


def test_nothing_that_counts_has_a_reason() -> None:
    overall, categories = aggregate_scores({}, {}, Basis({}, {}), SHIPPED)
    assert (overall["value"], overall["tasks"], overall["of"]) == (None, 0, 0)
    assert overall["reason"] == "no task has a level of chance"
    assert categories == {}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("category_coverage: 0\noverall_coverage: 0.9\n", "category_coverage"),
        ("category_coverage: 0.5\n", "overall_coverage"),
        ("category_coverage: 0.5\noverall_coverage: 1.1\n", "overall_coverage"),
    ],
)
def test_rules_that_make_no_sense_are_refused(tmp_path: Path, text: str, field: str) -> None:
    shutil.copytree(CONFIG, tmp_path / "config")
    file = tmp_path / "config" / "standings.yaml"
    atomic_write_text(file, text)
    with pytest.raises(UserError) as refusal:
        load_catalogue(config=tmp_path / "config")
    assert (refusal.value.field, refusal.value.file) == (field, file)


# --- coverage of the overall interval, with known truth --------------------------------------

TRUTHS = {
    "middle": ([0.3, 0.5, 0.7] * 5, [200, 500, 1000] * 5),
    "small": ([0.3, 0.5, 0.7] * 5, [50, 20, 100] * 5),
    "edges": ([0.02, 0.98, 0.01, 0.5] * 4, [50, 100, 164, 1000] * 4),
    "guessing": ([0.25] * 14, [50] * 14),
    "a handful": ([0.05, 0.3, 0.0, 0.9] * 4, [4, 50, 4, 10] * 4),
    "nearly zero": ([0.02] * 14, [50] * 14),
    "nearly perfect": ([0.98] * 14, [200] * 14),
    "four documents": ([0.1] * 14, [4] * 14),
    "one category": ([0.02, 0.3], [200, 50]),
}
BOARDS = 1500


def enough(share: float, wanted: float, boards: int = BOARDS) -> bool:
    """Whether a simulated share is no more than three standard errors below the wanted one."""
    return share >= wanted - 3 * math.sqrt(wanted * (1 - wanted) / boards)


@pytest.mark.model
@pytest.mark.parametrize("name", TRUTHS)
def test_the_overall_interval_holds_the_truth_as_often_as_it_says(name: str) -> None:
    """Tasks at the edges included, where a standard error of zero is common."""
    shares, sizes = TRUTHS[name]
    number = min(len(shares), 14)
    seven = Basis({f"c{i // 2}": [f"t{i}", f"t{i + 1}"] for i in range(0, number, 2)}, {})
    truth = dict(zip(seven.tasks, zip(shares, sizes, strict=True), strict=False))
    weights = seven.weights(seven.tasks)
    expected = sum(weights[t] * (p - 0.25) / 0.75 for t, (p, _) in truth.items())
    draw = np.random.default_rng(sum(map(ord, name)))
    counts = {t: draw.binomial(n, p, BOARDS) for t, (p, n) in truth.items()}
    bests = dict.fromkeys(truth, 1.0)
    covered = without_width = 0
    for at in range(BOARDS):
        cells = {t: cell(int(counts[t][at]), n) for t, (_, n) in truth.items()}
        without_width += any(score["stderr"] == 0 for score in cells.values())
        overall, _ = aggregate_scores(cells, bests, seven, STRICT)
        low, high = overall["ci95"] or (0.0, 0.0)
        covered += low <= expected <= high
    assert enough(covered / BOARDS, 0.95)
    if name in ("edges", "a handful", "nearly zero", "four documents"):
        assert without_width > BOARDS / 2


def test_chance_by_document_may_be_taken_as_known() -> None:
    """The level of chance varies with the documents drawn; ignoring that costs no coverage."""
    draw = np.random.default_rng(5)
    counts = Basis(counted={"c": ["t"]}, left_out={})
    options = draw.integers(3, 11, 20_000)
    right = np.clip(1 / options + 0.15, 0, 1)
    expected = (right.mean() - (1 / options).mean()) / (1 - (1 / options).mean())
    covered = 0
    for _ in range(BOARDS):
        chosen = draw.integers(0, len(options), 200)
        hits = int((draw.random(200) < right[chosen]).sum())
        chance = float((1 / options[chosen]).mean())
        overall, _ = aggregate_scores({"t": cell(hits, 200, chance)}, {"t": 1.0}, counts, STRICT)
        low, high = overall["ci95"] or (0.0, 0.0)
        covered += low <= expected <= high
    assert enough(covered / BOARDS, 0.95)


# --- groups ----------------------------------------------------------------------------------


FIRST = np.array([0])
"""The first term alone."""


def independent(leader: int, others: NDArray[np.intp], terms: NDArray[np.intp]) -> Floats:
    return np.zeros((len(others), len(terms)))


def column(values: Sequence[float], error: float) -> tuple[Floats, Floats]:
    array = np.array(values)[:, None]
    return array, np.full_like(array, error)


def test_the_critical_value_is_bonferroni_s_over_ordered_pairs() -> None:
    assert critical_value(2) == pytest.approx(Z95)
    assert critical_value(6) == pytest.approx(stats.norm.isf(0.05 / 30))
    assert critical_value(5000) == pytest.approx(stats.norm.isf(0.05 / 5000 / 4999), rel=1e-6)


def test_groups_count_as_ranks_do() -> None:
    values = [0.5, 0.9, 0.88, 0.1, 0.89, 0.49]
    error = 0.02 / critical_value(6) / math.sqrt(2) * 1.0001
    assert tied_groups(*column(values, error), independent).tolist() == [4, 1, 1, 6, 1, 4]
    # A hair less, and the third differs from the leader: it leads a group of its own.
    error *= 0.9997
    assert tied_groups(*column(values, error), independent).tolist() == [4, 1, 3, 6, 1, 4]


def test_a_row_that_is_hardly_known_stays_with_the_leader() -> None:
    """Though a better one, known well, differs significantly: a group need not be without gaps."""
    values = np.array([[0.9], [0.5], [0.4]])
    errors = np.array([[0.01], [0.01], [0.9]])
    assert tied_groups(values, errors, independent).tolist() == [1, 3, 1]


def test_nobody_and_one_row() -> None:
    assert tied_groups(np.zeros((0, 3)), np.zeros((0, 3)), independent).tolist() == []
    assert tied_groups(*column([0.3], 0.1), independent).tolist() == [1]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.floats(0.001, 1))
def test_groups_are_ranks_and_the_best_is_in_the_first(values: list[float], half: float) -> None:
    groups = tied_groups(*column(values, half), independent).tolist()
    assert groups[int(np.argmax(values))] == 1
    for group in set(groups):
        assert group == 1 + sum(other < group for other in groups)
    again = tied_groups(*column(values, half), independent).tolist()
    assert groups == again
    for one, other in zip(values, groups, strict=True):
        assert all(o == other for v, o in zip(values, groups, strict=True) if v == one)


def test_correlation_is_asked_only_where_it_could_matter() -> None:
    asked: list[tuple[int, list[int]]] = []

    def correlation(leader: int, others: NDArray[np.intp], terms: NDArray[np.intp]) -> Floats:
        asked.append((leader, others.tolist()))
        return independent(leader, others, terms)

    # The second is too far, and the fourth is tied whatever they share.
    assert tied_groups(*column([0.9, 0.2, 0.88, 0.9], 0.02), correlation).tolist() == [1, 4, 1, 1]
    assert asked == [(0, [2])]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 9))
def test_groups_are_those_of_all_correlations(seed: int, rows: int, terms: int) -> None:
    """Stopping as soon as a row is decided decides as all correlations together do."""
    draw = np.random.default_rng(seed)
    errors = draw.uniform(0.001, 0.1, (rows, terms))
    values = draw.normal(0, 0.2, (rows, terms))
    shared = draw.uniform(0, 1, (rows, rows, terms)) ** 0.3

    def correlation(leader: int, others: NDArray[np.intp], terms: NDArray[np.intp]) -> Floats:
        found: Floats = shared[leader][np.ix_(others, terms)]
        return found

    sums, bound = values.sum(axis=1), critical_value(rows)
    expected, waiting = [0] * rows, sorted(range(rows), key=lambda row: -sums[row])
    while waiting:
        leader, rank, apart = waiting[0], rows - len(waiting) + 1, []
        for row in waiting:
            a, b, r = errors[leader], errors[row], shared[leader, row]
            deviation = math.sqrt((a**2 + b**2 - 2 * r * a * b).sum())
            if row != leader and sums[leader] - sums[row] > bound * deviation:
                apart.append(row)
            else:
                expected[row] = rank
        waiting = apart
    assert tied_groups(values, errors, correlation).tolist() == expected


# --- shared documents ------------------------------------------------------------------------


@dataclasses.dataclass
class Board:
    """Rows whose documents are known, as `groups_of` wants them."""

    rows: list[Record]
    evidence: list[dict[str, tuple[Path, Record]]]
    documents: dict[Path, dict[tuple[str, str, int], float]]
    reads: list[Path] = dataclasses.field(default_factory=list)

    def outcomes(self, path: Path, record: Record) -> Mapping[tuple[str, str, int], float]:
        self.reads.append(path)
        return self.documents[path]

    def groups(self, bests: Mapping[str, float], basis: Basis) -> list[int]:
        return groups_of(self.rows, self.evidence, bests, basis, (), self.outcomes)


def board_of(answers: Floats, folder: Path, datasets: Sequence[str] | None = None) -> Board:
    """Rows from answers of shape (rows, tasks, documents), zeros and ones; all documents shared.

    Args:
        answers: The values.
        folder: Where empty files of documents are put.
        datasets: Digest of each row's datasets, where they are not the same.
    """
    board = Board([], [], {})
    for row, tasks in enumerate(answers):
        scores, records = {}, {}
        for task, values in enumerate(tasks):
            path = folder / f"{row}-{task}.json"
            documents_file(path).touch()
            found = {("", f"document {i}", i): float(v) for i, v in enumerate(values)}
            board.documents[path] = found
            same = {"dataset": {"sha256": datasets[row] if datasets else "same"}}
            records[f"t{task}"] = (path, {**same, "task": {"config_sha256": f"t{task}"}})
            scores[f"t{task}"] = cell(float(values.sum()), len(values), 0.0)
        board.rows.append({"scores": scores})
        board.evidence.append(records)
    return board


def tasks_of(number: int) -> tuple[dict[str, float], Basis]:
    names = [f"t{i}" for i in range(number)]
    return dict.fromkeys(names, 1.0), Basis({"c": names}, {})


def answers(
    draw: np.random.Generator, shares: Sequence[float], tasks: int, documents: int, spread: float
) -> Floats:
    """Answers of rows with these true shares to shared documents of unlike difficulty."""
    difficulty = draw.normal(0, spread, (1, tasks, documents))
    noise = draw.normal(0, 1, (len(shares), tasks, documents))
    limits = stats.norm.ppf(np.array(shares)) * math.hypot(1, spread)
    found: Floats = (noise + difficulty < limits[:, None, None]).astype(np.float64)
    return found


def test_pairing_tells_apart_what_independence_does_not(tmp_path: Path) -> None:
    values = np.zeros((2, 1, 400))
    values[0, 0, :200] = 1
    values[1, 0, :185] = 1
    board = board_of(values, tmp_path)
    assert board.groups(*tasks_of(1)) == [1, 2]
    assert sorted(board.reads) == sorted(board.documents)
    # Other bytes of the dataset: nothing is paired, and 50 % of 400 is not
    # significantly different from 46 %.
    apart = board_of(values, tmp_path, ["one", "another"])
    assert apart.groups(*tasks_of(1)) == [1, 1]
    # So it is without the files.
    for path in board.documents:
        documents_file(path).unlink()
    board.reads.clear()
    assert board.groups(*tasks_of(1)) == [1, 1]
    assert board.reads == []


def test_each_file_is_read_at_most_once_and_far_rows_not_at_all(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    shares = [0.9, 0.88, 0.87, 0.6, 0.58, 0.1]
    board = board_of(answers(draw, shares, 2, 300, 1.0), tmp_path)
    groups = board.groups(*tasks_of(2))
    assert groups[-1] == 6
    assert len(set(board.reads)) == len(board.reads)
    assert not any(path.name.startswith("5-") for path in board.reads)


def test_the_correlation_is_that_of_the_documents(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    values = answers(draw, [0.6, 0.5, 0.5], 1, 500, 2.0)
    values[2, 0] = 1 - values[0, 0]
    board = board_of(values, tmp_path)
    shared = SharedDocuments(board.evidence, ["t0"], (), board.outcomes)
    found = shared.correlation(0, np.array([1, 2]), FIRST)
    assert found[0, 0] == pytest.approx(np.corrcoef(values[0, 0], values[1, 0])[0, 1], abs=1e-5)
    assert found[0, 0] > 0.3
    # Opposites are never taken for less than unrelated.
    assert found[1, 0] == 0


def test_documents_in_any_order_and_some_of_them_missing(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    values = answers(draw, [0.6, 0.5], 1, 200, 2.0)
    board = board_of(values, tmp_path)
    _, other = board.documents
    items = list(board.documents[other].items())
    board.documents[other] = dict(reversed(items))
    shared = SharedDocuments(board.evidence, ["t0"], (), board.outcomes)
    whole = shared.correlation(0, np.array([1]), FIRST)[0, 0]
    assert whole == pytest.approx(np.corrcoef(values[0, 0], values[1, 0])[0, 1], abs=1e-5)
    # Only half of the other's documents, each weighing twice as much, are the first one's too.
    board.documents[other] = dict(items[:100])
    shared = SharedDocuments(board.evidence, ["t0"], (), board.outcomes)
    first, second = values[0, 0], values[1, 0, :100]
    first, second = first - first.mean(), second - second.mean()
    expected = first[:100] @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert shared.correlation(0, np.array([1]), FIRST)[0, 0] == pytest.approx(expected, abs=1e-5)


def test_the_mean_of_parts_weighs_documents_by_part(tmp_path: Path) -> None:
    """Against the correlation of the two scores over resamples within the parts."""
    draw = np.random.default_rng(6)
    values = answers(draw, [0.6, 0.5], 1, 300, 2.0)
    board = board_of(values, tmp_path)
    parts = ["en"] * 250 + ["de"] * 50
    for path, found in board.documents.items():
        board.documents[path] = {
            (part, name, at): value
            for part, ((_, name, at), value) in zip(parts, found.items(), strict=True)
        }
    shared = SharedDocuments(board.evidence, ["t0"], ["t0"], board.outcomes)
    found = shared.correlation(0, np.array([1]), FIRST)[0, 0]
    means = np.zeros((2, 4000))
    for start, end in ((0, 250), (250, 300)):
        chosen = draw.integers(start, end, (4000, end - start))
        means += values[:, 0, :][:, chosen].mean(axis=2) / 2
    assert found == pytest.approx(np.corrcoef(means)[0, 1], abs=0.05)
    assert found < 1


@pytest.mark.model
@pytest.mark.parametrize(
    ("share", "documents", "spread"),
    [(0.5, 100, 0.0), (0.5, 100, 2.0), (0.3, 50, 1.0), (0.03, 50, 1.0), (0.97, 200, 1.0)],
)
def test_equal_rows_are_seldom_told_apart(
    share: float, documents: int, spread: float, tmp_path: Path
) -> None:
    """On at most one board in twenty, whatever leads it by luck."""
    draw = np.random.default_rng(int(1000 * share + documents + spread))
    boards = 300
    wrong = 0
    for _ in range(boards):
        board = board_of(answers(draw, [share] * 8, 3, documents, spread), tmp_path)
        wrong += set(board.groups(*tasks_of(3))) != {1}
    assert enough(1 - wrong / boards, 0.95, boards)


def test_no_leader_is_wrongly_better_and_real_differences_are_found(tmp_path: Path) -> None:
    """Two levels of truth: no row is worse than a leader that is truly no better."""
    draw = np.random.default_rng(7)
    boards, wrong, split = 200, 0, 0
    shares = [0.6] * 4 + [0.45] * 4
    for _ in range(boards):
        board = board_of(answers(draw, shares, 3, 150, 1.5), tmp_path)
        groups = board.groups(*tasks_of(3))
        wrong += set(groups[:4]) != {1}
        split += max(groups[:4]) < min(groups[4:])
    assert enough(1 - wrong / boards, 0.95, boards)
    assert split / boards > 0.5


# --- fronts ----------------------------------------------------------------------------------


def measured(value: float | None, half: float = 0.0) -> Record:
    ends = None if value is None else [value - half, value + half]
    return {"value": value, "ci95": ends, "reason": "no meter" if value is None else None}


def front_row(name: str, overall: float, speed: float | None, size: int, machine: str) -> Record:
    performance = {cost: measured(None) for cost in COSTS}
    performance["generation_throughput_tokens_per_s"] = measured(speed, 1.0)
    return {
        "model": name,
        "variant": "base",
        "hardware": machine,
        "fingerprint": machine,
        "overall": measured(overall, 0.05),
        "performance": performance,
        "size_bytes": size,
    }


def test_fronts_stay_within_a_machine_and_say_who_dominates() -> None:
    rows = [
        front_row("best", 0.5, 100.0, 200, "a"),
        front_row("slow", 0.49, 90.0, 100, "a"),
        front_row("elsewhere", 0.4, 10.0, 300, "b"),
        front_row("unmeasured", 0.4, None, 400, "b"),
        front_row("reference", 0.9, 500.0, 50, "a"),
    ]
    fronts = fronts_of(rows, [None] * 4 + ["a reference is not compared"])
    speed = [found["generation_throughput_tokens_per_s"] for found in fronts]
    assert [found["front"] for found in speed] == [True, False, True, None, None]
    assert speed[1]["reason"] == "dominated by best base on a"
    assert speed[3]["reason"] == "no meter"
    assert speed[4]["reason"] == "a reference is not compared"
    # Bytes compare everywhere, and have no uncertainty.
    size = [found["size_bytes"] for found in fronts]
    assert [found["front"] for found in size] == [True, True, False, False, None]
    assert {found["energy_mwh_per_token"]["reason"] for found in fronts[:4]} == {"no meter"}


def test_a_cost_without_interval_is_not_compared() -> None:
    row = front_row("one", 0.5, 100.0, 200, "a")
    row["performance"]["generation_throughput_tokens_per_s"]["ci95"] = None
    row["size_bytes"] = None
    (found,) = fronts_of([row], [None])
    assert found["generation_throughput_tokens_per_s"] == {
        "front": None,
        "reason": "the measurement has no interval",
    }
    assert found["size_bytes"]["reason"] == "the size is not known"


def test_two_rows_are_told_apart_as_by_the_paired_z_test(tmp_path: Path) -> None:
    """Away from the edges, groups decide as the paired z test on the differences does."""
    draw = np.random.default_rng(8)
    agreed = total = 0
    for _ in range(200):
        values = answers(draw, [0.5, 0.44], 1, 400, 1.5)
        board = board_of(values, tmp_path)
        groups = board.groups(*tasks_of(1))
        differences = values[0, 0] - values[1, 0]
        error = standard_error(differences.tolist())
        assert error is not None
        z = abs(differences.mean()) / error
        if abs(z - Z95) > 0.15:
            total += 1
            agreed += (len(set(groups)) == 2) == (z > Z95)
    assert agreed / total > 0.98
