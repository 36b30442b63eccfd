"""The evidence beside a number: which workflow, environment and command made it."""

from __future__ import annotations

import datetime
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.files import digest, sha256_bytes, sha256_file
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.records.types import (
    Environment,
    ModelBlock,
    ProtocolBlock,
    VariantBlock,
    WeightsManifest,
    WorkflowBlock,
)

LOCK = ROOT / "requirements.lock"

MEASURED_PATHS = ("workflow", "src", "config", "custom", "envs")
"""Folders whose files can change a measurement; prose and caches inside them cannot."""

EARLIEST = "2026-01-01T00:00:00+00:00"
"""The project is younger than this, and so are its records."""

CLOCK_SLACK = datetime.timedelta(days=1)
"""How far the clocks of two machines may be apart."""

_FOREIGN_GIT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Variables that lead git elsewhere than to the folder it is called in."""

_UNMEASURED_SUFFIXES = (".md", ".pyc")

RECORDED_PACKAGES = (
    "accelerate",
    "datasets",
    "gptqmodel",
    "llama-cpp-python",
    "lm-eval",
    "numpy",
    "optimum",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions whose versions belong into the record of a score or of a performance."""

NOT_A_RESULT = (
    "label",
    "scored",
    "environment",
    "hardware",
    "host",
    "workflow",
    "result_sha256",
    "sequence",
    "started",
    "duration_s",
    "command",
)


def now() -> str:
    """The time in UTC as ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def result_digest(record: Mapping[str, object]) -> str:
    """Digest of what was measured: equal when a rerun gives the same result.

    Left out: times, host, environment, commit and command, also those of a later scoring; and the
    text of an error, which can hold addresses.
    """
    result = {key: value for key, value in record.items() if key not in NOT_A_RESULT}
    if (error := result.get("error")) and isinstance(error, dict):
        result["error"] = {"type": error["type"]}
    return digest(result)


def workflow_identity(card: str) -> WorkflowBlock:
    """The cell schema's ``workflow`` block.

    Args:
        card: Path of the model's card, from the repository's root.
    """
    files = [
        path
        for folder in MEASURED_PATHS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file()
        and path.suffix not in _UNMEASURED_SUFFIXES
        and ".egg-info" not in path.as_posix()
    ]
    hashes = {relative(path): sha256_file(path) for path in [*files, ROOT / card]}
    in_repository = has_repository(ROOT)
    commit = git(ROOT, "rev-parse", "HEAD") if in_repository else None
    changes = (
        git(ROOT, "status", "--porcelain", "--", *MEASURED_PATHS, card) if in_repository else None
    )
    return {
        "sha256": digest(hashes),
        "commit": commit,
        "dirty": None if commit is None or changes is None else bool(changes),
    }


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder; None where it fails or is not there.

    Variables such as GIT_DIR, which are set inside a hook, would lead it to another repository.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN_GIT}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def has_repository(folder: Path) -> bool:
    """Whether a folder is the top of a git repository, and not a part of somebody else's."""
    top = git(folder, "rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == folder.resolve()


def commit_time(commit: str) -> datetime.datetime | None:
    """When a commit of this repository was made; None where it is not known here."""
    text = git(ROOT, "show", "--no-patch", "--format=%cI", commit) if has_repository(ROOT) else None
    return datetime.datetime.fromisoformat(text) if text else None


def clock_warnings(moment: datetime.datetime | None = None) -> list[str]:
    """A sentence where this machine's clock is behind the software, so that it can date no record.

    Behind the commit of this checkout, or the start of the project where there is no commit. What
    is measured with such a clock is refused by `publish`.

    Args:
        moment: What the clock says, with a time zone; None = look now.
    """
    moment = moment or datetime.datetime.now(datetime.UTC)
    made = commit_time("HEAD")
    software = max(filter(None, (made, datetime.datetime.fromisoformat(EARLIEST))))
    if moment >= software - CLOCK_SLACK:
        return []
    return [
        f"the clock of this machine says {moment:%Y-%m-%d %H:%M}, before this software was made "
        f"({software:%Y-%m-%d %H:%M}), so nothing that is measured now can be published. "
        "Fix: stop, set the clock, and run the same command again"
    ]


@functools.cache
def locked_versions() -> dict[str, str]:
    """Package → version, as requirements.lock pins them."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK.read_text(encoding="utf-8"), re.M)
    return {_normal(name): version for name, version in pins}


def environment_identity(packages: Iterable[str]) -> Environment:
    """The cell schema's ``environment`` block, read from the running process.

    Args:
        packages: The distributions whose versions belong into the record.
    """
    lock = locked_versions()
    installed: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # The first on the path is the one that is imported. Copies that other packages carry come
        # later: setuptools puts its vendored ones there once it is imported.
        if name := distribution.metadata["Name"]:
            installed.setdefault(_normal(name), distribution.version)
    locked = all(
        lock[name] == version.split("+")[0] for name, version in installed.items() if name in lock
    )
    return {
        "python": platform.python_version(),
        "packages": {
            name: installed[_normal(name)]
            for name in sorted(packages)
            if _normal(name) in installed
        },
        "lock_sha256": sha256_bytes(LOCK.read_bytes()),
        "locked": locked,
    }


def versions(*packages: str) -> dict[str, str]:
    """Version of each named distribution, as installed."""
    return {name: importlib.metadata.version(name) for name in packages}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def next_sequence(counter: Path) -> int:
    """Count one evaluation more in ``counter``, safe against jobs that run beside this one."""
    counter.parent.mkdir(parents=True, exist_ok=True)
    with open(counter, "a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        number = int(stream.read().strip() or 0) + 1
        stream.seek(0)
        stream.truncate()
        stream.write(f"{number}\n")
    return number


def model_block(model: Model, base: WeightsManifest) -> ModelBlock:
    """The records' ``model`` block, from a card and the manifest of its base model."""
    return {
        "id": model.id,
        "name": model.name,
        "repo": model.hf_model_id,
        "revision": base["source"].get("revision", model.revision),
        "source": base["source"],
        "sha256": base["sha256"],
    }


def variant_block(manifest: WeightsManifest) -> VariantBlock:
    """The records' ``variant`` block."""
    return {
        "id": manifest["variant"],
        "sha256": manifest["sha256"],
        "method": manifest["method"],
        "nominal_bits_per_weight": manifest["nominal_bits_per_weight"],
        "effective_bits_per_weight": manifest["effective_bits_per_weight"],
        "size_bytes": weight_bytes(manifest),
    }


def weight_bytes(manifest: WeightsManifest) -> int:
    """Bytes of the weight files of a variant, tokenizer and configuration apart."""
    return sum(
        file["size_bytes"]
        for name, file in manifest["files"].items()
        if name.endswith((".safetensors", ".gguf", ".bin"))
    )


def protocol_block(protocol_id: str, version: int, choices: Mapping[str, object]) -> ProtocolBlock:
    """The records' ``protocol`` block; the digest covers the choices that the record depends on."""
    return {"id": protocol_id, "version": version, "sha256": digest(choices)}


def command_for(
    records: Sequence[Path],
    protocol: str | None,
    hardware: str,
    *,
    judge: str | None = None,
    variants: Sequence[str] = (),
) -> str:
    """The command that measures a record again, from the repository's root.

    Args:
        records: Its files, of each step one.
        protocol: Id of its protocol; None where it has none.
        hardware: Id of the machine.
        judge: Id of the judge; None where it has none.
        variants: All that were measured together; none where a record stands alone.
    """
    protocols = [] if protocol is None else [f"protocol={protocol}"]
    judges = [] if judge is None else [f"judge={judge}"]
    together = [f"variants={json.dumps(list(variants))}"] if variants else []
    command = ["snakemake", "--profile", "local", "--force", *map(relative, records)]
    return shlex.join(
        [*command, "--config", *protocols, f"hardware={hardware}", *judges, *together]
    )
