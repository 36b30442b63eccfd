"""From records to the leaderboard, its table, and a summary of each model."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.catalog import VARIANTS, Catalogue
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import (
    atomic_directory,
    atomic_write_text,
    digest,
    json_text,
    write_text,
)
from slm_benchmark.common.markdown import escape_cell, table
from slm_benchmark.common.parallel import gc_paused, parallel_map
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import prepare, schema, validate_quickly
from slm_benchmark.leaderboard.quantization_report import outcomes
from slm_benchmark.leaderboard.ranking import (
    COSTS,
    Basis,
    Rules,
    aggregate_scores,
    basis,
    fronts_of,
    groups_of,
    not_comparable,
)
from slm_benchmark.records.store import Slim, current_records, read_run

Record = dict[str, Any]
Key = tuple[str, str, str, str]
"""(model, variant, hardware, protocol)"""

NOT_RUN = "not measured yet"
NOT_DEFINED = "measured before this quantity was defined"
FIRST_METHOD = "measured in one process, by the first version of the method"

FLAG = "†"
"""Mark of a measurement that something may have disturbed."""


PARTIAL = "‡"
"""Mark of an aggregate score that lacks tasks."""

FRONTS = {
    "size_bytes": "size",
    "generation_throughput_tokens_per_s": "throughput",
    "peak_memory_bytes": "memory",
    "energy_mwh_per_token": "energy",
}
"""Words for the costs of the Pareto fronts."""


def metric_names() -> list[str]:
    """Names of the performance metrics, in the order of their schema."""
    return list(schema("performance")["properties"]["metrics"]["properties"])


def aggregate(
    catalogue: Catalogue,
    paths: Sequence[Path],
    edition: str,
    leaderboard: Path,
    table: Path,
    models: Path,
) -> None:
    """Write leaderboard.json, leaderboard.csv and one folder of summaries for each model.

    Args:
        catalogue: The catalogue of the checkout.
        paths: Records.
        edition: published or preview.
        leaderboard: File to write.
        table: File to write.
        models: Folder to write.

    Raises:
        UserError: for an invalid record, naming the file.
    """
    with gc_paused():
        board = build_leaderboard(catalogue, current_records(paths, reduced=Slim()), edition)
        with atomic_directory(models) as work:
            write_tables(board, leaderboard, table, work, write_text)


def write_tables(
    board: Record,
    leaderboard: Path,
    table: Path,
    models: Path,
    write: Callable[[Path, str], None] = atomic_write_text,
) -> None:
    """Write the leaderboard as JSON and as CSV, and into ``models`` a folder for each model.

    For many models several processes do so.

    Args:
        board: The leaderboard.
        leaderboard: File to write.
        table: File to write.
        models: Folder to write into.
        write: Writes a file there.
    """
    own: dict[str, list[Record]] = {model: [] for model in board["models"]}
    for row in board["rows"]:
        own[row["model"]].append(row)

    def write_one(model: str | None) -> None:
        if model is None:
            atomic_write_text(table, render_table(board))
            # A line for each score.
            atomic_write_text(leaderboard, _checked(leaderboard, board, "leaderboard", 4))
            return
        for path, text in _summaries(models / model, model, board, own[model]):
            write(path, text)

    prepare("leaderboard", "summary")
    for _ in parallel_map(write_one, [None, *own], batch=16):
        pass


def _checked(path: Path, record: Record, name: str, depth: int) -> str:
    """The text of a file, whose record fits its schema."""
    validate_quickly(record, name, path)
    return json_text(record, depth)


def build_leaderboard(
    catalogue: Catalogue, records: Sequence[tuple[Path, Record]], edition: str
) -> Record:
    """The leaderboard as its schema describes it.

    Records are never deleted, so a record of a retired model, variant, protocol or machine, of
    which nothing is known any more, is left out.
    """
    scores: dict[Key, dict[str, tuple[Path, Record]]] = defaultdict(dict)
    speeds: dict[Key, tuple[Path, Record]] = {}
    measured: dict[str, set[str]] = defaultdict(set)
    for path, record in records:
        key = _key(record)
        kinds: tuple[Collection[str], ...] = (
            catalogue.models,
            VARIANTS,
            catalogue.hardware,
            catalogue.protocols,
        )
        if not all(name in kind for name, kind in zip(key, kinds, strict=True)):
            continue
        if record["kind"] == "score":
            scores[key][record["task"]["id"]] = (path, record)
            measured[key[3]].add(record["task"]["id"])
        else:
            speeds[key] = (path, record)
    keys = sorted({*scores, *speeds}, key=lambda k: (k[3], k[2], k[0], VARIANTS.index(k[1])))
    rules = Rules.read()
    bases = {protocol: basis(catalogue, protocol) for protocol in catalogue.protocols}
    columns = {
        protocol: protocol_columns(catalogue, protocol, measured[protocol])
        for protocol in catalogue.protocols
    }
    bests = {task: entry.get("best", 1) for task, entry in catalogue.tasks.items()}
    rows = []
    for key in keys:
        row = build_row(catalogue, key, columns[key[3]], scores.get(key, {}), speeds.get(key))
        overall, categories = aggregate_scores(row["scores"], bests, bases[key[3]], rules)
        rows.append({**row, "overall": overall, "categories": categories})
    for protocol, counted in bases.items():
        own = [place for place, key in enumerate(keys) if key[3] == protocol]
        compare_rows(
            catalogue, bests, counted, [(rows[place], scores[keys[place]]) for place in own]
        )
    return {
        "schema_version": 3,
        "edition": edition,
        "records_sha256": digest([record["result_sha256"] for _, record in records]),
        "rules": rules.block(),
        "categories": list(dict.fromkeys(t["category"] for t in catalogue.tasks.values())),
        "tasks": [
            {
                "id": task,
                "title": entry["title"],
                "category": entry["category"],
                "benchmark": entry.get("benchmark", task),
                "metric": entry["metric"],
                "filter": entry.get("filter", "none"),
                "chance": entry["chance"],
                "best": entry.get("best", 1),
                "unit": entry.get("unit", "share"),
                "higher_is_better": entry.get("higher_is_better", True),
                "num_fewshot": entry["num_fewshot"],
                "answers": catalogue.answers_of(task) if entry["kind"] == "generate" else None,
                "note": entry.get("note", ""),
            }
            for task, entry in catalogue.tasks.items()
        ],
        "protocols": {
            key: {
                "title": entry["title"],
                "ranked": entry["ranked"],
                "counted": bases[key].counted,
                "left_out": bases[key].left_out,
            }
            for key, entry in catalogue.protocols.items()
        },
        "hardware": {key: {"title": e["title"]} for key, e in catalogue.hardware.items()},
        "models": {
            model: _card(catalogue, model) for model in sorted({row["model"] for row in rows})
        },
        "rows": rows,
    }


def compare_rows(
    catalogue: Catalogue,
    bests: Mapping[str, float],
    counted: Basis,
    rows: Sequence[tuple[Record, Mapping[str, tuple[Path, Record]]]],
) -> None:
    """Give each row of one protocol its group and its place beside the Pareto fronts.

    Args:
        catalogue: The catalogue of the checkout.
        bests: Task → score of a perfect answer.
        counted: What counts of the protocol's tasks.
        rows: Rows with their overall scores, each with the records of its scores.
    """
    reasons = [not_comparable(row, catalogue.models[row["model"]].reference) for row, _ in rows]
    compared = [pair for pair, reason in zip(rows, reasons, strict=True) if reason is None]
    groups = groups_of(
        [row for row, _ in compared],
        [records for _, records in compared],
        bests,
        counted,
        [task for task in counted.tasks if catalogue.tasks[task].get("combine") == "parts"],
        outcomes,
    )
    sizes = Counter(groups)
    for (row, _), reason in zip(rows, reasons, strict=True):
        row["group"] = {"rank": None, "rows": 0, "reason": reason}
    for (row, _), rank in zip(compared, groups, strict=True):
        row["group"] |= {"rank": rank, "rows": sizes[rank]}
    for (row, _), fronts in zip(rows, fronts_of([row for row, _ in rows], reasons), strict=True):
        row["pareto"] = fronts


def protocol_columns(catalogue: Catalogue, protocol: str, measured: Collection[str]) -> list[str]:
    """The tasks that all rows of a protocol show: its own, then others that were measured.

    A second form of a benchmark, or a task of custom/, is a column where some row has it.
    """
    own = catalogue.protocol_tasks(protocol)
    return own + [task for task in catalogue.tasks if task in measured and task not in own]


def build_row(
    catalogue: Catalogue,
    key: Key,
    tasks: Sequence[str],
    scores: dict[str, tuple[Path, Record]],
    speed: tuple[Path, Record] | None,
) -> Record:
    """One row of the leaderboard: a variant of a model on one machine under one protocol."""
    model, variant, hardware, protocol = key
    entry = catalogue.protocols[protocol]
    cells = {task: build_score(catalogue, task, model, scores.get(task)) for task in tasks}
    known = [*([speed] if speed else []), *scores.values()]
    _, first = known[0]
    block = first["variant"]
    made = _made_with(known[-1][1])
    for task, (_, record) in scores.items():
        own = _made_with(record).items()
        cells.get(task, {}).update((name, value) for name, value in own if made[name] != value)
    return {
        "model": model,
        "variant": variant,
        "quantization": variant.split("-")[0],
        "hardware": hardware,
        "fingerprint": speed[1]["hardware"]["fingerprint"] if speed else None,
        "protocol": protocol,
        "ranked": entry["ranked"] and not catalogue.models[model].reference,
        "size_bytes": block["size_bytes"],
        "effective_bits_per_weight": block["effective_bits_per_weight"],
        **made,
        "scores": cells,
        "performance": build_performance(speed[1] if speed else None),
        "measurement": build_measurement(*speed) if speed else None,
    }


def _made_with(record: Record) -> Record:
    """Engine and weights of a record, which its row's other records have in common as a rule."""
    engine = record["engine"]
    return {
        "engine": f"{engine['name']} {engine['version']}",
        "weights_sha256": record["variant"]["sha256"],
    }


def build_performance(record: Record | None) -> Record:
    """Every metric of a row; one that the record lacks has the reason."""
    found = record["metrics"] if record else {}
    nothing = {"value": None, "n": 0, "reason": NOT_DEFINED if record else NOT_RUN}
    return {name: _complete(found.get(name, nothing)) for name in metric_names()}


def build_measurement(path: Path, record: Record) -> Record:
    """How a row's performance was measured, and what a reader should know beside it."""
    engine = record["engine"]
    block: Record = {
        "record": relative(path),
        "engine": f"{engine['name']} {engine['version']}",
        "kernel": engine["kernel"],
    }
    if record["schema_version"] == 1:
        return block | _first_measurement(record)
    processes = record["raw"]["processes"]
    return block | {
        "reference": _point(processes[0]["points"][0]) if processes else None,
        "processes": record["session"]["processes"],
        "together": record["session"]["variants"],
        "energy": {name: record["energy"][name] for name in ("label", "source", "reason")},
        "roofline": {
            name: record["roofline"][name]
            for name in ("bandwidth_bytes_per_s", "matrix_flops_per_s", "reason")
        },
        "warnings": record["host"]["warnings"],
        "grid": [
            {
                **_point(point),
                "sequences": point["sequences"],
                "metrics": {name: _complete(q) for name, q in point["metrics"].items()},
            }
            for point in record["grid"]
        ],
    }


def _first_measurement(record: Record) -> Record:
    """What a record of schema version 1 tells of its measurement."""
    raw, source = record["raw"], record["raw"].get("energy_source")
    return {
        "reference": _point(raw) if raw else None,
        "processes": 1,
        "together": [],
        "energy": {
            "label": "measured" if source else "unavailable",
            "source": source,
            "reason": record["metrics"]["energy_mwh_per_token"]["reason"],
        },
        "roofline": {
            "bandwidth_bytes_per_s": None,
            "matrix_flops_per_s": None,
            "reason": NOT_DEFINED,
        },
        "warnings": [*record["host"].get("warnings", []), FIRST_METHOD],
        "grid": [],
    }


def _point(block: Record) -> Record:
    return {name: block[name] for name in ("prompt_tokens", "output_tokens")}


def _complete(quantity: Record) -> Record:
    """A quantity with all of its keys; the first records have no prediction interval."""
    return {"value": None, "ci95": None, "pi95": None, **quantity}


def build_score(
    catalogue: Catalogue, task: str, model: str, found: tuple[Path, Record] | None
) -> Record:
    """One cell of a row, with its state."""
    entry = catalogue.tasks[task]
    cell: Record = {
        "state": "not_run",
        "reason": NOT_RUN if entry["state"] == "ready" else "no rule runs this task yet",
        "value": None,
        "stderr": None,
        "ci95": None,
        "n": None,
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "chance": entry["chance"] if entry["chance"] != "options" else None,
        "unit": entry.get("unit", "share"),
        "parts": [],
        "dataset": None,
        "dataset_sha256": None,
        "record": None,
        "warnings": [],
    }
    if found is None:
        if not catalogue.parts(task, model):
            cell |= {"state": "not_applicable", "reason": "not in a language of the model"}
        return cell
    path, record = found
    error = record["error"]
    cell |= {
        "state": record["state"],
        "reason": f"{error['type']}: {error['message']}" if error else record.get("reason"),
        "parts": record["task"].get("parts", []),
        "dataset": record["dataset"]["id"],
        "dataset_sha256": record["dataset"]["sha256"],
        "record": relative(path),
    }
    if judge := record.get("scoring", {}).get("judge"):
        cell["judge"] = judge["id"]
    headline = next((score for score in record["scores"] if score["headline"]), None)
    if headline is not None:
        kept = ("value", "stderr", "ci95", "n", "metric", "filter", "chance")
        cell |= {name: headline[name] for name in kept}
        cell["warnings"] = warnings(record, catalogue.bounds(task))
        if headline["value"] is None:
            cell |= {"state": "not_run", "reason": "no document has a value", "chance": None}
    return cell


def warnings(record: Record, bounds: Mapping[str, float]) -> list[str]:
    """Sentences about what a reader should know beside a score.

    Args:
        record: A cell's record.
        bounds: Check → the share of documents that passes without a word (config/checks.yaml).
    """
    checks = record["checks"]
    n = record["dataset"]["documents"]
    texts = {
        "truncated_contexts": "contexts were cut to fit the model",
        "truncated_generations": "answers were cut at the token limit",
        "empty_generations": "answers were empty",
        "unparsed": "answers could not be read",
    }
    found = [
        f"{checks[name]} of {n} {text}"
        for name, text in texts.items()
        if checks[name] and checks[name] / n > bounds[name]
    ]
    return found + (["not told apart from guessing"] if checks["at_chance"] else [])


def render_table(board: Record) -> str:
    """The leaderboard as CSV: one line for each row; a missing value is an empty field."""
    tasks = list(dict.fromkeys(task for row in board["rows"] for task in row["scores"]))
    facts = ["model", "variant", "hardware", "protocol", "ranked", "size_bytes"]
    facts += ["effective_bits_per_weight"]
    # The size is a fact of the row too, known without a profile.
    metrics = [name for name in metric_names() if name not in facts]
    measurement = ["energy_label", "bandwidth_bytes_per_s", "performance_warnings"]
    categories = list(dict.fromkeys(name for row in board["rows"] for name in row["categories"]))
    aggregates = ["overall", *(f"category_{name}" for name in categories)]
    names = ["model", "name", *facts[1:], "group"]
    for name in aggregates:
        names += [name, f"{name}_low", f"{name}_high", f"{name}_missing"]
    names += [f"pareto_{cost}" for cost in COSTS]
    for task in tasks:
        names += [task, f"{task}_low", f"{task}_high", f"{task}_n", f"{task}_state"]
    for metric in metrics:
        names += [metric, f"{metric}_low", f"{metric}_high"]
    names += measurement
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in board["rows"]:
        line = {name: row[name] for name in facts}
        line["name"] = board["models"][row["model"]]["name"]
        line["group"] = row["group"]["rank"]
        scores = [row["overall"], *(row["categories"].get(name) for name in categories)]
        for name, score in zip(aggregates, scores, strict=True):
            if score:
                line |= _bounds(name, score) | {f"{name}_missing": " ".join(score["missing"])}
        line |= {f"pareto_{cost}": found["front"] for cost, found in row["pareto"].items()}
        for task, cell in row["scores"].items():
            line |= _bounds(task, cell) | {f"{task}_n": cell["n"], f"{task}_state": cell["state"]}
        for metric in metrics:
            line |= _bounds(metric, row["performance"][metric])
        if measured := row["measurement"]:
            values = (
                measured["energy"]["label"],
                measured["roofline"]["bandwidth_bytes_per_s"],
                "; ".join(measured["warnings"]),
            )
            line |= dict(zip(measurement, values, strict=True))
        writer.writerow(line)
    return stream.getvalue()


def _bounds(name: str, cell: Record) -> Record:
    low, high = cell["ci95"] or (None, None)
    return {name: cell["value"], f"{name}_low": low, f"{name}_high": high}


def _summaries(
    folder: Path, model: str, board: Record, rows: Sequence[Record]
) -> Iterator[tuple[Path, str]]:
    """File and text of metadata.json, accuracy.json, performance.json and report.md of one model.

    Accuracy and performance nest by hardware, protocol and variant.
    """
    accuracy: Record = {}
    performance: Record = {}
    for row in rows:
        place = (row["hardware"], row["protocol"], row["variant"])
        kept = ("group", "overall", "categories", "pareto", "scores")
        _put(accuracy, place, {name: row[name] for name in kept})
        facts = {name: row[name] for name in ("fingerprint", "measurement")}
        _put(performance, place, {**facts, **row["performance"]})
    summaries = {
        "metadata": {"id": model, **board["models"][model]},
        "accuracy": accuracy,
        "performance": performance,
    }
    # A line for each score and each quantity.
    depths = {"metadata": 2, "accuracy": 6, "performance": 5}
    for name, content in summaries.items():
        summary = {"schema_version": 3, "model": model, "kind": name, "content": content}
        path = folder / f"{name}.json"
        yield path, _checked(path, summary, "summary", depths[name])
    yield folder / "report.md", render_report(model, board, rows)


def _put(tree: Record, place: tuple[str, ...], leaf: Record) -> None:
    for name in place[:-1]:
        tree = tree.setdefault(name, {})
    tree[place[-1]] = leaf


def render_report(model: str, board: Record, rows: Sequence[Record]) -> str:
    """A model's results as Markdown: scores, then performance, by machine and protocol."""
    lines = [f"# {escape_cell(board['models'][model]['name'])}", ""]
    titles = {task["id"]: task["title"] for task in board["tasks"]}
    for place in dict.fromkeys((row["hardware"], row["protocol"]) for row in rows):
        group = [row for row in rows if (row["hardware"], row["protocol"]) == place]
        tasks = list(group[0]["scores"])
        protocol = board["protocols"][place[1]]
        lines += [f"## {place[1]} on {place[0]}", "", f"{protocol['title']}.", ""]
        header = ["Variant", "MB", "Bits per weight", *(titles[t] for t in tasks)]
        header += ["Prompt tokens/s", "Generated tokens/s"]
        lines += table(
            header,
            [
                [
                    row["variant"],
                    f"{row['size_bytes'] / 1e6:.0f}",
                    f"{row['effective_bits_per_weight']:.2f}",
                    *(show_score(row["scores"][task]) for task in tasks),
                    show_quantity(row["performance"]["prompt_throughput_tokens_per_s"]),
                    show_quantity(row["performance"]["generation_throughput_tokens_per_s"]),
                ]
                for row in group
            ],
        )
        lines += ["", *_performance_table(group), "", *_aggregate_table(board, group), ""]
    return "\n".join(lines)


def _performance_table(rows: Sequence[Record]) -> list[str]:
    """Speed, memory and energy of some rows as a table, and below it notes on its rows."""
    header = ["Variant", "Prompt tokens/s", "Generated tokens/s", "MBU (%)", "Peak memory (MB)"]
    header += ["Energy (mWh/token)"]
    cells = []
    notes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        speed, measured = row["performance"], row["measurement"]
        warnings = measured["warnings"] if measured else []
        if warnings:
            notes[f"{FLAG} {'; '.join(warnings)}"].append(row["variant"])
        energy = speed["energy_mwh_per_token"]
        label = measured["energy"]["label"] if measured else NOT_RUN
        if measured and energy["value"] is None:
            notes[f"no energy: {energy['reason']}"].append(row["variant"])
        elif measured:
            label = f"{show_quantity(energy)} ({label})"
        cells.append(
            [
                f"{row['variant']}{FLAG if warnings else ''}",
                show_quantity(speed["prompt_throughput_tokens_per_s"], interval=True),
                show_quantity(speed["generation_throughput_tokens_per_s"], interval=True),
                show_quantity(speed["mbu"], per_unit=0.01),
                show_quantity(speed["peak_memory_bytes"], per_unit=1e6),
                label,
            ]
        )
    lines = ["### Performance", "", *table(header, cells)]
    if notes:
        lines.append("")
    lines += [f"- {', '.join(variants)}: {escape_cell(text)}" for text, variants in notes.items()]
    return lines


def _aggregate_table(board: Record, rows: Sequence[Record]) -> list[str]:
    """Overall and category scores of some rows as a table, and below it what they lack."""
    categories = [name.capitalize() for name in rows[0]["categories"]]
    lines = [
        "### Overall and categories",
        "",
        *table(
            ["Variant", "Group", "Overall", *categories, "On the front of"],
            [
                [
                    row["variant"],
                    str(row["group"]["rank"] or "none"),
                    show_aggregate(row["overall"]),
                    *map(show_aggregate, row["categories"].values()),
                    ", ".join(FRONTS[c] for c, found in row["pareto"].items() if found["front"])
                    or "none",
                ]
                for row in rows
            ],
        ),
    ]
    notes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for name, score in {"overall": row["overall"], **row["categories"]}.items():
            if score["reason"]:
                notes[f"{name}: {score['reason']}"].append(row["variant"])
            elif score["missing"]:
                without = f"{PARTIAL} {name} without {', '.join(score['missing'])}"
                notes[without].append(row["variant"])
    left_out = board["protocols"][rows[0]["protocol"]]["left_out"]
    lines += [""] if notes or left_out else []
    lines += [f"- {', '.join(variants)}: {escape_cell(text)}" for text, variants in notes.items()]
    return lines + [
        f"- {task} does not count: {escape_cell(why)}" for task, why in left_out.items()
    ]


def show_aggregate(score: Record) -> str:
    """A category or overall score in per cent with its 95 % interval, marked where tasks lack."""
    if score["value"] is None:
        return "none"
    text = f"{100 * score['value']:.1f}"
    if score["ci95"]:
        low, high = (100 * bound for bound in score["ci95"])
        text += f" [{low:.1f}, {high:.1f}]"
    return f"{text}{PARTIAL if score['missing'] else ''}"


def show_score(cell: Record) -> str:
    """A score in per cent with its 95 % interval and number of documents, or its state."""
    if cell["value"] is None:
        return str(cell["state"]).replace("_", " ")
    factor = 100 if cell["unit"] == "share" else 1
    text = f"{factor * cell['value']:.1f}"
    if cell["ci95"]:
        low, high = (factor * bound for bound in cell["ci95"])
        text += f" [{low:.1f}, {high:.1f}]"
    return f"{text} (n = {cell['n']})"


def show_quantity(quantity: Record, *, per_unit: float = 1, interval: bool = False) -> str:
    """A median to three significant digits, or the reason why there is none.

    Args:
        quantity: Of a row.
        per_unit: What one of the shown unit is in the quantity's own.
        interval: Whether to show the 95 % interval too.
    """
    if quantity["value"] is None:
        return str(quantity["reason"])
    text = _significant(quantity["value"] / per_unit)
    if interval and quantity["ci95"]:
        low, high = (_significant(bound / per_unit) for bound in quantity["ci95"])
        text += f" [{low}, {high}]"
    return text


def _significant(value: float) -> str:
    """Three significant digits, large numbers without an exponent."""
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if abs(value) >= 1000 else text


def summary(board: Record, records: Sequence[Path]) -> str:
    """What a run measured, as plain tables for the terminal."""
    runs = {relative(path) for path in records}
    models = {path.split("/")[1] for path in runs}
    lines: list[str] = []
    for model in sorted(models & set(board["models"])):
        rows = [row for row in board["rows"] if row["model"] == model]
        lines.append(render_report(model, board, rows))
    checks = (read_run(path) for path in records if path.name == "equivalence.json")
    return "\n".join([*lines, *map(describe_equivalence, checks)])


def describe_equivalence(record: Record) -> str:
    """A sentence about what an equivalence record found."""
    model = record["model"]["id"]
    if not record["passed"]:
        return f"{model}: the F16 GGUF file does not equal the base: {'; '.join(record['reasons'])}"
    documents = sum(task["documents"] for task in record["tasks"])
    alike = sum(task["documents"] * task["decision_agreement"] for task in record["tasks"])
    delta = max(task["max_delta_nats"] for task in record["tasks"])
    return (
        f"{model}: the F16 GGUF file equals the base on {documents} documents: "
        f"|Δ log-probability| of a continuation at most {delta:.3f} nats, "
        f"{alike:.0f} of {documents} decisions alike"
    )


def failures(records: Sequence[Path]) -> None:
    """End with an error when a record says that its model or task failed, or did not pass.

    Raises:
        UserError: listing the failed records and their errors.
    """
    failed = []
    for path in records:
        record = read_run(path)
        if record["state"] == "failed":
            failed.append(f"{relative(path)} ({record['error']['type']})")
        elif not record.get("passed", True):
            failed.append(f"{relative(path)} ({record['reasons'][0]})")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(records)} measurements failed: {', '.join(failed)}",
            fix="read the error inside each record; delete the record to measure it again",
        )


def _key(record: Record) -> Key:
    return (
        record["model"]["id"],
        record["variant"]["id"],
        record["hardware"]["id"],
        record["protocol"]["id"],
    )


def _card(catalogue: Catalogue, model: str) -> Record:
    card = catalogue.models[model]
    return {
        "name": card.name,
        "repo": card.hf_model_id,
        "revision": card.revision,
        "parameters": card.parameters,
        "architecture": card.architecture,
        "context_length": card.context_length,
        "languages": card.languages,
        "tags": card.tags,
        "license": card.license,
        "gated": card.gated,
        "reference": card.reference,
        "description": card.description,
        "source": card.source["type"],
        "package": _package(card.source),
    }


def _package(source: Mapping[str, Any]) -> Record | None:
    """The Python package that a model comes from; None for one of another source."""
    if source["type"] != "package":
        return None
    return {
        "name": source["package"],
        **{name: source[name] for name in ("version", "sha256", "file")},
    }
