"""How long the leaderboard takes to make: ``python -m benchmarks.aggregation``.

The records are made up: every variant of every model has a score with documents for each of the
seventeen benchmarks. They lie in a folder of files as published ones do, and a fresh process reads,
checks and aggregates them. See docs/aggregates.md.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import multiprocessing
import random
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.aggregate import aggregate
from slm_benchmark.config import Catalogue, load_catalogue
from slm_benchmark.files import digest, read_json
from slm_benchmark.hardware import describe
from slm_benchmark.paths import ROOT
from slm_benchmark.provenance import now, result_digest
from slm_benchmark.records import documents_file, is_record, published_records
from slm_benchmark.reference import fill_between
from slm_benchmark.statistics.proportion import standard_error

Record = dict[str, Any]

VARIANTS = ("base", "gptq-4bit", "awq-4bit", "gguf-q8_0", "gguf-q4_k_m")
PROTOCOL, HARDWARE = "full", "local"
PAGE = ROOT / "docs" / "aggregates.md"
START, END = "<!-- aggregation:start -->", "<!-- aggregation:end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table or write it into the page."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregation", description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--documents", type=int, default=100, metavar="N", help="of each score")
    parser.add_argument("--write-docs", action="store_true", help=f"the table into {PAGE.name}")
    options = parser.parse_args(given)
    measured = [measure(models, options.documents) for models in options.models]
    command = shlex.join(["python", "-m", "benchmarks.aggregation", *given])
    table = markdown(measured, options.documents, command)
    if options.write_docs:
        fill_between(PAGE, START, END, table)
    print(table)
    return 0


def measure(models: int, documents: int) -> Record:
    """Make records of so many models, and aggregate them in a fresh process.

    Returns:
        ``models``, ``records``, ``duration_s`` and ``peak_memory_bytes`` of all its processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        catalogue = synthetic_catalogue(models)
        for model in catalogue.models:
            write_model(catalogue, model, results, documents)
        print(f"{models} models: written", file=sys.stderr, flush=True)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_aggregate, args=(models, results, Path(folder), there))
        process.start()
        found: Record = {"models": models, **here.recv()}
        process.join()
    print(f"{models} models: {found['duration_s']:.1f} s", file=sys.stderr, flush=True)
    return found


def _aggregate(models: int, results: Path, folder: Path, answer: Any) -> None:
    """Aggregate all records of ``results``, as the rule does."""
    catalogue = synthetic_catalogue(models)
    started = time.perf_counter()
    records = sorted(path for path in results.rglob("*.json") if is_record(path))
    board, table = folder / "leaderboard.json", folder / "leaderboard.csv"
    aggregate(catalogue, records, "published", board, table, folder / "models")
    duration_s = time.perf_counter() - started
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # The children end one after another: the largest of them, and this process.
    peak_bytes = sum(usage.ru_maxrss for usage in usages) * 1024
    rows = len(read_json(board)["rows"])
    assert rows == models * len(VARIANTS)
    found = {"records": len(records), "duration_s": duration_s, "peak_memory_bytes": peak_bytes}
    answer.send(found)


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
    for task in catalogue.protocol_tasks(PROTOCOL):
        entry = catalogue.tasks[task]
        chance = entry["chance"] if isinstance(entry["chance"], float | int) else 0.25
        best = entry.get("best", 1)
        difficulty = [draw.random() for _ in range(documents)]
        for variant in VARIANTS:
            right = min(0.99, max(0.01, 0.45 + ability - 0.01 * VARIANTS.index(variant)))
            values = [float(place < right) for place in _noisy(difficulty, draw)]
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
    """The conditions and the table."""
    machine = describe()
    head = ["Models", "Records", "Time, s", "per record, ms", "Peak memory, MiB"]
    lines = [head, ["---:"] * len(head)]
    for found in measured:
        each_ms = 1000 * found["duration_s"] / found["records"]
        lines.append(
            [
                f"{found['models']}",
                f"{found['records']}",
                f"{found['duration_s']:.1f}",
                f"{each_ms:.2f}",
                f"{found['peak_memory_bytes'] / 2**20:.0f}",
            ]
        )
    conditions = (
        f"Measured on {now()[:10]} on {machine['cpu']['model']} with "
        f"{machine['cpu']['logical_cores']} logical cores: {len(VARIANTS)} variants of each model, "
        f"17 benchmarks, {documents} documents each. The command:\n\n```sh\n{command}\n```"
    )
    return conditions + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
