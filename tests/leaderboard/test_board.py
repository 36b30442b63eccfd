"""Every table, file and page of the leaderboard takes its columns from the one list."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.common.paths import ROOT
from slm_benchmark.export.board_tables import board_tables
from slm_benchmark.export.tables import TABLES
from slm_benchmark.export.writers import arrow_schema
from slm_benchmark.leaderboard import board as board_module
from slm_benchmark.leaderboard.board import (
    COSTS,
    METRICS,
    Column,
    Field,
    board_columns,
    flat_fields,
    metric_names,
    page_columns,
    render_table,
    rows_by,
)
from slm_benchmark.site.rows import row_files, section_columns
from slm_benchmark.site.sections import build_sections
from tests.support.sites import synthetic_leaderboard

NEW = Column(
    "carats",
    (Field("carats", "number", "A column that only this test has.", lambda _, row: 0.5),),
    "Carats",
    "ct",
    "identity",
    part="rows",
    pages=("overview",),
)


@pytest.fixture(scope="module")
def board() -> Any:
    return synthetic_leaderboard()


def csv_names(board: Any) -> list[str]:
    return next(csv.reader(io.StringIO(render_table(board))))


def site_columns(board: Any) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Protocol → part → the columns in its file."""
    sections = build_sections(board, board["rows"], by_group=True)
    parts: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, text in row_files(sections, board, {}).items():
        protocol, part, *_ = [*name.removesuffix(".js").split("."), "rows"]
        if part != "pairs":
            _, _, quoted = text.split(",", 2)
            plain = quoted[1 : quoted.rindex("'")].replace(r"\'", "'").replace(r"\\", "\\")
            content = json.loads(plain)
            parts.setdefault(protocol, {})[part] = content["columns"]
    return parts


def names(fields: Iterable[Field]) -> list[str]:
    return [field.name for field in fields]


def test_the_flat_tables_have_the_fields_of_the_list(board: Any) -> None:
    columns = board_columns(board)
    assert csv_names(board) == names(flat_fields(columns, "csv"))
    table = board_tables(board)["rows"]
    api = flat_fields(columns, "api")
    assert [(c.name, c.kind, c.about) for c in table.columns] == [
        (field.name, field.kind, field.about) for field in api
    ]
    assert arrow_schema(table).names == names(api)
    for row in table.rows(Path(), board):
        assert list(row) == names(api)


def test_the_site_has_the_columns_of_the_list(board: Any) -> None:
    written = site_columns(board)
    for section in build_sections(board, board["rows"], by_group=True):
        columns = section_columns(section)
        for part in ("rows", "details"):
            listed = page_columns(columns, part)
            shown = written[section["id"]][part]
            assert [c["key"] for c in shown] == [column.key for column in listed]
            for entry, column in zip(shown, listed, strict=True):
                assert (entry["title"], entry["unit"]) == (column.title, column.unit)
                assert entry["pages"] == list(column.pages)


def test_the_json_has_the_values_of_the_list(board: Any) -> None:
    """Scores, aggregates, costs and quantities of a row are columns, and columns find them."""
    keys = {column.key for column in board_columns(board)}
    for row in board["rows"]:
        assert {f"task:{task}" for task in row["scores"]} <= keys
        assert {f"category:{name}" for name in row["categories"]} <= keys
        assert set(row["performance"]) <= set(metric_names()) <= keys | {"size_bytes"}
        assert list(row["pareto"]) == list(COSTS)
        for column in board_columns(board):
            if column.cell is not None and (cell := column.cell(row)) is not None:
                assert {"value", "ci95"} <= set(cell)


def test_the_metrics_of_the_list_are_those_of_the_schema() -> None:
    assert sorted(metric.key for metric in METRICS) == sorted(metric_names())


def test_a_new_column_shows_up_everywhere(board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "_WEIGHTS", (*board_module._WEIGHTS, NEW))
    for row in board["rows"]:
        monkeypatch.setitem(row, "carats", 0.5)
    assert "carats" in csv_names(board)
    table = board_tables(board)["rows"]
    assert "carats" in arrow_schema(table).names
    assert {row["carats"] for row in table.rows(Path(), board)} == {0.5}
    for parts in site_columns(board).values():
        (column,) = (column for column in parts["rows"] if column["key"] == "carats")
        assert set(column["value"]) == {0.5}
        assert (column["pages"], column["fields"]) == (["overview"], ["value", "note"])


def test_shared_columns_mean_the_same_in_exported_tables() -> None:
    listed = {field.name: field for c in board_module.columns((), ()) for field in c.fields}
    for table in TABLES.values():
        for column in table.columns:
            if column.name in ("model", "variant", "hardware", "protocol", "size_bytes", "engine"):
                field = listed[column.name]
                assert (column.kind, column.about) == (field.kind, field.about)


def test_rows_by_model_protocol_and_hardware_hold_every_row(board: Any) -> None:
    for key in ("model", "protocol", "hardware"):
        views = rows_by(board, key)
        assert sum(map(len, views.values())) == len(board["rows"])
        assert all(row[key] == name for name, rows in views.items() for row in rows)


def test_no_other_file_spells_the_columns() -> None:
    """Neither the scripts of the site nor the modules that write files list columns themselves."""
    source = ROOT / "src" / "slm_benchmark"
    patterns = ("export/*.py", "site/*.py", "site/assets/*.js")
    files = [file for pattern in patterns for file in source.glob(pattern)]
    assert len(files) > 20
    derived = re.compile(r"""["'](overall_low|group_rows|pareto_\w+|ttft_ms|load_time_s|mbu)["']""")
    for file in files:
        # The tables of records know units by name; terms explain columns by name.
        if file.name not in ("tables.py", "terms.py"):
            assert not derived.findall(file.read_text(encoding="utf-8")), file
