"""The tidy tables of a leaderboard: its rows, their scores, and their performance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

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
from slm_benchmark.leaderboard.board import board_columns, flat_fields, joined, metric_names
from slm_benchmark.records.types import Leaderboard, LeaderboardRow, Quantity

KEY = ("model", "variant", "hardware", "protocol")
"""What tells a row of the leaderboard from every other."""


def board_tables(board: Leaderboard) -> dict[str, Table]:
    """The tables by the names of their files.

    Args:
        board: The leaderboard; its rows decide the categories of ``rows``.
    """
    fields = flat_fields(board_columns(board), "api")

    def rows(path: Path, board: Leaderboard) -> Iterator[Row]:
        for row in board["rows"]:
            card = board["models"][row["model"]]
            yield {field.name: field.value(card, row) for field in fields}

    return {
        "rows": Table(
            "leaderboard",
            "A variant of a model on one machine under one protocol.",
            tuple(Column(field.name, field.kind, field.about) for field in fields),
            rows,
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
                Column("chance", "number", "Expected score of guessing; missing where unknown."),
                Column("parts", "text", "Parts that were measured, with spaces between them."),
                *_shared("scores", "dataset", "dataset_sha256", "record"),
                Column("warnings", "text", "Warnings, with semicolons between them."),
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
                Column("flagged", "flag", "Whether something disturbed it, as rows says."),
            ),
            _performance,
        ),
    }


def _shared(table: str, *names: str) -> Iterator[Column]:
    """Columns that mean the same in an exported table of records."""
    columns = {column.name: column for column in TABLES[table].columns}
    return (replace(columns[name], source="") for name in names)


def _row_key(row: LeaderboardRow) -> Row:
    """The cells that tell a row from every other."""
    return {
        "model": row["model"],
        "variant": row["variant"],
        "hardware": row["hardware"],
        "protocol": row["protocol"],
    }


def _scores(path: Path, board: Leaderboard) -> Iterator[Row]:
    for row in board["rows"]:
        for task, cell in row["scores"].items():
            yield {
                **cell,
                **_row_key(row),
                **interval_ends("ci95", cell["ci95"]),
                "ranked": row["ranked"],
                "task": task,
                "reason": cell["reason"] or None,
                "parts": joined(" ", cell["parts"]),
                "warnings": joined("; ", cell["warnings"]),
            }


def _performance(path: Path, board: Leaderboard) -> Iterator[Row]:
    units = {name: unit_of(name) for name in metric_names()}
    for row in board["rows"]:
        shared = {**_row_key(row), "hardware_fingerprint": row["fingerprint"]}
        reference: Mapping[str, object] = {}
        points: list[tuple[str, Mapping[str, object], Mapping[str, Quantity]]] = []
        if measurement := row["measurement"]:
            shared["energy_label"] = measurement["energy"]["label"]
            shared["flagged"] = bool(measurement["warnings"])
            reference = measurement["reference"] or {}
            points = [("grid", point, point["metrics"]) for point in measurement["grid"]]
        for kind, point, metrics in [("reference", reference, row["performance"]), *points]:
            for name, quantity in metrics.items():
                yield {
                    **quantity,
                    **shared,
                    **point_lengths(point),
                    **interval_ends("ci95", quantity["ci95"]),
                    **interval_ends("pi95", quantity["pi95"]),
                    "point": kind,
                    "metric": name,
                    "unit": units[name],
                }
