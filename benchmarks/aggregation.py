"""How long the leaderboard takes to make: ``python -m benchmarks.aggregation``.

The records are made up: every variant of every model has a score with documents in one column of
each of the seventeen benchmarks. They lie in files of this checkout as published ones do, and a
fresh process finds, reads, checks and aggregates them. See docs/methods/aggregates.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import multiprocessing
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import psutil

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.key_tables import fill_between
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import ROOT
from slm_benchmark.leaderboard.aggregate import aggregate
from slm_benchmark.records.hardware import describe
from slm_benchmark.records.provenance import now, result_digest
from slm_benchmark.records.store import documents_file, published_records
from slm_benchmark.statistics.proportion import standard_error

Record = dict[str, Any]

VARIANTS = ("base", "gptq-4bit", "awq-4bit", "gguf-q8_0", "gguf-q4_k_m")
PROTOCOL, HARDWARE = "full", "local"
INTERVAL_S = 0.1
"""Between two looks at the memory."""

BUILD = ROOT / "build"
PAGE = ROOT / "docs" / "methods" / "aggregates.md"
CHART = PAGE.with_name("aggregation.svg")
START, END = "<!-- aggregation:start -->", "<!-- aggregation:end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table or write it into the page."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregation", description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--documents", type=int, default=100, metavar="N", help="of each score")
    parser.add_argument("--write-docs", action="store_true", help="table and chart into docs/")
    options = parser.parse_args(argv)
    measured = [measure(models, options.documents) for models in options.models]
    command = shlex.join(["python", "-m", "benchmarks.aggregation", *argv])
    page = markdown(measured, options.documents, command)
    if options.write_docs:
        draw(measured).save(str(CHART))
        fill_between(PAGE, START, END, page)
    print(page)
    return 0


def measure(models: int, documents: int) -> Record:
    """Make records of so many models, and aggregate them in a fresh process.

    Returns:
        ``models``, ``records``, ``duration_s``, ``cpu_s`` and ``peak_memory_bytes``, the last two
        of all its processes together.
    """
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="aggregation-") as folder:
        results = Path(folder, "results")
        catalogue = synthetic_catalogue(models)
        for model in catalogue.models:
            write_model(catalogue, model, results, documents)
        # What is still to be written to the disk is not part of the measurement.
        os.sync()
        print(f"{models} models: written", file=sys.stderr, flush=True)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_aggregate, args=(models, results, Path(folder), there))
        process.start()
        there.close()
        peak_bytes = 0
        while not here.poll(INTERVAL_S):
            peak_bytes = max(peak_bytes, tree_memory_bytes(process.pid))
        row: Record = {"models": models, **here.recv(), "peak_memory_bytes": peak_bytes}
        process.join()
    print(f"{models} models: {row['duration_s']:.1f} s", file=sys.stderr, flush=True)
    return row


def tree_memory_bytes(pid: int | None) -> int:
    """Memory of a process and its children, where what they share counts once (PSS)."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            # A child may end in between.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
    return total


def _aggregate(models: int, results: Path, folder: Path, answer: Any) -> None:
    """Aggregate all records of ``results``, as the rule does."""
    catalogue = synthetic_catalogue(models)
    started, cpu_before_s = time.perf_counter(), _cpu_s()
    records = published_records(results)
    board, sheet = folder / "leaderboard.json", folder / "leaderboard.csv"
    aggregate(catalogue, records, "published", board, sheet, folder / "models")
    duration_s, cpu_s = time.perf_counter() - started, _cpu_s() - cpu_before_s
    answer.send({"records": len(records), "duration_s": duration_s, "cpu_s": cpu_s})
    assert len(records) == models * len(VARIANTS) * len(columns(catalogue))
    assert len(read_json(board)["rows"]) == models * len(VARIANTS)


def _cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def columns(catalogue: Catalogue) -> list[str]:
    """The first column of each benchmark."""
    firsts: dict[str, str] = {}
    for task in catalogue.protocol_tasks(PROTOCOL):
        firsts.setdefault(catalogue.tasks[task].get("benchmark", task), task)
    return list(firsts.values())


def synthetic_catalogue(models: int) -> Catalogue:
    """The checkout's catalogue, with made-up models in place of its own."""
    catalogue = load_catalogue()
    card = next(iter(catalogue.models.values()))
    ids = [f"synthetic-{number:04d}" for number in range(models)]
    cards = {id_: dataclasses.replace(card, id=id_, name=id_, reference=False) for id_ in ids}
    return dataclasses.replace(catalogue, models=cards)


def write_model(catalogue: Catalogue, model: str, results: Path, documents: int) -> None:
    """Write the scores of all variants of a model with their documents."""
    draw = random.Random(model)
    ability = draw.gauss(0, 0.1)
    for task in columns(catalogue):
        entry = catalogue.tasks[task]
        chance = entry["chance"] if isinstance(entry["chance"], float | int) else 0.25
        best = entry.get("best", 1)
        difficulty = [draw.random() for _ in range(documents)]
        for variant in VARIANTS:
            right = min(0.99, max(0.01, 0.45 + ability - 0.01 * VARIANTS.index(variant)))
            values = [float(position < right) for position in _noisy(difficulty, draw)]
            values = [chance + (best - chance) * value for value in values]
            _write(results, model, variant, task, entry, values)


def _noisy(values: Sequence[float], draw: random.Random) -> Iterator[float]:
    """Values of which one in ten is drawn anew: what two variants of a model have in common."""
    for value in values:
        yield draw.random() if draw.random() < 0.1 else value


def template() -> Record:
    """A published score's record: what the made-up ones are like."""
    for path in published_records():
        record: Record = read_json(path)
        if record["kind"] == "score" and record["state"] == "ok":
            return record
    raise RuntimeError("no published score")


TEMPLATE = template()


def _write(
    results: Path,
    model: str,
    variant: str,
    task: str,
    entry: Mapping[str, Any],
    values: Sequence[float],
) -> None:
    record = copy.deepcopy(TEMPLATE)
    n = len(values)
    documents = [
        {
            "document": digest([task, index]),
            "index": index,
            "filter": entry.get("filter", "none"),
            "values": {entry["metric"]: value},
            "margin": None,
        }
        for index, value in enumerate(values)
    ]
    value, error = sum(values) / n, standard_error(values)
    assert error is not None
    chance = entry["chance"] if entry["chance"] != "options" else 0.25
    record |= {
        "label": None,
        "model": {**record["model"], "id": model, "sha256": digest(model)},
        "variant": {**record["variant"], "id": variant, "sha256": digest([model, variant])},
        "dataset": {**record["dataset"], "id": task, "sha256": digest(task), "documents": n},
        "task": {**record["task"], "id": task, "config_sha256": digest(["config", task])}
        | {"metric": entry["metric"], "filter": entry.get("filter", "none")},
        "protocol": {**record["protocol"], "id": PROTOCOL},
        "hardware": {**record["hardware"], "id": HARDWARE},
        "scores": [
            {
                "metric": entry["metric"],
                "filter": entry.get("filter", "none"),
                "value": value,
                "stderr": error,
                "ci95": [value - 1.96 * error, value + 1.96 * error],
                "ci_method": "normal",
                "n": n,
                "chance": chance,
                "headline": True,
            }
        ],
        "documents_sha256": digest(documents),
    }
    del record["label"]
    if "unit" in entry:
        record["task"]["unit"] = entry["unit"]
    record["result_sha256"] = result_digest(record)
    folder = results / model / variant / HARDWARE / PROTOCOL / task
    folder.mkdir(parents=True)
    path = folder / f"20260101T000000Z-{record['result_sha256'][:8]}.json"
    path.write_text(json.dumps(record, indent=2), encoding="utf-8")
    documents_file(path).write_text(json.dumps(documents, indent=2), encoding="utf-8")


def markdown(measured: Sequence[Record], documents: int, command: str) -> str:
    """The conditions, the table and the chart."""
    machine = describe()
    head = ["Models", "Records", "Time, s", "CPU time, s", "per record, ms", "Peak memory, MiB"]
    rows = [
        [
            f"{row['models']}",
            f"{row['records']}",
            f"{row['duration_s']:.1f}",
            f"{row['cpu_s']:.1f}",
            f"{1000 * row['duration_s'] / row['records']:.2f}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
        ]
        for row in measured
    ]
    conditions = (
        f"Measured on {now()[:10]} on {machine['cpu']['model']} with "
        f"{machine['cpu']['logical_cores']} logical cores: {len(VARIANTS)} variants of each model, "
        f"17 benchmarks, {documents} documents each. The command:\n\n```sh\n{command}\n```"
    )
    chart = f"![Time and memory by the number of models]({CHART.name})"
    return "\n".join([conditions, "", *table(head, rows), "", chart])


def draw(measured: Sequence[Record]) -> alt.HConcatChart:
    """Time and memory by the number of models, both from zero, where a straight line is linear."""
    values = [
        {
            "models": row["models"],
            "seconds": row["duration_s"],
            "mebibytes": row["peak_memory_bytes"] / 2**20,
        }
        for row in measured
    ]
    base = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(x=alt.X("models:Q", title="Models", scale=alt.Scale(zero=True)))
    )
    panels = [
        base.encode(y=alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=True))).properties(
            width=260, height=200
        )
        for field, title in (("seconds", "Time, s"), ("mebibytes", "Peak memory, MiB"))
    ]
    return alt.hconcat(*panels, background="white")


if __name__ == "__main__":
    sys.exit(main())
