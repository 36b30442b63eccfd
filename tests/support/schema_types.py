"""Whether a type says what a schema says: the same keys, required alike, of the same kinds."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, is_typeddict

from slm_benchmark.common.schemas import schema

SCALARS = {"integer": int, "number": float, "string": str, "boolean": bool, "null": type(None)}


def differences(kind: Any, node: Mapping[str, Any], home: str, path: str = "") -> Iterator[str]:
    """What a type and a node of a schema say differently.

    Args:
        kind: A type, such as a TypedDict.
        node: What the schema says.
        home: Name of the schema, from which its references start.
        path: Where in it, for messages.
    """
    node, home = _resolved(node, home)
    options = [branch for branch in _branches(kind) if branch is not type(None)]
    alternatives = list(_alternatives(node, home))
    nullable = any(part.get("type") == "null" for part, _ in alternatives)
    if nullable != (type(None) in _branches(kind)) and kind is not Any:
        yield f"{path}: null"
    alternatives = [(part, its) for part, its in alternatives if part.get("type") != "null"]
    if kind is Any:
        if node.get("type") or "properties" in node:
            yield f"{path}: Any stands for {node.get('type')}"
        return
    for part, its in alternatives:
        tried = [list(_one(option, part, its, path)) for option in options]
        best = min(tried, key=len, default=[f"{path}: no type for {part}"])
        yield from best


def _one(option: Any, node: Mapping[str, Any], home: str, path: str) -> Iterator[str]:
    """Differences of one type, no union, and one node, no alternatives."""
    origin = get_origin(option)
    if "const" in node or "enum" in node:
        values = set(node.get("enum", [node.get("const")])) - {None}
        allowed = set(get_args(option)) if origin is Literal else set()
        # Names that the catalogue may add to are texts.
        if allowed != values and not (option is str and path.endswith("[]")):
            yield f"{path}: {allowed or option} for {values}"
    elif is_typeddict(option):
        yield from _typed_dict(option, node, home, path)
    elif origin is dict:
        if keys := sorted(set(node.get("properties", {})) - {"default"}):
            yield f"{path}: a map for {keys}"
            return
        entry = node.get("additionalProperties")
        value = get_args(option)[1]
        if isinstance(entry, dict) and "default" not in node.get("properties", {}):
            yield from differences(value, entry, home, f"{path}.*")
        elif not isinstance(entry, dict) and value is not Any:
            yield f"{path}: {option} for an open object"
    elif origin is list:
        if node.get("type") != "array":
            yield f"{path}: a list for {node.get('type')}"
        elif "items" in node:
            yield from differences(get_args(option)[0], node["items"], home, f"{path}[]")
    elif option is not SCALARS.get(str(node.get("type"))):
        yield f"{path}: {option} for {node.get('type')}"


def _typed_dict(option: Any, node: Mapping[str, Any], home: str, path: str) -> Iterator[str]:
    properties = node.get("properties", {})
    if node.get("type") not in ("object", None) or not properties:
        yield f"{path}: {option.__name__} for {node.get('type')}"
        return
    hints = typing.get_type_hints(option, include_extras=True)
    for key in sorted(hints.keys() ^ properties.keys()):
        yield f"{path}.{key}: only in {'the type' if key in hints else 'the schema'}"
    for key in hints.keys() & properties.keys():
        hint = hints[key]
        optional = get_origin(hint) is NotRequired
        if optional == (key in node.get("required", ())):
            yield f"{path}.{key}: required"
        hint = get_args(hint)[0] if optional else hint
        yield from differences(hint, properties[key], home, f"{path}.{key}")


def _branches(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _alternatives(node: Mapping[str, Any], home: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The nodes of one kind each that a node allows."""
    if several := node.get("anyOf", node.get("oneOf")):
        for other in several:
            yield from _alternatives(*_resolved(other, home))
    elif "enum" in node and None in node["enum"]:
        yield node, home
        yield {"type": "null"}, home
    elif isinstance(node.get("type"), list):
        kinds = [k for k in node["type"] if not (k == "integer" and "number" in node["type"])]
        for one in kinds:
            yield {**node, "type": one}, home
    else:
        yield node, home


def _resolved(node: Mapping[str, Any], home: str) -> tuple[Mapping[str, Any], str]:
    """A node with what it refers to; what stands beside the reference adds to that."""
    while "$ref" in node:
        other, pointer = node["$ref"].split("#")
        home = other or home
        target: Mapping[str, Any] = schema(home)
        for part in pointer.strip("/").split("/"):
            target = target[part] if part else target
        beside = {key: value for key, value in node.items() if key not in ("$ref", "description")}
        merged = {**target, **beside}
        if "properties" in target and "properties" in beside:
            merged["properties"] = {
                key: {**value, **beside["properties"].get(key, {})}
                for key, value in target["properties"].items()
            }
        if "required" in target and "required" in beside:
            merged["required"] = [*target["required"], *beside["required"]]
        node = merged
    return node, home
