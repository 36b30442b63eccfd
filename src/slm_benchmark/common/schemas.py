"""Validation against the JSON Schemas of workflow/schemas, with errors that a person can act on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from slm_benchmark.common.errors import UserError, suggestion
from slm_benchmark.common.files import atomic_write_json, read_json, read_yaml
from slm_benchmark.common.paths import SCHEMAS

JsonSchema = dict[str, Any]
"""A JSON Schema or a node of one, as its file has it."""


def schema_file(name: str) -> Path:
    """The file of the schema ``name``: workflow/schemas/{config,records,api}/{name}.schema.yaml."""
    (file,) = SCHEMAS.glob(f"*/{name}.schema.yaml")
    return file


@functools.cache
def schema(name: str) -> JsonSchema:
    """The JSON Schema ``name``."""
    loaded = read_yaml(schema_file(name))
    assert isinstance(loaded, dict)
    return loaded


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        schema(name),
        format_checker=jsonschema.FormatChecker(),
        registry=Registry(retrieve=_other_schema),  # type: ignore[call-arg]
    )


def _other_schema(name: str) -> Resource[Any]:
    """Resolve a reference such as ``cell#/$defs/error`` to a neighboring schema."""
    return Resource.from_contents(schema(name), default_specification=DRAFT202012)


@functools.cache
def _accepts(name: str, whole: bool = True) -> Callable[[Any], Any]:
    """The schema as compiled code, which raises for most of what the schema forbids.

    It is some twenty times faster than a walk through the schema, and takes true for 1.

    Args:
        name: Of the schema.
        whole: Whether the items that it requires must be there.
    """
    import fastjsonschema

    bundled = _bundled(name)
    if not whole:
        assert bundled["$defs"][name].keys() <= _ITEM_BY_ITEM, name
        del bundled["$defs"][name]["required"]
    compiled: Callable[[Any], Any] = fastjsonschema.compile(bundled, use_default=False)
    return compiled


def _bundled(name: str) -> JsonSchema:
    """A schema and all that it refers to in one, so that every reference is local."""
    bundled: JsonSchema = {"$defs": {}, "$ref": f"#/$defs/{name}"}
    waiting = [name]

    def localised(part: Any, home: str) -> Any:
        if isinstance(part, list):
            return [localised(item, home) for item in part]
        if not isinstance(part, dict):
            return part
        inside = {key: localised(value, home) for key, value in part.items() if key != "$schema"}
        if isinstance(reference := inside.pop("$ref", None), str):
            other, pointer = reference.split("#")
            waiting.append(other or home)
            # In an allOf, because older drafts overlook what stands beside a reference.
            target = {"$ref": f"#/$defs/{other or home}{pointer}"}
            inside["allOf"] = [*inside.get("allOf", ()), target]
        either = inside.get("anyOf")
        if isinstance(either, list) and (one := _or_null(either)) is not None:
            del inside["anyOf"]
            inside["allOf"] = [*inside.get("allOf", ()), one]
        return inside

    while waiting:
        home = waiting.pop()
        if home not in bundled["$defs"]:
            bundled["$defs"][home] = localised(schema(home), home)
    return bundled


_SILENT_ON_NULL = {
    *("type", "description", "items", "minItems", "maxItems"),
    *("properties", "required", "additionalProperties"),
}
"""Keywords of a schema that forbid nothing of null, its type apart."""


def _or_null(alternatives: Sequence[JsonSchema]) -> JsonSchema | None:
    """One schema that says the same as "any of this schema and null"; None where there is none.

    Compiled, it need not raise and catch an error for each null.
    """
    others = [other for other in alternatives if other != {"type": "null"}]
    if len(others) != 1 or len(alternatives) != 2:
        return None
    (other,) = others
    if not (isinstance(other.get("type"), str) and other.keys() <= _SILENT_ON_NULL):
        return None
    return {**other, "type": [other["type"], "null"]}


def validate_quickly(data: Any, name: str, file: Path | str) -> None:
    """`validate` for data that a program wrote, of which there may be a hundred thousand.

    Raises:
        UserError: as `validate`.
    """
    import fastjsonschema

    try:
        _accepts(name)(data)
    except fastjsonschema.JsonSchemaValueException:
        validate(data, name, file)


_ITEM_BY_ITEM = {
    *("title", "description", "$defs"),
    *("type", "properties", "required", "additionalProperties"),
}
"""Keywords of a schema that says nothing of several items together, but which must be there."""


def item_check(name: str) -> Callable[[JsonSchema], bool]:
    """A check of whether some items of an object are as its schema wants them.

    The object fits the schema when all of its items do, in whatever parts they are checked, and
    those that the schema requires are there.

    Args:
        name: Of a schema that is made of `_ITEM_BY_ITEM`.
    """
    import fastjsonschema

    accepts = _accepts(name, whole=False)

    def fits(items: JsonSchema) -> bool:
        try:
            accepts(items)
        except fastjsonschema.JsonSchemaValueException:
            return False
        return True

    return fits


def prepare(*names: str) -> None:
    """Compile schemas for `validate_quickly`, so that processes that are forked later have them."""
    for name in names:
        _accepts(name)


def validate(data: Any, name: str, file: Path | str) -> None:
    """Check ``data``, read from ``file``, against the schema ``name``.

    Raises:
        UserError: for the first error in document order, naming file, field, value and fix.
    """
    for problem in problems(data, name, file):
        raise problem


def problems(data: Any, name: str, file: Path | str) -> Iterator[UserError]:
    """Everything that the schema ``name`` forbids in ``data``, in document order."""
    errors = _validator(name).iter_errors(data)
    for error in sorted(errors, key=lambda e: [str(p) for p in e.path]):
        yield _explain(_meant(error), file)


def read_record(path: Path | str, name: str) -> Any:
    """Read a JSON record and validate it."""
    record = read_json(path)
    validate_quickly(record, name, path)
    return record


def write_record(path: Path | str, record: Any, name: str) -> None:
    """Validate a record, then write it atomically: an invalid one never appears on disk."""
    validate_quickly(record, name, path)
    atomic_write_json(path, record)


def read_config(path: Path | str, name: str) -> Any:
    """Read a YAML file that a person wrote and validate it."""
    data = read_yaml(path)
    validate(data, name, path)
    return data


def _meant(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Inside a oneOf: the deepest error of the alternatives whose kind fits, where one does."""
    while error.context:
        alternatives: dict[Any, list[jsonschema.ValidationError]] = {}
        for inner in error.context:
            alternatives.setdefault(inner.schema_path[0], []).append(inner)
        fitting = [errors for errors in alternatives.values() if not any(map(_other_kind, errors))]
        if not fitting:
            break
        error = max((e for errors in fitting for e in errors), key=lambda e: len(e.absolute_path))
    return error


def _other_kind(error: jsonschema.ValidationError) -> bool:
    """Whether an error inside a oneOf says that another alternative is meant."""
    return error.validator == "const" or (
        error.validator in ("type", "enum") and not error.relative_path
    )


def _explain(error: jsonschema.ValidationError, file: Path | str) -> UserError:
    rule: Any = error.schema
    allowed: Any = error.validator_value
    path = [str(part) for part in error.absolute_path]
    field = ".".join(path) or "(whole file)"
    about = rule.get("description", "")
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(rule.get("properties", {}))
        unknown = next((key for key in error.instance if key not in known), "")
        return UserError(
            "unknown key",
            file=file,
            field=".".join([*path, str(unknown)]),
            value=_short(error.instance.get(unknown)),
            fix=suggestion(str(unknown), known),
        )
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = next(key for key in allowed if key not in error.instance)
        about = rule.get("properties", {}).get(missing, {}).get("description", "")
        return UserError(
            "required key is missing",
            file=file,
            field=".".join([*path, missing]),
            fix=f"add it ({about})" if about else "add it",
        )
    if kinds := [e for e in error.context or () if e.validator == "const" and e.relative_path]:
        # The key that tells the alternatives of a oneOf apart has a value that none of them has.
        return UserError(
            "unknown kind",
            file=file,
            field=".".join(map(str, kinds[0].absolute_path)),
            value=_short(kinds[0].instance),
            fix=suggestion(str(kinds[0].instance), [str(e.validator_value) for e in kinds]),
        )
    if error.context:
        return UserError(
            "not of an allowed form",
            file=file,
            field=field,
            value=_short(error.instance),
            fix=f"write {about}" if about else "config/README.md lists the allowed keys",
        )
    if error.validator == "enum" and isinstance(error.instance, str):
        return UserError(
            "unknown value",
            file=file,
            field=field,
            value=_short(error.instance),
            fix=suggestion(error.instance, [str(known) for known in allowed]),
        )
    constraint = f"must satisfy {error.validator}: {allowed}"
    return UserError(
        error.message if len(error.message) < 200 else constraint,
        file=file,
        field=field,
        value=_short(error.instance),
        fix=f"{constraint}{f' — {about}' if about else ''}",
    )


def _short(value: Any) -> Any:
    """``value``, or the name of its type where it is too long for a message of one line."""
    return value if len(repr(value)) < 200 else type(value).__name__
