"""Where a number comes from: its record, its inputs, and the command that reproduces it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from slm_benchmark.common.paths import ROOT
from slm_benchmark.records.provenance import command_for
from slm_benchmark.records.types import LeaderboardRow, LeaderboardScore, LeaderboardTask
from slm_benchmark.site.sections import Section, label_of

PROFILE = "local"
"""The profile of every command: `command_for` gives it, with all that decides as ``--config``."""


@dataclass(frozen=True)
class Source:
    """The line of a score in the table of records.

    Attributes:
        title: Of the task.
        label: Of the row.
        notes: The reason of a score without a value, and warnings.
        record: Path of its record; None without one.
        command: What reproduces it; None where the task does not apply.
        shared: Keys of the `Definition` and the `Origin` that it shares with others.
    """

    title: str
    label: str
    notes: list[str]
    record: str | None
    command: str | None
    shared: tuple[str, str]


@dataclass(frozen=True)
class Definition:
    """A task as it was scored: its metric, and the digest of its questions."""

    task: LeaderboardTask
    metric: str
    filter: str
    chance: float | None
    unit: str
    parts: list[str]
    dataset: str | None
    dataset_sha256: str | None


@dataclass(frozen=True)
class Origin:
    """The weights, the engine and the machine of scores."""

    variant: str
    hardware: str
    engine: str | None
    weights_sha256: str | None


Shared = TypeVar("Shared", Definition, Origin)


@dataclass(frozen=True)
class Sources:
    """Where the scores of a section come from; keys are ids in a page, which a link can name.

    Attributes:
        scores: The line of each score.
        definitions: Tasks, each once, which scores share.
        origins: Weights, engines and machines, likewise.
    """

    scores: dict[str, Source]
    definitions: dict[str, Definition]
    origins: dict[str, Origin]


def row_key(row: LeaderboardRow) -> str:
    """What names a row in the page of its model."""
    return f"{row['protocol']}/{row['variant']}/{row['hardware']}"


def record_key(row: LeaderboardRow, task: str) -> str:
    """Key of the line of a score's record; ``performance`` stands for what the row measured."""
    return f"{row_key(row)}/{task}"


def sources_of(section: Section) -> Sources:
    """Where each score of a section of one model comes from."""
    scores: dict[str, Source] = {}
    definitions: dict[str, Definition] = {}
    origins: dict[str, Origin] = {}
    for row in section["rows"]:
        for task in section["tasks"]:
            score = row["scores"][task["id"]]
            scores[record_key(row, task["id"])] = Source(
                title=task["title"],
                label=label_of(row, section),
                notes=[*([score["reason"]] if score["reason"] else []), *score["warnings"]],
                record=score["record"],
                command=_score_command(row, task, score),
                shared=(
                    _line(definitions, f"{section['id']}/{task['id']}", _definition(task, score)),
                    _line(origins, row_key(row), _origin(row, score)),
                ),
            )
    return Sources(scores, definitions, origins)


def _score_command(
    row: LeaderboardRow, task: LeaderboardTask, score: LeaderboardScore
) -> str | None:
    """The command that measures a score of a row again; None where the task does not apply."""
    if score["state"] == "not_applicable":
        return None
    files = [_runs(row) / f"{task['id']}.json"]
    if answers := task.get("answers"):
        files.append(_runs(row) / f"{answers}.answers.json")
    return command_for(files, row["protocol"], row["hardware"], judge=score.get("judge"))


def performance_command(row: LeaderboardRow) -> str:
    """The command that profiles a row again, beside the variants that were measured with it."""
    session = ROOT / "runs" / row["model"] / "sessions" / row["hardware"]
    files = [session / f"{row['protocol']}.json", _runs(row) / "performance.json"]
    together = row["measurement"].get("together", []) if row["measurement"] else []
    return command_for(files, row["protocol"], row["hardware"], variants=together)


def fidelity_command(model: str, variant: str, hardware: str) -> str:
    """The command that compares a variant's next-token distributions with the base's again."""
    return command_for([ROOT / "runs" / model / variant / "fidelity.json"], None, hardware)


def weights_command(model: str, variant: str) -> str:
    """The command that makes the weight files of a variant."""
    return f"snakemake --profile {PROFILE} {weights_folder(model, variant)}/weights.json"


def weights_folder(model: str, variant: str) -> str:
    """Where the weight files of a variant lie, from the repository's root."""
    return f"resources/models/{model}/{variant}"


def _runs(row: LeaderboardRow) -> Path:
    return ROOT.joinpath("runs", row["model"], row["variant"], row["hardware"], row["protocol"])


def _definition(task: LeaderboardTask, score: LeaderboardScore) -> Definition:
    return Definition(
        task=task,
        metric=score["metric"],
        filter=score["filter"],
        chance=score["chance"],
        unit=score["unit"],
        parts=score["parts"],
        dataset=score["dataset"],
        dataset_sha256=score["dataset_sha256"],
    )


def _origin(row: LeaderboardRow, score: LeaderboardScore) -> Origin:
    """Weights, engine and machine: a score without such a field shares its row's."""
    return Origin(
        variant=row["variant"],
        hardware=row["hardware"],
        engine=score.get("engine", row.get("engine")),
        weights_sha256=score.get("weights_sha256", row.get("weights_sha256")),
    )


def _line(lines: dict[str, Shared], name: str, content: Shared) -> str:
    """Key of the line with this content; a second line of a name has a number behind it."""
    key, number = name, 1
    while lines.setdefault(key, content) != content:
        number += 1
        key = f"{name}~{number}"
    return key
