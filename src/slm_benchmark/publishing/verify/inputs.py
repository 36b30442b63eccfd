"""The inputs of a published cell: each compared with the record before anything is computed.

A changed input is no verdict about a score. It is named in one line: file, field, what the record
says, what is here, and the fix.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.catalog.types import Task
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import VERSIONS, engine_name, engine_packages
from slm_benchmark.evaluation.runner import Folders
from slm_benchmark.publishing.verify.verdict import Difference
from slm_benchmark.records.hardware import check as check_machine
from slm_benchmark.records.hardware import describe, fingerprint
from slm_benchmark.records.provenance import LOCK, RECORDED_PACKAGES, environment_identity
from slm_benchmark.records.store import RECORD_SCHEMAS, read_documents, read_run
from slm_benchmark.records.types import DatasetManifest, DocumentRow, ScoreRecord

ENGINE_PACKAGES = {
    "llama.cpp": "llama-cpp-python",
    "transformers": "transformers",
    "vllm": "vllm",
}
"""The distribution whose version an engine's own version begins with."""

CALIBRATED = ("gptq-4bit", "awq-4bit")
"""Formats whose weights follow from sums over texts, which another machine may round otherwise."""

OTHER_COMMANDS = {
    "performance": "slm-benchmark compare-performance FIRST SECOND compares it with a repeat",
    "equivalence": "snakemake --profile local --force runs/MODEL/equivalence.json checks it again",
    "fidelity": "run the record's own command, and compare",
    "noise": "run the record's own command, and compare",
}
"""What to do with a record that is no score."""


class ChangedInput(UserError):
    """An input that is not the one that the record names."""


@dataclass(frozen=True)
class Published:
    """A published cell and what it is made again from.

    Attributes:
        path: File of the record.
        record: The record.
        documents: Its per-document values.
        cell: The cell to run again: that of the record, on this machine.
        folders: The inputs on disk; they need not exist yet.
        answers_task: The task whose generations are scored: the record's, in most cases.
        catalogue: The catalogue of the checkout.
    """

    path: Path
    record: ScoreRecord
    documents: list[DocumentRow]
    cell: Cell
    folders: Folders
    answers_task: str
    catalogue: Catalogue

    @property
    def entry(self) -> Task:
        """The task's entry in config/tasks.yaml."""
        return self.catalogue.tasks[self.cell.task]

    @property
    def judge(self) -> str | None:
        """Id of the judge of the record; None where it has none."""
        judge = self.record.get("scoring", {}).get("judge")
        return None if judge is None else str(judge["id"])

    def same(
        self, field: str, expected: object, here: object, fix: str, file: str | None = None
    ) -> None:
        """Make sure that a field of the record is still true.

        Raises:
            ChangedInput: when it does not.
        """
        if expected != here:
            raise ChangedInput(
                f"changed: the record has {expected!r}, here it is {here!r}",
                file=file or relative(self.path),
                field=field,
                fix=fix,
            )

    @property
    def checkout(self) -> str:
        """How to come by the software and the choices of the record."""
        commit = self.record["workflow"]["commit"]
        return f"git checkout {commit[:12]}, then . ./activate" if commit else "use those of then"


@contextmanager
def changed_inputs() -> Iterator[None]:
    """Turn the errors of checks of inputs into changed inputs.

    Raises:
        ChangedInput: for bad input.
        RunEnvironmentError: as it is.
    """
    try:
        yield
    except (RunEnvironmentError, ChangedInput):
        raise
    except UserError as error:
        raise ChangedInput(str(error)) from error


def read_published(path: Path, catalogue: Catalogue) -> Published:
    """Read a published score, and check it and this checkout's choices against it.

    Args:
        path: File of the record.
        catalogue: The catalogue of the checkout.

    Raises:
        ChangedInput: when the record or its documents were edited, or the model's card, the task,
            the protocol or the software are not those of the record.
        UserError: when the file is no score.
    """
    record = _read_record(path)
    with changed_inputs():
        documents = read_documents(path, record)
    task, protocol = record["task"]["id"], record["protocol"]["id"]
    ids = {
        "model": record["model"]["id"],
        "task": task,
        "protocol": protocol,
        "dataset": record["dataset"]["id"],
    }
    if absent := catalogue.absent(**ids):
        kind, file = absent
        raise ChangedInput(
            f"there is no such {kind} in {file}",
            file=relative(path),
            field=f"{kind}.id",
            value=ids[kind],
            fix="restore its entry as it was when the record was made",
        )
    answers_task = catalogue.answers_of(task)
    cell = Cell(
        record["model"]["id"],
        record["variant"]["id"],
        _machine(record["hardware"]["id"], catalogue),
        protocol,
        task,
    )
    models = ROOT / "resources/models" / cell.model
    folders = Folders(
        weights=models / cell.variant,
        base=models / "base",
        dataset=ROOT / "resources/datasets" / record["dataset"]["id"],
    )
    published = Published(path, record, documents, cell, folders, answers_task, catalogue)
    _check_consistency(published)
    _check_choices(published)
    if record["state"] == "ok":
        _check_software(published)
    return published


def _read_record(path: Path) -> ScoreRecord:
    record = read_json(path)
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind not in tuple(RECORD_SCHEMAS):
        raise UserError(
            "no record of a measurement",
            file=relative(path),
            field="kind",
            value=kind,
            fix="name a record of a score: results/MODEL/VARIANT/HARDWARE/PROTOCOL/TASK/RUN.json",
        )
    if kind != "score":
        raise UserError(
            f"verify measures scores again, and this is a record of {kind}",
            file=relative(path),
            field="kind",
            value=kind,
            fix=OTHER_COMMANDS[kind],
        )
    with changed_inputs():
        return cast(ScoreRecord, read_run(path))


def _machine(hardware: str, catalogue: Catalogue) -> str:
    """The id under which this machine can measure: the record's where it fits, else ``local``."""
    if hardware in catalogue.hardware:
        try:
            check_machine(hardware, catalogue.hardware[hardware])
        except UserError:
            return "local"
        return hardware
    return "local"


def _check_consistency(published: Published) -> None:
    """Refuse a record whose score does not follow from its documents, whatever its digests say."""
    from slm_benchmark.publishing.consistency import contradictions

    problems = contradictions(published.record, published.documents, published.catalogue)
    for field, what in problems:
        if field.split(".")[0] in ("scores", "documents", "dataset"):
            raise ChangedInput(
                f"the record contradicts itself: {what}",
                file=relative(published.path),
                field=field,
                fix="restore it from the repository; slm-benchmark integrity finds all of them",
            )


def _check_choices(published: Published) -> None:
    record, catalogue = published.record, published.catalogue
    task, protocol = published.cell.task, published.cell.protocol
    choices = digest(catalogue.scoring_choices(task, protocol))
    published.same("protocol.sha256", record["protocol"]["sha256"], choices, published.checkout)
    dataset = catalogue.dataset_id(task, protocol)
    published.same("dataset.id", record["dataset"]["id"], dataset, published.checkout)
    if "parts" in record["task"] and record["state"] == "ok":
        parts = catalogue.parts(task, published.cell.model)
        published.same("task.parts", record["task"]["parts"], parts, published.checkout)


def _check_software(published: Published) -> None:
    """Compare the versions that decide numbers; builds of one version may differ."""
    record, variant = published.record, published.cell.variant
    choice = published.catalogue.engine(published.cell.protocol)
    name = engine_name(variant, choice)
    package = ENGINE_PACKAGES[name]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    here = f"{version} (engine {VERSIONS[name]})"
    published.same("engine.version", record["engine"]["version"], here, published.checkout)
    installed = environment_identity(RECORDED_PACKAGES)["packages"]
    blocks = [("environment", record["environment"], engine_packages(variant, choice))]
    if "scored" in record:
        blocks.append(("scored.environment", record["scored"]["environment"], ["lm-eval"]))
    for field, block, packages in blocks:
        for package in packages:
            expected, version_here = block["packages"].get(package), installed.get(package)
            if _release(expected) != _release(version_here):
                published.same(
                    f"{field}.packages.{package}", expected, version_here, published.checkout
                )


def _release(version: str | None) -> str | None:
    """A version without the name of its build, such as +cpu."""
    return None if version is None else version.split("+")[0]


def machine_differences(published: Published, threads: int) -> list[Difference]:
    """What may differ between the record's machine and this one, as far as it is known yet."""
    record = published.record
    installed = environment_identity(RECORDED_PACKAGES)["packages"]
    recorded = record["environment"]["packages"]
    compared = [
        ("hardware.fingerprint", record["hardware"]["fingerprint"], fingerprint(describe())),
        ("engine.threads", record["engine"]["threads"], threads),
        *(
            (f"environment.packages.{package}", recorded[package], installed[package])
            for package in engine_packages(published.cell.variant)
            if package in recorded and package in installed
        ),
    ]
    return [Difference(*values) for values in compared if values[1] != values[2]]


def engine_differences(published: ScoreRecord, here: ScoreRecord) -> list[Difference]:
    """What an engine that came up says otherwise than the record: kernel, number format, plan."""
    then, now = published["engine"], here["engine"]
    compared = (
        ("engine.kernel", then["kernel"], now["kernel"]),
        ("engine.dtype", then["dtype"], now["dtype"]),
        ("engine.schedule", then["schedule"], now["schedule"]),
    )
    return [Difference(*values) for values in compared if values[1] != values[2]]


def notes(published: Published) -> list[str]:
    """Differences that decide no number: the decisive versions are compared one by one."""
    record, lines = published.record, []
    now = environment_identity(RECORDED_PACKAGES)
    if record["environment"]["lock_sha256"] != now["lock_sha256"]:
        lines.append(
            f"{LOCK.name} is not that of the record; the versions that decide numbers are the same"
        )
    if not now["locked"]:
        lines.append(f"other versions are installed than {LOCK.name} pins")
    if published.cell.hardware != record["hardware"]["id"]:
        lines.append(f"this machine is not {record['hardware']['id']}: measured as local")
    return lines


# --- weights and datasets ------------------------------------------------------------------------


def check_files(published: Published) -> None:
    """Compare the files that are here with the record: manifests first, then every byte.

    What is not here is left out.

    Raises:
        ChangedInput: for the first that differs.
    """
    record, folders = published.record, published.folders
    for folder, field, expected in (
        (folders.base, "model.sha256", record["model"]["sha256"]),
        (folders.weights, "variant.sha256", record["variant"]["sha256"]),
    ):
        if (folder / "manifest.json").exists():
            _check_weights(published, folder, field, expected)
    if (folders.dataset / "manifest.json").exists():
        _check_dataset(published)


def _check_weights(published: Published, folder: Path, field: str, expected: str) -> None:
    with changed_inputs():
        manifest = read_manifest(folder)
        verify_files(folder)
    fix = f"delete {relative(folder)} and verify again"
    if folder == published.folders.weights and published.cell.variant in CALIBRATED:
        fix = (
            f"{fix}; weights that are made anew on another machine may differ in their bytes, and "
            "then only the published files can be verified: put them into that folder"
        )
    file = relative(folder / "manifest.json")
    published.same(field, expected, manifest["sha256"], fix, file)
    # A file that the manifest does not list would be loaded all the same.
    more = sorted(set(_names(folder)) - set(manifest["files"]))
    if more:
        raise ChangedInput(
            "the manifest does not list this file", file=folder / more[0], fix="delete it"
        )


def _names(folder: Path) -> list[str]:
    """Paths inside a folder of weights, its two records apart."""
    records = ("manifest.json", "weights.json")
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in files if name not in records]


def _check_dataset(published: Published) -> None:
    from slm_benchmark.download.datasets import is_divided, load_splits

    folder = published.folders.dataset
    with changed_inputs():
        manifest: DatasetManifest = read_json(folder / "manifest.json")
        divided = is_divided(folder)
        parts = published.catalogue.parts(published.cell.task, published.cell.model)
        for part in parts if divided else [""]:
            load_splits(folder, part)
    published.same(
        "dataset.sha256",
        published.record["dataset"]["sha256"],
        manifest["sha256"],
        f"delete {relative(folder)} and verify again, or pin the revision of then",
        relative(folder / "manifest.json"),
    )


def missing_inputs(published: Published) -> list[str]:
    """Files of the workflow that stand for inputs which are not here yet."""
    folders, entry = published.folders, published.entry
    inputs = [
        folders.weights / "weights.json",
        folders.base / "weights.json",
        folders.dataset / "manifest.json",
        *(ROOT / f"resources/tools/{name}/manifest.json" for name in entry.get("resources", ())),
    ]
    if published.judge is not None:
        from slm_benchmark.evaluation.requirements import JUDGE_PROMPTS

        inputs.append(ROOT / "resources/datasets" / JUDGE_PROMPTS / "manifest.json")
    return [relative(path) for path in dict.fromkeys(inputs) if not path.exists()]


def make_inputs(published: Published, targets: Iterable[str]) -> None:
    """Let the workflow make what is missing, as the record's own command would.

    Raises:
        UserError: when it fails.
    """
    choices = [f"protocol={published.cell.protocol}", f"hardware={published.cell.hardware}"]
    command = ["--profile", "profiles/local", *targets, "--config", *choices]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *command], cwd=ROOT, stdout=sys.stderr, check=False
        )
    except OSError as error:
        raise RunEnvironmentError(
            f"Snakemake does not start: {error}", fix=". ./activate"
        ) from error
    if done.returncode:
        raise UserError(
            "the workflow could not make the inputs of this record",
            file=relative(published.path),
            fix=f"see the lines above, and run: snakemake {shlex.join(command)}",
        )
