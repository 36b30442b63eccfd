"""Records on disk: their kinds, where each lies, reading them, and which one stands for a cell."""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import canonical_json, digest, parse_json, read_json, sha256_bytes
from slm_benchmark.common.parallel import parallel_map
from slm_benchmark.common.paths import RESULTS, relative
from slm_benchmark.common.schemas import item_check, schema, validate_quickly
from slm_benchmark.records.provenance import NOT_A_RESULT, result_digest
from slm_benchmark.records.types import DocumentRow, Freeform, MeasuredRecord, ScoreRecord

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
    records: list[Path] = []
    # A model's summaries lie in its folder, its records deeper.
    highest = str(results).count(os.sep) + 2
    for folder, folders, names in os.walk(results):
        folders.sort()
        if folder.count(os.sep) >= highest:
            # Half of the files lie beside a record: names are looked at before paths are made.
            chosen = sorted(n for n in names if n.endswith(".json") and not n.endswith(BESIDE))
            records += filter(is_record, (Path(folder, name) for name in chosen))
    return records


def is_record(path: Path) -> bool:
    """Whether a JSON file holds a measurement's record.

    Its documents, stored generations and profiling sessions
    (``sessions/{hardware}/{protocol}.json``) lie beside records and are none.
    """
    return not path.name.endswith(BESIDE) and path.parts[-3:-2] != ("sessions",)


def documents_file(record: Path) -> Path:
    """The file of per-document values beside a record."""
    return record.with_name(f"{record.stem}.documents.json")


def cell_folder(record: MeasuredRecord, results: Path) -> Path:
    """Folder of all published runs of what a record is about.

    That is a model for equivalence, a variant of it for fidelity, and otherwise a variant on a
    machine: its performance, or a task under a protocol and the noise of its score.
    """
    return Path(results, *_cell_names(record))


def _cell_names(record: MeasuredRecord) -> tuple[str, ...]:
    """The names of the folders that lead to a record, below the folder of all results."""
    model = record["model"]["id"]
    if record["kind"] == "equivalence":
        return model, record["kind"]
    variant = record["variant"]["id"]
    if record["kind"] == "fidelity":
        return model, variant, record["kind"]
    hardware = record["hardware"]["id"]
    if record["kind"] == "performance":
        return model, variant, hardware, record["kind"]
    protocol, task = record["protocol"]["id"], record["task"]["id"]
    if record["kind"] == "noise":
        return model, variant, hardware, protocol, record["kind"], task
    return model, variant, hardware, protocol, task


def cell_key(record: MeasuredRecord) -> tuple[Path, str]:
    """What a record is about: its folder and its protocol.

    The profiles of a variant on a machine lie in one folder under all protocols.
    """
    return cell_folder(record, Path()), _protocol(record)


def _protocol(record: MeasuredRecord) -> str:
    if record["kind"] == "equivalence" or record["kind"] == "fidelity":
        return ""
    return record["protocol"]["id"]


def read_run(path: Path) -> MeasuredRecord:
    """Read a record of any kind and check it.

    Raises:
        UserError: when the record breaks its schema, or its result was edited by hand.
    """
    record: MeasuredRecord = read_json(path)
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
    reduced: Callable[[MeasuredRecord], MeasuredRecord] | None = None,
) -> list[tuple[Path, MeasuredRecord]]:
    """The record that stands for each cell: a run of this checkout, else the newest published.

    Many records are read by several processes.

    Args:
        paths: Records of any kind.
        kinds: Of which kinds; the others are left out.
        reduced: What to keep of a record, such as `Slim`; None = all. It gets records whose common
            blocks may be one object, which nobody may change.

    Raises:
        UserError: as `read_run`, for the first of the paths that is at fault.
    """
    every = list(paths)
    chosen: dict[_Cell, tuple[Path, MeasuredRecord]] = {}
    read_whole = SharedReader() if reduced else read_run

    def read(path: Path) -> tuple[_Cell, MeasuredRecord] | None:
        record = read_whole(path)
        if record["kind"] not in kinds:
            return None
        cell = (_cell_names(record), _protocol(record))
        return cell, reduced(record) if reduced else record

    for path, read_cell in zip(every, parallel_map(read, every), strict=True):
        if read_cell is not None:
            cell, record = read_cell
            if cell not in chosen or _age(path, record) > _age(*chosen[cell]):
                chosen[cell] = (path, record)
    return [chosen[cell] for cell in sorted(chosen)]


_Cell = tuple[tuple[str, ...], str]


def _age(path: Path, record: MeasuredRecord) -> tuple[bool, str, str]:
    """By which of several records of a cell the last one stands for it."""
    # Stored generations may be scored again: then the later scoring stands.
    scored = ""
    if record["kind"] == "score" and "scored" in record:
        scored = record["scored"]["started"]
    return relative(path).startswith("runs/"), record["started"], scored


class SharedReader:
    """Reads scores as `read_run` does, but what many of them have in common only once.

    Most of a record's text stands in others too: it tells of the model, the weights, the machine
    and the environment. So what an item's text turned out to be is cached: its value, that it fits
    the schema, and its canonical spelling, of which the digest is made. Equal items of several
    records are one object, which nobody may change.

    Only a record without fault is put together so. All else is for `read_run`: errors, records of
    other kinds, and files that are laid out in another way.
    """

    CACHED = 8192
    """Items that are cached at most; a record has some twenty."""

    def __init__(self) -> None:
        self._known: dict[str, _Item] = {}
        self._required = frozenset(schema(RECORD_SCHEMAS["score"])["required"])
        self._fits = item_check(RECORD_SCHEMAS["score"])

    def __call__(self, path: Path) -> MeasuredRecord:
        """The record at a path.

        Raises:
            UserError: as `read_run`.
        """
        try:
            record = self._assembled(path.read_bytes().decode())
        except (OSError, ValueError):
            record = None
        return read_run(path) if record is None else record

    def _assembled(self, text: str) -> ScoreRecord | None:
        """The score that a text spells; None where that does not follow from its items.

        Raises:
            ValueError: where the text is not laid out as `json_text` does.
        """
        parts = _parts(text)
        if 'kind": "score"' not in parts:
            return None
        record: Freeform = {}
        result: dict[str, str] = {}
        new: dict[str, _Item] = {}
        for part in parts:
            item = self._known.get(part)
            if item is None:
                item = new[part] = _item(part)
            key, value, spelled = item
            record[key] = value
            if key not in NOT_A_RESULT:
                result[key] = spelled
        if len(record) < len(parts) or not record.keys() >= self._required:
            return None
        if not self._fits({key: value for key, value, _ in new.values()}):
            return None
        # Of an error not all is part of the result.
        if record["error"] or _digest(result) != record["result_sha256"]:
            return None
        if len(self._known) > self.CACHED:
            self._known.clear()
        self._known |= new
        return cast(ScoreRecord, record)


class _Item(NamedTuple):
    """An item of a record: its key, its value, and both in canonical JSON."""

    key: str
    value: Any
    spelled: str


def _parts(text: str) -> list[str]:
    """The texts of a record's items, each without the quote that it begins with.

    They are cut where `json_text` begins the next one. If each of them is an item in JSON by
    itself, then the text is an object in JSON, of these items.

    Raises:
        ValueError: where the text does not begin and end as `json_text` does.
    """
    text = text.rstrip("\n")
    start, end = '{\n  "', "\n}"
    if not (text.startswith(start) and text.endswith(end)):
        raise ValueError("not laid out as a record is")
    return text[len(start) : -len(end)].split(',\n  "')


def _item(part: str) -> _Item:
    """The item that a text of `_parts` spells.

    Raises:
        ValueError: where it is not exactly one item in JSON.
    """
    alone = parse_json(f'{{"{part}}}')
    ((key, value),) = alone.items()
    return _Item(key, value, canonical_json(alone)[1:-1])


def _digest(result: Mapping[str, str]) -> str:
    """`result_digest` of a record without an error.

    Args:
        result: Key → item in canonical JSON, of all that is part of the result.
    """
    spelled = ",".join(result[key] for key in sorted(result))
    return sha256_bytes(f"{{{spelled}}}".encode())


class Slim:
    """Reduces records to what tables are made of, so that a hundred thousand of them fit in memory.

    What says where and how a record came about is left out, and so are repetitions, scores beside
    the headline and tracebacks. Equal blocks of several records become one object, which nobody may
    change.
    """

    LEFT_OUT = frozenset(
        ("environment", "workflow", "command", "limits", "latency_distribution_ms")
    )
    """Whole blocks that no table needs."""

    ALIKE = ("model", "variant", "dataset", "task", "protocol", "engine", "hardware", "checks")
    """Blocks that many records have in common."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}

    def __call__(self, record: MeasuredRecord) -> MeasuredRecord:
        """What is kept of a record; the record itself stays as it is."""
        slim: Freeform = {key: value for key, value in record.items() if key not in self.LEFT_OUT}
        if "hardware" in slim:
            slim["hardware"] = {name: slim["hardware"][name] for name in ("id", "fingerprint")}
        if slim.get("error"):
            slim["error"] = {name: slim["error"][name] for name in ("type", "message")}
        if slim["kind"] == "score":
            slim["scores"] = [score for score in slim["scores"] if score["headline"]]
        if slim["kind"] == "performance":
            slim["raw"] = _first_point(slim["raw"])
        for name in self.ALIKE:
            if name in slim:
                # Its bytes tell 1, 1.0 and true apart, as equality does not.
                slim[name] = self._known.setdefault(marshal.dumps(slim[name], 2), slim[name])
        return cast(MeasuredRecord, slim)


def _first_point(raw: Freeform) -> Freeform:
    """Of a profile's repetitions the first point of the first process, which is the reference."""
    if "processes" not in raw:
        # The first version of the method measured that point alone.
        names = ("prompt_tokens", "output_tokens", "energy_source")
        return {name: raw[name] for name in names if name in raw}
    return {"processes": [{"points": process["points"][:1]} for process in raw["processes"][:1]]}


def documents_digest(documents: Sequence[Any]) -> str | None:
    """The ``documents_sha256`` of a record with these documents; None for one without any."""
    return digest(documents) if documents else None


def read_documents(path: Path, record: Mapping[str, Any]) -> list[DocumentRow]:
    """The values per document that lie beside a score.

    Args:
        path: File of the record.
        record: The record.

    Raises:
        UserError: when they are missing, or are not those that the record names.
    """
    file, expected = documents_file(path), record["documents_sha256"]
    if expected is None and not file.exists():
        return []
    documents: list[DocumentRow] = read_json(file)
    if documents_digest(documents) != expected:
        raise UserError(
            f"{file.name} does not match the record",
            file=relative(file),
            field="documents_sha256",
            value=expected,
            fix="restore both files from the repository, or measure the cell again",
        )
    return documents


def headline(record: Mapping[str, Any]) -> str:
    """A cell's main score in words, or its state."""
    for score in record["scores"]:
        if score["headline"] and score["value"] is not None:
            points = record["task"].get("unit") == "points"
            shown = f"{score['value']:.1f}" if points else f"{100 * score['value']:.1f} %"
            return f"{score['metric']} {shown} (n = {score['n']})"
    return f"{record['state']}: {record['reason']}" if "reason" in record else str(record["state"])
