"""A synthetic, hostile leaderboard, the site built from it, and a browser that asks nobody."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from slm_benchmark.common.files import atomic_write_text
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import write_record
from slm_benchmark.leaderboard.board import COSTS, metric_names
from slm_benchmark.site import build_site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = (
    "Evil | <script>alert('x')</script> \"quoted\" & 🦙 \u202eمرحبا `code` **bold** {{ 7 * 7 }}"
)
NAMES = {
    "alpha-135m": "Alpha-135M (dequantized from Q4_1)",
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


def write_leaderboard(folder: Path, board: Mapping[str, object]) -> Path:
    """leaderboard.json, valid by its schema, and a CSV beside it."""
    path = folder / "leaderboard.json"
    write_record(path, board, "leaderboard")
    atomic_write_text(path.with_suffix(".csv"), "model,variant\n")
    return path


def build_synthetic_site(folder: Path, board: Mapping[str, object]) -> Path:
    """Build the site of a leaderboard in a folder, and give the site's own folder."""
    build_site(write_leaderboard(folder, board), folder / "site", ROOT / "docs")
    return folder / "site"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and does not write to the console."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving(folder: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """The address of a folder on a server of this machine, without a slash at its end."""
    serve = partial(handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's or another Chromium without a head; a test that finds none is skipped, but in CI."""
    if CHROMIUM is None:
        # A laptop without the browser passes; the checks of every change may not leave this out.
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("no Chromium to try the site in: install the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.outside == []
            assert self.complaints == []
