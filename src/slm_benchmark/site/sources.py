"""Where a number comes from: its record, what decided it, what measures it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.common.paths import ROOT
from slm_benchmark.records.provenance import command_for

Record = Mapping[str, Any]
Lines = dict[str, dict[str, Any]]
"""Key of a line → its content; keys are ids in a page, which a link can name for good."""

PROFILE = "local"
"""The profile of every command: `command_for` gives it, with all that decides as ``--config``."""


def with_sources(section: dict[str, Any]) -> dict[str, Any]:
    """Add to a section of one model where each of its numbers comes from.

    ``sources`` has a line for each score. What many of them share stands once in ``definitions``
    (task, metric, dataset) and ``origins`` (weights, engine, machine). Each row gets ``places``,
    by task and of its "performance": the id of the line that tells where a number comes from.
    """
    sources: Lines = {}
    definitions: Lines = {}
    origins: Lines = {}
    rows = []
    for row in section["rows"]:
        name = f"{section['id']}/{row['variant']}/{row['hardware']}"
        folder = _runs(row)
        places = {}
        for task in section["tasks"]:
            score = row["scores"][task["id"]]
            places[task["id"]] = key = f"{name}/{task['id']}"
            sources[key] = {
                "title": task["title"],
                "label": row["label"],
                "remarks": [*([score["reason"]] if score["reason"] else []), *score["warnings"]],
                "record": score["record"],
                "command": _score_command(row, folder, task, score),
                "shared": [
                    _line(definitions, f"{section['id']}/{task['id']}", _definition(task, score)),
                    _line(origins, name, _origin(row, score)),
                ],
            }
        if row["measurement"]:
            places["performance"] = f"{name}/performance"
        rows.append({**row, "places": places, "command": performance_command(row)})
    return {
        **section,
        "rows": rows,
        "sources": sources,
        "definitions": definitions,
        "origins": origins,
    }


def _score_command(row: Record, folder: Path, task: Record, score: Record) -> str | None:
    """The command that measures a score of a row again; None where the task does not apply."""
    if score["state"] == "not_applicable":
        return None
    files = [folder / f"{task['id']}.json"]
    if answers := task.get("answers"):
        files.append(folder / f"{answers}.answers.json")
    return command_for(files, row["protocol"], row["hardware"], judge=score.get("judge"))


def performance_command(row: Record) -> str:
    """The command that profiles a row again, beside the variants that were measured with it."""
    session = ROOT / "runs" / row["model"] / "sessions" / row["hardware"]
    files = [session / f"{row['protocol']}.json", _runs(row) / "performance.json"]
    together = (row["measurement"] or {}).get("together", [])
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


def _runs(row: Record) -> Path:
    place = (row["model"], row["variant"], row["hardware"], row["protocol"])
    return ROOT.joinpath("runs", *place)


def _definition(task: Record, score: Record) -> dict[str, Any]:
    """What was asked: task, metric and the documents' digest."""
    named = ("metric", "filter", "chance", "unit", "parts", "dataset", "dataset_sha256")
    return {"task": task, **{name: score[name] for name in named}}


def _origin(row: Record, score: Record) -> dict[str, Any]:
    """What answered: a score that lacks a field of its own shares its row's."""
    return {
        "variant": row["variant"],
        "hardware": row["hardware"],
        "engine": score.get("engine", row.get("engine")),
        "weights_sha256": score.get("weights_sha256", row.get("weights_sha256")),
    }


def _line(lines: Lines, name: str, content: dict[str, Any]) -> str:
    """Key of the line with this content; a second line of a name has a number behind it."""
    key, number = name, 1
    while lines.setdefault(key, content) != content:
        number += 1
        key = f"{name}~{number}"
    return key
