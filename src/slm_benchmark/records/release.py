"""What a release says of its records: a manifest of all files, and an index of what stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import sha256_file
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import read_record, validate, write_record
from slm_benchmark.records.provenance import git
from slm_benchmark.records.store import (
    cell_folder,
    cell_key,
    documents_file,
    is_record,
    published_records,
    read_run,
)
from slm_benchmark.records.types import (
    FileEntry,
    IndexCell,
    MeasuredRecord,
    OlderRecord,
    ReleaseIndex,
)

Entries = dict[str, FileEntry]
"""File, from the folder of results → ``sha256`` and ``size_bytes``."""

MANIFEST = "manifest.json"
INDEX = "index.json"


def destination(record: MeasuredRecord, results: Path) -> Path:
    """Where a record is published: the folder of its kind, and a name from time and content."""
    started = record["started"].replace("-", "").replace(":", "").replace("+0000", "Z")
    run_id = f"{started}-{record['result_sha256'][:8]}"
    return cell_folder(record, results) / f"{run_id}.json"


# --- the manifest --------------------------------------------------------------------------------


def evidence(results: Path) -> list[Path]:
    """All files that a manifest names: records, and the documents beside them."""
    return sorted(
        path
        for path in results.glob("*/*/**/*.json")
        if is_record(path) or path.name.endswith(".documents.json")
    )


def describe(path: Path) -> FileEntry:
    """A manifest's entry of a file."""
    return {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}


def read_manifest(path: Path) -> Entries:
    """The entries of a manifest.

    Raises:
        UserError: when the file is missing or breaks its schema.
    """
    entries: Entries = read_record(path, "release")["files"]
    return entries


def extend_manifest(results: Path, records: Iterable[Path]) -> None:
    """Add published records and their documents to the manifest; an entry never changes.

    Where there is no manifest yet, it begins with all that lies in the folder.

    Args:
        results: The folder of published records.
        records: Of them those that were published now, or are published again.
    """
    path = results / MANIFEST
    if path.exists():
        entries = read_manifest(path)
        beside = (file for record in records for file in (record, documents_file(record)))
        files = [file for file in beside if file.exists()]
    else:
        entries, files = {}, evidence(results)
    missing = {
        name: describe(file)
        for file in files
        if (name := file.relative_to(results).as_posix()) not in entries
    }
    if missing or not path.exists():
        complete = dict(sorted((entries | missing).items()))
        write_record(path, {"schema_version": 1, "files": complete}, "release")


def changes(now: Entries, earlier: Entries) -> Iterator[tuple[str, str]]:
    """The files that a manifest lost or tells otherwise than an earlier one; and in which way."""
    for name, entry in earlier.items():
        if name not in now:
            yield name, "is gone"
        elif now[name] != entry:
            yield name, "was changed"


def committed_manifests(results: Path) -> tuple[list[tuple[str, Entries]], list[str]]:
    """The manifests that git keeps: of HEAD, of all tags, and of every commit before HEAD.

    Args:
        results: The folder of published records.

    Returns:
        Pairs of a commit or tag and its manifest's entries, each content once; and sentences about
        what could not be looked at.
    """
    unchecked = "not compared with committed manifests"
    if git(results, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        return [], [f"{unchecked}: there is no git history here"]
    tags = (git(results, "tag", "--sort=-creatordate") or "").splitlines()
    log = ("log", "--full-history", "--format=%h", "--", MANIFEST)
    commits = (git(results, *log) or "").splitlines()
    revisions: dict[str, str] = {}
    for revision in ("HEAD", *tags, *commits):
        blob = git(results, "rev-parse", "--verify", "--quiet", f"{revision}:./{MANIFEST}")
        if blob is not None:
            revisions.setdefault(blob.strip(), revision)
    notes = [] if revisions else [f"{unchecked}: no commit has one"]
    if revisions and (git(results, "rev-parse", "--is-shallow-repository") or "").strip() == "true":
        notes.append("compared with few committed manifests: this clone is shallow")
    return [(name, _entries(results, blob, name)) for blob, name in revisions.items()], notes


def _entries(results: Path, blob: str, revision: str) -> Entries:
    import json

    file = f"{relative(results / MANIFEST)} at {revision}"
    try:
        manifest = json.loads(git(results, "cat-file", "blob", blob) or "")
    except json.JSONDecodeError as error:
        raise UserError(
            f"malformed JSON: {error}", file=file, fix="look into the history of that file"
        ) from error
    validate(manifest, "release", file)
    entries: Entries = manifest["files"]
    return entries


# --- the index -----------------------------------------------------------------------------------


def build_index(current: Sequence[tuple[Path, MeasuredRecord]], results: Path) -> ReleaseIndex:
    """The index: of each cell the run that stands, why it does, and all older ones.

    Args:
        current: The records that stand, of every kind.
        results: The folder of published records.
    """
    standing = {path for path, _ in current}
    older: dict[tuple[Path, str], list[tuple[Path, MeasuredRecord]]] = defaultdict(list)
    for path in published_records(results):
        if path not in standing:
            record = read_run(path)
            older[cell_key(record)].append((path, record))
    cells = [
        _cell(path, record, older.get(cell_key(record), []), results) for path, record in current
    ]
    return {"schema_version": 1, "cells": sorted(cells, key=lambda cell: str(cell["current"]))}


def _cell(
    path: Path, record: MeasuredRecord, others: Sequence[tuple[Path, MeasuredRecord]], results: Path
) -> IndexCell:
    older = [_run(*other, results) for other in others]
    older.sort(key=lambda run: (run["started"], run["record"]), reverse=True)
    why = f"newest of {len(older) + 1}" if older else "only run"
    well = next((run["record"] for run in older if run["state"] == "ok"), None)
    if record["state"] != "ok" and well:
        why += f"; its state is {record['state']}, and an older run is ok: {well}"
    run = _run(path, record, results)
    return {
        "cell": path.parent.relative_to(results).as_posix(),
        "kind": record["kind"],
        "protocol": cell_key(record)[1] or None,
        "current": run["record"],
        "started": run["started"],
        "state": run["state"],
        "why": why,
        "older": older,
    }


def _run(path: Path, record: MeasuredRecord, results: Path) -> OlderRecord:
    return {
        "record": path.relative_to(results).as_posix(),
        "started": record["started"],
        "state": record["state"],
    }


def write_index(
    current: Sequence[tuple[Path, MeasuredRecord]], results: Path, folder: Path
) -> None:
    """Write the index of ``results`` into ``folder``."""
    write_record(folder / INDEX, build_index(current, results), "index")
