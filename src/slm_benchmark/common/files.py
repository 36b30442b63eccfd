"""Atomic writes, content digests and strict YAML: the file habits that everything relies on."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from slm_benchmark.common.errors import RunEnvironmentError, UserError


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` as lowercase hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes as lowercase hex, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``."""
    return sha256_bytes(canonical_json(value).encode())


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable place into one clear, retryable error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunEnvironmentError(
                "no space left on the disk; nothing half-written remains",
                file=path,
                fix="free some space and run the same command again",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise RunEnvironmentError(
                f"cannot write here: {error.strerror}", file=path, fix="make the folder writable"
            ) from error
        raise


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    What a killed process left of an earlier try is removed first.

    Raises:
        RunEnvironmentError: when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            left.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def atomic_write_text(path: Path | str, text: str) -> None:
    """`atomic_write_bytes` for text in UTF-8."""
    atomic_write_bytes(path, text.encode())


def write_text(path: Path | str, text: str) -> None:
    """Write a file inside an `atomic_directory`, with which it appears."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def atomic_write_json(path: Path | str, value: Any, depth: int | None = None) -> None:
    """Write readable JSON atomically, as `json_text` spells it."""
    atomic_write_text(path, json_text(value, depth))


def json_text(value: Any, depth: int | None = None) -> str:
    """Readable JSON: two spaces of indent, keys in their given order.

    Args:
        value: What to write; all keys are text.
        depth: How many levels of nesting have a line for each of their items; what lies deeper
            stands on the line of its item. None = all levels. Files of many megabytes are written
            some five times faster, and still compared line by line.
    """
    if depth is None:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return _lines(value, depth, "\n") + "\n"


_ON_ONE_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
"""Written in C, unlike the encoder that indents."""


def _lines(value: Any, depth: int, newline: str) -> str:
    """JSON of ``value`` with a line for each item of the upper ``depth`` levels."""
    if depth == 0 or not value or not isinstance(value, dict | list | tuple):
        return _ON_ONE_LINE.encode(value)
    inner = f"{newline}  "
    if isinstance(value, dict):
        items = [
            f"{_ON_ONE_LINE.encode(key)}: {_lines(item, depth - 1, inner)}"
            for key, item in value.items()
        ]
        return f"{{{inner}{f',{inner}'.join(items)}{newline}}}"
    items = [_lines(item, depth - 1, inner) for item in value]
    return f"[{inner}{f',{inner}'.join(items)}{newline}]"


@contextlib.contextmanager
def atomic_directory(target: Path | str) -> Iterator[Path]:
    """A folder that appears whole or not at all.

    Yields an empty working folder beside ``target``; on success it takes the place of
    ``target``, on any error it is removed. A folder left by a killed process is removed first.
    """
    target = Path(target)
    work = target.with_name(f".{target.name}.part")
    with disk_faults(target):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield work
            # Side by side: the disk takes many at once in about the time of one.
            with ThreadPoolExecutor() as threads:
                written = [Path(folder, n) for folder, _, names in os.walk(work) for n in names]
                list(threads.map(_sync, written))
            if target.exists():
                shutil.rmtree(target)
            os.replace(work, target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses keys given twice (the standard loader keeps the last) or not text."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same through libyaml, which some systems lack; it reads ten times as fast."""


def _strict_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        problem = None
        if not isinstance(key, str):
            problem = f"the key {key!r} is not text; put it in quotes"
        elif key in seen:
            problem = f"the key {key!r} is given twice"
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


for _loader in (_StrictLoader, _FastLoader):
    _loader.add_constructor("tag:yaml.org,2002:map", _strict_mapping)


def read_yaml(path: Path | str) -> Any:
    """Parse a YAML file of plain data: text, finite numbers, true, false, null, lists and maps.

    Raises:
        UserError: when the file is missing, is not UTF-8, is malformed (with the line and column),
            or holds something that JSON has no word for, such as a date or NaN.
    """
    path = Path(path)
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"))
        canonical_json(data).encode()
        return data
    except (FileNotFoundError, IsADirectoryError):
        raise UserError("there is no such file", file=path, fix="check the path") from None
    except UnicodeError as error:
        raise UserError(f"not UTF-8: {error}", file=path, fix="save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}" if mark else None
        raise UserError(
            f"malformed YAML: {error.problem}", file=path, field=line, fix="correct that line"
        ) from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"malformed YAML: {problem}", file=path, fix="correct the file") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets these through for a value that its tag cannot hold, such as 2026-13-45, and
        # canonical_json raises them for dates, NaN and anchors that contain themselves.
        raise UserError(
            f"not plain data: {error}", file=path, fix="write text, numbers, lists and maps only"
        ) from error


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_FastLoader)
    except yaml.YAMLError:
        # Python's reader says better where the fault is.
        return yaml.load(text, Loader=_StrictLoader)


def read_json(path: Path | str) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: when the file is missing or malformed.
    """
    path = Path(path)
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError("there is no such file", file=path, fix="check the path") from None
    except ValueError as error:
        raise UserError(
            f"malformed JSON: {error}", file=path, fix="restore the file, or make it again"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text spells, in UTF-8 where it is given as bytes.

    Raises:
        ValueError: for anything else, NaN and Infinity included.
    """
    return _DECODER.decode(text if isinstance(text, str) else text.decode())


def _no_number(name: str) -> float:
    """Refuse NaN and Infinity, which Python writes and JSON does not have."""
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
