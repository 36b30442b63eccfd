"""The site, built from a synthetic leaderboard, looked at as files and in a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from slm_benchmark.aggregate import metric_names
from slm_benchmark.errors import UserError
from slm_benchmark.files import atomic_write_text
from slm_benchmark.paths import ROOT
from slm_benchmark.schemas import write_record
from slm_benchmark.site import build_site, formats
from slm_benchmark.site.pages import METRICS
from slm_benchmark.standings import COSTS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = (
    "Evil | <script>alert('x')</script> \"quoted\" & 🦙 \u202eمرحبا `code` **bold** {{ 7 * 7 }}"
)
NAMES = {
    "alpha-135m": "Alpha-135M (dequantised from Q4_1)",
    "evil-1b": HOSTILE,
    "zeta-3.8b": "Zeta reference",
    "unmeasured-2b": "Nobody measured this",
}
VARIANTS = {
    "base": "base",
    "gptq-4bit": "gptq",
    "awq-4bit": "awq",
    "gguf-f16": "gguf",
    "gguf-q8_0": "gguf",
    "gguf-q4_k_m": "gguf",
}
SHARES = {"chance": 0.25, "best": 1, "unit": "share", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    "arc_challenge": SHARES,
    "hellaswag": SHARES,
    "gsm8k": SHARES,
    "flores": SHARES | {"chance": None, "best": 100, "unit": "points"},
    "mmlu": SHARES | {"chance": "options"},
    "bold": SHARES | {"chance": None, "best": 0, "higher_is_better": False},
    "rating": SHARES | {"chance": None, "best": 10, "unit": "points"},
}
SUBJECTS = [f"subject_{n}" for n in range(14)]
LACKING = "no judge is configured. Fix: name one of config/judges.yaml"
COUNTED = {
    "counted": {"reasoning": ["arc_challenge", "hellaswag", "mmlu"]},
    "left_out": {"flores": "it has no level of <i>chance</i>"},
}
MACHINES = {"local": "a" * 64, "t4": "b" * 64}
DISTURBED = "other work used 1.4 cores; busy: <b>miner</b>"
NOT_DEFINED = "measured before this quantity was defined"
FIRST = ("ttft_ms", "peak_memory_bytes", "generation_throughput_tokens_per_s", "size_bytes")
"""Quantities of the first records, of which these tests need some."""


def quantity(value: float | None, reason: str | None = None) -> dict[str, Any]:
    """A performance quantity: ±5 % around a value, or null with its reason."""
    interval = None if value is None else [value * 0.95, value * 1.05]
    n = 0 if value is None else 3
    return {"value": value, "ci95": interval, "pi95": interval, "n": n, "reason": reason}


def performance(speed: float | None, *, old: bool) -> dict[str, Any]:
    """Every quantity: ``speed`` in tokens/s, times of its size, shares below one."""
    if speed is None:
        return dict.fromkeys(metric_names(), quantity(None, "the profiler failed: <i>x</i>"))
    chosen = {"mbu": speed / 200, "mfu": speed / 400, "peak_memory_bytes": speed * 1e6}
    values = {name: quantity(chosen.get(name, speed * 3)) for name in metric_names()}
    for place, name in enumerate(("ttft_ms", "client_ttft_ms", "inter_token_latency_p90_ms")):
        values[name] = quantity(speed * 5 + place)
    values["energy_mwh_per_token"] = quantity(None, "this machine has no energy counter")
    values["device_peak_memory_bytes"] = quantity(None, "the machine has no GPU")
    if old:
        undefined = quantity(None, NOT_DEFINED)
        return {name: q if name in FIRST else undefined for name, q in values.items()}
    return values


def measurement(
    label: str, warnings: list[str], grid: list[dict[str, Any]], *, old: bool
) -> dict[str, Any]:
    """How a row was measured; without a grid it failed, or is one of the first records."""
    known = not old
    return {
        "record": "results/m/v/local/performance/r.json",
        "reference": {"prompt_tokens": 512, "output_tokens": 128} if grid or old else None,
        "processes": 3 if known else 1,
        "engine": "llama.cpp 0.3",
        "kernel": "AVX2 = 1 | REPACK = 1 <u>x</u>",
        "energy": {
            "label": label,
            "source": None if label == "unavailable" else f"a {label} source",
            "reason": "this machine has no energy counter" if label == "unavailable" else None,
        },
        "roofline": {
            "bandwidth_bytes_per_s": 21.46e9 if known else None,
            "matrix_flops_per_s": 98.7e9 if known else None,
            "reason": None if known else NOT_DEFINED,
        },
        "warnings": warnings,
        "grid": grid,
    }


def grid_point(prompt: int, sequences: int, speed: float) -> dict[str, Any]:
    """A point of the grid with two quantities that have a value, and one that never has."""
    metrics = {"generation_throughput_tokens_per_s": quantity(speed), "ttft_ms": quantity(prompt)}
    metrics["power_w"] = quantity(None, "this machine has no energy counter")
    lengths = {"prompt_tokens": prompt, "output_tokens": 64, "sequences": sequences}
    return {**lengths, "metrics": metrics}


def score(
    state: str, value: float | None, n: int | None, reason: str | None = None
) -> dict[str, Any]:
    """A score of one task; anything but ``ok`` has a reason and no numbers."""
    ok = value is not None
    return {
        "state": state,
        "reason": reason,
        "value": value,
        "stderr": 0.05 if ok else None,
        "ci95": [value - 0.1, value + 0.1] if value is not None else None,
        "n": n,
        "metric": "acc_norm",
        "filter": "none",
        "chance": 0.25,
        "unit": "share",
        "parts": [],
        "dataset": "a-set <b>" if ok else None,
        "dataset_sha256": "c" * 64 if ok else None,
        "record": "results/m/v/local/demo/t/r.json" if ok else None,
        "warnings": ["the interval contains chance"] if ok else [],
    }


def row(model: str, variant: str, protocol: str, hardware: str, index: int) -> dict[str, Any]:
    """One row whose numbers differ from every other row's."""
    n = 50 if protocol == "demo" else 1172
    failed = variant == "gptq-4bit" and model == "evil-1b"
    scores = {
        "arc_challenge": score("ok", 0.2 + index / 100, n),
        "hellaswag": score("failed", None, None, f"RuntimeError: <img src=x> {HOSTILE}")
        if failed
        else score("ok", 0.6 - index / 100, n),
        "gsm8k": score("not_run", None, None, "no record yet"),
        "flores": score("not_applicable", None, None, "the model names no second language"),
    }
    subjects = {"parts": SUBJECTS, "chance": 0.12, "warnings": ["9 of 50 contexts were cut"]}
    scores["mmlu"] = score("ok", 0.3 + index / 200, n) | subjects
    profane = {"chance": None, "warnings": [], "parts": ["en"]}
    scores["bold"] = score("ok", 0.1 + index / 400, n) | profane
    scores["rating"] = score("not_run", None, None, LACKING) | {"unit": "points", "chance": None}
    if variant == "base":
        scores["rating"] |= {"state": "ok", "reason": None, "value": 9.95, "ci95": [9.7, 10.2]}
        scores["rating"] |= {"n": n, "stderr": 0.13}
    if model == "alpha-135m":
        parts = {"parts": ["eng_Latn-deu_Latn", "deu_Latn-eng_Latn"]}
        translated = score("ok", 24.5 + index, n) | parts
        scores["flores"] = translated | {"unit": "points", "chance": None}
    speed = None if variant == "awq-4bit" else 10.0 + 7 * (index % 12)
    # The GGUF variants of one protocol were measured by the first version of the method.
    old = variant.startswith("gguf") and protocol == "demo"
    values = performance(speed, old=old)
    grid = [] if old or speed is None else [grid_point(1024, 1, speed), grid_point(128, 8, 1234)]
    label = {"gptq-4bit": "measured", "base": "estimated"}.get(variant, "unavailable")
    if label != "unavailable":
        values["energy_mwh_per_token"] = quantity(0.01 + index / 1e4)
    warnings = [DISTURBED] if variant == "base" else []
    warnings += ["measured in one process"] if old else []
    value = None if failed else 0.1 + index / 200
    overall = {
        "value": value,
        "ci95": None if value is None else [value - 0.08, value + 0.08],
        "tasks": 0 if failed else 2,
        "of": 3,
        "missing": ["hellaswag"] if failed else ["mmlu"] if variant == "awq-4bit" else [],
        "reason": "no score for hellaswag" if failed else None,
    }
    compared = not (failed or overall["missing"])
    group = {"rank": 1 + index % 5 if compared else None, "rows": 4 if compared else 0}
    front = {"front": index % 3 == 0 if compared else None}
    return {
        "model": model,
        "variant": variant,
        "quantization": VARIANTS[variant],
        "hardware": hardware,
        "fingerprint": MACHINES[hardware],
        "protocol": protocol,
        "ranked": protocol == "full" and model != "zeta-3.8b",
        "size_bytes": None if variant == "awq-4bit" else 90_000_000 + index,
        "effective_bits_per_weight": 16.0 if variant == "base" else 4.85,
        "group": group | {"reason": None if compared else f"not compared: {HOSTILE}"},
        "overall": overall,
        "categories": {"reasoning": {**overall, "of": 3}},
        "pareto": dict.fromkeys(COSTS, front | {"reason": None if compared else "not compared"}),
        "scores": scores,
        "performance": values,
        "measurement": measurement(label, warnings, grid, old=old),
    }


def synthetic_leaderboard() -> dict[str, Any]:
    """Three measured models × six variants × two protocols, one model on two machines."""
    plan = [
        (model, variant, protocol, hardware)
        for model in ("alpha-135m", "evil-1b", "zeta-3.8b")
        for variant in VARIANTS
        for protocol in ("demo", "full")
        for hardware in (("local", "t4") if model == "alpha-135m" else ("local",))
    ]
    return {
        "schema_version": 3,
        "edition": "preview",
        "records_sha256": "d" * 64,
        "rules": {"category_coverage": 0.5, "overall_coverage": 0.9, "group_error_rate": 0.05},
        "categories": ["reasoning", "math", "multilingual"],
        "tasks": [
            {
                "id": task,
                "title": task.upper(),
                "category": "reasoning",
                "benchmark": task,
                "metric": "acc_norm",
                "filter": "none",
                **facts,
                "num_fewshot": 0,
                "note": "",
            }
            for task, facts in TASKS.items()
        ],
        "protocols": {
            "demo": {"title": "Demo <em>subset</em>", "ranked": False, **COUNTED},
            "full": {"title": "Full sets", "ranked": True, **COUNTED},
        },
        "hardware": {hardware: {"title": f"The {hardware} machine"} for hardware in MACHINES},
        "models": {
            model: {
                "name": name,
                "repo": f"owner/{model}",
                "revision": "e" * 40 if model == "alpha-135m" else None,
                "parameters": 3_821_000_000 if model.startswith("zeta") else 134_515_008,
                "architecture": "LlamaForCausalLM",
                "context_length": 8192,
                "languages": ["en", "fr"],
                "tags": ["chat"],
                "license": "Apache-2.0",
                "gated": False,
                "reference": model.startswith("zeta"),
                "description": f"Says {HOSTILE}",
                "source": "package",
            }
            for model, name in NAMES.items()
        },
        "rows": [row(*cell, index) for index, cell in enumerate(plan)],
    }


def write_leaderboard(folder: Path, board: dict[str, Any]) -> Path:
    """leaderboard.json, valid by its schema, and a CSV beside it."""
    path = folder / "leaderboard.json"
    write_record(path, board, "leaderboard")
    atomic_write_text(path.with_suffix(".csv"), "model,variant\n")
    return path


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    return synthetic_leaderboard()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, board: dict[str, Any]) -> Path:
    """The built site; one build serves all tests."""
    folder = tmp_path_factory.mktemp("edition")
    build_site(write_leaderboard(folder, board), folder / "site", ROOT / "docs")
    return folder / "site"


class Reader(HTMLParser):
    """Collects what a browser would load, link to and run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "poster", "data", "xlink:href"} and value:
                (self.links if tag == "a" else self.loads).append(value)
            assert not name.startswith("on"), f"an inline handler: {name}={value}"

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def html_pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


# Files


def test_every_expected_page_exists(site: Path) -> None:
    expected = {"index.html", "models.html", "methodology.html", "data.html", "404.html"}
    expected |= {f"models/{model}.html" for model in NAMES}
    expected |= {f"docs/{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    assert {page.relative_to(site).as_posix() for page in html_pages(site)} == expected


def test_every_row_is_on_the_leaderboard_and_on_its_model_page(
    site: Path, board: dict[str, Any]
) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    assert index.count("<tr data-model=") == len(board["rows"])
    for row in board["rows"]:
        value = row["scores"]["arc_challenge"]["value"]
        assert f'data-value="{value}">{formats.percent(value)}' in index
        page = (site / "models" / f"{row['model']}.html").read_text(encoding="utf-8")
        shown = f'data-value="{formats.scaled(value, "share")}">{formats.percent(value)}</td>'
        assert shown in page
        command = f"runs/{row['model']}/{row['variant']}/{row['hardware']}/{row['protocol']}/"
        assert f"{command}arc_challenge.json" in page
        assert f"{command}performance.json" in page


def test_states_are_words_with_reasons(site: Path, board: dict[str, Any]) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    states = [s for row in board["rows"] for s in row["scores"].values()]
    for state, word in (("not_run", "not run"), ("not_applicable", "not applicable")):
        reasons = Counter(s["reason"] for s in states if s["state"] == state)
        for reason, times in reasons.items():
            assert index.count(f'title="{html.escape(reason)}">{word}</span>') == times
        assert reasons
    assert len(re.findall(r'title="RuntimeError: [^"<>]+">failed</span>', index)) == 2
    assert 'title="this machine has no energy counter">unavailable</span>' in index


def test_every_quantity_of_a_record_is_a_column() -> None:
    assert sorted(metric.key for metric in METRICS) == sorted(metric_names())
    assert len({metric.title for metric in METRICS}) == len(METRICS)


def columns_of(page: str, caption: str) -> dict[str, list[tuple[str, str]]]:
    """Title of each column, without its unit → its cells as (HTML, text)."""
    head, *rows = table(page, caption)
    titles = [re.sub(r"\s*<[^>]*>.*", "", re.sub(r"^<th[^>]*>", "", h)).strip() for h, _ in head]
    return {title: [row[at] for row in rows] for at, title in enumerate(titles)}


def test_performance_has_a_column_for_each_quantity_with_intervals_and_labels(
    site: Path, board: dict[str, Any]
) -> None:
    rows = [row for row in board["rows"] if (row["model"], row["protocol"]) == ("evil-1b", "full")]
    columns = columns_of(
        (site / "models/evil-1b.html").read_text("utf-8"), "performance, Full sets"
    )
    assert {metric.title for metric in METRICS} <= set(columns)
    base = rows[0]
    assert base["variant"] == "base"
    (shown,) = {text for _, text in columns["MBU"][:1]}
    value = base["performance"]["mbu"]["value"]
    ends = [formats.significant(100 * value * side) for side in (0.95, 1.05)]
    assert shown == f"{formats.significant(100 * value)} † {ends[0]} to {ends[1]}"
    engine, client = (columns[f"TTFT, {where}"][0][1] for where in ("engine", "client"))
    assert engine != client
    labels = {
        row["variant"]: text.split()[-1]
        for row, (_, text) in zip(rows, columns["Energy"], strict=True)
    }
    assert labels == {
        "base": "estimated",
        "gptq-4bit": "measured",
        "awq-4bit": "unavailable",
        **dict.fromkeys(("gguf-f16", "gguf-q8_0", "gguf-q4_k_m"), "unavailable"),
    }
    assert '<small title="a measured source">measured</small>' in columns["Energy"][1][0]


def test_a_flagged_measurement_is_marked_on_every_value_and_explained(
    site: Path, board: dict[str, Any]
) -> None:
    mark = f'<abbr class="slm-warning" title="{html.escape(DISTURBED)}">†</abbr>'
    index = (site / "index.html").read_text("utf-8")
    columns = columns_of(index, "Full sets")
    flagged = 0
    full = [row for row in board["rows"] if row["protocol"] == "full"]
    # The leaderboard orders the rows of a ranked protocol by their groups.
    variants = [text for _, text in columns["Variant"]]
    assert sorted(variants) == sorted(row["variant"] for row in full)
    for title in ("Throughput", "TTFT, engine", "Token latency, p99", "Peak memory", "MFU"):
        for variant, (cell, _) in zip(variants, columns[title], strict=True):
            assert (mark in cell) is (variant == "base"), (title, variant)
            flagged += mark in cell
    assert flagged == 5 * 4
    # The bytes of a file are what they are.
    assert not any("†" in cell for cell, _ in columns["Size"])
    note = re.search(rf"<li>† ([^\n]*): {re.escape(html.escape(DISTURBED))}</li>", index)
    assert note
    assert "base on local aaaaaa; " in note[1]
    assert "base on t4 bbbbbb" in note[1]
    assert "gptq" not in note[1]
    for page in html_pages(site):
        assert "<b>miner</b>" not in page.read_text("utf-8")


def test_old_and_new_records_stand_side_by_side(site: Path) -> None:
    page = (site / "models/alpha-135m.html").read_text("utf-8")
    columns = columns_of(page, "performance, Demo &lt;em&gt;subset&lt;/em&gt;")
    places = [n for n, (_, text) in enumerate(columns["Variant"]) if text.startswith("gguf")]
    assert len(places) == 6
    for place in places:
        assert columns["Throughput"][place][1].split()[1] == "†"
        cell, text = columns["TTFT, client"][place]
        assert text == "not measured"
        assert f'title="{NOT_DEFINED}"' in cell
    assert columns["TTFT, client"][0][1] != "not measured"


def test_each_machine_tells_its_limits_and_its_grid(site: Path) -> None:
    page = (site / "models/alpha-135m.html").read_text("utf-8")
    for machine in ("local aaaaaa", "t4 bbbbbb"):
        facts = columns_of(page, f"how {machine} was measured, Full sets")
        lengths = [text for _, text in facts["Lengths"]]
        # The profile of awq-4bit broke.
        assert lengths == ["512 + 128"] * 2 + ["none"] + ["512 + 128"] * 3
        assert facts["Memory bandwidth"][0][1] == "21.5"
        assert facts["Matrix rate"][0][1] == "98.7"
        assert facts["Kernel"][0][1] == "AVX2 = 1 | REPACK = 1 &lt;u&gt;x&lt;/u&gt;"
        grid = columns_of(page, f"grid on {machine}, Full sets")
        # The quantities that some point has a value of, and no others.
        assert list(grid)[4:] == ["Throughput", "TTFT, engine"]
        points = [
            tuple(grid[name][at][1] for name in ("Variant", "Prompt", "Answer", "Sequences"))
            for at in range(3)
        ]
        assert points == [
            ("base", "512", "128", "1"),
            ("base", "1,024", "64", "1"),
            ("base", "128", "64", "8"),
        ]
        assert grid["Throughput"][2][1].startswith("1,230 †")
    demo = "Demo &lt;em&gt;subset&lt;/em&gt;"
    old = columns_of(page, f"how local aaaaaa was measured, {demo}")
    assert [text for _, text in old["Memory bandwidth"]][-3:] == ["not measured"] * 3
    assert [text for _, text in old["Processes"]] == ["3", "3", "3", "1", "1", "1"]


def table(page: str, caption: str) -> list[list[tuple[str, str]]]:
    """The rows of the first table of that name: each cell as (its HTML, its text)."""
    found = re.search(rf'aria-label="Table: {caption}".*?</table>', page, re.DOTALL)
    assert found, caption
    cell = re.compile(r"<t[dh]\b[^>]*>.*?</t[dh]>", re.DOTALL)
    rows = [cell.findall(row) for row in found[0].split("<tr")[1:]]
    return [[(c, " ".join(re.sub(r"<[^>]*>", " ", c).split())) for c in row] for row in rows]


def test_points_are_shown_as_they_are(site: Path, board: dict[str, Any]) -> None:
    head, *rows = table((site / "index.html").read_text("utf-8"), "Full sets")
    place = next(n for n, (_, text) in enumerate(head) if text.startswith("FLORES"))
    assert head[place][1] == "FLORES acc_norm, points of 100"
    shown = {text for row in rows for _, text in [row[place]] if text != "not applicable"}
    scores = [
        row["scores"]["flores"]
        for row in board["rows"]
        if (row["protocol"], row["model"]) == ("full", "alpha-135m")
    ]
    expected = (
        f"{s['value']:.1f} * {s['value'] - 0.1:.1f} to {s['value'] + 0.1:.1f}" for s in scores
    )
    assert shown == {f"{text} 2 parts n = 1,172" for text in expected}
    assert len(shown) == 12


def test_groups_and_aggregates_stand_beside_the_scores(site: Path, board: dict[str, Any]) -> None:
    columns = columns_of((site / "index.html").read_text("utf-8"), "Full sets")
    shown = list(zip(columns["Group"], columns["Overall"], columns["Reasoning"], strict=True))
    rows = [row for row in board["rows"] if row["protocol"] == "full"]
    assert len(shown) == len(rows) == 24
    ranks = [int(text.split()[0]) for (_, text), *_ in shown if text != "none"]
    compared = [row for row in rows if row["group"]["rank"] and row["ranked"]]
    # Ranked rows by group; references come last.
    assert ranks[: len(compared)] == sorted(row["group"]["rank"] for row in compared)
    expected = {
        f"{formats.percent(row['overall']['value'])}{' ‡' if row['overall']['missing'] else ''}"
        for row in rows
        if row["overall"]["value"] is not None
    }
    for place in (1, 2):
        found = {cells[place][1] for cells in shown} - {"none"}
        assert {text.split(" 2 ")[0].rsplit(" to ")[0].rsplit(" ", 1)[0] for text in found} == (
            expected
        )
    assert any('title="without mmlu">‡' in cells[1][0] for cells in shown)
    assert any("not compared: Evil" in cells[0][0] for cells in shown)


def test_the_methodology_states_the_rules_of_the_groups(site: Path) -> None:
    page = (site / "methodology.html").read_text("utf-8")
    assert "<strong>FLORES</strong>: it has no level of &lt;i&gt;chance&lt;/i&gt;" in page
    assert re.search(r"needs\s+50 % of its tasks, the overall\s+score 90 % of", page)
    assert re.search(r"leader is at most\s+5 %", page)
    assert 'id="groups-in-place-of-ranks"' in page


def test_an_outline_marks_the_front_in_the_charts(site: Path, board: dict[str, Any]) -> None:
    index = (site / "index.html").read_text("utf-8")
    specs = [
        json.loads(html.unescape(text))
        for text in re.findall(r"<template>(.*?)</template>", index, re.DOTALL)
    ]
    assert len(specs) == 4
    marked = [point for spec in specs for point in spec["data"]["values"]]
    on_front = [point for point in marked if point["front"] == "on the front"]
    cost = "generation_throughput_tokens_per_s"
    drawn = [row for row in board["rows"] if row["performance"][cost]["value"] is not None]
    expected = sum(row["pareto"][cost]["front"] is True for row in drawn)
    assert 0 < len(on_front) == expected < len(marked)
    assert index.count('stroke="currentColor" stroke-width="2"') == len(on_front)
    assert "an outline marks the Pareto front" in index


def test_parts_are_named_where_there_is_room_and_always_on_pointing(site: Path) -> None:
    index = (site / "index.html").read_text("utf-8")
    assert '<small title="eng_Latn-deu_Latn, deu_Latn-eng_Latn">2 parts</small>' in index
    assert f'<small title="{", ".join(SUBJECTS)}">14 parts</small>' in index
    assert '<small title="en">en</small>' in index
    page = (site / "models" / "alpha-135m.html").read_text("utf-8")
    assert ">eng_Latn-deu_Latn, deu_Latn-eng_Latn</small>" in page
    assert ">14 parts</small>" in page


def test_heads_say_the_scale_and_which_end_is_better(site: Path) -> None:
    head, *_ = table((site / "index.html").read_text("utf-8"), "Full sets")
    heads = {text.split()[0]: (html, text) for html, text in head}
    assert heads["ARC_CHALLENGE"][1] == "ARC_CHALLENGE acc_norm, %"
    assert heads["RATING"][1] == "RATING acc_norm, points of 10"
    assert heads["BOLD"][1] == "BOLD acc_norm, %, less is better"
    first = {task: re.findall(r'data-first="(\w+)"', heads[task][0]) for task in heads}
    assert (first["BOLD"], first["RATING"]) == (["ascending"], ["descending"])


def test_levels_of_chance_are_numbers_or_words(site: Path) -> None:
    listed = {
        row[0][1]: row[5][1] for row in table((site / "methodology.html").read_text(), "tasks")
    }
    assert listed.pop("Column") == "Chance"
    none = dict.fromkeys(("FLORES", "BOLD", "RATING"), "none")
    quarter = dict.fromkeys(("ARC_CHALLENGE", "HELLASWAG", "GSM8K"), "25.0")
    assert listed == {**none, **quarter, "MMLU": "by document"}
    page = (site / "models" / "evil-1b.html").read_text("utf-8")
    head, *rows = table(page, "scores, Full sets")
    place = [text for _, text in head].index("Chance")
    found = {row[1][1].split()[0]: row[place] for row in rows}
    # Of the documents that were scored the level is known.
    assert found["MMLU"][1] == "12.0"
    assert found["ARC_CHALLENGE"][1] == "25.0"
    for task in ("BOLD", "RATING"):
        assert found[task][1] == "none"
        assert "data-value" not in found[task][0]


def test_shares_and_points_of_a_model_sort_by_what_is_shown(
    site: Path, board: dict[str, Any]
) -> None:
    page = (site / "models" / "alpha-135m.html").read_text("utf-8")
    head, *rows = table(page, "scores, Full sets")
    for title in ("Score", "95 % interval", "Chance"):
        place = [text for _, text in head].index(title)
        shown = [row[place] for row in rows if "data-value" in row[place][0]]
        assert len(shown) > 20
        for cell, text in shown:
            numbers = [float(number.replace("−", "-")) for number in text.split(" to ")]
            value = numbers[0] if len(numbers) == 1 else numbers[1] - numbers[0]
            (sorted_by,) = re.findall(r'data-value="([^"]+)"', cell)
            assert float(sorted_by) == pytest.approx(value, abs=0.11)


def test_remarks_tell_reasons_and_warnings(site: Path) -> None:
    page = (site / "models" / "evil-1b.html").read_text("utf-8")
    head, *rows = table(page, "scores, Full sets")
    place = [text for _, text in head].index("Remarks")
    remarks = {(row[0][1], row[1][1].split()[0]): html.unescape(row[place][1]) for row in rows}
    assert remarks["gguf-f16", "RATING"] == LACKING
    assert remarks["base", "RATING"] == "none"
    assert remarks["base", "MMLU"] == "9 of 50 contexts were cut"
    assert remarks["base", "FLORES"] == "the model names no second language"


def test_only_what_applies_has_a_command(site: Path) -> None:
    page = (site / "models" / "evil-1b.html").read_text("utf-8")
    assert "runs/evil-1b/base/local/full/gsm8k.json" in page
    assert "runs/evil-1b/base/local/full/flores.json" not in page
    translated = (site / "models" / "alpha-135m.html").read_text("utf-8")
    assert "runs/alpha-135m/base/local/full/flores.json" in translated


def test_bars_reach_to_the_best_score_and_know_their_guesser(site: Path) -> None:
    page = (site / "models" / "evil-1b.html").read_text("utf-8")
    specs = {}
    for text in re.findall(r"<template>(.*?)</template>", page, re.DOTALL):
        spec = json.loads(html.unescape(text))
        specs[spec["description"].split(",")[0]] = spec
    rules = [
        [layer["data"]["values"] for layer in specs[task]["layer"] if "data" in layer]
        for task in ("MMLU", "ARC_CHALLENGE", "BOLD", "RATING")
    ]
    data = [[row for rows in found for row in rows if "chance" in row] for found in rules]
    assert data == [[{"chance": 0.12}], [{"chance": 0.25}], [], []]

    def axis(task: str) -> tuple[list[float], list[float]]:
        x = specs[task]["layer"][0]["encoding"]["x"]
        return x["scale"]["domain"], x["axis"]["values"]

    assert specs["BOLD"]["description"] == "BOLD, acc_norm, less is better"
    assert axis("ARC_CHALLENGE") == axis("BOLD") == ([0, 1], [0, 0.25, 0.5, 0.75, 1])
    # An interval may end beyond the best score.
    assert axis("RATING") == ([0, 10.2], [0, 2.5, 5, 7.5, 10])

    translated = (site / "models" / "alpha-135m.html").read_text("utf-8")
    for name, labels in (
        ("FLORES", ["0", "25", "50", "75", "100"]),
        ("RATING", ["0", "2.5", "5", "7.5", "10"]),
        ("MMLU", ["0%", "25%", "50%", "75%", "100%"]),
    ):
        drawn = re.search(rf'<svg [^>]*aria-label="{name} .*?</svg>', translated, re.DOTALL)
        assert drawn
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn[0])
        assert [text for text in texts if text[0].isdigit()] == labels


def test_no_cell_is_blank_or_reads_nan(site: Path) -> None:
    for page in html_pages(site):
        cells = re.findall(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", page.read_text("utf-8"), re.DOTALL)
        texts = [re.sub(r"<[^>]*>", "", cell).strip() for cell in cells]
        assert "" not in texts, page
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        # Prose may speak of such words: the page on data says what is not used.
        if page.name != "data.html" and page.parent.name != "docs":
            assert not words & {"NaN", "nan", "inf", "None", "null", "undefined"}, page


def test_protocols_are_labelled_and_apart(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "Unranked demo: 50 documents per task." in index
    sections = re.split(r'<section class="slm-protocol"', index)[1:]
    assert [re.search(r'data-protocol="(\w+)"', s)[1] for s in sections] == ["full", "demo"]  # type: ignore[index]
    assert "n = 50<" in sections[1]
    assert "n = 50<" not in sections[0]


def test_hostile_metadata_is_text_everywhere(site: Path) -> None:
    for page in html_pages(site):
        text = page.read_text(encoding="utf-8")
        reader = read_page(page)
        assert "<script>alert" not in text, page
        assert not any("alert(" in script for script in reader.scripts), page
        assert "x" not in reader.loads, page
    evil = (site / "models" / "evil-1b.html").read_text(encoding="utf-8")
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", evil, re.DOTALL)
    assert heading
    assert html.unescape(re.sub("</?bdi>", "", heading[1])) == HOSTILE
    search = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert not any("<script" in d["text"] + d["title"] for d in search["docs"])


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in html_pages(site):
        reader = read_page(page)
        outside = [url for url in reader.loads if re.match(r"(?:[a-z]+:)?//", url)]
        assert outside == [], page
        for url in {u for u in reader.loads + reader.links if not re.match(r"[a-z]+:|#|/", u)}:
            path = (page.parent / url.split("#")[0].split("?")[0]).resolve()
            assert page.name == "404.html" or path.exists(), f"{page}: broken link {url}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_the_methodology_lists_every_task_with_its_state(site: Path) -> None:
    page = (site / "methodology.html").read_text(encoding="utf-8")
    for task in TASKS:
        measured = task != "gsm8k"
        line = re.search(rf"<tr><th scope=\"row\">{task.upper()}</th>.*?</tr>", page, re.DOTALL)
        assert line
        assert ("not measured yet" in line[0]) is not measured
    assert "Of the 7 columns of the catalogue, 6 have" in re.sub(r"\s+", " ", page)
    assert "<strong>Peak memory, device</strong>: measured before this quantity" in page
    assert "the machine has no GPU" in page


def test_the_data_is_offered_as_it_is(site: Path, board: dict[str, Any]) -> None:
    assert json.loads((site / "data" / "leaderboard.json").read_text()) == board
    assert (site / "data" / "leaderboard.csv").is_file()
    assert "CC BY 4.0" in (site / "data.html").read_text()


def test_a_model_page_names_its_provenance(site: Path) -> None:
    page = (site / "models" / "alpha-135m.html").read_text(encoding="utf-8")
    for fact in (
        "Dequantised from Q4_1",
        "e" * 40,
        "Apache-2.0",
        "results/m/v/local/demo/t/r.json",
    ):
        assert fact in page
    unmeasured = (site / "models" / "unmeasured-2b.html").read_text(encoding="utf-8")
    assert "has not been measured yet" in unmeasured
    assert "<figure" not in unmeasured


def test_an_empty_leaderboard_builds_and_says_so(tmp_path: Path, board: dict[str, Any]) -> None:
    empty = {**board, "edition": "published", "rows": [], "models": {}}
    build_site(write_leaderboard(tmp_path, empty), tmp_path / "site", ROOT / "docs")
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "no record has been published" in index
    assert "<table" not in index


def test_a_wrong_leaderboard_is_refused_and_the_old_site_stays(
    tmp_path: Path, board: dict[str, Any]
) -> None:
    target = tmp_path / "site"
    target.mkdir()
    (target / "index.html").write_text("old")
    wrong = {**board, "rows": [{**board["rows"][0], "model": "nobody"}]}
    with pytest.raises(UserError, match=r"leaderboard\.json: rows\.0\.model: .*'nobody'"):
        build_site(write_leaderboard(tmp_path, wrong), target, ROOT / "docs")
    escaping = {**board, "models": {"../../x": board["models"]["evil-1b"]}, "rows": []}
    with pytest.raises(UserError, match=r"'\.\./\.\./x'"):
        build_site(write_leaderboard(tmp_path, escaping), target, ROOT / "docs")
    (tmp_path / "leaderboard.csv").unlink()
    with pytest.raises(UserError, match=r"leaderboard\.csv: there is no such file"):
        build_site(tmp_path / "leaderboard.json", target, ROOT / "docs")
    assert [path.name for path in target.iterdir()] == ["index.html"]
    assert (target / "index.html").read_text() == "old"


def test_a_broken_link_in_a_page_is_an_error(tmp_path: Path, board: dict[str, Any]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        (docs / page.name).write_text("# Page\n\n[broken](nowhere.md)\n")
    empty = {**board, "rows": [], "models": {}}
    with pytest.raises(UserError, match=r"nowhere\.md"):
        build_site(write_leaderboard(tmp_path, empty), tmp_path / "site", docs)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (9.996, "10.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (-4.5, "−4.50"),
    ],
)
def test_significant_digits(value: float, shown: str) -> None:
    assert formats.significant(value) == shown


# A real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        # A laptop without the browser passes; the checks of every change may not leave this out.
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("no Chromium to try the site in: install the package chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield chromium
        chromium.close()


class Visit:
    """A page whose requests to the network are refused and kept, and whose complaints are kept."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.outside: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**options)
        self.context.route("**/*", self._route)
        self.page: Page = self.context.new_page()
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type == "error" else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))

    def _route(self, route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:", "about:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.outside == []
            assert self.complaints == []


def column(page: Page, title: str) -> list[str | None]:
    """``data-value`` of a column's cells in the visible table, top to bottom; None = missing."""
    found: list[str | None] = page.evaluate(
        """title => {
            const table = [...document.querySelectorAll("table.slm-table")]
                .find(t => t.checkVisibility());
            const heads = [...table.tHead.rows[0].cells];
            const at = heads.findIndex(h => h.textContent.trim().startsWith(title));
            return [...table.tBodies[0].rows].map(r => r.cells[at].dataset.value ?? null);
        }""",
        title,
    )
    return found


def head(page: Page, title: str) -> Any:
    return page.locator("table.slm-table:visible th[aria-sort] button", has_text=title).first


def test_every_page_opens_without_errors_or_requests(browser: Browser, site: Path) -> None:
    for path in html_pages(site):
        if path.name == "404.html":  # only a server shows it, at any depth: its links are absolute
            continue
        with Visit(browser) as visit:
            page = visit.open(path)
            assert page.locator("h1").first.is_visible()


@pytest.mark.parametrize("title", ["Overall", "Reasoning", "Size", "ARC_CHALLENGE", "HELLASWAG"])
def test_sorting_is_numeric_reversible_and_puts_missing_last(
    browser: Browser, site: Path, title: str
) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "index.html")
        original = column(page, title)
        button, cell = head(page, title), head(page, title).locator("xpath=..")
        seen = {}
        for _ in range(2):
            button.focus()
            page.keyboard.press("Enter")
            seen[cell.get_attribute("aria-sort")] = column(page, title)
        assert set(seen) == {"ascending", "descending"}
        for direction, values in seen.items():
            numbers = [float(value) for value in values if value is not None]
            assert numbers == sorted(numbers, reverse=direction == "descending")
            assert len(set(numbers)) > 5
            assert values[len(numbers) :] == [None] * (len(values) - len(numbers))
        assert seen["ascending"] != seen["descending"]
        if title != "ARC_CHALLENGE":
            assert None in original, "the fixture must have a missing value"
        page.keyboard.press("Enter")
        assert cell.get_attribute("aria-sort") == "none"
        assert column(page, title) == original


def test_sorting_by_speed_keeps_machines_apart(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "index.html")
        head(page, "Throughput").click()
        rows: list[tuple[str, float]] = [
            (machine, float(value))
            for machine, value in page.evaluate(
                """title => {
                    const table = [...document.querySelectorAll("table")]
                        .find(t => t.checkVisibility());
                    const heads = [...table.tHead.rows[0].cells].map(h => h.textContent);
                    const at = heads.findIndex(h => h.startsWith(title));
                    return [...table.tBodies[0].rows]
                        .map(r => [r.dataset.machine, r.cells[at].dataset.value])
                        .filter(([, value]) => value !== undefined);
                }""",
                "Throughput",
            )
        ]
        assert {machine for machine, _ in rows} == {"local aaaaaa", "t4 bbbbbb"}
        assert rows == sorted(rows, key=lambda r: (r[0], -r[1]))


def test_filters_show_one_protocol_at_a_time_and_can_be_undone(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "index.html")
        visible = page.locator(".slm-protocol:visible")
        rows = page.locator(".slm-protocol tbody tr:visible")
        total = sum(row["protocol"] == "full" for row in board["rows"])
        assert (visible.count(), rows.count()) == (1, total)
        page.select_option("[name=protocol]", "demo")
        assert "Unranked demo" in visible.inner_text()
        page.select_option("[name=quantization]", "gguf")
        page.fill("[name=model]", "EVIL")
        assert rows.count() == 3
        assert page.locator(".slm-filters output").inner_text() == f"3 of {total} rows"
        page.click("text=Reset")
        page.wait_for_function("document.querySelectorAll('tbody tr[hidden]').length === 0")
        assert page.input_value("[name=protocol]") == "full"
        assert rows.count() == total


def test_the_dark_toggle_recolours_a_chart(browser: Browser, site: Path) -> None:
    colours = """() => {
        const svg = document.querySelector(".slm-drawing svg");
        const style = e => getComputedStyle(e);
        return [style(svg.querySelector("text")).fill,
                style(svg.querySelector("[fill^='var(--slm-base']")).fill,
                style(document.body).backgroundColor];
    }"""
    with Visit(browser, color_scheme="light") as visit:
        page = visit.open(site / "index.html")
        light = page.evaluate(colours)
        page.click("label[title='Switch to the dark scheme']")
        page.wait_for_selector("body[data-md-color-scheme=slate]")
        dark = page.evaluate(colours)
        assert all(before != after for before, after in zip(light, dark, strict=True))


def test_pointing_at_a_chart_makes_it_answer(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "index.html")
        assert page.locator("script[src$='vega.js']").count() == 0
        figure = page.locator("figure.slm-chart:visible").first
        figure.focus()
        page.wait_for_selector("figure.slm-chart[data-live] svg")
        figure.locator("[aria-roledescription=point]").first.hover()
        tooltip = page.wait_for_selector("#vg-tooltip-element.visible")
        assert tooltip
        assert "Tokens per s" in tooltip.inner_text()
        assert page.locator("#vg-tooltip-element script").count() == 0


def test_search_works_from_a_folder(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "index.html")
        page.click("input[name=query]")
        page.type("input[name=query]", "methodology")  # keys, which the theme listens to
        page.wait_for_selector(".md-search-result__item a[href*='methodology.html']")


def test_without_javascript_everything_is_there(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    with Visit(browser, java_script_enabled=False) as visit:
        page = visit.open(site / "index.html")
        assert page.locator(".slm-protocol:visible").count() == 2
        assert page.locator(".slm-protocol tbody tr:visible").count() == len(board["rows"])
        assert page.locator("figure.slm-chart svg:visible").count() == 4
        assert not page.locator(".slm-filters").is_visible()


@pytest.mark.parametrize("name", ["index", "models/evil-1b", "methodology", "models", "data"])
def test_a_phone_shows_no_page_wider_than_itself(browser: Browser, site: Path, name: str) -> None:
    with Visit(browser, viewport={"width": 390, "height": 844}) as visit:
        page = visit.open(site / f"{name}.html")
        page.wait_for_load_state("load")
        widths = "() => [document.documentElement.scrollWidth, document.body.scrollWidth]"
        assert page.evaluate(widths) == [390, 390]
        wide = page.locator(".slm-scroll:visible").first
        if name == "index":
            assert wide.evaluate("e => e.scrollWidth > e.clientWidth")
