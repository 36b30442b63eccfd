"""The static API of the site: JSON, CSV and Parquet, with a schema for each kind of JSON file.

``docs/reference/api.md`` is its contract. Within v1 names and meanings stay; files, keys and
columns are only added.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.common.files import json_text, sha256_file, write_text
from slm_benchmark.common.schemas import JsonSchema, schema, validate_quickly
from slm_benchmark.export.board_tables import board_tables
from slm_benchmark.export.project import RESULTS_LICENSE
from slm_benchmark.export.tables import Table
from slm_benchmark.export.writers import Sheet
from slm_benchmark.leaderboard.board import rows_by
from slm_benchmark.records.types import Leaderboard, QuantizationReport

VERSION = "1.0"
"""Of the API. The second number grows with every addition, the first with a new folder."""

POLICY = "../../docs/reference/api.html#versions"
"""Where the site explains what may change, seen from the index."""

LICENSE = {
    "id": "CC-BY-4.0",
    "title": "Creative Commons Attribution 4.0 International",
    "url": RESULTS_LICENSE,
    "credit": "SLM Benchmark",
}

SCHEMAS = {
    "index": "api_index",
    "leaderboard": "leaderboard",
    "tables": "api_tables",
    "models": "api_models",
    "model": "api_model",
    "tasks": "api_tasks",
    "protocols": "api_protocols",
    "hardware": "api_hardware",
    "quantization": "quantization",
}
"""Kind of JSON file → its schema in ``workflow/schemas``."""

REPEATED = ("models", "model", "quantization")
"""Kinds that repeat what was checked when it was read; of a thousand models it is much."""


def write_api(
    folder: Path,
    board: Leaderboard,
    leaderboard: Path,
    reports: Mapping[str, QuantizationReport],
) -> None:
    """Write the API into a new folder. Equal input gives equal bytes.

    Args:
        folder: ``api/v1`` of the site.
        board: A record of the schema ``leaderboard``.
        leaderboard: The file that it was read from, copied with leaderboard.csv beside it.
        reports: Quantization reports, by the id of their model.
    """
    folder.mkdir(parents=True)
    for file in (leaderboard, leaderboard.with_suffix(".csv")):
        shutil.copyfile(file, folder / f"leaderboard{file.suffix}")
    tables = board_tables(board)
    _write_tables(folder, board, tables)
    kinds = {"leaderboard.json": "leaderboard"}
    for path, kind, content in _contents(board, tables, reports):
        kinds[path] = kind
        _write_json(folder, path, kind, content)
    for kind, name in SCHEMAS.items():
        write_text(folder / _schema_path(kind), json_text(published_schema(name)))
    _write_json(folder, "index.json", "index", _index(folder, board, kinds))


def _write_tables(folder: Path, board: Leaderboard, tables: Mapping[str, Table]) -> None:
    """Each table as CSV and as Parquet, from the same values."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for name, table in tables.items():
            sheet = Sheet(name, table, Path(work), ("csv", "parquet"))
            sheet.add(table.rows(folder, board))
            sheet.close()
        for path in Path(work).glob("*/*"):
            path.rename(folder / path.name)


def _write_json(folder: Path, path: str, kind: str, content: Mapping[str, object]) -> None:
    """A file with a line for each item of its lists and mappings."""
    record = {"schema_version": 1, "kind": kind, **content}
    if kind not in REPEATED:
        validate_quickly(record, SCHEMAS[kind], path)
    write_text(folder / path, json_text(record, 2))


def _contents(
    board: Leaderboard, tables: Mapping[str, Table], reports: Mapping[str, QuantizationReport]
) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Path, kind and content of every JSON file but the leaderboard and the index."""
    rows = rows_by(board, "model")
    models = {
        model: {
            "id": model,
            **card,
            "row_count": len(rows[model]),
            "file": f"models/{model}.json",
            "quantization_file": _report_path(model) if model in reports else None,
        }
        for model, card in board["models"].items()
    }
    yield "models.json", "models", {"models": list(models.values())}
    for model, listed in models.items():
        yield f"models/{model}.json", "model", {"model": listed, "rows": rows[model]}
    for model, report in reports.items():
        yield _report_path(model), "quantization", report
    yield "tasks.json", "tasks", {"tasks": board["tasks"]}
    protocols, hardware = rows_by(board, "protocol"), rows_by(board, "hardware")
    yield (
        "protocols.json",
        "protocols",
        {
            "protocols": [
                {"id": name, **protocol, "row_count": len(protocols[name])}
                for name, protocol in board["protocols"].items()
            ]
        },
    )
    yield (
        "hardware.json",
        "hardware",
        {
            "hardware": [
                {"id": name, **machine, "row_count": len(hardware[name])}
                for name, machine in board["hardware"].items()
            ]
        },
    )
    yield "tables.json", "tables", {"tables": [_described(n, t) for n, t in tables.items()]}


def _report_path(model: str) -> str:
    return f"quantization/{model}.json"


def _schema_path(kind: str) -> str:
    return f"schemas/{kind}.schema.json"


def _described(name: str, table: Table) -> dict[str, object]:
    """What a table's rows and columns are."""
    columns = [{"name": c.name, "kind": c.kind, "about": c.about} for c in table.columns]
    files = [f"{name}.csv", f"{name}.parquet"]
    return {"name": name, "about": table.about, "files": files, "columns": columns}


def _index(folder: Path, board: Leaderboard, kinds: Mapping[str, str]) -> dict[str, object]:
    """What the API holds; ``kinds`` names the kind of every JSON file that has a schema."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        "api_version": VERSION,
        "edition": board["edition"],
        "records_sha256": board["records_sha256"],
        "license": LICENSE,
        "policy": POLICY,
        "files": {
            name: {
                "size_bytes": path.stat().st_size,
                "sha256": sha256_file(path),
                "schema": _schema_path(kinds[name]) if name in kinds else None,
            }
            for name, path in names.items()
        },
    }


def published_schema(name: str) -> JsonSchema:
    """A schema of ``workflow/schemas`` with all that it refers to inside it.

    It allows keys that it does not name, so that a copy of it still fits after an addition.
    """
    inside: JsonSchema = {}

    def local(part: Any, home: str) -> Any:
        if isinstance(part, list):
            return [local(item, home) for item in part]
        if not isinstance(part, dict):
            return part
        copied = {
            key: local(value, home)
            for key, value in part.items()
            if key != "$defs" and not (key == "additionalProperties" and value is False)
        }
        if isinstance(reference := part.get("$ref"), str):
            copied["$ref"] = f"#/$defs/{definition(reference, home)}"
        return copied

    def definition(reference: str, home: str) -> str:
        """Put what a reference means among the definitions; gives its name there."""
        other, pointer = reference.split("#")
        owner = other or home
        steps = pointer.split("/")[1:]
        foreign = [owner] if owner != name else []
        key = ".".join([*foreign, *(step for step in steps if step != "$defs")])
        if key not in inside:
            meant: Any = schema(owner)
            for step in steps:
                meant = meant[step]
            inside[key] = None
            inside[key] = local(meant, owner)
        return key

    return {**local(schema(name), name), "$defs": inside}
