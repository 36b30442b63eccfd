"""The rows of a file, read so that nothing is lost, and what is odd about the rows of a split."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import canonical_json, digest

Row = dict[str, Any]
Refuse = Callable[[str, str], UserError]
"""Makes the error of a file from what is wrong and how to correct it."""

IDS = ("id", "task_id", "question_id", "doc_id", "example_id", "uid", "qid", "guid")
"""Columns that number the documents of a set."""

_OPTIONS = re.compile(r"(?:^|\.)(?:choices|options|endings)(?:\.text|\.choices)?$")
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "a zip archive"}
_OTHER_ENCODINGS |= {b"\x1f\x8b": "gzip", b"PAR1": "parquet"}


class _Unreadable(ValueError):
    """A line that is no JSON object, or one that does not say one thing only."""


def json_lines(path: Path, refuse: Refuse, uniform: bool = True) -> list[Row]:
    """The rows of a JSON-lines file in UTF-8.

    A byte-order mark, CRLF and CR at the ends of lines, and blank lines are no part of the rows.

    Args:
        path: The file.
        refuse: Makes the error.
        uniform: Whether rows must have the same fields and types; a reader may know better.

    Raises:
        UserError: made by ``refuse``; names the line, and the field where one is at fault.
    """
    rows: dict[int, Row] = {}
    # Not str.splitlines: it also cuts at separators that JSON allows inside a string.
    lines = re.split("\r\n|\r|\n", _text(path, refuse))
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix("\ufeff")
        if line.strip():
            try:
                rows[number] = _object(line)
            except _Unreadable as error:
                cut = number == len(lines) and not line.rstrip().endswith("}")
                fix = "the file was cut off: fetch it again" if cut else _FIX
                raise refuse(f"line {number} {error}", fix) from error
    if uniform:
        check_shapes(rows, refuse)
    return list(rows.values())


_FIX = "write one JSON object per line"


def _text(path: Path, refuse: Refuse) -> str:
    data = path.read_bytes()
    for start, name in _OTHER_ENCODINGS.items():
        if data.startswith(start):
            raise refuse(f"this is {name}, not JSON lines in UTF-8", "save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise refuse(
            f"line {number} is not UTF-8: it has the byte 0x{data[error.start]:02X}",
            "save the file as UTF-8",
        ) from error


def _object(line: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise _Unreadable(f"is not a JSON object: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise _Unreadable("is nested too deeply") from error
    if not isinstance(row, dict):
        raise _Unreadable("is not a JSON object")
    for path, value in _leaves(row):
        if isinstance(value, float) and not math.isfinite(value):
            raise _Unreadable(f"has {value} in {path}, which is no JSON value")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _Unreadable(f"has a number in {path} that needs more than 64 bits")
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise _Unreadable(f"has half of a surrogate pair in {path}, which is no character")
    return row


def _distinct(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unreadable(f"has the field {twice!r} twice")
    return row


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no list and no mapping, with its path, such as ``choices.text[2]``."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _leaves(member, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _leaves(member, f"{path}[{number}]")
    else:
        yield path, value


def check_shapes(rows: Mapping[int, Row], refuse: Refuse) -> None:
    """Refuse rows that have other fields, or values of another type, than the rows before them.

    A table would drop a field that the first row lacks, and fill one that a later row lacks.

    Args:
        rows: Number of the line → row.
        refuse: Makes the error.
    """
    types: dict[str, tuple[str, int]] = {}
    first = next(iter(rows), 0)
    for number, row in rows.items():
        for name in rows[first].keys() ^ row.keys():
            lacking, having = (number, first) if name in rows[first] else (first, number)
            raise refuse(
                f"line {lacking} lacks the field {name!r}, which line {having} has",
                "write every field in every row; null where there is no value",
            )
        for path, kind in _types(row):
            known, before = types.setdefault(path, (kind, number))
            if kind != known:
                raise refuse(
                    f"line {number} has {kind} in {path}, where line {before} has {known}",
                    "write one type of value in this field",
                )


def _types(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The type of each value but null, by a path that all elements of a list share."""
    if value is None:
        return
    if path:
        yield path, _type_name(value)
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _types(member, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for member in value:
            yield from _types(member, f"{path}[]")


def _type_name(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "a list" if isinstance(value, list) else "a mapping")


@dataclass(frozen=True)
class Oddity:
    """Something odd about documents that does not keep a task from reading them.

    Attributes:
        what: The oddity, such as "repeats an earlier row".
        field: Path of the field; None where it is the whole row.
        rows: The rows that have it, counted from 1.
    """

    what: str
    field: str | None
    rows: tuple[int, ...]

    def __str__(self) -> str:
        field = f", {self.field}" if self.field else ""
        more = f" and {len(self.rows) - 1} more" if len(self.rows) > 1 else ""
        return f"row {self.rows[0]}{more}{field}: {self.what}"


def oddities(rows: Sequence[Row]) -> list[Oddity]:
    """What is odd about the rows of a split; published sets have some of it too.

    Found are rows that repeat an earlier row, ids that come twice, equal options, and texts with CR
    line ends, invisible characters of no width or control characters.
    """
    rows_by_oddity: dict[tuple[str, str | None], list[int]] = {}

    def note(number: int, what: str, field: str | None) -> None:
        numbers = rows_by_oddity.setdefault((what, field), [])
        if number not in numbers[-1:]:
            numbers.append(number)

    seen: set[str] = set()
    identities: dict[str, set[str]] = {}
    for number, row in enumerate(rows, start=1):
        content = digest(row)
        if content in seen:
            note(number, "repeats an earlier row", None)
        elif (name := _id_column(row)) is not None:
            identity = canonical_json(row[name])
            if identity in identities.setdefault(name, set()):
                note(number, "has the id of an earlier row", name)
            identities[name].add(identity)
        seen.add(content)
        for path, value in _leaves(row):
            if isinstance(value, str) and (what := odd_characters(value)):
                note(number, what, re.sub(r"\[\d+\]", "[]", path))
        for path, options in _option_lists(row):
            if len({comparable(option) for option in options}) < len(options):
                note(number, "has equal options", path)
    return [
        Oddity(what, field, tuple(numbers)) for (what, field), numbers in rows_by_oddity.items()
    ]


def _id_column(row: Row) -> str | None:
    return next((name for name in IDS if row.get(name) is not None), None)


def _option_lists(value: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _option_lists(member, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and _OPTIONS.search(path):
        yield path, [member for member in value if isinstance(member, str)]


def odd_characters(text: str) -> str | None:
    """What a text holds that a reader does not see and a model does; None for an ordinary text.

    Joiners that scripts are written with are ordinary.
    """
    if text.isascii() and text.isprintable():
        return None
    if re.search("[\u200b\u2060\ufeff\u00ad]", text):
        return "has an invisible character of no width"
    if any(unicodedata.category(character) == "Cc" for character in re.sub("[\t\n\r]", "", text)):
        return "has a control character"
    return "has line ends of Windows (CR)" if "\r" in text else None


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or white space, marks of no width and controls."""
    return all(
        character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text
    )


def comparable(text: str) -> str:
    """A text as a reader compares it: composed, without white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def refuse_same_ids(split: str, odd: Iterable[Oddity], refuse: Refuse) -> None:
    """Refuse a user's own rows in which two documents have one id."""
    for oddity in odd:
        if oddity.what == "has the id of an earlier row":
            raise refuse(f"{split}: {oddity}", "give each document an id of its own")
