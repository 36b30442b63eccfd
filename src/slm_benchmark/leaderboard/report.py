"""From the leaderboard to its files: JSON, CSV, and a report and summaries of each model."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_text, json_text
from slm_benchmark.common.markdown import escape_cell
from slm_benchmark.common.parallel import parallel_map
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import prepare, validate_quickly
from slm_benchmark.leaderboard.board import FRONTS, NOT_RUN, render_table, rows_by
from slm_benchmark.records.store import read_run
from slm_benchmark.records.types import (
    AggregateScore,
    EquivalenceRecord,
    Freeform,
    Leaderboard,
    LeaderboardRow,
    LeaderboardScore,
    Quantity,
    Summary,
)

FLAG = "†"
"""Mark of a measurement that something may have disturbed."""

PARTIAL = "‡"
"""Mark of an aggregate score that lacks tasks."""

Notes = dict[str, list[str]]
"""Sentence → the variants that it is about."""


def write_tables(
    board: Leaderboard,
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
    by_model = rows_by(board, "model")

    def write_one(model: str | None) -> None:
        if model is None:
            atomic_write_text(table, render_table(board))
            # A line for each score.
            atomic_write_text(leaderboard, _checked(leaderboard, board, "leaderboard", 4))
            return
        for path, text in _summaries(models / model, model, board, by_model[model]):
            write(path, text)

    prepare("leaderboard", "summary")
    for _ in parallel_map(write_one, [None, *by_model], batch=16):
        pass


def _checked(path: Path, record: Mapping[str, Any], name: str, depth: int) -> str:
    """The text of a file, whose record fits its schema."""
    validate_quickly(record, name, path)
    return json_text(record, depth)


def _summaries(
    folder: Path, model: str, board: Leaderboard, rows: Sequence[LeaderboardRow]
) -> Iterator[tuple[Path, str]]:
    """File and text of metadata.json, accuracy.json, performance.json and report.md of one model.

    Accuracy and performance nest by hardware, protocol and variant.
    """
    accuracy = _nested(
        rows,
        lambda row: {
            "group": row["group"],
            "overall": row["overall"],
            "categories": row["categories"],
            "pareto": row["pareto"],
            "scores": row["scores"],
        },
    )
    performance = _nested(
        rows,
        lambda row: {
            "fingerprint": row["fingerprint"],
            "measurement": row["measurement"],
            **row["performance"],
        },
    )
    summaries: tuple[Summary, ...] = (
        _summary(model, "metadata", {"id": model, **board["models"][model]}),
        _summary(model, "accuracy", accuracy),
        _summary(model, "performance", performance),
    )
    # A line for each score and each quantity.
    depths = {"metadata": 2, "accuracy": 6, "performance": 5}
    for summary in summaries:
        path = folder / f"{summary['kind']}.json"
        yield path, _checked(path, summary, "summary", depths[summary["kind"]])
    yield folder / "report.md", render_report(model, board, rows)


def _summary(model: str, kind: Any, content: Freeform) -> Summary:
    return {"schema_version": 3, "model": model, "kind": kind, "content": content}


def _nested(
    rows: Sequence[LeaderboardRow], leaf: Callable[[LeaderboardRow], dict[str, object]]
) -> Freeform:
    """Hardware → protocol → variant → what ``leaf`` makes of the row."""
    tree: dict[str, dict[str, dict[str, object]]] = {}
    for row in rows:
        protocols = tree.setdefault(row["hardware"], {})
        protocols.setdefault(row["protocol"], {})[row["variant"]] = leaf(row)
    return tree


# ── Markdown ──


def render_report(model: str, board: Leaderboard, rows: Sequence[LeaderboardRow]) -> str:
    """A model's results as Markdown: scores, then performance, by machine and protocol."""
    sections: dict[tuple[str, str], list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        sections[row["hardware"], row["protocol"]].append(row)
    return (
        templates()
        .get_template("report.md.j2")
        .render(
            name=board["models"][model]["name"],
            titles={task["id"]: task["title"] for task in board["tasks"]},
            sections=[
                {
                    "hardware": hardware,
                    "protocol": protocol,
                    "title": board["protocols"][protocol]["title"],
                    "left_out": board["protocols"][protocol]["left_out"],
                    "rows": members,
                    "tasks": list(members[0]["scores"]),
                    "categories": list(members[0]["categories"]),
                    "performance_notes": _performance_notes(members),
                    "aggregate_notes": _aggregate_notes(members),
                }
                for (hardware, protocol), members in sections.items()
            ],
        )
    )


@functools.cache
def templates() -> Environment:
    """The templates of reports in Markdown."""
    # Markdown is no HTML: what could break a table is escaped by `escape_cell`.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["FLAG"] = FLAG
    filters: dict[str, Callable[..., str]] = {
        "aggregate": show_aggregate,
        "energy": show_energy,
        "escape_cell": lambda value: escape_cell(str(value)),
        "fronts": show_fronts,
        "quantity": show_quantity,
        "score": show_score,
    }
    environment.filters |= filters
    return environment


def _performance_notes(rows: Sequence[LeaderboardRow]) -> Notes:
    """What may have disturbed the rows' measurements, and why some have no energy."""
    notes: Notes = defaultdict(list)
    for row in rows:
        measurement = row["measurement"]
        if measurement is None:
            continue
        if measurement["warnings"]:
            notes[f"{FLAG} {'; '.join(measurement['warnings'])}"].append(row["variant"])
        energy = row["performance"]["energy_mwh_per_token"]
        if energy["value"] is None:
            notes[f"no energy: {energy['reason']}"].append(row["variant"])
    return notes


def _aggregate_notes(rows: Sequence[LeaderboardRow]) -> Notes:
    """Why some aggregate scores are missing, and which tasks others lack."""
    notes: Notes = defaultdict(list)
    for row in rows:
        for name, score in {"overall": row["overall"], **row["categories"]}.items():
            if score["reason"]:
                notes[f"{name}: {score['reason']}"].append(row["variant"])
            elif score["missing"]:
                note = f"{PARTIAL} {name} incomplete, without {', '.join(score['missing'])}"
                notes[note].append(row["variant"])
    return notes


def show_aggregate(score: AggregateScore) -> str:
    """A category or overall score, normalized to 0 (chance) … 100 (perfect), with its 95 %
    interval, marked where it is incomplete.
    """
    if score["value"] is None:
        return "none"
    text = f"{100 * score['value']:.1f}"
    if score["ci95"]:
        low, high = (100 * bound for bound in score["ci95"])
        text += f" [{low:.1f}, {high:.1f}]"
    return f"{text}{PARTIAL if score['missing'] else ''}"


def show_score(cell: LeaderboardScore) -> str:
    """A score in per cent with its 95 % interval and number of documents, or its state."""
    if cell["value"] is None:
        return str(cell["state"]).replace("_", " ")
    factor = 100 if cell["unit"] == "share" else 1
    text = f"{factor * cell['value']:.1f}"
    if cell["ci95"]:
        low, high = (factor * bound for bound in cell["ci95"])
        text += f" [{low:.1f}, {high:.1f}]"
    return f"{text} (n = {cell['n']})"


def show_fronts(row: LeaderboardRow) -> str:
    """The costs on whose Pareto front a row is."""
    return ", ".join(FRONTS[c] for c, state in row["pareto"].items() if state["front"]) or "none"


def show_energy(row: LeaderboardRow) -> str:
    """A row's energy with its label, or the label of what it lacks."""
    if row["measurement"] is None:
        return NOT_RUN
    label = row["measurement"]["energy"]["label"]
    energy = row["performance"]["energy_mwh_per_token"]
    return label if energy["value"] is None else f"{show_quantity(energy)} ({label})"


def show_quantity(quantity: Quantity, *, per_unit: float = 1, interval: bool = False) -> str:
    """A median to three significant digits, or the reason why there is none.

    Args:
        quantity: Of a row.
        per_unit: How many of the quantity's units one of the shown unit is.
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


# ── terminal ──


def summary(board: Leaderboard, records: Sequence[Path]) -> str:
    """What a run measured, as plain tables for the terminal."""
    models = {relative(path).split("/")[1] for path in records}
    by_model = rows_by(board, "model")
    reports = [
        render_report(model, board, rows)
        for model, rows in sorted(by_model.items())
        if model in models
    ]
    checks = (
        cast(EquivalenceRecord, read_run(path))
        for path in records
        if path.name == "equivalence.json"
    )
    return "\n".join([*reports, *map(describe_equivalence, checks)])


def describe_equivalence(record: EquivalenceRecord) -> str:
    """A sentence about the outcome of an equivalence check."""
    model = record["model"]["id"]
    if not record["passed"]:
        return f"{model}: the F16 GGUF file does not equal the base: {'; '.join(record['reasons'])}"
    documents = sum(task["documents"] for task in record["tasks"])
    alike = sum(task["documents"] * task["decision_agreement"] for task in record["tasks"])
    deltas = [task["max_delta_nats"] for task in record["tasks"]]
    delta = max(delta for delta in deltas if delta is not None)
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
        if record["error"] is not None:
            failed.append(f"{relative(path)} ({record['error']['type']})")
        elif record["kind"] == "equivalence" and not record["passed"]:
            failed.append(f"{relative(path)} ({record['reasons'][0]})")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(records)} measurements failed: {', '.join(failed)}",
            fix="read the error inside each record; delete the record to measure it again",
        )
