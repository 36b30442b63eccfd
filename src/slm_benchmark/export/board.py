"""The tidy tables of a leaderboard: its rows, their scores, and their performance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slm_benchmark.common.schemas import schema
from slm_benchmark.export.tables import (
    TABLES,
    VALUE,
    Column,
    Row,
    Table,
    interval_ends,
    point_lengths,
    unit_of,
)
from slm_benchmark.leaderboard.aggregate import FRONTS, metric_names
from slm_benchmark.records.store import Record

KEY = ("model", "variant", "hardware", "protocol")
"""What tells a row of the leaderboard from every other."""


def board_tables(board: Record) -> dict[str, Table]:
    """The tables by the names of their files.

    Args:
        board: A record of the schema ``leaderboard``; its rows decide the categories of ``rows``.
    """
    categories = dict.fromkeys(name for row in board["rows"] for name in row["categories"])
    aggregates = {"overall": "overall score"}
    aggregates |= {f"category_{name}": f"score of the category {name}" for name in categories}
    # The size is a fact of the row too, known without a profile.
    metrics = [name for name in metric_names() if name != "size_bytes"]
    return {
        "rows": Table(
            "leaderboard",
            "A variant of a model on one machine under one protocol.",
            (
                *_shared("scores", *KEY, "model_name"),
                Column("quantization", "text", "base, gptq, awq or gguf."),
                Column("ranked", "flag", "Whether it is ranked: not under a protocol for trying."),
                *_shared("scores", "hardware_fingerprint"),
                Column("parameters", "integer", "Parameters of the model."),
                Column("license", "text", "Licence of the model."),
                *_shared("scores", "size_bytes", "effective_bits_per_weight"),
                Column("group", "integer", "One more than the rows in better groups."),
                Column("group_rows", "integer", "Rows in the group, this one included."),
                Column("group_reason", "text", "Why the row is in no group."),
                *(c for name, words in aggregates.items() for c in _aggregate(name, words)),
                *(c for cost, words in FRONTS.items() for c in _front(cost, words)),
                *(c for name in metrics for c in _quantity(name)),
                Column("performance_record", "text", "The record of performance."),
                Column("performance_warnings", "text", "What may have disturbed it."),
                *_shared("performance", "engine", "kernel", "energy_label", "energy_source"),
                *_shared("performance", "bandwidth_bytes_per_s", "matrix_flops_per_s"),
            ),
            _rows,
        ),
        "scores": Table(
            "leaderboard",
            "The score of a row in one task, or why there is none.",
            (
                *_shared("scores", *KEY),
                Column("ranked", "flag", "Whether the row is ranked."),
                *_shared("scores", "task"),
                Column("state", "text", "ok, failed, not_run or not_applicable."),
                Column("reason", "text", "Why there is no value."),
                *VALUE,
                *_shared("scores", "stderr", "n", "metric", "filter", "unit"),
                Column("chance", "number", "Score of a guesser; missing where there is none."),
                Column("parts", "text", "Parts that were asked, with spaces between them."),
                *_shared("scores", "dataset", "dataset_sha256", "record"),
                Column("warnings", "text", "What to know beside it, with semicolons between."),
            ),
            _scores,
        ),
        "performance": Table(
            "leaderboard",
            "A quantity of speed, memory or energy of a row, at one point of the profiling plan.",
            (
                *_shared("performance", *KEY, "hardware_fingerprint", "metric", "unit"),
                Column("reason", "text", "Why there is no value."),
                *VALUE,
                *_shared("performance", "pi95_low", "pi95_high", "n", "point"),
                *_shared("performance", "prompt_tokens", "output_tokens"),
                Column("sequences", "integer", "Sequences processed together, of the grid."),
                *_shared("performance", "energy_label"),
                Column("flagged", "flag", "Whether something disturbed it: rows says what."),
            ),
            _performance,
        ),
    }


def _shared(table: str, *names: str) -> Iterator[Column]:
    """Columns that mean the same in an exported table of records."""
    columns = {column.name: column for column in TABLES[table].columns}
    return (replace(columns[name], source="") for name in names)


def _aggregate(name: str, words: str) -> Iterator[Column]:
    yield Column(name, "number", f"The {words}: share of the way from chance to the best.")
    yield from _interval(name)
    yield Column(f"{name}_tasks", "integer", "Counted tasks that have a score.")
    yield Column(f"{name}_of", "integer", "Counted tasks.")
    yield Column(f"{name}_missing", "text", "Counted tasks without one, spaces between them.")
    yield Column(f"{name}_reason", "text", "Why there is no value or no interval.")


def _front(cost: str, words: str) -> Iterator[Column]:
    yield Column(f"pareto_{cost}", "flag", f"On the front of overall score and {words}.")
    yield Column(f"pareto_{cost}_reason", "text", "What dominates it, or why it is not compared.")


def _quantity(name: str) -> Iterator[Column]:
    about = schema("performance")["properties"]["metrics"]["properties"][name]["description"]
    yield Column(name, "number", about)
    yield from _interval(name)
    yield Column(f"{name}_reason", "text", "Why there is no value.")


def _interval(name: str) -> Iterator[Column]:
    yield Column(f"{name}_low", "number", "Lower end of its 95 % interval.")
    yield Column(f"{name}_high", "number", "Upper end of its 95 % interval.")


def _rows(path: Path, board: Record) -> Iterator[Row]:
    for row in board["rows"]:
        card = board["models"][row["model"]]
        cells = {
            **row,
            "model_name": card["name"],
            "parameters": card["parameters"],
            "license": card["license"],
            "hardware_fingerprint": row["fingerprint"],
            "group": row["group"]["rank"],
            "group_rows": row["group"]["rows"],
            "group_reason": row["group"]["reason"],
        }
        aggregates = {"overall": row["overall"]}
        aggregates |= {f"category_{name}": found for name, found in row["categories"].items()}
        for name, found in aggregates.items():
            cells |= _named(name, {**found, "missing": _joined(" ", found["missing"])})
        for cost, found in row["pareto"].items():
            cells |= {f"pareto_{cost}": found["front"], f"pareto_{cost}_reason": found["reason"]}
        for name, found in row["performance"].items():
            if name != "size_bytes":
                cells |= _named(name, found)
        yield cells | _measurement(row["measurement"])


def _named(name: str, found: Mapping[str, Any]) -> Row:
    """The value of an aggregate or a quantity under its own name, with all that belongs to it."""
    facts = {f"{name}_{key}": value for key, value in found.items()}
    return {name: found["value"], **facts, **interval_ends(name, found["ci95"])}


def _joined(sign: str, texts: Sequence[str]) -> str | None:
    """Texts in one; None where there are none, as CSV cannot tell an empty text."""
    return sign.join(texts) or None


def _measurement(measured: Mapping[str, Any] | None) -> Row:
    if measured is None:
        return {}
    return {
        "performance_record": measured["record"],
        "performance_warnings": _joined("; ", measured["warnings"]),
        "engine": measured["engine"],
        "kernel": measured["kernel"],
        "energy_label": measured["energy"]["label"],
        "energy_source": measured["energy"]["source"],
        "bandwidth_bytes_per_s": measured["roofline"]["bandwidth_bytes_per_s"],
        "matrix_flops_per_s": measured["roofline"]["matrix_flops_per_s"],
    }


def _scores(path: Path, board: Record) -> Iterator[Row]:
    for row in board["rows"]:
        place = {name: row[name] for name in (*KEY, "ranked")}
        for task, cell in row["scores"].items():
            yield {
                **cell,
                **place,
                **interval_ends("ci95", cell["ci95"]),
                "task": task,
                "reason": cell["reason"] or None,
                "parts": _joined(" ", cell["parts"]),
                "warnings": _joined("; ", cell["warnings"]),
            }


def _performance(path: Path, board: Record) -> Iterator[Row]:
    units = {name: unit_of(name) for name in metric_names()}
    for row in board["rows"]:
        measured = row["measurement"] or {"reference": None, "grid": []}
        place = {name: row[name] for name in KEY}
        place["hardware_fingerprint"] = row["fingerprint"]
        if row["measurement"]:
            place |= {"energy_label": measured["energy"]["label"]}
            place |= {"flagged": bool(measured["warnings"])}
        reference = {**(measured["reference"] or {}), "metrics": row["performance"]}
        points = [("reference", reference), *(("grid", point) for point in measured["grid"])]
        for point, found in points:
            where = {**place, **point_lengths(found), "point": point}
            for name, quantity in found["metrics"].items():
                yield {
                    **quantity,
                    **where,
                    **interval_ends("ci95", quantity["ci95"]),
                    **interval_ends("pi95", quantity["pi95"]),
                    "metric": name,
                    "unit": units[name],
                }
