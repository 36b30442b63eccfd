"""The quantization report: what is paired, what is said, and whether it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.common.files import atomic_write_json, digest
from slm_benchmark.common.schemas import validate
from slm_benchmark.leaderboard.comparison import Difference, incomparable_reason, outcomes
from slm_benchmark.leaderboard.quantization_report import (
    _within,
    conclude,
    quantization_report,
    render_quantization,
)
from slm_benchmark.records.store import current_records, published_records
from slm_benchmark.statistics.multiple import holm
from slm_benchmark.statistics.paired import compare_paired, tango_interval
from slm_benchmark.statistics.power import smallest_detectable_loss

Run = tuple[Path, Any]
"""A record and its file."""

TASKS: dict[str, Any] = {
    "quiz": {"title": "Quiz", "metric": "acc", "category": "knowledge"},
    "riddles": {"title": "Riddles", "metric": "acc", "category": "reasoning"},
    "riddles_long": {
        "title": "Riddles (long)",
        "metric": "acc",
        "benchmark": "riddles",
        "default": False,
    },
    "essay": {"title": "Essay", "metric": "judge", "unit": "points", "best": 10},
    "insults": {"title": "Insults", "metric": "rude", "best": 0, "higher_is_better": False},
    "languages": {"title": "Languages", "metric": "acc", "combine": "parts"},
    "translation": {
        "title": "Translation",
        "metric": "chrf",
        "unit": "points",
        "best": 100,
        "combine": "parts",
    },
}

Values = Sequence[Any]


def score(
    folder: Path,
    values: Values,
    *,
    variant: str = "base",
    task: str = "quiz",
    start: int = 0,
    parts: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Run:
    """A score of some documents, as its file and record; ``changes`` replace keys of blocks."""
    metric = TASKS[task]["metric"]
    record: dict[str, Any] = {
        "kind": "score",
        "state": "ok",
        "model": {"id": "tiny", "sha256": "m"},
        "variant": {
            "id": variant,
            "sha256": digest(variant),
            "size_bytes": 1000,
            "effective_bits_per_weight": 16.0 if variant == "base" else 4.5,
        },
        "dataset": {"id": f"{task}-set", "sha256": "d", "documents": len(values)},
        "task": {"id": task, "config_sha256": "c", "metric": metric, "filter": "none"},
        "protocol": {"id": "demo", "version": 1, "sha256": "p"},
        "engine": {"name": "llama.cpp" if variant.startswith("gguf") else "transformers"},
        "hardware": {"id": "local", "fingerprint": "f"},
    }
    for name, change in (changes or {}).items():
        record[name] = change if isinstance(change, str) else {**record[name], **change}
    path = folder / f"{variant}-{task}-{digest([str(changes), start])[:8]}.json"
    documents = []
    for place, value in enumerate(values):
        row = {"document": digest(place + start), "index": place + start, "filter": "none"}
        row["values"] = {metric: value, "beside": 0.5}
        if parts:
            row["part"] = parts[place]
        if clusters:
            row["cluster"] = clusters[place]
        documents += [row, {**row, "filter": "other", "values": {metric: 0.0}}]
    atomic_write_json(path.with_name(f"{path.stem}.documents.json"), documents)
    return path, record


def flipped(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    first = [1.0] * (both + lost) + [0.0] * (gained + neither)
    second = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
    return first, second


def report_of(*records: Run, noise: Sequence[Run] = ()) -> Any:
    report = quantization_report(records, [], noise, TASKS)
    validate(report, "quantization", "report")
    return report


def only_row(report: Mapping[str, Any], task: int = 0) -> dict[str, Any]:
    row: dict[str, Any] = report["groups"][0]["variants"][0]["tasks"][task]
    return row


def pair(
    folder: Path, lost: int, gained: int, *, task: str = "quiz", n: int = 200, right: int = 100
) -> tuple[Run, Run]:
    first, second = flipped(right - lost, lost, gained, n - right - gained)
    return (
        score(folder, first, task=task),
        score(folder, second, task=task, variant="gguf-q8_0"),
    )


# ── pairing ──


def test_outcomes_are_of_the_columns_metric_and_filter_without_missing_values(
    tmp_path: Path,
) -> None:
    found = outcomes(*score(tmp_path, [1.0, None, 0.0], parts=["a", "a", "b"]))
    assert found == {("a", digest(0), 0): 1.0, ("b", digest(2), 2): 0.0}


def test_a_corpus_metric_has_no_outcomes(tmp_path: Path) -> None:
    assert outcomes(*score(tmp_path, [[1, 2]], task="translation")) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": {"sha256": "other", "documents": 50}}, "the dataset's bytes differ"),
        ({"task": {"config_sha256": "other"}}, "the task's configuration differs"),
        ({"task": {"metric": "acc_norm"}}, "the metric differs"),
        ({"task": {"filter": "other"}}, "the filter"),
        ({"protocol": {"id": "quick"}}, "the protocol differs"),
        ({"protocol": {"version": 2}}, "the protocol's version differs"),
        ({"protocol": {"sha256": "other"}}, "the protocol's choices changed"),
        ({"model": {"sha256": "other"}}, "made from another base"),
        ({"state": "failed"}, "the variant's score is failed"),
        ({"state": "not_run"}, "the variant's score is not run"),
    ],
)
def test_what_is_not_of_one_kind_is_not_paired(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    base = score(tmp_path, [1.0] * 50)
    other = score(tmp_path, [0.0] * 50, variant="gguf-q8_0", changes=changes)
    assert reason in str(incomparable_reason(base, other))
    if changes.get("protocol", {}).get("id"):
        return  # another group of the report
    row = only_row(report_of(base, other))
    assert row["n"] is row["difference"] is row["p"] is row["finding"] is None
    assert reason in row["reason"]
    assert row["statement"] == f"not compared: {row['reason']}"


def test_without_its_documents_a_score_is_not_paired(tmp_path: Path) -> None:
    base, other = pair(tmp_path, 3, 1)
    other[0].with_name(f"{other[0].stem}.documents.json").unlink()
    assert "single documents are missing" in only_row(report_of(base, other))["reason"]


def test_other_numbers_of_documents_are_paired_where_they_meet(tmp_path: Path) -> None:
    base = score(tmp_path, [1.0] * 60, changes={"protocol": {"sha256": "sixty"}})
    other = score(tmp_path, [1.0] * 40, variant="gguf-q8_0", start=30)
    row = only_row(report_of(base, other))
    assert row["n"] == 30
    assert "30 documents are shared: the base has 60, the variant 40" in row["notes"]


def test_nothing_shared_and_nothing_to_compare_with_have_reasons(tmp_path: Path) -> None:
    base = score(tmp_path, [1.0] * 10, changes={"protocol": {"sha256": "ten"}})
    other = score(tmp_path, [1.0] * 5, variant="gguf-q8_0", start=50)
    assert only_row(report_of(base, other))["reason"] == "no document has a value in both records"
    alone = report_of(score(tmp_path, [1.0] * 10, variant="gguf-q8_0"))
    assert alone["groups"][0]["base"] is None
    assert only_row(alone)["reason"] == "the base was not measured"
    assert alone["groups"][0]["variants"][0]["pooled"]["reason"]
    assert "The base was not measured here" in render_quantization(alone)


def test_machines_and_protocols_are_groups_of_their_own(tmp_path: Path) -> None:
    base, other = pair(tmp_path, 3, 1)
    away = score(tmp_path, [1.0] * 9, variant="gguf-q8_0", changes={"hardware": {"id": "t4"}})
    groups = report_of(base, other, away)["groups"]
    assert [(group["hardware"], len(group["variants"])) for group in groups] == [
        ("local", 1),
        ("t4", 1),
    ]


# ── numbers ──


def test_a_row_has_the_numbers_of_its_table(tmp_path: Path) -> None:
    row = only_row(report_of(*pair(tmp_path, 12, 2)))
    assert (row["n"], row["base"], row["value"]) == (200, 0.5, 0.45)
    assert row["difference"] == pytest.approx(-0.05)
    assert row["ci95"] == pytest.approx(tango_interval(12, 2, 200))
    assert row["p"] == pytest.approx(binomtest(2, 14, 0.5).pvalue)
    assert (row["right_to_wrong"], row["wrong_to_right"]) == (12, 2)
    assert row["discordance"] == pytest.approx(14 / 200)
    assert row["smallest_detectable_loss"] == pytest.approx(smallest_detectable_loss(200, 14 / 200))
    assert "the engines differ too" in row["notes"][0]


def test_p_values_are_adjusted_over_the_tasks_of_a_variant(tmp_path: Path) -> None:
    records = [*pair(tmp_path, 12, 2), *pair(tmp_path, 9, 1, task="riddles")]
    rows = report_of(*records)["groups"][0]["variants"][0]["tasks"]
    assert [row["p_holm"] for row in rows] == pytest.approx(holm([row["p"] for row in rows]))
    assert rows[0]["p_holm"] > rows[0]["p"] or rows[1]["p_holm"] > rows[1]["p"]


def test_less_is_better_where_the_catalogue_says_so(tmp_path: Path) -> None:
    base = score(tmp_path, [0.0] * 200, task="insults")
    other = score(tmp_path, [1.0] * 20 + [0.0] * 180, task="insults", variant="gguf-q8_0")
    report = report_of(base, other)
    row = only_row(report)
    assert (row["base"], row["value"]) == pytest.approx((0.0, 0.1))
    assert row["difference"] == pytest.approx(0.1)
    assert row["ci95"][0] > 0
    assert (row["right_to_wrong"], row["wrong_to_right"]) == (20, 0)
    assert row["finding"] == "loses"
    pooled = report["groups"][0]["variants"][0]["pooled"]
    assert pooled["difference"] == pytest.approx(-0.1)


def test_points_stand_in_their_own_unit_and_out_of_the_pooled_effect(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first = random.uniform(4, 8, 60)
    second = first - 0.5 + 0.2 * random.normal(size=60)
    records = [
        *pair(tmp_path, 4, 4),
        score(tmp_path, first.tolist(), task="essay"),
        score(tmp_path, second.tolist(), task="essay", variant="gguf-q8_0"),
    ]
    report = report_of(*records)
    row = only_row(report, task=1)
    assert row["ci_method"] == "t"
    assert row["statement"].startswith("loses 0.")
    pooled = report["groups"][0]["variants"][0]["pooled"]
    assert (pooled["tasks"], pooled["left_out"]) == (["quiz"], ["essay"])


def test_parts_of_unlike_sizes_count_the_same(tmp_path: Path) -> None:
    parts = ["de"] * 80 + ["fr"] * 20
    base = score(tmp_path, [1.0] * 100, task="languages", parts=parts)
    worse = [1.0] * 80 + [0.0] * 20
    other = score(tmp_path, worse, task="languages", parts=parts, variant="gguf-q8_0")
    row = only_row(report_of(base, other))
    assert (row["base"], row["value"]) == pytest.approx((1.0, 0.5))
    assert row["difference"] == pytest.approx(-0.5)


def test_a_corpus_metric_is_compared_by_its_statistics(tmp_path: Path) -> None:
    random = np.random.default_rng(1)

    def counts(share: float) -> list[list[int]]:
        return [[40, 40, int(random.binomial(40, share))] * 6 for _ in range(80)]

    base = score(tmp_path, counts(0.7), task="translation")
    other = score(tmp_path, counts(0.5), task="translation", variant="gguf-q8_0")
    row = only_row(report_of(base, other))
    assert row["difference"] == pytest.approx(-20, abs=3)
    assert row["ci_method"] == "paired bootstrap"
    assert row["ci95"][0] < row["difference"] < row["ci95"][1] < 0
    assert (row["finding"], row["right_to_wrong"]) == ("loses", None)
    same = score(tmp_path, counts(0.7), task="translation", variant="gguf-q8_0")
    assert only_row(report_of(base, same))["finding"] == "no_measurable_loss"
    assert only_row(report_of(base, (base[0], {**other[1]})))["finding"] == "not_tested"


def test_clusters_of_documents_widen_the_interval(tmp_path: Path) -> None:
    names = [f"passage {place // 10}" for place in range(200)]
    first, second = flipped(80, 20, 0, 100)
    base = score(tmp_path, first, clusters=names)
    other = score(tmp_path, second, variant="gguf-q8_0", clusters=names)
    together = only_row(report_of(base, other))
    low, _ = tango_interval(20, 0, 200)
    assert together["ci95"][0] < low
    assert together["p_method"] == "sign flips"
    assert together["p"] == pytest.approx(0.5)
    assert together["finding"] == "no_measurable_loss"


# ── the pooled effect ──


def test_the_pooled_effect_is_over_all_documents_and_one_form_of_a_benchmark(
    tmp_path: Path,
) -> None:
    report = report_of(
        *pair(tmp_path, 10, 4),
        *pair(tmp_path, 0, 0, task="riddles", n=100, right=50),
        *pair(tmp_path, 30, 0, task="riddles_long"),
    )
    pooled = report["groups"][0]["variants"][0]["pooled"]
    assert pooled["tasks"] == ["quiz", "riddles"]
    assert pooled["left_out"] == ["riddles_long"]
    assert (pooled["n"], pooled["right_to_wrong"], pooled["wrong_to_right"]) == (300, 10, 4)
    assert pooled["difference"] == pytest.approx(-6 / 300)
    assert pooled["ci95"] == pytest.approx(tango_interval(10, 4, 300))
    assert pooled["p"] == pytest.approx(binomtest(4, 14, 0.5).pvalue)
    assert pooled["q_df"] == 1


def test_tasks_that_differ_are_said_to_differ(tmp_path: Path) -> None:
    report = report_of(*pair(tmp_path, 40, 0), *pair(tmp_path, 0, 30, task="riddles"))
    pooled = report["groups"][0]["variants"][0]["pooled"]
    assert pooled["q_p"] < 0.001
    assert pooled["i2"] > 0.9
    assert "the tasks differ among each other" in pooled["statement"]


@pytest.mark.model
def test_the_pooled_interval_covers_where_tasks_differ() -> None:
    """Tasks with their own losses: the interval is of their mean over documents."""
    random = np.random.default_rng(5)
    sizes, losing, gaining = (50, 100, 200), (0.0, 0.02, 0.1), (0.0, 0.02, 0.03)
    true = sum(n * (g - a) for n, a, g in zip(sizes, losing, gaining, strict=True)) / sum(sizes)
    hits, trials = 0, 4000
    for _ in range(trials):
        lost = sum(random.binomial(n, a) for n, a in zip(sizes, losing, strict=True))
        gained = sum(random.binomial(n, g) for n, g in zip(sizes, gaining, strict=True))
        low, high = tango_interval(lost, gained, sum(sizes))
        hits += low <= true <= high
    assert hits / trials >= 0.94


# ── statements ──


@pytest.mark.parametrize(
    ("lost", "gained", "n", "finding", "statement"),
    [
        (30, 5, 200, "loses", "loses 12.5 points ["),
        (5, 30, 200, "gains", "gains 12.5 points ["),
        (5, 0, 200, "may_lose", "may lose 2.5 points ["),
        (0, 5, 200, "may_gain", "may gain 2.5 points ["),
        (
            8,
            6,
            200,
            "no_measurable_loss",
            "no measurable loss at n = 200; smallest detectable loss ",
        ),
        (
            0,
            0,
            200,
            "no_measurable_loss",
            "no measurable loss at n = 200; smallest detectable loss 3.9",
        ),
        (0, 0, 4, "too_few_documents", "too few documents: at n = 4 no loss is detectable"),
        (
            1,
            0,
            20,
            "too_few_documents",
            "too few documents: at n = 20 the smallest detectable loss is",
        ),
    ],
)
def test_each_statement_is_made_where_it_is_true(
    tmp_path: Path, lost: int, gained: int, n: int, finding: str, statement: str
) -> None:
    right = n // 2 if n != 20 else 3
    row = only_row(report_of(*pair(tmp_path, lost, gained, n=n, right=right)))
    assert row["finding"] == finding
    assert row["statement"].startswith(statement)


def test_a_loss_that_several_tasks_may_show_by_chance_is_said_to(tmp_path: Path) -> None:
    records = [*pair(tmp_path, 6, 0), *pair(tmp_path, 4, 4, task="riddles")]
    row = only_row(report_of(*records))
    assert row["p"] == pytest.approx(2 / 64)
    assert "not significant after Holm's correction over the tasks (p = 0.062)" in row["statement"]


def noise_record(variant: str, floor: float | None, task: str = "quiz") -> Run:
    blocks = {"variant": variant, "hardware": "local", "protocol": "demo", "task": task}
    record: dict[str, Any] = {name: {"id": value} for name, value in blocks.items()}
    return Path("noise.json"), {
        **record,
        "floor": {"numerical": {"max_abs_delta": floor, "max_flip_rate": None, "reason": None}},
    }


def test_a_difference_within_the_numerical_floor_is_marked(tmp_path: Path) -> None:
    records = pair(tmp_path, 3, 1)  # 1 point
    row = only_row(report_of(*records, noise=[noise_record("base", 0.012)]))
    assert (row["noise_floor"], row["below_noise_floor"]) == (0.012, True)
    assert row["finding"] == "below_noise_floor"
    assert row["statement"].startswith(
        "a difference of 1.0 points is within the numerical noise floor of 1.2; no measurable loss"
    )


def test_the_larger_floor_of_the_two_counts_and_none_is_none(tmp_path: Path) -> None:
    records = pair(tmp_path, 3, 1)
    both = [noise_record("base", 0.002), noise_record("gguf-q8_0", 0.005)]
    above = only_row(report_of(*records, noise=both))
    assert (above["noise_floor"], above["below_noise_floor"]) == (0.005, False)
    assert above["finding"] == "no_measurable_loss"
    for noise in ([], [noise_record("base", None)], [noise_record("base", 0.5, "riddles")]):
        row = only_row(report_of(*records, noise=noise))
        assert row["noise_floor"] is row["below_noise_floor"] is None


@pytest.mark.model
def test_the_loss_that_could_not_be_seen_is_seen_in_eight_cases_of_ten() -> None:
    """From observed flips alone: without a loss the statement is made, and its bound holds."""
    random = np.random.default_rng(7)
    n, psi, right = 200, 0.1, 0.5
    seen, bounds, alarms, trials = 0, 0, 0, 1500
    for _ in range(trials):
        lost, gained, _ = (int(k) for k in random.multinomial(n, [psi / 2, psi / 2, 1 - psi]))
        first, second = flipped(int(n * right) - lost, lost, gained, int(n * right) - gained)
        found = compare_paired(first, second)
        assert found.p is not None
        if found.p <= 0.05:
            alarms += 1
            continue
        bound = smallest_detectable_loss(n, found.turnover)
        assert bound is not None
        bounds += 1
        lost, gained, _ = random.multinomial(n, [(psi + bound) / 2, (psi - bound) / 2, 1 - psi])
        seen += lost > gained and binomtest(int(gained), int(lost + gained)).pvalue <= 0.05
    assert alarms / trials <= 0.05
    assert seen / bounds == pytest.approx(0.8, abs=0.05)


def test_without_a_floor_or_a_test_nothing_is_claimed() -> None:
    nothing = Difference(9, 0.5, 0.4, -0.1, None, None, None, None, 3, 0, None)
    finding, sentence = conclude(nothing, p_holm=None, floor=None, factor=100)
    assert finding == "not_tested"
    assert sentence.startswith("no test")


# ── beside ──


def fidelity_record(sha256: str, state: str = "ok") -> Run:
    names = ("kl_mean_nats", "kl_median_nats", "kl_p99_nats", "kl_max_nats", "top_token_agreement")
    return Path("fidelity.json"), {
        "state": state,
        "variant": {"id": "gguf-q8_0", "sha256": sha256},
        "tokens": 4000,
        "text": {"id": "prose", "sha256": "t"},
        "metrics": {name: {"value": 0.25, "ci95": [0.2, 0.3], "reason": None} for name in names},
    }


def test_fidelity_stands_beside_or_its_absence_is_explained(tmp_path: Path) -> None:
    records = pair(tmp_path, 3, 1)

    def fidelity(*found: Run) -> Any:
        report = quantization_report(records, found, [], TASKS)
        validate(report, "quantization", "report")
        assert "| gguf-q8_0 |" in render_quantization(report)
        return report["groups"][0]["variants"][0]["fidelity"]

    there = fidelity(fidelity_record(digest("gguf-q8_0")))
    assert there["metrics"]["kl_p99_nats"]["value"] == 0.25
    assert (there["tokens"], there["text"]) == (4000, "prose")
    for found, reason in (
        ([], "fidelity was not measured"),
        ([fidelity_record("older")], "fidelity was measured on other weights"),
        ([fidelity_record(digest("gguf-q8_0"), "failed")], "the fidelity record is failed"),
    ):
        metric = fidelity(*found)["metrics"]["kl_mean_nats"]
        assert (metric["value"], metric["reason"]) == (None, reason)


def test_a_report_needs_a_score() -> None:
    with pytest.raises(ValueError, match="no scores"):
        quantization_report([], [], [], TASKS)


def test_the_published_demo_has_a_report() -> None:
    records: list[Any] = current_records(published_records(), ("score",))
    report = quantization_report(records, [], [], load_catalogue().tasks)
    validate(report, "quantization", "report")
    group = next(g for g in report["groups"] if g["protocol"] == "demo")
    rows = {row["variant"]: row for row in group["variants"]}
    assert "gguf-q4_k_m" in rows
    compared = [task for task in rows["gguf-q4_k_m"]["tasks"] if task["n"]]
    assert {"arc_challenge", "hellaswag"} <= {task["task"] for task in compared}
    demo = [record for _, record in records if record["protocol"]["id"] == "demo"]
    by_cell = {(r["variant"]["id"], r["task"]["id"]): r for r in demo}
    for task in compared:
        headline = next(
            score for score in by_cell["gguf-q4_k_m", task["task"]]["scores"] if score["headline"]
        )
        assert task["value"] == pytest.approx(headline["value"])
    text = render_quantization(report)
    assert text.count("#### ") == len([v for g in report["groups"] for v in g["variants"]])


def test_a_difference_as_large_as_the_floor_is_within_it() -> None:
    """Means over other numbers of documents round otherwise: 0.24 − 0.23 is not 24.5 − 23.5 %."""
    floor = 0.24 - 0.23
    assert floor < 2 / 200
    assert _within(2 / 200, floor)
    assert _within(-2 / 200, floor)
    assert not _within(3 / 200, floor)
