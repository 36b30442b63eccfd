"""Datasets that a script of this checkout generates, the same rows every time and everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.types import GeneratedDataset
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import canonical_json, digest, sha256_file
from slm_benchmark.common.paths import ROOT
from slm_benchmark.download.readers import Row

Rows = list[Row]


def generated_splits(dataset_id: str, entry: GeneratedDataset) -> dict[str, Rows]:
    """Rows by split; of an entry with parts, by ``{part}/{split}``.

    The function is called once for each part, with the entry's ``arguments`` and the part's own. It
    returns one list of rows for each split. All calls are made a second time in a process of its
    own, with another order of sets and hashes, and must give the same rows.

    Args:
        dataset_id: Key of the entry.
        entry: The entry, valid against the schema ``datasets``, with ``source: generated``.

    Raises:
        UserError: when the script, the function or the arguments are wrong, the rows are no JSON
            objects of one shape, or two calls differ.
    """
    splits = _generate(dataset_id, entry)
    if digest(splits) != _digest_elsewhere(dataset_id, entry):
        raise UserError(
            "two calls with the same arguments gave different rows",
            file=entry["script"],
            field=entry["function"],
            fix="draw from random.Random(seed) alone; use no time, no hash() and no order of a set",
        )
    return splits


def generated_revision(entry: GeneratedDataset) -> str:
    """What made the rows: function, version, and the digest of the script."""
    return f"{entry['function']} {entry['version']} (script sha256 {sha256_file(_script(entry))})"


def _script(entry: GeneratedDataset) -> Path:
    return ROOT / str(entry["script"])


def _generate(dataset_id: str, entry: GeneratedDataset) -> dict[str, Rows]:
    function = _function(dataset_id, entry)
    parts = entry.get("parts") or {"": {}}
    splits = {}
    for part, part_arguments in parts.items():
        where = {"file": entry["script"], "field": entry["function"]}
        arguments = {**entry.get("arguments", {}), **part_arguments}
        try:
            returned = function(**arguments)
        except Exception as error:
            raise UserError(
                f"failed with {arguments}: {type(error).__name__}: {error}",
                **where,
                fix=f"correct the function, or the arguments of {dataset_id}",
            ) from error
        if not isinstance(returned, dict) or set(returned) != set(entry["splits"]):
            raise UserError(
                f"must return a mapping from the splits {entry['splits']} to rows",
                **where,
                value=sorted(map(str, returned)) if isinstance(returned, dict) else returned,
                fix=f"return these splits, or correct the splits of {dataset_id}",
            )
        for split in entry["splits"]:
            name = f"{part}/{split}" if part else split
            splits[name] = _checked(returned[split], name, where)
    return splits


def _checked(rows: Any, name: str, where: dict[str, str]) -> Rows:
    """``rows`` as JSON values, if they are a list of objects with the same keys."""
    try:
        plain = json.loads(canonical_json(rows))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"a row of {name} is not plain data: {error}",
            **where,
            fix="use text, numbers, true, false, None, lists and mappings only",
        ) from error
    if (
        not isinstance(plain, list)
        or not plain
        or not all(isinstance(row, dict) and row.keys() == plain[0].keys() for row in plain)
    ):
        raise UserError(
            f"{name} must be a list of at least one row, each with the same keys",
            **where,
            fix="return a list of mappings; write None where a row has no value",
        )
    return plain


def _function(dataset_id: str, entry: GeneratedDataset) -> Any:
    path = _script(entry)
    if not path.is_file():
        raise UserError(
            "there is no such file",
            file=f"the entry of {dataset_id}",
            field="script",
            value=entry["script"],
            fix="correct the path, relative to the repository's root",
        )
    spec = importlib.util.spec_from_file_location(f"generated_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"cannot be imported: {type(error).__name__}: {error}",
            file=entry["script"],
            fix="correct the script; it may import installed packages, but no file beside it",
        ) from error
    function = getattr(module, entry["function"], None)
    if not callable(function):
        raise UserError(
            "the script has no such function",
            file=entry["script"],
            field=f"{dataset_id}.function",
            value=entry["function"],
            fix="define it, or correct its name",
        )
    return function


def _digest_elsewhere(dataset_id: str, entry: GeneratedDataset) -> str:
    """Digest of the rows as a fresh process makes them."""
    ordered_otherwise = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=json.dumps([dataset_id, {**entry, "script": str(_script(entry))}]),
        env={
            **os.environ,
            "PYTHONHASHSEED": ordered_otherwise,
            "PYTHONPATH": str(ROOT / "src"),
        },
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if child.returncode:
        raise UserError(
            f"ran here, but not in a process of its own: {child.stderr.strip().splitlines()[-1]}",
            file=entry["script"],
            field=entry["function"],
            fix="let it depend on nothing but its arguments",
        )
    return child.stdout.split()[-1]  # the script may print; the digest comes last


if __name__ == "__main__":
    print(digest(_generate(*json.load(sys.stdin))))
