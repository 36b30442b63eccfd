"""From the store of records to a folder of exports."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.errors import NotApplicable, UserError, suggestion
from slm_benchmark.common.files import (
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    digest,
    sha256_file,
)
from slm_benchmark.common.paths import relative
from slm_benchmark.export import croissant, every_eval_ever, hf_eval_results
from slm_benchmark.export.project import Project
from slm_benchmark.export.tables import TABLES, Entry, build_rows
from slm_benchmark.export.writers import Sheet
from slm_benchmark.records.store import (
    RECORD_SCHEMAS,
    cell_folder,
    current_records,
    published_records,
    read_run,
)

FORMATS = ("csv", "parquet", "eee", "hf", "croissant")
"""What can be written; each is a folder, and croissant one file."""

INDEX = "export.json"
"""Lists the files of an export; marks a folder that an export may replace."""


class Exporter:
    """One pass over the records, which fills a working folder.

    Args:
        folder: The working folder.
        formats: Of `FORMATS`.
        catalogue: The catalogue of the checkout.
        project: What the project says of itself.
    """

    def __init__(
        self, folder: Path, formats: Sequence[str], catalogue: Catalogue, project: Project
    ) -> None:
        self._folder, self._catalogue, self._project = folder, catalogue, project
        self._formats = formats
        self._sheets: dict[str, Sheet] = {}
        self._results: list[str] = []
        self._newest = ""
        self._eval_results: dict[str, Entry] = {}
        self.left_out: collections.Counter[str] = collections.Counter()

    def take(self, entry: Entry) -> None:
        """Write what a record gives in each format."""
        self._results.append(entry.record["result_sha256"])
        self._newest = max(self._newest, entry.record["started"])
        self._fill_tables(entry)
        if entry.record["kind"] != "score":
            return
        if "eee" in self._formats:
            self._write_evaluation(entry)
        if "hf" in self._formats and entry.current:
            self._choose_eval_result(entry)

    def finish(self) -> None:
        """End the tables; write their description and the index."""
        for sheet in self._sheets.values():
            sheet.close()
        for name, entry in self._eval_results.items():
            result = hf_eval_results.eval_result(entry, self._catalogue, self._project)
            atomic_write_text(self._folder / "hf" / name, hf_eval_results.as_yaml(result))
        if not self._files():
            raise UserError(
                f"no record here can be written as {', '.join(self._formats)}",
                field="--format",
                fix="; ".join(sorted(self.left_out)) or "choose csv or parquet",
            )
        if "croissant" in self._formats:
            tables = [path for path in self._files() if path.suffix in (".csv", ".parquet")]
            described = croissant.describe(self._folder, tables, self._project, self._newest)
            atomic_write_json(self._folder / croissant.FILE, described)
        index = {
            "schema_version": 1,
            "formats": list(self._formats),
            "records": len(self._results),
            "records_sha256": digest(self._results),
            "left_out": dict(sorted(self.left_out.items())),
            "files": {
                path.relative_to(self._folder).as_posix(): {
                    "sha256": sha256_file(path),
                    "size_bytes": path.stat().st_size,
                }
                for path in self._files()
            },
        }
        atomic_write_json(self._folder / INDEX, index)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.rglob("*") if path.is_file())

    def _fill_tables(self, entry: Entry) -> None:
        for name, table in TABLES.items():
            formats = [f for f in ("csv", "parquet") if f in self._formats]
            if not table.as_csv:
                formats = [f for f in formats if f != "csv"]
            if table.kind != entry.record["kind"] or not formats:
                continue
            if name not in self._sheets:
                self._sheets[name] = Sheet(name, table, self._folder, formats)
            self._sheets[name].add(build_rows(table, entry))

    def _write_evaluation(self, entry: Entry) -> None:
        evaluation = every_eval_ever.evaluation(entry, self._catalogue, self._project)
        if evaluation is None:
            self.left_out["eee: no score, or none of which it is known whether more is better"] += 1
            return
        atomic_write_json(self._folder / "eee" / every_eval_ever.file_name(entry), evaluation)

    def _choose_eval_result(self, entry: Entry) -> None:
        """Keep one result of a task: that of the newest run, where several machines have one."""
        try:
            hf_eval_results.eval_result(entry, self._catalogue, self._project)
        except NotApplicable as why:
            self.left_out[f"hf: {why.message}"] += 1
            return
        name = hf_eval_results.file_name(entry)
        other = self._eval_results.get(name)
        if other is not None:
            self.left_out["hf: another machine or protocol has a newer run of the same task"] += 1
            if other.record["started"] > entry.record["started"]:
                return
        self._eval_results[name] = entry


def export(
    catalogue: Catalogue, project: Project, results: Path, out: Path, formats: Sequence[str]
) -> list[str]:
    """Write the records of a store in other formats, into a folder that appears whole or not.

    Args:
        catalogue: The catalogue of the checkout.
        project: What the project says of itself.
        results: The store, laid out as results/.
        out: The folder to write; an earlier export there is replaced.
        formats: Of `FORMATS`. A Croissant description is of tables, and brings Parquet with it.

    Returns:
        One line for each format with the number of its files, and one for each reason for which
        records were left out.

    Raises:
        UserError: for an unknown format, a store without records, a record that is invalid, and
            a folder that holds something else.
    """
    chosen = _choose(formats)
    out = out.resolve()
    _check_target(out, results.resolve())
    entries = read_store(results)
    with atomic_directory(out) as work:
        exporter = Exporter(work, chosen, catalogue, project)
        for entry in entries:
            exporter.take(entry)
        exporter.finish()
    lines = _report(out, chosen, exporter.left_out)
    if "croissant" in chosen and not project.url:
        lines.append("croissant: no address, which its specification asks for; give one with --url")
    return lines


def read_store(results: Path) -> Iterator[Entry]:
    """Every record of a store, one after another, in the order of their files.

    Raises:
        UserError: when the folder is missing or has no records, and for the first invalid record.
    """
    if not results.is_dir():
        raise UserError("there is no such folder", file=results, fix="name a folder as results/")
    paths = published_records(results)
    if not paths:
        raise UserError(
            "no records here",
            file=relative(results),
            fix="publish some first: slm-benchmark publish",
        )
    current = {path for path, _ in current_records(paths, tuple(RECORD_SCHEMAS))}
    return (
        Entry(
            path=path,
            name=(cell_folder(record, Path("results")) / path.name).as_posix(),
            current=path in current,
            record=record,
        )
        for path, record in ((path, read_run(path)) for path in paths)
    )


def _choose(formats: Sequence[str]) -> list[str]:
    """The formats in their own order, each once, with what they need."""
    for name in formats:
        if name not in FORMATS:
            fix = suggestion(name, list(FORMATS))
            if Path(name).is_dir():
                fix = f"write the folder before --format; formats: {', '.join(FORMATS)}"
            raise UserError("unknown format", field="--format", value=name, fix=fix)
    needed = {*formats, *(["parquet"] if "croissant" in formats else [])}
    return [name for name in FORMATS if name in needed]


def _check_target(out: Path, results: Path) -> None:
    """Refuse to replace a folder that is not an export, or a file, and to write into the store."""
    if out.is_relative_to(results):
        raise UserError(
            "this lies in the store, whose files are records",
            file=relative(out),
            field="--out",
            fix="name a folder elsewhere",
        )
    if not out.exists() or (out.is_dir() and ((out / INDEX).is_file() or not any(out.iterdir()))):
        return
    raise UserError(
        "this is not an earlier export, and an export replaces the whole folder",
        file=relative(out),
        field="--out",
        fix="name a folder that does not exist yet",
    )


def _report(out: Path, formats: Sequence[str], left_out: collections.Counter[str]) -> list[str]:
    lines = []
    for name in formats:
        path = out / (croissant.FILE if name == "croissant" else name)
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        lines.append(
            f"{name}: {len(files)} files in {relative(path)}" if files else f"{name}: none"
        )
    return lines + [f"{why} ({count} records left out)" for why, count in sorted(left_out.items())]
