"""The quick check of records refuses what the careful one refuses."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.common.schemas import item_check, validate, validate_quickly
from slm_benchmark.records.store import RECORD_SCHEMAS, published_records

Record = dict[str, Any]


def examples() -> dict[str, Record]:
    """A published record of each kind and version."""
    found: dict[str, Record] = {}
    for path in published_records():
        record = read_json(path)
        found.setdefault(f"{record['kind']}-{record['schema_version']}-{record['state']}", record)
    return found


EXAMPLES = examples()

EDITS: tuple[Any, ...] = ("delete", "add", None, "text", -1.5, [])


def refused(check: Any, record: Record) -> str:
    try:
        check(record, RECORD_SCHEMAS[record.get("kind", "score")], "record.json")
    except UserError as error:
        return str(error)
    return ""


def places(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a record; of a list the first item stands for all."""
    if path:
        yield path
    first = enumerate(part[:1]) if isinstance(part, list) else ()
    for key, child in part.items() if isinstance(part, dict) else first:
        yield from places(child, (*path, key))


def edits(record: Record, seed: int) -> Iterator[Record]:
    """The record 40 times, with one place taken out, put in, or of another type."""
    choices = list(itertools.product(places(record), EDITS))
    for (*home, key), edit in random.Random(seed).sample(choices, 40):
        edited = copy.deepcopy(record)
        inside: Any = edited
        for step in home:
            inside = inside[step]
        if edit == "delete":
            del inside[key]
        elif edit == "add" and isinstance(inside[key], dict):
            inside[key]["unheard_of"] = 1
        else:
            inside[key] = edit
        if edited.get("kind") == record["kind"]:
            yield edited


def test_there_is_an_example_of_the_important_kinds() -> None:
    assert {"score-1-ok", "performance-2-ok", "equivalence-1-ok"} <= EXAMPLES.keys()


@pytest.mark.model
@pytest.mark.parametrize("name", EXAMPLES)
def test_both_checks_refuse_the_same_edits_with_the_same_words(name: str) -> None:
    record = EXAMPLES[name]
    assert refused(validate_quickly, record) == ""
    refusals = [(refused(validate_quickly, e), refused(validate, e)) for e in edits(record, seed=0)]
    assert [quick for quick, careful in refusals if quick != careful] == []
    assert sum(careful != "" for _, careful in refusals) > 10


@pytest.mark.parametrize("value", [None, [], [1], [1, 2.5], [1, 2, 3], ["a", "b"], {}, 0, "", True])
def test_what_may_be_null_is_checked_alike(value: Any) -> None:
    """Compiled, "this or null" is one schema of two types."""
    record = copy.deepcopy(EXAMPLES["score-1-ok"])
    record["scores"][0]["ci95"] = value
    assert refused(validate_quickly, record) == refused(validate, record)
    assert (refused(validate, record) == "") == (value in (None, [1, 2.5]))


@pytest.mark.parametrize("value", [None, {}, {"type": "x"}, [], "", False])
def test_a_block_that_may_be_null_is_checked_alike(value: Any) -> None:
    record = {**EXAMPLES["score-1-ok"], "error": value}
    assert refused(validate_quickly, record) == refused(validate, record)
    assert (refused(validate, record) == "") == (value is None)


def test_items_are_checked_one_by_one_as_all_together() -> None:
    record = EXAMPLES["score-1-ok"]
    fits = item_check("cell")
    assert all(fits({key: value}) for key, value in record.items())
    for edited in edits(record, seed=1):
        whole = refused(validate, {**record, **edited}) == ""
        assert all(fits({key: value}) for key, value in edited.items()) == whole


def test_a_schema_that_speaks_of_several_items_has_no_check_of_single_ones() -> None:
    with pytest.raises(AssertionError, match="summary"):
        item_check("summary")
