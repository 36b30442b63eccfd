"""What the weight files of a variant are: hashes, sizes and number formats, written and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, sha256_file
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.records.types import FileEntry, WeightsManifest

_RECORDS = ("manifest.json", "weights.json")


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Path inside ``folder`` → ``size_bytes`` and ``sha256`` of every file but the two records."""
    return {
        path.relative_to(folder).as_posix(): {
            "size_bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in _RECORDS
    }


def write_weights(folder: Path, model: str, variant: str, files: Mapping[str, FileEntry]) -> str:
    """Write ``weights.json``: the content of a folder and nothing volatile.

    The workflow reruns what depends on a folder when this file changes, so it leaves out
    durations, versions and origins, which manifest.json keeps.

    Returns:
        The digest over ``files``.
    """
    sha256 = digest(files)
    record = {
        "schema_version": 1,
        "model": model,
        "variant": variant,
        "files": dict(files),
        "sha256": sha256,
    }
    atomic_write_json(folder / "weights.json", record)
    return sha256


def write_manifest(folder: Path, model: str, variant: str, **facts: Any) -> WeightsManifest:
    """Hash every file of ``folder``, then write ``manifest.json`` and ``weights.json``.

    Args:
        folder: Holds the finished files of the variant.
        model: Id of the model.
        variant: Name of the variant, such as ``gptq-4bit``.
        facts: The other fields of the schema ``manifest``. Those that seldom apply default to
            null: ``group_size``, ``symmetric``, ``calibration`` and ``kernel``.

    Returns:
        The manifest.

    Raises:
        UserError: when ``facts`` break the schema.
    """
    files = describe_files(folder)
    absent = dict.fromkeys(("group_size", "symmetric", "calibration", "kernel"))
    manifest = cast(
        WeightsManifest,
        {
            "schema_version": 1,
            "model": model,
            "variant": variant,
            "files": files,
            "sha256": digest(files),
            **absent,
            **facts,
        },
    )
    write_record(folder / "manifest.json", manifest, "manifest")
    write_weights(folder, model, variant, files)
    return manifest


def read_manifest(folder: Path) -> WeightsManifest:
    """The validated ``manifest.json`` of a folder of weights."""
    record: WeightsManifest = read_record(Path(folder) / "manifest.json", "manifest")
    return record


def verify_files(folder: Path, shallow: bool = False) -> None:
    """Compare the files of ``folder`` with its manifest.

    Args:
        folder: Holds the weights and their ``manifest.json``.
        shallow: Compare sizes only. Without it every file is read and hashed.

    Raises:
        UserError: for the first file that is missing or differs, or when the manifest's own
            digest does not match its list of files.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    again = f"delete {relative(folder)} and run the workflow again"
    files_sha256 = digest(manifest["files"])
    if files_sha256 != manifest["sha256"]:
        raise UserError(
            f"the digest over files is {files_sha256}: the manifest was edited",
            file=relative(folder / "manifest.json"),
            field="sha256",
            value=manifest["sha256"],
            fix=again,
        )
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError("the manifest lists this file, but it is missing", file=path, fix=again)
        size = path.stat().st_size
        if size != expected["size_bytes"]:
            raise UserError(
                f"the manifest says {expected['size_bytes']} bytes",
                file=path,
                field="size_bytes",
                value=size,
                fix=again,
            )
        if not shallow and (sha256 := sha256_file(path)) != expected["sha256"]:
            raise UserError(
                f"the manifest says {expected['sha256']}",
                file=path,
                field="sha256",
                value=sha256,
                fix=again,
            )


def shares(sizes: Mapping[str, int]) -> dict[str, float]:
    """Byte counts as fractions of their sum, largest first, rounded to six decimals."""
    total = sum(sizes.values())
    largest_first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return {name: round(size / total, 6) for name, size in largest_first}


def weight_file(folder: Path) -> Path:
    """The one GGUF file in a variant's folder.

    Raises:
        UserError: when there is none, or more than one.
    """
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"the folder holds {len(files)} GGUF files: {names}" if files else "no GGUF file here",
            file=relative(folder),
            fix="name the file itself, or leave one GGUF file in the folder",
        )
    return files[0]
