"""Promoting records from runs/ to results/, a person's decision, and comparing with these."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Protocol, cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.types import Dataset
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_bytes, digest, read_json
from slm_benchmark.common.paths import RESULTS, relative
from slm_benchmark.common.schemas import write_record
from slm_benchmark.download.datasets import hub_revision, is_pinned
from slm_benchmark.engines.identity import engine_name
from slm_benchmark.leaderboard.aggregate import build_leaderboard
from slm_benchmark.leaderboard.quantization_report import write_reports
from slm_benchmark.leaderboard.report import write_tables
from slm_benchmark.profiling.types import RawPoint, RawProcess
from slm_benchmark.publishing.consistency import impossible_times, irreproducible
from slm_benchmark.records.provenance import CLOCK_SLACK, commit_time
from slm_benchmark.records.release import destination, extend_manifest, write_index
from slm_benchmark.records.store import (
    RECORD_SCHEMAS,
    ROW_KINDS,
    Slim,
    cell_folder,
    current_records,
    documents_file,
    headline,
    is_record,
    published_records,
    read_documents,
    read_run,
)
from slm_benchmark.records.types import (
    DatasetBlock,
    DocumentRow,
    EquivalenceDataset,
    EquivalenceRecord,
    MeasuredRecord,
    PerformancePoint,
    PerformanceRecord,
    Quantity,
    ScoreRecord,
    TextSource,
)

ALWAYS_MEASURED = (
    "prompt_throughput_tokens_per_s",
    "generation_throughput_tokens_per_s",
    "ttft_ms",
    "client_ttft_ms",
    "inter_token_latency_ms",
    "inter_token_latency_p90_ms",
    "inter_token_latency_p99_ms",
    "peak_memory_bytes",
    "load_time_s",
    "size_bytes",
)
"""Quantities that need neither a meter nor an accelerator; without them a performance record is
incomplete."""

_REMEDIES = {
    "locked": "run `. ./activate`, then measure again",
    "commit": "clone the repository instead of unpacking an archive of it, then measure again",
    "dirty": "commit workflow/, src/, config/, envs/ and the card, then measure again",
}
"""How to make an environment reproducible, by the field that says whether it is."""


_Dataset = DatasetBlock | EquivalenceDataset | TextSource


class Refuse(Protocol):
    """Makes the error that a record may not be published."""

    def __call__(self, message: str, field: str, value: object, fix: str) -> UserError:
        """The error of a field of the record."""


def publish(
    catalogue: Catalogue, paths: Sequence[Path], label: str | None, results: Path = RESULTS
) -> list[str]:
    """Copy records to results/; make its manifest longer, and its summaries and index again.

    All records are checked before the first one is copied, and none there is ever overwritten. A
    killed call is completed by the same one.

    Args:
        catalogue: The catalogue of the checkout.
        paths: Records under runs/. None make the summaries and the index again.
        label: Required for records of a protocol that is not ranked, and equal to its name. A kind
            without a protocol, such as equivalence, never has one.
        results: The folder to publish to.

    Returns:
        One line for each record: where it went, or that it is there already.

    Raises:
        UserError: for the first record that is invalid, incomplete, unpinned, unlocked, dirty or
            unlabelled, or has numbers of a GGUF file whose model did not pass the equivalence
            check.
    """
    checked = [(path, check_publishable(catalogue, path, label)) for path in paths]
    # A check with bounds of its own opens nothing; one that is published counts while its version
    # of them does.
    now = digest(catalogue.comparison_choices())
    gate = [r for _, r in checked if r["kind"] == "equivalence" and r["bounds"]["sha256"] == now]
    earlier = [
        cast(EquivalenceRecord, read_run(path)) for path in results.glob("*/equivalence/*.json")
    ]
    version = catalogue.equivalence["version"]
    gate += [record for record in earlier if record["bounds"]["version"] == version]
    for path, record in checked:
        check_gate(path, record, gate)
    lines, targets = [], []
    for path, record in checked:
        target = destination(record, results)
        targets.append(target)
        if target.exists():
            lines.append(f"{relative(path)}: already published as {relative(target)}")
            continue
        if record["kind"] == "score":
            # The record comes last, so that a published record is never without its documents.
            atomic_write_bytes(documents_file(target), documents_file(path).read_bytes())
        labelled = label is not None and "protocol" in record
        published = {**record, "label": label} if labelled else record
        write_record(target, published, RECORD_SCHEMAS[record["kind"]])
        lines.append(f"{relative(path)}: published as {relative(target)}")
    extend_manifest(results, targets)
    summarize_results(catalogue, results)
    return lines


def check_publishable(catalogue: Catalogue, path: Path, label: str | None) -> MeasuredRecord:
    """Read a record that may be published.

    Raises:
        UserError: naming what forbids it.
    """
    record = read_run(path)
    file = relative(path)

    def refuse(message: str, field: str, value: object, fix: str) -> UserError:
        return UserError(message, file=file, field=field, value=value, fix=fix)

    model = catalogue.models.get(record["model"]["id"])
    if model is None:
        raise refuse("no card of this model", "model.id", record["model"]["id"], "add its card")
    # The card may have been pinned since; what counts is what was measured.
    if not (model.pinned and _was_pinned(record["model"]["source"])):
        raise refuse(
            "the model is not pinned",
            "model.revision",
            model.revision,
            f"slm-benchmark pin {model.file}, then measure again",
        )
    if record["kind"] != "equivalence" and record["kind"] != "fidelity":
        _check_protocol(catalogue, record["protocol"]["id"], label, refuse)
    for field, what in irreproducible(record):
        value: Any = reduce(getitem, field.split("."), cast(Any, record))
        raise refuse(what, field, value, _REMEDIES[field.rpartition(".")[2]])
    for field, what in (*impossible_times(record), *_before_its_commit(record)):
        raise refuse(
            f"measured with a clock that was wrong: {what}",
            field,
            reduce(getitem, field.split("."), cast(Any, record)),
            "set the clock of the machine, then measure again",
        )
    for field, dataset in _datasets(record):
        if not _is_pinned(dataset, catalogue.datasets.get(dataset["id"])):
            raise refuse(
                "the dataset is not pinned",
                f"{field}.revision",
                dataset["revision"],
                "slm-benchmark pin config/datasets.yaml, then measure again",
            )
    if record["kind"] == "score":
        read_documents(path, record)
    elif record["kind"] == "performance":
        _check_performance(record, refuse)
    return record


def check_gate(path: Path, record: MeasuredRecord, gate: Sequence[EquivalenceRecord]) -> None:
    """Let numbers of a GGUF file pass only where the model's F16 file was shown to equal its base.

    A record without numbers, such as a failed one, passes.

    Args:
        path: File of the record.
        record: A record of any kind.
        gate: All equivalence records, published or about to be.

    Raises:
        UserError: when the newest equivalence record of the same base model and the same llama.cpp
            engine did not pass, or there is none.
    """
    if (
        record["kind"] == "equivalence"
        or record["state"] != "ok"
        or engine_name(record["variant"]["id"]) != "llama.cpp"
    ):
        return
    model, version = record["model"], record["engine"]["version"]
    file = relative(path)
    check = f"runs/{model['id']}/equivalence.json"
    again = f"`snakemake --profile local {check}`, then publish it with this record"
    of_base = [check for check in gate if check["model"]["sha256"] == model["sha256"]]
    if not of_base:
        raise UserError(
            "no equivalence record of this base model: its F16 GGUF file may be another model",
            file=file,
            field="model.sha256",
            value=model["sha256"],
            fix=again,
        )
    fitting = [check for check in of_base if _is_version_of(check, version)]
    if not fitting:
        raise UserError(
            "no equivalence record of this model with this version of llama.cpp",
            file=file,
            field="engine.version",
            value=version,
            fix=again,
        )
    newest = max(fitting, key=lambda check: str(check["started"]))
    f16 = newest["variants"]["gguf-f16"]["sha256"]
    if record["variant"]["id"] == "gguf-f16" and record["variant"]["sha256"] != f16:
        raise UserError(
            "the equivalence record is of another F16 GGUF file",
            file=file,
            field="variant.sha256",
            value=record["variant"]["sha256"],
            fix="measure this record again, or " + again,
        )
    if not newest["passed"]:
        raise UserError(
            f"the F16 GGUF file does not equal the base: {'; '.join(newest['reasons'])}",
            file=file,
            field="variant.id",
            value=record["variant"]["id"],
            fix=f"correct the conversion, measure again, and see {check}",
        )


def _is_version_of(check: EquivalenceRecord, version: str) -> bool:
    """Whether a check ran with llama.cpp's ``version``; performance records name the library's."""
    checked_version = check["engines"]["gguf-f16"]["version"]
    return version in (checked_version, checked_version.split(" (")[0])


def _was_pinned(source: Mapping[str, object]) -> bool:
    """Whether the base model that a record names came from a package or a stated commit."""
    return source["type"] == "package" or source.get("requested_revision") is not None


def _check_protocol(catalogue: Catalogue, protocol: str, label: str | None, refuse: Refuse) -> None:
    if protocol not in catalogue.protocols:
        again = "correct it, commit, and measure again"
        raise refuse("unknown protocol", "protocol.id", protocol, again)
    ranked = catalogue.protocols[protocol]["ranked"]
    if (ranked and label is not None) or (not ranked and label != protocol):
        raise refuse(
            f"records of the protocol {protocol} are {'' if ranked else 'not '}ranked",
            "protocol.id",
            protocol,
            "leave --label out" if ranked else f"say so with --label {protocol}",
        )


def _before_its_commit(record: MeasuredRecord) -> Iterator[tuple[str, str]]:
    """Times before the commit that was measured, where this repository knows it."""
    steps = [("", record["workflow"], record["started"])]
    if record["kind"] == "score" and "scored" in record:
        scored = record["scored"]
        steps.append(("scored.", scored["workflow"], scored["started"]))
    for step, workflow, started in steps:
        made = commit_time(workflow["commit"]) if workflow["commit"] else None
        if made and datetime.datetime.fromisoformat(started) < made - CLOCK_SLACK:
            yield f"{step}started", f"before the commit that it was measured with ({made})"


def _datasets(record: MeasuredRecord) -> Iterator[tuple[str, _Dataset]]:
    """The datasets that a record was measured on, each with its field."""
    if record["kind"] == "equivalence":
        for task, dataset in record["datasets"].items():
            yield f"datasets.{task}", dataset
    elif record["kind"] == "fidelity":
        yield "text.dataset", record["text"]["dataset"]
    elif record["kind"] != "performance":
        yield "dataset", record["dataset"]


def _is_pinned(dataset: _Dataset, entry: Dataset | None) -> bool:
    """Whether a record's dataset is one that config/datasets.yaml pins, or comes with a package."""
    if dataset["source"] == "package":
        return True
    if entry is None or entry["source"] != dataset["source"] or not is_pinned(entry):
        return False
    if entry["source"] == "hub":
        return hub_revision(entry) == dataset["revision"]
    return entry["source"] != "generated" or entry["sha256"] == dataset["sha256"]


def _check_performance(record: PerformanceRecord, refuse: Refuse) -> None:
    """Refuse a performance record that lacks a process, a point or a quantity of every machine.

    A failed one has no numbers and passes.
    """
    again = "delete the record and run its command again"
    if record["schema_version"] == 1:
        raise refuse("measured by the first version of the method", "schema_version", 1, again)
    if record["state"] != "ok":
        return
    processes: list[RawProcess] = record["raw"]["processes"]
    planned = record["session"]["processes"]
    if len(processes) != planned:
        raise refuse(f"not the {planned} planned processes", "raw.processes", len(processes), again)
    points = [_points(process["points"]) for process in processes]
    if any(other != points[0] for other in points):
        raise refuse("the processes measured unlike points", "raw.processes", points, again)
    if sorted(_points(record["grid"])) != sorted(points[0][1:]):
        raise refuse("not the points of the processes", "grid", _points(record["grid"]), again)
    metrics = cast(Mapping[str, Quantity], record["metrics"])
    for name in ALWAYS_MEASURED:
        if metrics[name]["value"] is None:
            raise refuse(
                "a quantity that every machine can measure is missing",
                f"metrics.{name}",
                metrics[name]["reason"],
                again,
            )


def _points(blocks: Sequence[PerformancePoint | RawPoint]) -> list[tuple[int, int, int]]:
    return [(b["prompt_tokens"], b["output_tokens"], b["sequences"]) for b in blocks]


def summarize_results(
    catalogue: Catalogue, results: Path = RESULTS, folder: Path | None = None
) -> None:
    """Write all that follows from published records: the index, the leaderboard, the summaries.

    Args:
        catalogue: The catalogue of the checkout.
        results: The folder of published records.
        folder: Where to write; None = among the records.
    """
    folder = folder or results
    current = current_records(published_records(results), RECORD_SCHEMAS, Slim())
    rows = [(path, record) for path, record in current if record["kind"] in ROW_KINDS]
    board = build_leaderboard(catalogue, rows, "published")
    write_tables(board, folder / "leaderboard.json", folder / "leaderboard.csv", folder)
    known = [listed for listed in current if listed[1]["model"]["id"] in board["models"]]
    write_reports(known, catalogue.tasks, folder)
    write_index(current, results, folder)


def compare_with_published(record: ScoreRecord, results: Path = RESULTS) -> str:
    """A sentence about how a new score compares with the published one of its cell."""
    cell = f"{record['model']['id']} {record['variant']['id']} {record['task']['id']}"
    folder = cell_folder(record, results)
    paths = [path for path in folder.glob("*.json") if is_record(path)]
    if not paths:
        return f"{cell}: {headline(record)}; no published record to compare with"
    ((path, newest),) = current_records(sorted(paths))
    published = cast(ScoreRecord, newest)
    where = relative(path)
    if published["result_sha256"] == record["result_sha256"]:
        return f"{cell}: {headline(record)}; identical to the published result {where}"
    if published["dataset"]["sha256"] != record["dataset"]["sha256"]:
        return f"{cell}: {headline(record)}; not comparable: {where} read another dataset"
    differing = [
        name
        for name in ("model", "variant", "dataset", "task", "protocol", "engine", "scoring")
        if published.get(name) != record.get(name)
    ]
    because = f" (differs in {', '.join(differing)})" if differing else ""
    flips = _flips(path, record)
    return f"{cell}: {headline(record)}; published {headline(published)} in {where}{because}{flips}"


def _flips(path: Path, record: ScoreRecord) -> str:
    """How many documents changed sides, where the values of both are at hand."""
    ours = Path(
        "runs",
        record["model"]["id"],
        record["variant"]["id"],
        record["hardware"]["id"],
        record["protocol"]["id"],
        f"{record['task']['id']}.documents.json",
    )
    if not ours.exists() or not documents_file(path).exists():
        return ""
    metric, chosen = record["task"]["metric"], record["task"]["filter"]

    def values(file: Path) -> dict[tuple[str, str], Any]:
        rows: list[DocumentRow] = read_json(file)
        return {
            (row.get("part", ""), row["document"]): row["values"].get(metric)
            for row in rows
            if row["filter"] == chosen
        }

    old, new = values(documents_file(path)), values(ours)
    shared = old.keys() & new.keys()
    changed = sum(old[document] != new[document] for document in shared)
    return f"; {changed} of {len(shared)} documents in common changed"
