"""What quantization costs a model, from its report: tables for its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slm_benchmark.site import formats
from slm_benchmark.site.cells import Cell
from slm_benchmark.site.figures import impact_figures
from slm_benchmark.site.sources import fidelity_command

Record = Mapping[str, Any]

FIDELITY = (
    ("kl_mean_nats", "KL divergence, mean", "nats", 1),
    ("kl_p99_nats", "KL divergence, p99", "nats", 1),
    ("top_token_agreement", "Same top token", "%", 100),
)
"""Metrics of the next-token distributions: name, title, unit, factor into the unit."""

NO_FLOOR = "the noise floor was not measured"
NO_FLIPS = "a metric of the whole corpus, so no document is right or wrong"
NO_TEST = "no test applies"


def impacts(report: Record | None, section: Record, leaderboard: Record) -> list[dict[str, Any]]:
    """The comparisons of a section's protocol, one for each machine.

    Args:
        report: A record of the schema ``quantization``; None where there is none.
        section: A section with its sources.
        leaderboard: A record of the schema ``leaderboard``.
    """
    return [
        {
            **_impact(report["model"], group, section),
            "figures": impact_figures(report, section["id"], group["hardware"], leaderboard),
        }
        for group in (report["groups"] if report else [])
        if report and group["protocol"] == section["id"] and group["variants"]
    ]


def pooled_differences(report: Record | None, protocol: str) -> dict[tuple[str, str], Cell]:
    """(Hardware, variant) → the pooled difference of each variant of a protocol."""
    return {
        (group["hardware"], variant["variant"]): _difference(variant["pooled"], "share")
        for group in (report["groups"] if report else [])
        if group["protocol"] == protocol
        for variant in group["variants"]
    }


def _impact(model: str, group: Record, section: Record) -> dict[str, Any]:
    keys = {line["record"]: key for key, line in section["sources"].items() if line["record"]}
    rows = [{"row": group["base"]}] if group["base"] else []
    rows += [{"row": row, **_variant(row)} for row in group["variants"]]
    tasks = [
        {"variant": row["variant"], **_task(task, keys)}
        for row in group["variants"]
        for task in row["tasks"]
    ]
    return {
        "hardware": group["hardware"],
        "rows": rows,
        "base": f"{section['id']}/base/{group['hardware']}",
        "tasks": tasks,
        "floors": any(task["floor"].value is not None for task in tasks),
        "notes": _notes(group["variants"]),
        "commands": [
            (row["variant"], fidelity_command(model, row["variant"], group["hardware"]))
            for row in group["variants"]
            if row["fidelity"]["tokens"]
        ],
    }


def _variant(row: Record) -> dict[str, Any]:
    pooled, metrics = row["pooled"], row["fidelity"]["metrics"]
    return {
        "documents": _count(pooled["n"], pooled["reason"]),
        "difference": _difference(pooled, "share"),
        "lost": _count(pooled["right_to_wrong"], pooled["reason"] or NO_FLIPS),
        "gained": _count(pooled["wrong_to_right"], pooled["reason"] or NO_FLIPS),
        "fidelity": [_quantity(metrics[name], factor) for name, _, _, factor in FIDELITY],
        "statement": pooled["statement"],
    }


def _task(task: Record, keys: Mapping[str, str]) -> dict[str, Any]:
    _, own = task["records"] or ("", "")
    return {
        "title": task["title"],
        "key": keys.get(own),
        "difference": _difference(task, task["unit"]),
        "numbers": [
            _count(task["right_to_wrong"], task["reason"] or NO_FLIPS),
            _count(task["wrong_to_right"], task["reason"] or NO_FLIPS),
            _count(task["n"], task["reason"]),
            _probability(task["p_holm"], task["reason"]),
        ],
        "floor": _floor(task),
        "statement": f"not compared: {task['reason']}" if task["reason"] else task["statement"],
    }


def _difference(found: Record, unit: str) -> Cell:
    """A difference in points with its sign and interval."""
    if found["difference"] is None:
        return Cell("not compared", reason=found["reason"] or "no reason was recorded")
    interval = "no interval"
    if found["ci95"]:
        interval = formats.span(*(formats.signed(end, unit) for end in found["ci95"]))
    return Cell(
        formats.signed(found["difference"], unit),
        formats.scaled(found["difference"], unit),
        small=interval,
    )


def _count(number: int | None, reason: str | None) -> Cell:
    if number is None:
        return Cell("none", reason=reason or "no document was compared")
    return Cell(f"{number:,}", number)


def _probability(p: float | None, reason: str | None) -> Cell:
    if p is None:
        return Cell("none", reason=reason or NO_TEST)
    return Cell("< 0.001" if p < 0.001 else formats.significant(p, 2), p)


def _floor(task: Record) -> Cell:
    floor = task["noise_floor"]
    if floor is None:
        return Cell("not measured", reason=NO_FLOOR)
    within = "the difference is within it" if task["below_noise_floor"] else ""
    return Cell(
        formats.scored(floor, task["unit"]), formats.scaled(floor, task["unit"]), small=within
    )


def _quantity(found: Record, factor: float) -> Cell:
    if found["value"] is None:
        return Cell("not measured", reason=found["reason"])
    value, interval = factor * found["value"], ""
    if found["ci95"]:
        interval = formats.span(*(formats.significant(factor * end) for end in found["ci95"]))
    return Cell(formats.significant(value), value, small=interval)


def _notes(variants: Iterable[Record]) -> dict[str, list[str]]:
    """What a reader should know of some comparisons → these, as task and variant."""
    notes: dict[str, list[str]] = {}
    for row in variants:
        for task in row["tasks"]:
            for note in task["notes"]:
                notes.setdefault(note, []).append(f"{task['title']}, {row['variant']}")
    return notes
