"""The rows of a leaderboard as files for scripts: a column for each quantity, by protocol.

A page opened from a folder may not read other files, but may run them. So each file is a call of
one function, ``slm.receive``, with plain data. What the first view needs comes first; the scores of
tasks with the rest of performance, and the comparisons of variants with their base, lie in files
that are loaded when they are wanted.
`assets/data.js` reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.leaderboard.board import Column, page_columns
from slm_benchmark.leaderboard.board import columns as columns_of
from slm_benchmark.records.types import (
    AggregateScore,
    Leaderboard,
    LeaderboardModel,
    LeaderboardScore,
    Measurement,
    Quantity,
    QuantizationReport,
    ReportTask,
)
from slm_benchmark.site.metrics import METRICS, Metric
from slm_benchmark.site.sections import Row, Section

STATES = {"failed": "failed", "not_run": "not run", "not_applicable": "not applicable"}
"""Words for a score that is no number."""

IDENTITY = ("model", "name", "variant", "hardware", "machine", "protocol")
"""Fields that name a row in the CSV that a browser saves."""

FIELDS = ("value", "low", "high", "n", "note")
"""Fields of a column in that CSV; of a quantity without an interval, `EXACT_FIELDS`."""

EXACT_FIELDS = ("value", "note")

VALUE_DECIMALS, LIMIT_DECIMALS = 4, 2
"""Decimals of scores and of the ends of their intervals, of which one is shown."""

VALUE_DIGITS, LIMIT_DIGITS = 6, 5
"""Significant digits of other quantities and of their intervals, of which three are shown."""


def row_files(
    sections: Sequence[Section], leaderboard: Leaderboard, reports: Mapping[str, QuantizationReport]
) -> dict[str, str]:
    """Name → text of the files for scripts.

    Args:
        sections: As `sections.build_sections` makes them; their rows keep their order.
        leaderboard: A record of the schema ``leaderboard``.
        reports: Quantization reports of models, by id.
    """
    files = {}
    for section in sections:
        name = section["id"]
        files[f"{name}.js"] = _call(name, "rows", _rows(section, leaderboard))
        files[f"{name}.details.js"] = _call(name, "details", _details(section))
        files[f"{name}.pairs.js"] = _call(name, "pairs", _pairs(section, reports))
    return files


def _call(protocol: str, part: str, content: Mapping[str, Any]) -> str:
    """A call with the content as a JSON text, which a browser reads faster than a program."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # In a text that stands in quotes of a script.
    quoted = text.translate({ord("\\"): "\\\\", ord("'"): "\\'"})
    return f"slm.receive({json.dumps(protocol)},{json.dumps(part)},'{quoted}');\n"


def _rows(section: Section, leaderboard: Leaderboard) -> dict[str, object]:
    rows = section["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    hardware = list(dict.fromkeys(row["hardware"] for row in rows))
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    texts = _Texts()
    columns = page_columns(section_columns(section), "rows")
    return {
        "title": section["title"],
        "ranked": section["ranked"],
        "categories": section["categories"],
        "models": [_model(model, leaderboard["models"][model]) for model in models],
        "variants": list(VARIANTS),
        "hardware": [{"id": key, **leaderboard["hardware"][key]} for key in hardware],
        "machines": machines,
        "rows": {
            "model": _indices(models, [row["model"] for row in rows]),
            "variant": _indices(VARIANTS, [row["variant"] for row in rows]),
            "hardware": _indices(hardware, [row["hardware"] for row in rows]),
            "machine": _indices(machines, [row["machine"] for row in rows]),
        },
        "identity": list(IDENTITY),
        "columns": [_column(column, rows, texts) for column in columns],
        "texts": texts.listed,
    }


def _details(section: Section) -> dict[str, object]:
    rows, texts = section["rows"], _Texts()
    columns = page_columns(section_columns(section), "details")
    return {
        "tasks": [
            {"id": task["id"], "title": task["title"], "category": task["category"]}
            for task in section["tasks"]
        ],
        "columns": [_column(column, rows, texts) for column in columns],
        "texts": texts.listed,
    }


def section_columns(section: Section) -> tuple[Column, ...]:
    """The columns of a protocol's rows."""
    return columns_of(section["categories"], section["tasks"])


def _pairs(section: Section, reports: Mapping[str, QuantizationReport]) -> dict[str, object]:
    """Id of a row → task → what the report says of it: its base on the same questions."""
    texts = _Texts()
    pairs: dict[str, dict[str, list[Any]]] = {}
    for model, report in reports.items():
        for group in report["groups"]:
            if group["protocol"] != section["id"]:
                continue
            for variant in group["variants"]:
                tasks = {
                    task["task"]: _pair(task, ci95, texts)
                    for task in variant["tasks"]
                    if (ci95 := task["ci95"])
                }
                if tasks:
                    pairs[f"{model}/{variant['variant']}/{group['hardware']}"] = tasks
    return {"pairs": pairs, "texts": texts.listed}


def _pair(task: ReportTask, ci95: Sequence[float], texts: _Texts) -> list[Any]:
    """Difference, interval, questions, noise floor, whether within it, and the statement."""
    factor = _factor(task["unit"])
    numbers = [task["difference"], *ci95, task["noise_floor"]]
    rounded = [None if x is None else keep(factor * x, VALUE_DECIMALS) for x in numbers]
    return [
        *rounded[:3],
        task["n"],
        rounded[3],
        task["below_noise_floor"],
        texts.index(task["statement"]),
    ]


# ── columns ──


class _Texts:
    """Sentences that many rows share: each stands once, and rows have its index."""

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}

    @property
    def listed(self) -> list[str]:
        """All of them, by index."""
        return list(self._indices)

    def index(self, text: str) -> int:
        """The index of a text."""
        return self._indices.setdefault(text, len(self._indices))


def _column(column: Column, rows: Sequence[Row], texts: _Texts) -> dict[str, object]:
    """A column with the rows' values; its ``fields`` are those of the CSV that a browser saves.

    A group is on a page what the overall score is, and has no interval.
    """
    values = {
        "identity": _exact,
        "group": _groups,
        "overall": _aggregates,
        "category": _aggregates,
        "task": _scores,
        "performance": _quantities,
    }[column.kind](column, rows, texts)
    return {
        "key": column.key,
        "title": column.title,
        "unit": column.unit,
        "kind": "overall" if column.kind == "group" else column.kind,
        "better": column.better,
        "digits": column.digits,
        "pages": list(column.pages),
        "fields": EXACT_FIELDS if column.kind == "identity" else FIELDS,
        **{name: data for name, data in values.items() if data not in (None, {}, [])},
    }


def _exact(column: Column, rows: Sequence[Row], texts: _Texts) -> dict[str, object]:
    """A quantity of the weight files, which has no interval."""
    values = [cast(Mapping[str, float | None], row)[column.key] for row in rows]
    return {"value": [None if v is None else _digits(column.factor * v) for v in values]}


def _groups(column: Column, rows: Sequence[Row], texts: _Texts) -> dict[str, object]:
    groups = [row["group"] for row in rows]
    notes = [("none", group["reason"]) if group["rank"] is None else None for group in groups]
    return {
        "value": [group["rank"] for group in groups],
        "n": [group["rows"] for group in groups],
        "notes": _notes(notes, texts),
    }


def _aggregates(column: Column, rows: Sequence[Row], texts: _Texts) -> dict[str, object]:
    """An overall or category score; an incomplete one has a warning that names what it lacks."""
    scores = [cast(AggregateScore, cell) for cell in _cells(column, rows)]
    notes = [("none", score["reason"]) if score["value"] is None else None for score in scores]
    incomplete = [
        [f"incomplete, without {', '.join(score['missing'])}"] if score["missing"] else []
        for score in scores
    ]
    return {
        **_intervals(scores, column.factor, _decimals),
        "n": [score["tasks"] for score in scores],
        "notes": _notes(notes, texts),
        "warnings": _warnings(incomplete, texts),
    }


def _scores(column: Column, rows: Sequence[Row], texts: _Texts) -> dict[str, object]:
    scores = [cast(LeaderboardScore, cell) for cell in _cells(column, rows)]
    notes = [(STATES[s["state"]], s["reason"]) if s["state"] != "ok" else None for s in scores]
    return {
        **_intervals(scores, column.factor, _decimals),
        "n": [score["n"] for score in scores],
        "notes": _notes(notes, texts),
        "warnings": _warnings([score["warnings"] for score in scores], texts),
        "parts": {
            index: texts.index(", ".join(score["parts"]))
            for index, score in enumerate(scores)
            if score["parts"]
        },
    }


def _quantities(column: Column, rows: Sequence[Row], texts: _Texts) -> dict[str, object]:
    metric = next(metric for metric in METRICS if metric.key == column.key)
    nothing: Quantity = {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": None}
    quantities = [cast(Quantity, cell or nothing) for cell in _cells(column, rows)]
    measurements = [row["measurement"] for row in rows]
    notes = [
        None if q["value"] is not None else (metric.lacking(how is not None), q["reason"])
        for q, how in zip(quantities, measurements, strict=True)
    ]
    warnings = [
        [] if q["value"] is None or how is None else _measurement_warnings(metric, how)
        for q, how in zip(quantities, measurements, strict=True)
    ]
    return {
        "same_machine": column.same_machine,
        **_intervals(quantities, column.factor, _digits),
        "notes": _notes(notes, texts),
        "warnings": _warnings(warnings, texts),
    }


def _cells(column: Column, rows: Sequence[Row]) -> list[Any]:
    """The column's cell of each row."""
    assert column.cell is not None
    return [column.cell(row) for row in rows]


def _measurement_warnings(metric: Metric, measurement: Measurement) -> list[str]:
    """Where an energy comes from, and what may have disturbed a value."""
    energy = measurement["energy"]
    label = [f"energy {energy['label']}: {energy['source']}"] if metric.is_energy else []
    return [*label, *measurement["warnings"]]


def _intervals(
    cells: Sequence[AggregateScore] | Sequence[LeaderboardScore] | Sequence[Quantity],
    factor: float,
    rounded: Callable[..., float],
) -> dict[str, list[float | None]]:
    """Values and the ends of their intervals, times ``factor``."""
    ends = [cell["ci95"] if cell["value"] is not None else None for cell in cells]
    return {
        "value": [None if c["value"] is None else rounded(factor * c["value"]) for c in cells],
        "low": [None if end is None else rounded(factor * end[0], end=True) for end in ends],
        "high": [None if end is None else rounded(factor * end[1], end=True) for end in ends],
    }


def _notes(
    notes: Sequence[tuple[str, str | None] | None], texts: _Texts
) -> dict[int | str, list[int]]:
    """Row → indices of the word and of the reason; ``all`` where every row has the same."""

    def indices(word: str, reason: str | None) -> list[int]:
        return [texts.index(word), texts.index(reason or "no reason was recorded")]

    if notes and notes[0] and len(set(notes)) == 1:
        return {"all": indices(*notes[0])}
    return {index: indices(*note) for index, note in enumerate(notes) if note}


def _warnings(warnings: Sequence[Sequence[str]], texts: _Texts) -> dict[int, list[int]]:
    return {
        index: [texts.index(warning) for warning in sentences]
        for index, sentences in enumerate(warnings)
        if sentences
    }


def _model(model: str, card: LeaderboardModel) -> dict[str, object]:
    return {
        "id": model,
        "name": card["name"],
        "parameters": card["parameters"],
        "license": card["license"],
        "languages": card["languages"],
        "tags": card["tags"],
        "reference": card["reference"],
    }


def _indices(listed: Sequence[str], values: Sequence[str]) -> list[int]:
    position = {value: index for index, value in enumerate(listed)}
    return [position[value] for value in values]


# ── numbers ──


def keep(value: float, decimals: int) -> float:
    """``value`` with some decimals, which rounded again to one decimal reads as the value does.

    A remainder of just a half would be rounded a second time by a page, perhaps the other way. It
    gives way by one in its last place.
    """
    scale: int = 10**decimals
    scaled = round(value * scale)
    if abs(scaled) % (scale // 10) == scale // 20:
        scaled += 1 if float(f"{value:.1f}") * scale > scaled else -1
    return scaled / scale


def _decimals(value: float, *, end: bool = False) -> float:
    return keep(value, LIMIT_DECIMALS if end else VALUE_DECIMALS)


def _digits(value: float, *, end: bool = False) -> float:
    if value == 0:
        return 0
    digits = LIMIT_DIGITS if end else VALUE_DIGITS
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    return int(rounded) if rounded == int(rounded) else rounded


def _factor(unit: str) -> float:
    return 100.0 if unit == "share" else 1.0
