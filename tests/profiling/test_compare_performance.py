"""A profile beside its repeat: what is inside, what is refused, and what the command answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.cli import main
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.schemas import schema, write_record
from slm_benchmark.profiling.compare import compare, count_inside, render
from tests.leaderboard.test_aggregate import EARLY, LATE, SHA256, common

Record = dict[str, Any]
Change = Callable[[Record], None]

METRICS = list(schema("performance")["then"]["properties"]["metrics"]["required"])
OTHER = "cd" * 32
MISSING = {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": "no meter"}


def quantity(value: float) -> Record:
    """A median with a prediction interval of ± 10 %."""
    pi95 = [0.9 * value, 1.1 * value]
    return {"value": value, "ci95": [value, value], "pi95": pi95, "n": 3, "reason": None}


def profile(session: str = "first", factor: float = 1.0, *, variant: str = "base") -> Record:
    """A record of three processes whose n-th metric is n + 1 times ``factor``; without a meter."""
    metrics = {name: quantity(factor * (n + 1)) for n, name in enumerate(METRICS)}
    metrics |= {name: dict(MISSING) for name in METRICS if "energy" in name or "power" in name}
    timed = {name: quantity(factor * 7) for name in ("ttft_ms", "inter_token_latency_ms")}
    place = {"prompt_tokens": 128, "output_tokens": 32}
    points = [{**place, "sequences": n, "metrics": copy.deepcopy(timed)} for n in (1, 8)]
    raw_point = {**place, "sequences": 1, "warmups": [], "settled": True, "repetitions": []}
    return {
        **common("performance", "tiny", variant, "demo", EARLY),
        "schema_version": 2,
        "limits": {},
        "session": {
            "id": session,
            "variants": [variant],
            "order": [[variant]] * 3,
            "processes": 3,
        },
        "host": {"before": None, "processes": [], "warnings": []},
        "roofline": {
            "bandwidth_bytes_per_s": 2e10 * factor,
            "matrix_flops_per_s": 1e11 * factor,
            "method": "simulated",
            "reason": None,
        },
        "energy": {"label": "unavailable", "source": None, "reason": "no meter"},
        "metrics": metrics,
        "grid": points,
        "latency_distribution_ms": {},
        "raw": {"processes": [{"points": [raw_point]}]},
        "result_sha256": SHA256,
    }


def put(file: Path, record: Record) -> Path:
    write_record(file, record, "performance")
    return file


MEASURED = len(METRICS) - 3 + 2 * 2
"""Medians of `profile`: all metrics but the three of energy, and two at each of two points."""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return put(tmp_path / "first" / "performance.json", profile())


@pytest.fixture
def repeat(tmp_path: Path) -> Callable[..., Path]:
    """Writes a repeat, changed as the test wishes."""

    def write(change: Change = lambda record: None, factor: float = 1.05) -> Path:
        record = profile("second", factor)
        change(record)
        return put(tmp_path / "second" / "performance.json", record)

    return write


def verdict(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_a_repeat_inside_answers_with_0(
    first: Path, repeat: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare-performance", str(first), str(repeat())]) == 0
    assert verdict(capsys) == (
        f"{MEASURED} of {MEASURED} medians (100.0 %) fall inside the first run's "
        "95 % prediction intervals"
    )


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_a_repeat_outside_answers_with_1(
    first: Path, repeat: Callable[..., Path], factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare-performance", str(first), str(repeat(factor=factor))]) == 1
    assert verdict(capsys).startswith(f"0 of {MEASURED} medians (0.0 %)")


@pytest.mark.parametrize(("moved", "code"), [(1, 0), (2, 1)])
def test_nine_of_ten_are_enough(
    first: Path, repeat: Callable[..., Path], moved: int, code: int
) -> None:
    """One of nineteen outside is 94.7 % inside; two are 89.5 %."""
    assert MEASURED == 19

    def move(record: Record) -> None:
        for name in ("ttft_ms", "load_time_s")[:moved]:
            record["metrics"][name]["value"] *= 2

    assert main(["compare-performance", str(first), str(repeat(move))]) == code
    both = ["compare-performance", str(first), str(repeat(move)), "--at-least"]
    assert main([*both, "80"]) == 0
    assert main([*both, "95"]) == 1


def test_the_ends_of_an_interval_are_inside(first: Path, repeat: Callable[..., Path]) -> None:
    """So a size, whose interval is one number, can be repeated."""

    def fix(record: Record) -> None:
        for name, quantity in record["metrics"].items():
            if quantity["value"] is not None:
                quantity["value"] = 0.9 * (METRICS.index(name) + 1)

    ((found,), _) = compare(first, repeat(fix))
    assert all(row.inside for row in found.rows if not row.point)


def test_a_median_that_the_repeat_lacks_is_not_inside(
    first: Path, repeat: Callable[..., Path]
) -> None:
    def lose(record: Record) -> None:
        record["metrics"]["mbu"] = dict(MISSING)

    ((found,), _) = compare(first, repeat(lose))
    assert count_inside([found]) == (MEASURED - 1, MEASURED)
    assert "| mbu |  | 17 | 15.3 to 18.7 | missing | no |" in render(found).splitlines()


def test_the_table_shows_points_and_the_machine(first: Path, repeat: Callable[..., Path]) -> None:
    ((found,), lacking) = compare(first, repeat())
    assert lacking == []
    lines = render(found).splitlines()
    assert lines[0] == "tiny, base, on local under demo"
    assert "| ttft_ms | 8 × 128 + 32 tokens | 7 | 6.3 to 7.7 | 7.35 | yes |" in lines
    assert "| bandwidth_bytes_per_s | machine | 2e+10 | – | 2.1e+10 | – |" in lines
    assert not any("energy" in line for line in lines)


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("model", "sha256"),
        ("variant", "sha256"),
        ("protocol", "sha256"),
        ("hardware", "fingerprint"),
    ],
)
def test_other_things_are_not_compared(
    first: Path,
    repeat: Callable[..., Path],
    block: str,
    key: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = repeat(lambda record: record[block].update({key: OTHER}))
    assert main(["compare-performance", str(first), str(second)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: {second}: {block}.{key}: ")
    assert SHA256 in line
    assert OTHER in line


def test_a_session_is_no_repeat_of_itself(first: Path) -> None:
    with pytest.raises(UserError, match=r"session\.id: both records are of one session"):
        compare(first, first)


def test_another_plan_at_the_same_protocol_has_no_grid_to_compare(
    first: Path, repeat: Callable[..., Path]
) -> None:
    """The protocol's digest covers the plan; a grid that differs all the same was edited."""
    second = repeat(lambda record: record["grid"].pop())
    with pytest.raises(UserError, match=r"grid: the point 8 × 128 \+ 32 tokens is missing"):
        compare(first, second)


def fail(record: Record) -> None:
    record |= {
        "state": "failed",
        "error": {"type": "ArithmeticError", "message": "not finite", "traceback": "…"},
        "metrics": {name: dict(MISSING) for name in METRICS},
        "grid": [],
        "raw": {"processes": []},
    }


def test_a_failed_profile_is_not_compared(first: Path, repeat: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="state: the measurement failed"):
        compare(first, repeat(fail))


def test_one_process_has_nothing_to_fall_into(tmp_path: Path, repeat: Callable[..., Path]) -> None:
    record = profile()
    for metrics in (record["metrics"], *(point["metrics"] for point in record["grid"])):
        for found in metrics.values():
            found |= {"pi95": None, "ci95": None}
    comparisons, _ = compare(put(tmp_path / "one.json", record), repeat())
    with pytest.raises(UserError, match="no quantity of the first has a prediction interval"):
        count_inside(comparisons)


def test_a_record_of_the_first_version_is_refused(
    tmp_path: Path, repeat: Callable[..., Path]
) -> None:
    record = profile()
    for key in ("session", "limits", "roofline", "energy", "grid", "latency_distribution_ms"):
        del record[key]
    record["schema_version"] = 1
    with pytest.raises(UserError, match=r"schema_version: .* one process"):
        compare(put(tmp_path / "old.json", record), repeat())


def test_an_invalid_record_is_refused(first: Path, repeat: Callable[..., Path]) -> None:
    first.write_text(first.read_text().replace('"n": 3', '"n": -3', 1))
    with pytest.raises(UserError, match=rf"{first}.*\.n"):
        compare(first, repeat())


# --- folders -------------------------------------------------------------------------------------


def test_folders_are_matched_by_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One folder is laid out as runs/ is, the other as results/, with a summary and old runs."""
    one, two = tmp_path / "one", tmp_path / "two"
    for variant in ("base", "gptq-4bit", "gguf-f16"):
        put(one / variant / "performance.json", profile(variant=variant))
    for variant, factor in (("base", 1.05), ("gptq-4bit", 2), ("gguf-q8_0", 1)):
        folder = two / variant / "performance"
        put(folder / "old.json", profile("old", 3, variant=variant))
        record = profile("new", factor, variant=variant)
        put(folder / "new.json", record | {"started": LATE})
    put(one / "failed" / "performance.json", profile(variant="awq-4bit") | {"state": "failed"})
    (two / "performance.json").write_text('{"kind": "performance", "content": {}}')
    (two / "base" / "arc_challenge.json").write_text("{}")
    assert main(["compare-performance", str(one), str(two)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith(f"{MEASURED} of {2 * MEASURED} medians (50.0")
    assert captured.err.splitlines() == [
        f"warning: {two} has no record to compare of tiny, gguf-f16, on local under demo",
        f"warning: {one} has no record to compare of tiny, gguf-q8_0, on local under demo",
    ]


def test_folders_with_nothing_in_common_are_an_error(tmp_path: Path) -> None:
    put(tmp_path / "one" / "performance.json", profile())
    put(tmp_path / "two" / "performance.json", profile("second", variant="gguf-f16"))
    with pytest.raises(UserError, match="no performance record here has a repeat in"):
        compare(tmp_path / "one", tmp_path / "two")


def test_a_record_and_a_folder_are_not_compared(first: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one is a folder and the other is not"):
        compare(first, tmp_path)


def test_a_file_that_is_not_there(first: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        compare(first, tmp_path / "nothing.json")
