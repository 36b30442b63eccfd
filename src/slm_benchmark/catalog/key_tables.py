"""The tables of keys in config/README.md, made from the schemas so that the two agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_text
from slm_benchmark.common.paths import CONFIG, relative
from slm_benchmark.common.schemas import schema, schema_file

FILES = (
    "config",
    "protocols",
    "profiling",
    "tasks",
    "datasets",
    "checks",
    "standings",
    "sandbox",
    "judges",
    "equivalence_config",
    "fidelity_config",
    "noise_config",
    "hardware",
    "model",
)
"""Schemas of the files that a person writes, in the order of the tables."""

START, END = "<!-- reference:start -->", "<!-- reference:end -->"


@dataclass(frozen=True)
class Row:
    """One key of a file: its dotted path, the kind of entry that has it, and what it holds."""

    key: str
    kind: str
    required: str
    values: str
    meaning: str

    def markdown(self) -> str:
        """The row of a Markdown table."""
        key = f"`{self.key}`{f' ({self.kind})' if self.kind else ''}"
        cells = (key, self.required, self.values, self.meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def rows(root: dict[str, Any], file: str) -> list[Row]:
    """The keys of the schema ``root``, in its order; a map's entries have the key ``<id>``.

    Args:
        root: A JSON Schema of a mapping.
        file: Where it comes from, for messages.

    Raises:
        UserError: when a key has no description.
    """
    return list(_rows(root, root, "", "", file))


def reference() -> str:
    """The tables of all files in `FILES`, as Markdown.

    Raises:
        UserError: when a key of a schema has no description.
    """
    parts = []
    for name in FILES:
        root = schema(name)
        parts += [
            f"### `{root['title']}`",
            root["description"],
            "| Key | Required | Values | Meaning |\n| --- | --- | --- | --- |\n"
            + "\n".join(row.markdown() for row in rows(root, relative(schema_file(name)))),
        ]
    return "\n\n".join(parts)


def update_readme(path: Path) -> bool:
    """Put `reference` between the markers of the file at ``path``.

    Returns:
        Whether the file had to change.

    Raises:
        UserError: when the file lacks a marker.
    """
    return fill_between(path, START, END, reference())


def fill_between(path: Path, start: str, end: str, content: str) -> bool:
    """Put ``content`` between two markers of the file at ``path``.

    Returns:
        Whether the file had to change.

    Raises:
        UserError: when the file lacks a marker.
    """
    text = path.read_text(encoding="utf-8")
    before, found_start, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise UserError(
            "a marker is missing", file=relative(path), fix=f"write {start} and {end} on lines"
        )
    updated = f"{before}{start}\n\n{content}\n\n{end}{after}"
    if updated == text:
        return False
    atomic_write_text(path, updated)
    return True


def _rows(
    node: dict[str, Any], root: dict[str, Any], prefix: str, kind: str, file: str
) -> Iterator[Row]:
    """Rows below ``node``: its keys, its entries if it is a map, its alternatives if any."""
    alternatives = [_resolve(other, root) for other in node.get("oneOf", ())]
    for other in alternatives:
        if "properties" in other:
            yield from _rows(other, root, prefix, _kind(other), file)
    for key, child in node.get("properties", {}).items():
        child, path = _resolve(child, root), f"{prefix}{key}"
        if "description" not in child:
            raise UserError(
                "the key has no description", file=file, field=path, fix="add a description"
            )
        required = "yes" if key in node.get("required", ()) else "no"
        if "default" in child:
            required = f"no; `{_spell(child['default'])}`"
        row = Row(path, kind, required, _values(child, root), child["description"].strip())
        yield row
        for below in _rows(child.get("items", child), root, f"{path}.", "", file):
            yield replace(below, kind=below.kind or kind)
    entry = node.get("additionalProperties")
    entry = _resolve(entry, root) if isinstance(entry, dict) else entry
    if isinstance(entry, dict) and ("properties" in entry or "oneOf" in entry):
        yield from _rows(entry, root, f"{prefix}<id>.", kind, file)


def _resolve(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into ``$defs`` of the same schema."""
    if "$ref" not in node:
        return node
    found: dict[str, Any] = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return found


def _kind(alternative: dict[str, Any]) -> str:
    """The key and value that tell an alternative apart, such as ``source: hub``."""
    return next(
        (
            f"`{key}: {_spell(child['const'])}`"
            for key, child in alternative["properties"].items()
            if "const" in child
        ),
        "",
    )


def _values(node: dict[str, Any], root: dict[str, Any]) -> str:
    """What a key may hold, in words."""
    if "oneOf" in node:
        return ", or ".join(dict.fromkeys(_values(_resolve(o, root), root) for o in node["oneOf"]))
    if "const" in node:
        return f"`{_spell(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{_spell(value)}`" for value in node["enum"])
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return " or ".join(_type(name, node, root) for name in types)


def _type(name: str, node: dict[str, Any], root: dict[str, Any]) -> str:
    if name == "null":
        return "`null`"
    if name == "boolean":
        return "`true`, `false`"
    if name == "string":
        return f"text like `{node['pattern']}`" if "pattern" in node else "text"
    if name == "array":
        return f"list of {_values(node['items'], root)}"
    if name == "object":
        entry = node.get("additionalProperties")
        return f"map to {_values(entry, root)}" if isinstance(entry, dict) else "map"
    low, high = node.get("minimum"), node.get("maximum")
    span = f" ≥ {low}" if high is None else f" from {low} to {high}"
    return f"{name}{span}" if low is not None else name


def _spell(value: object) -> str:
    """A value as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    print("updated" if update_readme(CONFIG / "README.md") else "already up to date")
