"""How fast the site is to build and to use: ``python -m benchmarks.site``.

A made-up leaderboard becomes a site, as the rule makes one. A server on this machine hands it out
below a sub-path and compresses as static hosts do, and headless Chromium opens it. See
docs/start/website.md.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import random
import shlex
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from slm_benchmark.catalog.key_tables import fill_between
from slm_benchmark.common.files import atomic_write_text, read_json
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import write_record
from slm_benchmark.leaderboard.board import COSTS, metric_names
from slm_benchmark.records.hardware import describe
from slm_benchmark.records.provenance import now
from slm_benchmark.site import build_site

Record = dict[str, Any]

VARIANTS = {
    "base": "base",
    "gptq-4bit": "gptq",
    "awq-4bit": "awq",
    "gguf-q8_0": "gguf",
    "gguf-q4_k_m": "gguf",
}
BUILD = ROOT / "build"
PAGE = ROOT / "docs" / "start" / "website.md"
START, END = "<!-- site:start -->", "<!-- site:end -->"
SUB_PATH = "/slm-benchmark"
ROUNDS = 7
LEADERBOARD = ROOT / "results" / "leaderboard.json"


# ── a made-up leaderboard ──


def synthetic_board(models: int) -> Record:
    """A leaderboard of so many models with five variants each on one machine, all measured."""
    board: Record = read_json(LEADERBOARD)
    template = next(row for row in board["rows"] if row["measurement"])
    draw = random.Random(models)
    tasks = [task for task in board["tasks"] if task["id"] in template["scores"]]
    counted: dict[str, list[str]] = {}
    for task in tasks:
        if isinstance(task["chance"], float | int):
            counted.setdefault(task["category"], []).append(task["id"])
    ids = [f"synthetic-{number:05d}" for number in range(models)]
    card = next(iter(board["models"].values()))
    board["protocols"]["full"] |= {"ranked": True, "counted": counted, "left_out": {}}
    board["models"] = {id_: _card(card, id_, draw) for id_ in ids}
    board["rows"] = [
        _row(template, tasks, counted, id_, variant, draw) for id_ in ids for variant in VARIANTS
    ]
    return board


def _card(card: Mapping[str, Any], id_: str, draw: random.Random) -> Record:
    languages = draw.choice([["en"], ["en", "fr"], ["en", "de", "fr", "zh"], ["zh"]])
    return {
        **card,
        "name": f"Synthetic {id_[-5:]} {draw.choice(['Instruct', 'Chat', 'Base'])}",
        "parameters": round(10 ** draw.uniform(6.5, 9.47)),
        "languages": languages,
        "license": draw.choice(["Apache-2.0", "MIT", "LicenseRef-own"]),
        "tags": draw.sample(["instruct", "chat", "code", "math"], 2),
    }


def _row(
    template: Record,
    tasks: Sequence[Record],
    counted: Mapping[str, Sequence[str]],
    model: str,
    variant: str,
    draw: random.Random,
) -> Record:
    scores = {task["id"]: _score(template["scores"][task["id"]], task, draw) for task in tasks}
    speed = 10 ** draw.uniform(0.5, 2.5)
    performance = {
        name: _quantity(speed * (1 + index)) for index, name in enumerate(metric_names())
    }
    performance["peak_memory_bytes"] = _quantity(1e9 / speed * 40)
    no_gpu = {**_quantity(0), "value": None, "ci95": None, "pi95": None, "reason": "no GPU"}
    performance["device_peak_memory_bytes"] = performance["allocator_peak_memory_bytes"] = no_gpu
    performance["energy_mwh_per_token"] = template["performance"]["energy_mwh_per_token"]
    return {
        **template,
        "model": model,
        "variant": variant,
        "quantization": VARIANTS[variant],
        "protocol": "full",
        "ranked": True,
        "size_bytes": round(10 ** draw.uniform(7, 9.8)),
        "effective_bits_per_weight": round(draw.uniform(4, 16), 2),
        "scores": scores,
        "performance": performance,
        "overall": _aggregate(draw, len(tasks)),
        "categories": {name: _aggregate(draw, len(tasks_of)) for name, tasks_of in counted.items()},
        "group": {"rank": draw.randint(1, 40), "rows": draw.randint(1, 20), "reason": None},
        "pareto": {cost: {"front": draw.random() < 0.02, "reason": None} for cost in COSTS},
    }


def _score(template: Record, task: Record, draw: random.Random) -> Record:
    if draw.random() < 0.03:
        empty: Record = {"value": None, "stderr": None, "ci95": None, "n": None, "warnings": []}
        return {**template, **empty, "state": "not_run", "reason": "not measured yet"}
    scale = task["best"] or 1
    value = draw.random() * scale
    return {
        **template,
        "state": "ok",
        "reason": None,
        "value": value,
        "stderr": 0.01 * scale,
        "ci95": [value - 0.02 * scale, value + 0.02 * scale],
        "n": draw.choice([1172, 10042, 1319]),
        "warnings": [],
    }


def _aggregate(draw: random.Random, tasks: int) -> Record:
    value = draw.random()
    facts = {"tasks": tasks, "of": tasks, "missing": [], "reason": None}
    return {"value": value, "ci95": [value - 0.02, value + 0.02], **facts}


def _quantity(value: float) -> Record:
    ends = [value * 0.95, value * 1.05]
    return {"value": value, "ci95": ends, "pi95": ends, "n": 3, "reason": None}


def write_board(folder: Path, board: Record) -> Path:
    """leaderboard.json, and a CSV beside it, of which the site takes a copy."""
    path = folder / "leaderboard.json"
    write_record(path, board, "leaderboard")
    atomic_write_text(path.with_suffix(".csv"), "model,variant\n")
    return path


@contextmanager
def built(models: int) -> Iterator[tuple[Path, float]]:
    """The site of a made-up leaderboard, and how long it took to build, in seconds."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="site-") as folder:
        file = write_board(Path(folder), synthetic_board(models))
        started = time.perf_counter()
        build_site(file, Path(folder, "site"), ROOT / "docs")
        yield Path(folder, "site"), time.perf_counter() - started


# ── serving and looking ──


@functools.cache
def _compressed(file: Path) -> bytes:
    """A file as a static host keeps it."""
    return gzip.compress(file.read_bytes(), 6)


class _Compressing(SimpleHTTPRequestHandler):
    """Serves a folder below `SUB_PATH`; texts are compressed, as static hosts do."""

    sent_bytes = 0

    def do_GET(self) -> None:
        path = self.path.split("?")[0].removeprefix(SUB_PATH)
        file = Path(self.directory, path.lstrip("/"))
        if not self.path.startswith(SUB_PATH) or not file.is_file():
            self.send_error(404)
            return
        content = _compressed(file)
        type(self).sent_bytes += len(content)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(file)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the measurement prints its own lines."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The site's address below a sub-path of this machine."""
    handler = partial(_Compressing, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{SUB_PATH}/"
    finally:
        server.shutdown()
        server.server_close()


READY = "() => document.querySelectorAll('.slm-board tbody tr').length > 0"

STEP = """async (act) => {
    // From the event to the frame in which its result is painted.
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const count = () => document.querySelector(".slm-filters output").textContent;
    const first = () => document.querySelector(".slm-board tbody tr").dataset.id;
    const before = [count(), first()].join();
    const started = performance.now();
    act();
    while ([count(), first()].join() === before) await frame();
    await frame();
    return performance.now() - started;
}"""

ACTS = {
    "sort by overall": "document.querySelector('[data-sort=overall]').click()",
    "sort by name": "document.querySelector('[data-sort=model]').click()",
    "filter by format": "document.querySelector('[name=quant][value=gguf]').click()",
    "filter by size": "document.querySelector('[name=size]').click()",
}


def page_times_ms(browser: Browser, address: str) -> Iterator[tuple[str, float]]:
    """Milliseconds until the table is there, and of each act on it; a fresh profile each time."""
    for _ in range(ROUNDS):
        context = browser.new_context()
        page = context.new_page()
        started = time.perf_counter()
        page.goto(f"{address}index.html", wait_until="commit")
        page.wait_for_function(READY)
        yield "table ready", 1000 * (time.perf_counter() - started)
        page.wait_for_load_state("load")
        for name, act in ACTS.items():
            yield name, page.evaluate(f"({STEP})(() => {{ {act} }})")
        yield from _search_ms(page)
        context.close()


def _search_ms(page: Page) -> Iterator[tuple[str, float]]:
    page.evaluate("document.querySelector('button[type=reset]').click()")
    page.wait_for_timeout(300)
    typed = "const f = document.querySelector('[name=find]'); f.value = 'sinthetic 00001';"
    event = "f.dispatchEvent(new Event('input', {bubbles: true}));"
    yield "search, misspelt", page.evaluate(f"({STEP})(() => {{ {typed} {event} }})")


DRAWN = 200
"""Models up to which charts are drawn for a look at the leaderboard, which has one of them."""


def measure_page(browser: Browser, models: int) -> Record:
    """Times of the leaderboard with five rows for each model, and what it moves."""
    charts = nullcontext() if models <= DRAWN else without_charts()
    with charts, built(models) as (site, _), served(site) as address:
        times_ms: dict[str, list[float]] = {}
        for name, milliseconds in page_times_ms(browser, address):
            times_ms.setdefault(name, []).append(milliseconds)
        _Compressing.sent_bytes = 0
        page = browser.new_page()
        page.goto(f"{address}index.html")
        page.wait_for_function(READY)
        page.wait_for_load_state("networkidle")
        raw = page.evaluate(
            "performance.getEntries().reduce((sum, e) => sum + (e.decodedBodySize ?? 0), 0)"
        )
        page.close()
    return {
        "rows": models * len(VARIANTS),
        "times_ms": {name: statistics.median(times) for name, times in times_ms.items()},
        "moved_bytes": _Compressing.sent_bytes,
        "plain_bytes": raw,
    }


def measure_build(models: int) -> Record:
    """Time to build so many model pages, with and without drawing their charts."""
    with built(models) as (site, whole_s):
        pages = len(list((site / "models").glob("*.html")))
    with without_charts(), built(models) as (_, plain_s):
        pass
    return {"models": models, "pages": pages, "whole_s": whole_s, "plain_s": plain_s}


@contextmanager
def without_charts() -> Iterator[None]:
    """Charts come back at once, as a drawing of nothing."""
    import vl_convert

    drawn: Callable[..., str] = vl_convert.vegalite_to_svg
    vl_convert.vegalite_to_svg = lambda *_, **__: (
        '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1" viewBox="0 0 1 1"></svg>'
    )
    try:
        yield
    finally:
        vl_convert.vegalite_to_svg = drawn


# ── tables ──


def markdown(pages: Sequence[Record], builds: Sequence[Record], command: str) -> str:
    """The conditions and both tables."""
    machine = describe()
    conditions = (
        f"Measured on {now()[:10]} on {machine['cpu']['model']} with "
        f"{machine['cpu']['logical_cores']} logical cores, which the server and the browser share; "
        f"medians of {ROUNDS}. Of more than {DRAWN} models no charts are drawn here. "
        f"The command:\n\n```sh\n{command}\n```"
    )
    names = list(pages[0]["times_ms"])
    head = ["Rows", *(f"{name}, ms" for name in names), "Moved, kB", "Uncompressed, kB"]
    rows = [
        [
            f"{page['rows']:,}",
            *(f"{page['times_ms'][name]:.0f}" for name in names),
            f"{page['moved_bytes'] / 1000:.0f}",
            f"{page['plain_bytes'] / 1000:.0f}",
        ]
        for page in pages
    ]
    times = [
        [
            f"{build['models']:,}",
            f"{build['whole_s']:.1f}",
            f"{build['plain_s']:.1f}",
            f"{1000 * build['plain_s'] / build['models']:.1f}",
        ]
        for build in builds
    ]
    columns = ["Models", "Whole build, s", "Without drawing charts, s", "per model, ms"]
    return "\n".join([conditions, "", *table(head, rows), "", *table(columns, times)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or write them into the page."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[500, 10_000])
    parser.add_argument("--models", type=int, nargs="*", default=[250, 500, 1000])
    parser.add_argument("--write-docs", action="store_true", help=f"the tables into {PAGE.name}")
    options = parser.parse_args(argv)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("error: no Chromium. Fix: install the package chromium", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        arguments_ = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments_)
        pages = [measure_page(browser, rows // len(VARIANTS)) for rows in options.rows]
        browser.close()
    builds = [measure_build(models) for models in options.models]
    content = markdown(pages, builds, shlex.join(["python", "-m", "benchmarks.site", *argv]))
    if options.write_docs:
        fill_between(PAGE, START, END, content)
    print(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
