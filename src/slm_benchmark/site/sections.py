"""The rows of a leaderboard, arranged for readers: one section for each protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.site import formats
from slm_benchmark.site.metrics import METRICS

Record = Mapping[str, Any]


def build_sections(
    leaderboard: Record, rows: Iterable[Record], *, by_group: bool
) -> list[dict[str, Any]]:
    """One section per protocol that has rows, ranked protocols first: rows never mix.

    Rows stand by name and variant; with ``by_group``, those of a ranked protocol by group, and
    within a group by falling overall score.
    """
    rows = list(rows)
    sections = []
    for key, protocol in leaderboard["protocols"].items():
        own = [row for row in rows if row["protocol"] == key]
        if not own:
            continue
        own.sort(key=lambda row: (row["model"], VARIANTS.index(row["variant"]), machine_of(row)))
        if by_group and protocol["ranked"]:
            own.sort(key=_standing)
        shown = {task for row in own for task in row["scores"]}
        counts = [s["n"] for row in own for s in row["scores"].values() if s["state"] == "ok"]
        sections.append(
            {
                "id": key,
                "title": protocol["title"],
                "ranked": protocol["ranked"],
                "categories": list(protocol["counted"]),
                "documents": formats.documents([n for n in counts if n is not None]),
                "rows": [{**row, "machine": machine_of(row)} for row in own],
                "machines": sorted({machine_of(row) for row in own}),
                "tasks": [task for task in leaderboard["tasks"] if task["id"] in shown],
            }
        )
    return sorted(sections, key=lambda section: not section["ranked"])


def _standing(row: Record) -> tuple[bool, bool, int, float]:
    rank, overall = row["group"]["rank"], row["overall"]["value"]
    return not row["ranked"], rank is None, rank or 0, -(overall or 0.0)


def machine_of(row: Record) -> str:
    """The machine of a row's speed, short: the hardware id and the head of its fingerprint."""
    fingerprint = row["fingerprint"]
    return f"{row['hardware']} {fingerprint[:6]}" if fingerprint else str(row["hardware"])


def flags(rows: Iterable[Record]) -> dict[str, list[Record]]:
    """Warnings of a model's rows, joined → machines and the variants that have exactly these."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row["measurement"] and row["measurement"]["warnings"]:
            warnings = "; ".join(row["measurement"]["warnings"])
            found.setdefault(warnings, {}).setdefault(machine_of(row), []).append(row["variant"])
    return {
        warnings: [
            {"machine": machine, "variants": variants} for machine, variants in concerned.items()
        ]
        for warnings, concerned in found.items()
    }


def profiles(rows: Iterable[Record]) -> list[dict[str, Any]]:
    """For each machine, the rows that were measured there and their points, reference first."""
    machines: dict[str, list[Record]] = {}
    for row in rows:
        if row["measurement"]:
            machines.setdefault(machine_of(row), []).append(row)
    found = []
    for machine, own in sorted(machines.items()):
        points = [{**point, "row": row} for row in own for point in _points(row)]
        grid = [point["metrics"] for row in own for point in row["measurement"]["grid"]]
        known = {name for found in grid for name, q in found.items() if q["value"] is not None}
        columns = [metric for metric in METRICS if metric.key in known]
        found.append({"machine": machine, "rows": own, "points": points, "columns": columns})
    return found


def _points(row: Record) -> list[Record]:
    """The points that a row was measured at: the reference, if there are others, then these."""
    grid: list[Record] = row["measurement"]["grid"]
    reference = row["measurement"]["reference"]
    if not grid or reference is None:
        return grid
    return [{**reference, "sequences": 1, "metrics": row["performance"]}, *grid]


def never_measured(rows: Iterable[Record]) -> dict[str, list[str]]:
    """Title of each performance metric that no row has → the distinct reasons."""
    rows = list(rows)
    missing: dict[str, list[str]] = {}
    for metric in METRICS:
        quantities = [q for row in rows if (q := row["performance"].get(metric.key))]
        if quantities and all(quantity["value"] is None for quantity in quantities):
            missing[metric.title] = sorted({quantity["reason"] for quantity in quantities})
    return missing
