"""Energy from the readings of a wall meter, for machines without a counter."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import sha256_bytes
from slm_benchmark.common.paths import RESULTS
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.profiling.energy import energy_metrics, idle_drift, resting_power_w
from slm_benchmark.profiling.energy.carbon import emissions
from slm_benchmark.profiling.energy.integrate import Sample, integrate
from slm_benchmark.profiling.energy.metrics import EnergyMetrics
from slm_benchmark.profiling.types import IdleBaseline, RawProcess, RawRepetition
from slm_benchmark.records.provenance import result_digest
from slm_benchmark.records.types import (
    Freeform,
    PerformanceMetrics,
    PerformanceRecord,
    PointMetrics,
)

MAX_GAP_S = 10.0
"""Longest time between two readings, however long the window is."""

READINGS_PER_WINDOW = 2
"""A window is at least so many times as long as the time between two of its readings."""

CLOCK_SLACK_S, CLOCK_SLACK_SHARE = 0.1, 0.01
"""A window's length by the wall clock may differ by the sum of these from its length by the clock
that measured it. By more only if the wall clock was set meanwhile."""

_NOT_COVERED = "the readings are too sparse for answers so short, or do not cover them"


def import_power(readings: Path, record_file: Path, name: str) -> str:
    """Fill in the energy of a performance record from a wall meter's readings, in place.

    Args:
        readings: CSV with ``power_w`` and a column of times: ``unix_s``, or ``time`` in ISO 8601
            with a zone.
        record_file: Record of a variant, of version 2, not published.
        name: Of the wall meter, for readers.

    Returns:
        One line that says what was found.

    Raises:
        UserError: for malformed readings, for ones that do not cover the windows in which tokens
            were generated or are too sparse, and for a record that cannot take them.
    """
    if record_file.resolve().is_relative_to(RESULTS.resolve()):
        raise UserError(
            "a published record never changes",
            file=record_file,
            fix="import into the record under runs/, then publish that one",
        )
    record: PerformanceRecord = read_record(record_file, "performance")
    for field, value, fits in (
        ("state", record["state"], record["state"] == "ok"),
        ("schema_version", record["schema_version"], record["schema_version"] >= 2),
    ):
        if not fits:
            raise UserError(
                "this record has no times at which tokens were generated",
                file=record_file,
                field=field,
                value=value,
                fix="measure the performance of the variant again",
            )
    if not readings.is_file():
        raise UserError("there is no such file", file=readings, fix="check the path")
    data = readings.read_bytes()
    samples = read_samples(data, readings)
    filled = with_wall_meter(record, samples, readings, name, sha256_bytes(data))
    write_record(record_file, filled, "performance")
    power_w = filled["metrics"]["power_w"]["value"]
    energy_mwh = filled["metrics"]["energy_mwh_per_token"]["value"]
    replaced = record["energy"]["source"]
    return (
        f"{record_file}: {power_w:.3g} W, {energy_mwh:.3g} mWh/token from {len(samples)} readings"
        + (f"; in place of {replaced}" if replaced else "")
    )


def with_wall_meter(
    record: PerformanceRecord, samples: Sequence[Sample], file: Path, name: str, sha256: str
) -> PerformanceRecord:
    """A performance record with a wall meter's energy in place of what it had.

    The reference point must be covered. Another point, whose answers may be too short for the
    readings, has null and the reason. Net energy needs the readings to cover all idle baselines.

    Args:
        record: The record.
        samples: The readings; times in Unix seconds.
        file: Where they come from, for messages.
        name: Of the wall meter.
        sha256: Digest of the readings' file.

    Raises:
        UserError: when the readings do not cover the reference point, or are too sparse.
    """
    processes: list[RawProcess] = record["raw"]["processes"]
    for process in processes:
        for repetition in process["points"][0]["repetitions"]:
            _check_covered(repetition, samples, file)
    source = f"wall meter: {name}"
    baselines = cast(list[IdleBaseline], record["energy"].get("idle", []))
    idle = [_baseline(baseline, samples, source) for baseline in baselines]
    powers_w = [baseline["power_w"] for baseline in idle]
    idle_w = None if None in powers_w else resting_power_w(idle, source)
    before_w, after_w = (powers_w[0], powers_w[-1]) if len(powers_w) > 1 else (None, None)
    drift = idle_drift(before_w, after_w)

    def joules_of(repetition: RawRepetition) -> float | None:
        joules = _generation_j(repetition, samples)
        return None if isinstance(joules, str) else joules

    def energy_at(index: int) -> EnergyMetrics:
        points = [process["points"][index] for process in processes]
        return energy_metrics(points, idle_w, _NOT_COVERED, joules_of=joules_of)

    metrics: PerformanceMetrics = {**record["metrics"], **energy_at(0)}
    filled: PerformanceRecord = {
        **record,
        "metrics": metrics,
        "grid": [
            {**point, "metrics": cast(PointMetrics, point["metrics"] | energy_at(index))}
            for index, point in enumerate(record["grid"], start=1)
        ],
        "energy": {
            "label": "sampled",
            "source": source,
            "reason": None,
            "readings_sha256": sha256,
            "idle": cast(list[Freeform], idle),
            "idle_before_w": before_w,
            "idle_after_w": after_w,
            "warnings": [drift] if drift else [],
        },
    }
    if grid := record["energy"].get("grid"):
        filled["energy"]["grid"] = emissions(grid, metrics)
    return {**filled, "result_sha256": result_digest(filled)}


def read_samples(data: bytes, file: Path) -> list[Sample]:
    """The readings of a CSV file, in the order of their times.

    Args:
        data: The file's bytes, UTF-8.
        file: Its name, for messages.

    Raises:
        UserError: for the first line that is no reading, or is not later than the one before it.
    """
    try:
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        rows = list(enumerate(table, start=2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"not a CSV file: {error}", file=file, fix="save it as CSV") from error
    columns = table.fieldnames or []
    time_column = next((name for name in ("unix_s", "time") if name in columns), None)
    if time_column is None or "power_w" not in columns:
        raise UserError(
            "the first line must name power_w and one of unix_s and time",
            file=file,
            value=",".join(columns),
            fix="name the columns so, separated by commas",
        )
    samples = [
        Sample(_time(row, time_column, file, line), _power(row, file, line)) for line, row in rows
    ]
    for (line, row), (before, after) in zip(rows[1:], itertools.pairwise(samples), strict=True):
        if after.time_s <= before.time_s:
            raise UserError(
                "not later than the reading before",
                file=file,
                field=f"line {line}: {time_column}",
                value=row[time_column],
                fix="sort the readings by time and keep one of each moment",
            )
    return samples


def _time(row: Mapping[str, str | None], column: str, file: Path, line: int) -> float:
    text = row[column] or ""
    try:
        if column == "unix_s":
            seconds = float(text)
        else:
            moment = datetime.datetime.fromisoformat(text)
            seconds = moment.timestamp() if moment.tzinfo else math.nan
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UserError(
            "not a time",
            file=file,
            field=f"line {line}: {column}",
            value=text,
            fix="write Unix seconds under unix_s, or ISO 8601 with a zone under time, such as "
            "2026-01-31T12:00:00+00:00",
        )
    return seconds


def _power(row: Mapping[str, str | None], file: Path, line: int) -> float:
    text = row["power_w"] or ""
    try:
        power_w = float(text)
    except ValueError:
        power_w = math.nan
    if not (math.isfinite(power_w) and power_w >= 0):
        raise UserError(
            "not a power",
            file=file,
            field=f"line {line}: power_w",
            value=text,
            fix="write watts with a decimal point",
        )
    return power_w


def _window(repetition: RawRepetition) -> tuple[float, float]:
    return repetition["generation_started_unix_s"], repetition["generation_ended_unix_s"]


def _check_covered(repetition: RawRepetition, samples: Sequence[Sample], file: Path) -> None:
    """Make sure that the readings give the energy of a generation.

    Raises:
        UserError: when they do not.
    """
    joules = _generation_j(repetition, samples)
    if isinstance(joules, str):
        start_s, end_s = _window(repetition)
        moment = datetime.datetime.fromtimestamp(start_s, datetime.UTC).isoformat(" ", "seconds")
        raise UserError(
            "the readings do not tell the energy of an answer that was generated in "
            f"{end_s - start_s:.1f} s from {moment}: {joules}",
            file=file,
            fix=f"log the whole session, at least every {_max_gap_s(end_s - start_s):.1f} s",
        )


def _generation_j(repetition: RawRepetition, samples: Sequence[Sample]) -> float | str:
    """Energy of one generation, or why the readings do not give it."""
    start_s, end_s = _window(repetition)
    window_s, length_s = end_s - start_s, math.fsum(repetition["latencies_s"])
    if abs(window_s - length_s) > CLOCK_SLACK_S + CLOCK_SLACK_SHARE * length_s:
        return f"the machine's clock was set meanwhile: in truth it took {length_s:.1f} s"
    return integrate(samples, start_s, end_s, _max_gap_s(window_s))


def _max_gap_s(window_s: float) -> float:
    return min(MAX_GAP_S, window_s / READINGS_PER_WINDOW)


def _baseline(baseline: IdleBaseline, samples: Sequence[Sample], source: str) -> IdleBaseline:
    """An idle baseline with the readings' power in place of what it had."""
    start_s, end_s = baseline["started_unix_s"], baseline["ended_unix_s"]
    joules = integrate(samples, start_s, end_s, MAX_GAP_S)
    covered = not isinstance(joules, str)
    return {
        "started_unix_s": start_s,
        "ended_unix_s": end_s,
        "label": "sampled" if covered else "unavailable",
        "source": source if covered else None,
        "power_w": None if isinstance(joules, str) else joules / (end_s - start_s),
        "reason": joules if isinstance(joules, str) else None,
    }
