"""Promoting records from runs/ to results/, a person's decision, and comparing with these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.aggregate import (
    build_leaderboard,
    current_records,
    read_run,
    write_board,
    write_summaries,
)
from slm_benchmark.config import Catalogue
from slm_benchmark.errors import UserError
from slm_benchmark.files import atomic_write_bytes, digest, read_json
from slm_benchmark.paths import RESULTS, relative
from slm_benchmark.schemas import write_record

Record = dict[str, Any]


def published_records(results: Path = RESULTS) -> list[Path]:
    """All records of results/, both kinds; summaries and per-document values are none."""
    return sorted(
        path
        for path in results.glob("*/*/*/**/*.json")
        if not path.name.endswith(".documents.json")
    )


def publish(
    catalogue: Catalogue, paths: Sequence[Path], label: str | None, results: Path = RESULTS
) -> list[str]:
    """Copy records to results/ and make its summaries again; nothing there is ever overwritten.

    All records are checked before the first one is copied.

    Args:
        catalogue: The catalogue of the checkout.
        paths: Records under runs/.
        label: Required for records of a protocol that is not ranked, and equal to its name.
        results: The folder to publish to.

    Returns:
        One line for each record: where it went, or that it is there already.

    Raises:
        UserError: for the first record that is invalid, unpinned, unlocked, dirty or unlabelled.
    """
    checked = [(path, check_publishable(catalogue, path, label)) for path in paths]
    lines = []
    for path, record in checked:
        target = destination(record, results)
        if target.exists():
            lines.append(f"{relative(path)}: already published as {relative(target)}")
            continue
        if record["kind"] == "score":
            # The record comes last, so that a published record is never without its documents.
            atomic_write_bytes(documents_file(target), documents_file(path).read_bytes())
        published = record if label is None else {**record, "label": label}
        write_record(target, published, _schema(record))
        lines.append(f"{relative(path)}: published as {relative(target)}")
    summarise_results(catalogue, results)
    return lines


def check_publishable(catalogue: Catalogue, path: Path, label: str | None) -> Record:
    """Read a record that may be published.

    Raises:
        UserError: naming what forbids it.
    """
    record = read_run(path)
    file = relative(path)
    again = "correct it, commit, and measure again"

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
    protocol = record["protocol"]["id"]
    if protocol not in catalogue.protocols:
        raise refuse("unknown protocol", "protocol.id", protocol, again)
    ranked = catalogue.protocols[protocol]["ranked"]
    if (ranked and label is not None) or (not ranked and label != protocol):
        raise refuse(
            f"records of the protocol {protocol} are {'' if ranked else 'not '}ranked",
            "protocol.id",
            protocol,
            "leave --label out" if ranked else f"say so with --label {protocol}",
        )
    if record["environment"]["locked"] is not True:
        raise refuse(
            "the environment differs from requirements.lock",
            "environment.locked",
            False,
            "run `. ./activate`, then measure again",
        )
    if record["workflow"]["dirty"] is not False:
        raise refuse(
            "the files that decide the measurement were not committed",
            "workflow.dirty",
            record["workflow"]["dirty"],
            "commit workflow/, src/, config/, envs/ and the card, then measure again",
        )
    if record["kind"] == "score":
        _check_score(catalogue, path, record, refuse)
    return record


def _was_pinned(source: Record) -> bool:
    """Whether the base model that a record names came from a package or a stated commit."""
    return source["type"] == "package" or source.get("requested_revision") is not None


def _check_score(catalogue: Catalogue, path: Path, record: Record, refuse: Any) -> None:
    dataset = record["dataset"]
    entry = catalogue.datasets.get(dataset["id"], {"source": "local"})
    kind = dataset["source"]
    pinned = kind == "package" or (kind == "hub" and entry.get("revision") == dataset["revision"])
    if not pinned:
        raise refuse(
            "the dataset is not pinned",
            "dataset.revision",
            dataset["revision"],
            "slm-benchmark pin config/datasets.yaml, then measure again",
        )
    documents = read_json(documents_file(path))
    found = digest(documents) if documents else None
    if found != record["documents_sha256"]:
        raise refuse(
            f"{documents_file(path).name} does not match the record",
            "documents_sha256",
            record["documents_sha256"],
            "measure again",
        )


def documents_file(record: Path) -> Path:
    """The file of per-document values beside a record."""
    return record.with_name(f"{record.stem}.documents.json")


def destination(record: Record, results: Path) -> Path:
    """Where a record is published: its cell's folder, and a name from time and content."""
    started = record["started"].replace("-", "").replace(":", "").replace("+0000", "Z")
    run_id = f"{started}-{record['result_sha256'][:8]}"
    return cell_folder(record, results) / f"{run_id}.json"


def cell_folder(record: Record, results: Path) -> Path:
    """Folder of all published runs of a record's cell."""
    ids = (record[block]["id"] for block in ("model", "variant", "hardware"))
    folder = Path(results, *ids)
    if record["kind"] == "performance":
        return folder / "performance"
    return folder.joinpath(record["protocol"]["id"], record["task"]["id"])


def summarise_results(catalogue: Catalogue, results: Path = RESULTS) -> None:
    """Write the leaderboard and the summaries of each model into results/."""
    board = build_leaderboard(catalogue, current_records(published_records(results)), "published")
    for model in board["models"]:
        write_summaries(results / model, model, board)
    write_board(board, results / "leaderboard.json", results / "leaderboard.csv")


def compare_with_published(record: Record, results: Path = RESULTS) -> str:
    """A sentence about how a new score compares with the published one of its cell."""
    cell = f"{record['model']['id']} {record['variant']['id']} {record['task']['id']}"
    folder = cell_folder(record, results)
    paths = [p for p in folder.glob("*.json") if not p.name.endswith(".documents.json")]
    if not paths:
        return f"{cell}: {_headline(record)}; no published record to compare with"
    ((path, published),) = current_records(sorted(paths))
    where = relative(path)
    if published["result_sha256"] == record["result_sha256"]:
        return f"{cell}: {_headline(record)}; identical to the published result {where}"
    if published["dataset"]["sha256"] != record["dataset"]["sha256"]:
        return f"{cell}: {_headline(record)}; not comparable: {where} read another dataset"
    differing = [
        name
        for name in ("model", "variant", "dataset", "task", "protocol", "engine")
        if published[name] != record[name]
    ]
    because = f" (differs in {', '.join(differing)})" if differing else ""
    flips = _flips(published, path, record)
    return (
        f"{cell}: {_headline(record)}; published {_headline(published)} in {where}{because}{flips}"
    )


def _headline(record: Record) -> str:
    for score in record["scores"]:
        if score["headline"]:
            return f"{score['metric']} {100 * score['value']:.1f} % (n = {score['n']})"
    return str(record["state"])


def _flips(published: Record, path: Path, record: Record) -> str:
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

    def values(file: Path) -> dict[str, float]:
        return {
            row["document"]: row["values"][metric]
            for row in read_json(file)
            if row["filter"] == chosen
        }

    old, new = values(documents_file(path)), values(ours)
    shared = old.keys() & new.keys()
    changed = sum(old[document] != new[document] for document in shared)
    return f"; {changed} of {len(shared)} documents in common changed"


def _schema(record: Record) -> str:
    return "cell" if record["kind"] == "score" else "performance"
