"""Writing a table as CSV and as Parquet, a batch of rows at a time.

Both files come from the same Arrow data, so they hold the same values. Neither holds a time of
writing, so the same rows give the same bytes with the same version of pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from slm_benchmark.export.tables import Row, Table
from slm_benchmark.leaderboard.board import Kind

BATCH_ROWS = 50_000
"""Rows of a row group: few enough to hold in memory, many enough to compress."""

TYPES: Mapping[Kind, Any] = {
    "text": pa.string(),
    "number": pa.float64(),
    "integer": pa.int64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("ms", tz="UTC"),
}


def arrow_schema(table: Table) -> Any:
    """The table's Arrow schema, each column with its description."""
    return pa.schema(
        [
            pa.field(column.name, TYPES[column.kind], metadata={"description": column.about})
            for column in table.columns
        ]
    )


class Sheet:
    """One table on its way to the disk.

    Args:
        name: Name of the files, without an ending.
        table: Its columns.
        folder: Where ``csv/`` and ``parquet/`` lie.
        formats: csv, parquet, or both.
    """

    def __init__(self, name: str, table: Table, folder: Path, formats: Iterable[str]) -> None:
        self._schema = arrow_schema(table)
        self._rows: list[Row] = []
        openers = {"csv": self._open_csv, "parquet": self._open_parquet}
        self._writers = []
        for kind in formats:
            path = folder / kind / f"{name}.{kind}"
            path.parent.mkdir(exist_ok=True)
            self._writers.append(openers[kind](path))

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows, each with every column."""
        for row in rows:
            self._rows.append(row)
            if len(self._rows) == BATCH_ROWS:
                self._flush()

    def close(self) -> None:
        """Write what is left, and end the files."""
        self._flush()
        for writer in self._writers:
            writer.close()

    def _flush(self) -> None:
        batch = pa.Table.from_pylist(self._rows, schema=self._schema)
        for writer in self._writers:
            writer.write_table(batch)
        self._rows = []

    def _open_csv(self, path: Path) -> Any:
        return pyarrow.csv.CSVWriter(path, self._schema)

    def _open_parquet(self, path: Path) -> Any:
        return pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
