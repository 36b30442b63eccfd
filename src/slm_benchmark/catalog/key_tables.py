"""Tables of keys, made from the schemas so that the two agree: config files and records."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_text
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import CONFIG, relative
from slm_benchmark.common.schemas import JsonSchema, schema, schema_file

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

RECORDS = {
    "cell": "Score",
    "answers": "Stored generations",
    "performance": "Performance",
    "session": "Profiling session",
    "equivalence": "Equivalence check",
    "fidelity": "Fidelity",
    "noise": "Noise floor",
    "manifest": "Weights of a variant",
    "dataset_manifest": "Dataset",
    "fidelity_reference": "Reference of the fidelity",
    "index": "Index of the results",
    "release": "Manifest of the results",
    "leaderboard": "Leaderboard",
    "quantization": "Quantization report",
    "summary": "Summary of a model",
}
"""Schema of a file that a program writes → what it is, in the order of the sections."""

START, END = "<!-- reference:start -->", "<!-- reference:end -->"


@dataclass(frozen=True)
class Row:
    """One key of a file: its dotted path, the kind of entry that has it, and what it holds."""

    key: str
    kind: str
    required: str
    values: str
    meaning: str
    nullable: bool = False

    @property
    def name(self) -> str:
        """The key in Markdown, with the kind of entry that has it."""
        return f"`{self.key}`{f' ({self.kind})' if self.kind else ''}"

    def markdown(self) -> str:
        """The row of a Markdown table."""
        values = f"{self.values} or `null`" if self.nullable else self.values
        cells = (self.name, self.required, values, self.meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def rows(root: JsonSchema, file: str) -> list[Row]:
    """The keys of the schema ``root``, in its order; a map's entries have the key ``<id>``.

    Args:
        root: A JSON Schema of a mapping.
        file: Where it comes from, for messages.

    Raises:
        UserError: when a key has no description.
    """
    return list(_rows(_expanded(root, root), "", "", _Listed(file)))


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


def records_reference() -> str:
    """The sections of all files in `RECORDS`, as Markdown.

    A block that several of them share is listed once, where it first occurs.

    Raises:
        UserError: when a field of a schema has no description.
    """
    parts = []
    places: dict[str, tuple[str, str]] = {}
    for name, title in RECORDS.items():
        root = schema(name)
        listed = _Listed(relative(schema_file(name)), title, places)
        lines = table(
            ("Field", "Type", "Required", "Null", "Meaning"),
            [
                (row.name, row.values, row.required, "yes" if row.nullable else "no", row.meaning)
                for row in _rows(_expanded(root, root), "", "", listed)
            ],
        )
        parts += [f"## {title}", root["description"], f"File: `{root['title']}`", "\n".join(lines)]
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
    before, start_marker, rest = text.partition(start)
    _, end_marker, after = rest.partition(end)
    if not (start_marker and end_marker):
        raise UserError(
            "a marker is missing", file=relative(path), fix=f"write {start} and {end} on lines"
        )
    updated = f"{before}{start}\n\n{content}\n\n{end}{after}"
    if updated == text:
        return False
    atomic_write_text(path, updated)
    return True


def _expanded(node: Any, root: JsonSchema) -> Any:
    """A part of a schema in which every reference is replaced by what it leads to.

    ``$block`` then names the definition, and ``$nullable`` stands for a null among the types, the
    values or the alternatives.

    Args:
        node: The part.
        root: The schema in which it stands.
    """
    if isinstance(node, list):
        return [_expanded(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    here = {key: _expanded(child, root) for key, child in node.items() if key != "$defs"}
    if isinstance(reference := here.pop("$ref", None), str):
        name, _, pointer = reference.partition("#/")
        home = schema(name) if name else root
        target = functools.reduce(operator.getitem, pointer.split("/"), home)
        block = f"{home.get('title', '')} {pointer}"
        here = _merged(_expanded(target, home) | {"$block": block}, here)
    for key, null in (("type", "null"), ("enum", None), ("anyOf", {"type": "null"})):
        choices = here.get(key)
        if isinstance(choices, list) and null in choices:
            here |= {key: [choice for choice in choices if choice != null], "$nullable": True}
    if isinstance(here.get("anyOf"), list) and len(here["anyOf"]) == 1:
        (only,) = here.pop("anyOf")
        here = _merged(only, here)
    return here


def _merged(target: JsonSchema, beside: JsonSchema) -> JsonSchema:
    """What a reference leads to, with what stands beside the reference."""
    merged = target | beside
    if "properties" in target and "properties" in beside:
        merged["properties"] = {
            key: target["properties"].get(key, {}) | beside["properties"].get(key, {})
            for key in target["properties"] | beside["properties"]
        }
    if "required" in target and "required" in beside:
        merged["required"] = [*target["required"], *beside["required"]]
    return merged


@dataclass(frozen=True)
class _Listed:
    """Which blocks have their keys listed already.

    Attributes:
        file: The schema that is walked through, for messages.
        title: Section that is written.
        places: Block → the section and the key under which its keys are listed. None = every block
            is listed wherever it occurs.
    """

    file: str
    title: str = ""
    places: dict[str, tuple[str, str]] | None = None

    def find(self, node: JsonSchema, key: str) -> str:
        """Where the keys below ``node`` are listed, in words; empty = nowhere yet.

        From then on they are listed under ``key``.
        """
        if self.places is None:
            return ""
        for part in (node, node.get("items"), node.get("additionalProperties")):
            if not isinstance(part, dict) or "$block" not in part:
                continue
            if not ("properties" in part or isinstance(part.get("additionalProperties"), dict)):
                continue
            title, first = self.places.setdefault(part["$block"], (self.title, key))
            if title != self.title:
                return f" as `{first}` of [{title}](#{title.lower().replace(' ', '-')})"
            if first != key:
                return f" as `{first}`"
        return ""


def _rows(node: JsonSchema, prefix: str, kind: str, listed: _Listed) -> Iterator[Row]:
    """Rows below ``node``: its keys, its entries if it is a map, its alternatives if any."""
    for other in (*node.get("oneOf", ()), *node.get("anyOf", ())):
        if "properties" in other:
            yield from _rows(other, prefix, _kind(other), listed)
    for key, child in node.get("properties", {}).items():
        path = f"{prefix}{key}"
        if "description" not in child:
            raise UserError(
                "the key has no description", file=listed.file, field=path, fix="add a description"
            )
        required = "yes" if key in node.get("required", ()) else "no"
        if "default" in child:
            required = f"no; `{_spell(child['default'])}`"
        elsewhere = listed.find(child, path)
        yield Row(
            key=path,
            kind=kind,
            required=required,
            values=f"{_values(child | {'$nullable': False})}{elsewhere}",
            meaning=child["description"].strip(),
            nullable=child.get("$nullable", False),
        )
        if not elsewhere:
            for below in _rows(child.get("items", child), f"{path}.", "", listed):
                yield replace(below, kind=below.kind or kind)
    if isinstance(entry := node.get("additionalProperties"), dict):
        yield from _rows(entry, f"{prefix}<id>.", kind, listed)
    for rule in node.get("allOf", ()):
        then = {"required": node.get("required", ()), **rule["then"]}
        yield from _rows(then, prefix, _kind(rule["if"]), listed)


def _kind(alternative: JsonSchema) -> str:
    """The key and value that tell an alternative apart, such as ``source: hub``."""
    return next(
        (
            f"`{key}: {_spell(child['const'])}`"
            for key, child in alternative["properties"].items()
            if "const" in child
        ),
        "",
    )


def _values(node: JsonSchema) -> str:
    """What a key may hold, in words."""
    if node.get("$nullable"):
        return f"{_values(node | {'$nullable': False})} or `null`"
    if either := node.get("oneOf", node.get("anyOf")):
        return ", or ".join(dict.fromkeys(map(_values, either)))
    if "const" in node:
        return f"`{_spell(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{_spell(value)}`" for value in node["enum"])
    types = node.get("type", "any")
    return " or ".join(_type(name, node) for name in ([types] if isinstance(types, str) else types))


def _type(name: str, node: JsonSchema) -> str:
    if name == "null":
        return "`null`"
    if name == "boolean":
        return "`true`, `false`"
    if name == "string":
        return f"text like `{node['pattern']}`" if "pattern" in node else "text"
    if name == "array":
        return f"list of {_values(node['items'])}" if "items" in node else "list"
    if name == "object":
        entry = node.get("additionalProperties")
        return f"map to {_values(entry)}" if isinstance(entry, dict) else "map"
    low, high = node.get("minimum"), node.get("maximum")
    span = f" ≥ {low}" if high is None else f" from {low} to {high}"
    if low is None:
        span = f" > {node['exclusiveMinimum']}" if "exclusiveMinimum" in node else ""
    return f"{name}{span}"


def _spell(value: object) -> str:
    """A value as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    print("updated" if update_readme(CONFIG / "README.md") else "already up to date")
