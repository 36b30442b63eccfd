"""The tables of speed, memory and energy on the page of a model: one for each machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slm_benchmark.records.types import MeasurementGridPoint, Quantity
from slm_benchmark.site import formats
from slm_benchmark.site.cells import NO_REASON
from slm_benchmark.site.metrics import METRICS, Metric
from slm_benchmark.site.sections import Row

ENERGY = "energy_mwh_per_token"
"""A quantity that stands on every page: where a machine cannot measure it, it says so."""


class Point(MeasurementGridPoint):
    """Quantities at one length of prompt and output, and the row that they are of."""

    row: Row


@dataclass(frozen=True)
class MachineTable:
    """What was measured on one machine.

    Attributes:
        machine: The machine.
        rows: All its rows, also those that were not measured.
        metrics: The quantities that some row has, and energy.
        reasons: Reason → the quantities of some rows that have no value for it.
        points: The points of its rows, each row's reference point first.
        columns: The quantities that some other point has.
    """

    machine: str
    rows: list[Row]
    metrics: list[Metric]
    reasons: dict[str, list[str]]
    points: list[Point]
    columns: list[Metric]


def machine_tables(rows: Sequence[Row]) -> list[MachineTable]:
    """A table for each machine on which some row was measured."""
    machines = sorted({row["machine"] for row in rows if row["measurement"]})
    return [_table(machine, [r for r in rows if r["machine"] == machine]) for machine in machines]


def _table(machine: str, rows: list[Row]) -> MachineTable:
    points = [point for row in rows if row["measurement"] for point in row["measurement"]["grid"]]
    of_rows = _measured(row["performance"] for row in rows) | {ENERGY}
    of_points = _measured(point["metrics"] for point in points)
    return MachineTable(
        machine=machine,
        rows=rows,
        metrics=[metric for metric in METRICS if metric.key in of_rows],
        reasons=_unmeasured(rows),
        points=[point for row in rows for point in _points(row)],
        columns=[metric for metric in METRICS if metric.key in of_points],
    )


def _measured(metrics: Iterable[dict[str, Quantity]]) -> set[str]:
    """The quantities that have a value somewhere."""
    return {key for point in metrics for key, q in point.items() if q["value"] is not None}


def _points(row: Row) -> list[Point]:
    """The points that a row was measured at: the reference, if there are others, then these."""
    measurement = row["measurement"]
    if measurement is None:
        return []
    points: list[Point] = [{**point, "row": row} for point in measurement["grid"]]
    reference = measurement["reference"]
    if not points or reference is None:
        return points
    return [{**reference, "sequences": 1, "metrics": row["performance"], "row": row}, *points]


def _unmeasured(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Reason → the quantities of some rows that have no value for it."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for metric in METRICS:
        for row in rows:
            quantity = row["performance"][metric.key]
            if quantity["value"] is None:
                concerned = reasons.setdefault(quantity["reason"] or NO_REASON, {})
                concerned.setdefault(metric.title, []).append(row["variant"])
    return {
        reason: formats.table_cells(concerned, len(rows)) for reason, concerned in reasons.items()
    }


def flags(rows: Iterable[Row]) -> dict[str, dict[str, list[str]]]:
    """Warnings of measurements, joined → machine → the variants that have exactly these."""
    concerned: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row["measurement"] and row["measurement"]["warnings"]:
            warnings = "; ".join(row["measurement"]["warnings"])
            variants = concerned.setdefault(warnings, {}).setdefault(row["machine"], [])
            variants.append(row["variant"])
    return concerned
