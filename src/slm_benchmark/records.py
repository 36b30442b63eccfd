"""Records on disk: their kinds, where each lies, reading them, and which one stands for a cell."""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from slm_benchmark.errors import UserError
from slm_benchmark.files import digest, read_json
from slm_benchmark.parallel import spread
from slm_benchmark.paths import RESULTS, relative
from slm_benchmark.provenance import result_digest
from slm_benchmark.schemas import validate_quickly

Record = dict[str, Any]

RECORD_SCHEMAS = {
    "score": "cell",
    "performance": "performance",
    "equivalence": "equivalence",
    "fidelity": "fidelity",
    "noise": "noise",
}
"""Schema of each kind of record."""

BESIDE = (".documents.json", ".answers.json")
"""How files end that lie beside a record and are none."""

ROW_KINDS = ("score", "performance")
"""Kinds of which the rows of the leaderboard consist."""


def published_records(results: Path = RESULTS) -> list[Path]:
    """All records of results/, of every kind; summaries and per-document values are none."""
    found: list[Path] = []
    for name, folders, names in os.walk(results):
        folders.sort()
        folder = Path(name)
        # A model's summaries lie in its folder, its records deeper.
        if len(folder.parts) >= len(results.parts) + 2:
            # Half of the files lie beside a record: names are looked at before paths are made.
            chosen = sorted(n for n in names if n.endswith(".json") and not n.endswith(BESIDE))
            found += filter(is_record, map(folder.joinpath, chosen))
    return found


def is_record(path: Path) -> bool:
    """Whether a JSON file holds a measurement's record.

    Its documents, kept answers and profiling sessions (``sessions/{hardware}/{protocol}.json``)
    lie beside records and are none.
    """
    return not path.name.endswith(BESIDE) and path.parts[-3:-2] != ("sessions",)


def documents_file(record: Path) -> Path:
    """The file of per-document values beside a record."""
    return record.with_name(f"{record.stem}.documents.json")


def cell_folder(record: Record, results: Path) -> Path:
    """Folder of all published runs of what a record is about.

    That is a model for equivalence, a variant of it for fidelity, and otherwise a variant on a
    machine: its performance, or a task under a protocol and the noise of its score.
    """
    folder = Path(results, record["model"]["id"])
    kind = str(record["kind"])
    if kind == "equivalence":
        return folder / kind
    folder /= str(record["variant"]["id"])
    if kind == "fidelity":
        return folder / kind
    folder /= str(record["hardware"]["id"])
    if kind == "performance":
        return folder / kind
    protocol, task = record["protocol"]["id"], record["task"]["id"]
    return folder.joinpath(protocol, *(["noise"] if kind == "noise" else []), task)


def cell_key(record: Record) -> tuple[Path, str]:
    """What a record is about: its folder and its protocol.

    The profiles of a variant on a machine lie in one folder under all protocols.
    """
    return cell_folder(record, Path()), record.get("protocol", {}).get("id", "")


def read_run(path: Path) -> Record:
    """Read a record of any kind and check it.

    Raises:
        UserError: when the record breaks its schema, or its result was edited by hand.
    """
    record: Record = read_json(path)
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind not in tuple(RECORD_SCHEMAS):
        raise UserError(
            f"no record of a kind that is known here ({', '.join(RECORD_SCHEMAS)})",
            file=relative(path),
            field="kind",
            value=kind,
            fix="restore the file from the repository, or measure the cell again",
        )
    validate_quickly(record, RECORD_SCHEMAS[kind], relative(path))
    if result_digest(record) != record["result_sha256"]:
        raise UserError(
            "the result does not match its digest: the record was edited",
            file=relative(path),
            field="result_sha256",
            value=record["result_sha256"],
            fix="restore the file from the repository, or measure the cell again",
        )
    return record


def current_records(
    paths: Iterable[Path],
    kinds: Collection[str] = ROW_KINDS,
    reduced: Callable[[Record], Record] | None = None,
) -> list[tuple[Path, Record]]:
    """The record that stands for each cell: a run of this checkout, else the newest published.

    Many records are read by several processes.

    Args:
        paths: Records of any kind.
        kinds: Of which kinds; the others are left out.
        reduced: What to keep of a record, such as `Lean`; None = all.

    Raises:
        UserError: as `read_run`, for the first of the paths that is at fault.
    """
    every = list(paths)
    chosen: dict[_Cell, tuple[_Age, Path, Record]] = {}

    def read(path: Path) -> tuple[_Cell, _Age, Record] | None:
        record = read_run(path)
        if record["kind"] not in kinds:
            return None
        folder, protocol = cell_key(record)
        # Kept answers may be scored again: then the later scoring stands.
        scored = record.get("scored", {}).get("started", "")
        age = (relative(path).startswith("runs/"), record["started"], scored)
        return (folder.parts, protocol), age, reduced(record) if reduced else record

    for path, found in zip(every, spread(read, every), strict=True):
        if found is not None:
            cell, age, record = found
            if cell not in chosen or age > chosen[cell][0]:
                chosen[cell] = (age, path, record)
    return [(path, record) for _, path, record in (chosen[cell] for cell in sorted(chosen))]


_Cell = tuple[tuple[str, ...], str]
_Age = tuple[bool, str, str]


class Lean:
    """Reduces records to what tables are made of, so that a hundred thousand of them fit in memory.

    What says where and how a record came about is left out, and so are repetitions, scores beside
    the headline and tracebacks. Equal blocks of several records become one object, which nobody may
    change.
    """

    LEFT_OUT = ("environment", "workflow", "command", "limits", "latency_distribution_ms")
    """Whole blocks that no table needs."""

    ALIKE = ("model", "variant", "dataset", "task", "protocol", "engine", "hardware", "checks")
    """Blocks that many records have in common."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}

    def __call__(self, record: Record) -> Record:
        """What is kept of a record; the record itself stays as it is."""
        kept = {key: value for key, value in record.items() if key not in self.LEFT_OUT}
        if "hardware" in kept:
            kept["hardware"] = {name: kept["hardware"][name] for name in ("id", "fingerprint")}
        if kept.get("error"):
            kept["error"] = {name: kept["error"][name] for name in ("type", "message")}
        if kept["kind"] == "score":
            kept["scores"] = [score for score in kept["scores"] if score["headline"]]
        if kept["kind"] == "performance":
            kept["raw"] = _first_point(kept["raw"])
        for name in self.ALIKE:
            if name in kept:
                # Its bytes tell 1, 1.0 and true apart, as equality does not.
                kept[name] = self._known.setdefault(marshal.dumps(kept[name], 2), kept[name])
        return kept


def _first_point(raw: Record) -> Record:
    """Of a profile's repetitions the first point of the first process, which is the reference."""
    if "processes" not in raw:
        # The first version of the method measured that point alone.
        names = ("prompt_tokens", "output_tokens", "energy_source")
        return {name: raw[name] for name in names if name in raw}
    return {"processes": [{"points": found["points"][:1]} for found in raw["processes"][:1]]}


def read_documents(path: Path, record: Record) -> list[Record]:
    """The values per document that lie beside a record.

    Raises:
        UserError: when they are missing, or are not those that the record names.
    """
    expected = record["documents_sha256"]
    if expected is None:
        return []
    file = documents_file(path)
    documents: list[Record] = read_json(file)
    if digest(documents) != expected:
        raise UserError(
            "not the documents that the record names",
            file=relative(file),
            field="documents_sha256",
            value=expected,
            fix="restore both files from the repository",
        )
    return documents
