"""Whether published records are what they were, and agree with themselves and with each other."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import RESULTS, relative
from slm_benchmark.common.schemas import problems
from slm_benchmark.publishing.consistency import contradictions
from slm_benchmark.publishing.publish import summarize_results
from slm_benchmark.records.provenance import result_digest
from slm_benchmark.records.release import (
    INDEX,
    MANIFEST,
    Entries,
    changes,
    committed_manifests,
    describe,
    destination,
    evidence,
    read_manifest,
)
from slm_benchmark.records.store import (
    RECORD_SCHEMAS,
    cell_folder,
    cell_key,
    documents_file,
    is_record,
)
from slm_benchmark.records.types import DocumentRow, MeasuredRecord, ScoreRecord

RESTORE = "restore the file from the repository, or delete it and measure the cell again"
REGENERATE = "`slm-benchmark publish` without records writes it again"
PUBLISH = "publish the record again with `slm-benchmark publish`, or delete the file"

WRITTEN_BY_HAND = ("LICENSE", "README.md")
"""Files of the folder that a person wrote."""

_BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""What reading raw data of another shape raises; schemas leave it open."""


@dataclass
class Report:
    """Problems that a check reports.

    Attributes:
        findings: One for each thing that is wrong: file, field, what, and what to do.
        notes: What could not be checked, and why.
        records: Records that were read.
        documents: Files of documents that were read.
    """

    findings: list[UserError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    documents: int = 0

    def add(self, file: Path, where: str | None, what: str, fix: str) -> None:
        """Add a finding."""
        self.findings.append(UserError(what, file=relative(file), field=where, fix=fix))


def check_integrity(
    catalogue: Catalogue, results: Path = RESULTS, archived: Path | None = None
) -> Report:
    """Check all published records, the manifest, and the files that are generated from them.

    Every record is checked alone, so the time grows with their number; of each a few values are
    stored for what can only be seen across records.

    Args:
        catalogue: The catalogue of the checkout.
        results: The folder of published records.
        archived: A manifest that was archived elsewhere, such as with a release.

    Raises:
        UserError: when there is no such folder, or no such archived manifest.
    """
    if not results.is_dir():
        raise UserError("there is no such folder", file=results, fix="check the path")
    _check_line_ends(results)
    earlier = [] if archived is None else [(str(archived), read_manifest(archived))]
    report = Report()
    paths = [path for path in evidence(results) if is_record(path)]
    seen = _Seen()
    for path in paths:
        _check_record(path, results, catalogue, seen, report)
    for path, where, what in seen.findings():
        report.add(path, where, what, RESTORE)
    _check_manifests(results, earlier, report)
    generated = _check_generated(catalogue, results, report)
    _check_places(results, paths, generated, report)
    report.findings.sort(key=lambda finding: str(finding.file))
    return report


def _check_line_ends(results: Path) -> None:
    """Refuse a checkout whose lines were ended anew: each file of it would look edited.

    Raises:
        UserError: naming the setting of git that does it.
    """
    manifest = results / MANIFEST
    if manifest.is_file() and b"\r\n" in manifest.read_bytes():
        raise UserError(
            "its lines end with CRLF, so that no published file has the bytes of its digest",
            file=relative(manifest),
            fix="clone the repository again, with: git clone -c core.autocrlf=input ADDRESS",
        )


def describe_report(report: Report) -> str:
    """A line for each finding and each note, and a summary."""
    lines = [str(finding) for finding in report.findings]
    lines += [f"note: {note}" for note in report.notes]
    files = {finding.file for finding in report.findings}
    counted = f"{report.records} records and {report.documents} files of documents"
    count = f"{len(lines) - len(report.notes)} findings in {len(files)} files"
    return "\n".join([*lines, f"{counted}: {count if files else 'no findings'}"])


# --- one record ----------------------------------------------------------------------------------


def _check_record(
    path: Path, results: Path, catalogue: Catalogue, seen: _Seen, report: Report
) -> None:
    report.records += 1
    content = _read(path, report)
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in tuple(RECORD_SCHEMAS):
        if content is not None:
            report.add(path, "kind", "no record of a known kind", RESTORE)
        return
    documents = _read_documents(path, report) if kind == "score" else None
    try:
        intact = result_digest(content) == content.get("result_sha256")
    except _BROKEN:
        intact = False
    if not intact:
        report.add(path, "result_sha256", "not the digest of the result: it was edited", RESTORE)
    broken = list(problems(content, RECORD_SCHEMAS[kind], relative(path)))
    report.findings += broken
    if broken:
        return
    record: MeasuredRecord = content
    for where, what in _misplaced(path, record, results):
        report.add(path, where, what, RESTORE)
    try:
        for where, what in contradictions(record, documents, catalogue):
            beside = where.partition(".")[0] == "documents"
            report.add(documents_file(path) if beside else path, where, what, RESTORE)
    except _BROKEN as error:
        what = f"data of another shape ({type(error).__name__}: {error})"
        report.add(path, "raw" if kind == "performance" else None, what, RESTORE)
    seen.add(path, record, documents or [])


def _read_documents(path: Path, report: Report) -> list[DocumentRow]:
    file = documents_file(path)
    if not file.exists():
        report.add(file, None, "the documents of a record are missing", RESTORE)
        return []
    report.documents += 1
    documents = _read(file, report)
    if isinstance(documents, list):
        return documents
    if documents is not None:
        report.add(file, None, "not a list of documents", RESTORE)
    return []


def _read(path: Path, report: Report) -> Any:
    """The value of a JSON file that has one spelling: no key twice, no NaN; else None."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError("a key is there twice")
        return value

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is no number")
        return value

    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(
            text, object_pairs_hook=once, parse_constant=_no_constant, parse_float=number
        )
    except (ValueError, RecursionError) as error:
        report.add(path, None, f"malformed JSON: {error}", RESTORE)
        return None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _misplaced(
    path: Path, record: MeasuredRecord, results: Path
) -> Iterator[tuple[str | None, str]]:
    folder, expected = cell_folder(record, results), destination(record, results)
    if path.parent != folder:
        variant = [] if record["kind"] == "equivalence" else [record["variant"]["id"]]
        ids = "/".join([record["model"]["id"], *variant, record["hardware"]["id"]])
        yield "(place)", f"its model, variant, machine, protocol and task belong elsewhere: {ids}"
    if path.name != expected.name:
        yield "(name)", f"its time and its digest make the name {expected.name}"


# --- across records ------------------------------------------------------------------------------


class _Seen:
    """A few values of each record, to compare it with the others."""

    def __init__(self) -> None:
        self._results: dict[tuple[object, ...], list[Path]] = defaultdict(list)
        self._times: dict[tuple[object, ...], list[Path]] = defaultdict(list)
        self._weights: dict[str, dict[tuple[object, ...], list[Path]]] = {}
        self._rows: dict[tuple[str, str], dict[tuple[str, int], tuple[str, Path]]] = {}
        self._differing: list[tuple[Path, str, str]] = []

    def add(self, path: Path, record: MeasuredRecord, documents: Sequence[DocumentRow]) -> None:
        """Store what is needed of a record that fits its schema."""
        # An honest repeat may give the same result, but not as the same evaluation; and never the
        # same times.
        measured: tuple[object, ...] = ()
        if record["kind"] != "performance":
            measured = (record["sequence"], record["duration_s"])
        if record["state"] == "ok":
            self._results[record["kind"], record["result_sha256"], *measured].append(path)
        cell = cell_key(record)
        # Stored generations may be scored again: then only the time of scoring differs.
        scored = None
        if record["kind"] == "score" and "scored" in record:
            scored = record["scored"]["started"]
        self._times[*cell, record["started"], scored].append(path)
        variants = (
            list(record["variants"].values())
            if record["kind"] == "equivalence"
            else [record["variant"]]
        )
        for variant in variants:
            facts = (variant["id"], variant["size_bytes"], record["model"]["sha256"])
            by_facts = self._weights.setdefault(variant["sha256"], {})
            by_facts.setdefault(facts, []).append(path)
        if record["kind"] == "score":
            self._add_documents(path, record, documents)

    def _add_documents(
        self, path: Path, record: ScoreRecord, documents: Sequence[DocumentRow]
    ) -> None:
        group = record["dataset"]["sha256"], record["task"]["config_sha256"]
        rows = self._rows.setdefault(group, {})
        for index, row in enumerate(documents):
            try:
                key, document = (row.get("part", ""), row["index"]), row["document"]
                known, first = rows.setdefault(key, (document, path))
            except (KeyError, TypeError, AttributeError):
                continue  # already reported as malformed
            if known != document:
                what = f"the same row is {known} in {relative(first)}"
                self._differing.append((documents_file(path), f"documents.{index}.document", what))

    def findings(self) -> Iterator[tuple[Path, str, str]]:
        """File, field and what is wrong with it."""
        yield from self._differing
        for by_facts in self._weights.values():
            usual, *others = sorted(by_facts.values(), key=len, reverse=True)
            for paths in others:
                what = f"other facts of the same weights than in {relative(usual[0])}"
                yield from ((path, "variant", what) for path in paths)
        for groups, field_name, what in (
            (self._results, "result_sha256", "the same measurement as"),
            (self._times, "started", "begun at the same time as"),
        ):
            for paths in groups.values():
                for path in paths[1:]:
                    yield path, field_name, f"{what} {relative(paths[0])}"


# --- manifests -----------------------------------------------------------------------------------


def _check_manifests(results: Path, earlier: Sequence[tuple[str, Entries]], report: Report) -> None:
    path, files = results / MANIFEST, evidence(results)
    committed, notes = committed_manifests(results)
    report.notes += notes
    entries: Entries = {}
    if not path.exists() and files:
        report.add(path, None, "missing; nothing says which files were published", RESTORE)
    elif path.exists():
        try:
            entries = read_manifest(path)
        except UserError as error:
            report.findings.append(error)
        _check_listed(results, files, entries, report)
    for where, earlier_entries in [*committed, *earlier]:
        for name, what in changes(entries, earlier_entries):
            what_changed = f"its entry of {where} {what}: a published file never changes"
            report.add(path, f"files.{name}", what_changed, RESTORE)


def _check_listed(results: Path, files: Iterable[Path], entries: Entries, report: Report) -> None:
    missing = dict(entries)
    for file in files:
        entry = missing.pop(file.relative_to(results).as_posix(), None)
        if entry is None:
            report.add(file, None, f"not in {MANIFEST}: nobody published it", PUBLISH)
        elif entry != describe(file):
            report.add(file, None, f"not the file that {MANIFEST} names: it was edited", RESTORE)
    for name in missing:
        report.add(results / name, None, f"{MANIFEST} names it, but it is gone", RESTORE)


# --- the files of the folder ---------------------------------------------------------------------


def _check_generated(catalogue: Catalogue, results: Path, report: Report) -> set[Path]:
    """Compare the generated files with what the records give now; returns which they are."""
    with tempfile.TemporaryDirectory() as work:
        try:
            summarize_results(catalogue, results, Path(work))
        except (UserError, *_BROKEN) as error:
            report.notes.append(f"generated files were not compared: {error}")
            return set(_files(results)) - set(evidence(results))
        written = {results / path.relative_to(work): path for path in _files(Path(work))}
        # Files name records from the root of a checkout, wherever this folder lies.
        here = f"{relative(results)}/"
        for path, again in sorted(written.items()):
            expected = again.read_text(encoding="utf-8").replace(here, "results/")
            if not path.exists():
                report.add(path, None, "missing; it follows from the records", REGENERATE)
            elif path.read_bytes() != expected.encode():
                report.add(path, None, "does not follow from the records", REGENERATE)
    return set(written)


def _check_places(
    results: Path, records: Sequence[Path], generated: set[Path], report: Report
) -> None:
    """Find documents without a record, and files that belong to nothing."""
    documents = {documents_file(path) for path in records}
    known = {*records, *documents, *generated, results / MANIFEST, results / INDEX}
    for path in _files(results):
        if path in known or path.relative_to(results).as_posix() in WRITTEN_BY_HAND:
            continue
        if path.name.endswith(".documents.json"):
            report.add(path, None, "documents without a record", PUBLISH)
        else:
            report.add(path, None, "no file of a release", "delete it")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
