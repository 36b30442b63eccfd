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
from typing import Any

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.site import formats
from slm_benchmark.site.metrics import METRICS, Metric

Record = Mapping[str, Any]
Row = Mapping[str, Any]

STATES = {"failed": "failed", "not_run": "not run", "not_applicable": "not applicable"}
"""Words for a score that is no number."""

FIRST = (
    "generation_throughput_tokens_per_s",
    "prompt_throughput_tokens_per_s",
    "peak_memory_bytes",
    "device_peak_memory_bytes",
    "energy_mwh_per_token",
)
"""Quantities of performance that the leaderboard's first view and its filters need."""

VALUE_DECIMALS, LIMIT_DECIMALS = 4, 2
"""Decimals of scores and of the ends of their intervals, of which one is shown."""

VALUE_DIGITS, LIMIT_DIGITS = 6, 5
"""Significant digits of other quantities and of their intervals, of which three are shown."""


def row_files(sections: Sequence[Record], leaderboard: Record, reports: Record) -> dict[str, str]:
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


def row_id(row: Row) -> str:
    """What names a row within its protocol, for people and in addresses."""
    return f"{row['model']}/{row['variant']}/{row['hardware']}"


def _call(protocol: str, part: str, content: Record) -> str:
    """A call with the content as a JSON text, which a browser reads faster than a program."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # In a text that stands in quotes of a script.
    quoted = text.translate({ord("\\"): "\\\\", ord("'"): "\\'"})
    return f"slm.receive({json.dumps(protocol)},{json.dumps(part)},'{quoted}');\n"


def _rows(section: Record, leaderboard: Record) -> dict[str, Any]:
    rows = section["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    hardware = list(dict.fromkeys(row["hardware"] for row in rows))
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    texts = _Texts()
    columns = [
        _exact("size_bytes", "Size", "MB", rows, 1e6),
        _exact("effective_bits_per_weight", "Effective bits", "per weight", rows, 1.0),
        _groups(rows, texts),
        _aggregates("overall", "Overall", [row["overall"] for row in rows], texts),
    ]
    columns += [
        _aggregates(
            f"category:{category}",
            category.capitalize(),
            [row["categories"][category] for row in rows],
            texts,
        )
        for category in section["categories"]
    ]
    columns += [_metric(metric, rows, texts) for metric in METRICS if metric.key in FIRST]
    return {
        "title": section["title"],
        "ranked": section["ranked"],
        "categories": section["categories"],
        "models": [_model(model, leaderboard["models"][model]) for model in models],
        "variants": list(VARIANTS),
        "hardware": [{"id": key, **leaderboard["hardware"][key]} for key in hardware],
        "machines": machines,
        "rows": {
            "model": _places(models, [row["model"] for row in rows]),
            "variant": _places(VARIANTS, [row["variant"] for row in rows]),
            "hardware": _places(hardware, [row["hardware"] for row in rows]),
            "machine": _places(machines, [row["machine"] for row in rows]),
        },
        "columns": columns,
        "texts": texts.listed,
    }


def _details(section: Record) -> dict[str, Any]:
    rows, texts = section["rows"], _Texts()
    columns = [
        _scores(task, [row["scores"][task["id"]] for row in rows], texts)
        for task in section["tasks"]
    ]
    others = [metric for metric in METRICS if metric.leading and metric.key not in FIRST]
    columns += [_metric(metric, rows, texts) for metric in others]
    tasks = [{key: task[key] for key in ("id", "title", "category")} for task in section["tasks"]]
    return {"tasks": tasks, "columns": columns, "texts": texts.listed}


def _pairs(section: Record, reports: Record) -> dict[str, Any]:
    """Row → task → what the report says of it: its base on the same documents."""
    texts = _Texts()
    pairs: dict[str, dict[str, Any]] = {}
    for model, report in reports.items():
        for group in report["groups"]:
            if group["protocol"] != section["id"]:
                continue
            for variant in group["variants"]:
                found = {t["task"]: _pair(t, texts) for t in variant["tasks"] if t["ci95"]}
                if found:
                    pairs[row_id({**group, "model": model, **variant})] = found
    return {"pairs": pairs, "texts": texts.listed}


def _pair(task: Record, texts: _Texts) -> list[Any]:
    """Difference, interval, documents, noise floor, whether within it, and the statement."""
    factor = _factor(task["unit"])
    numbers = [task["difference"], *task["ci95"], task["noise_floor"]]
    kept = [None if x is None else keep(factor * x, VALUE_DECIMALS) for x in numbers]
    return [
        *kept[:3],
        task["n"],
        kept[3],
        task["below_noise_floor"],
        texts.place(task["statement"]),
    ]


# ── columns ──


class _Texts:
    """Sentences that many rows share: each stands once, and rows have its place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def listed(self) -> list[str]:
        """All of them, by place."""
        return list(self._places)

    def place(self, text: str) -> int:
        """Where a text stands."""
        return self._places.setdefault(text, len(self._places))


def _column(
    key: str, title: str, unit: str, kind: str, better: str | None, digits: str, **data: Any
) -> dict[str, Any]:
    """A column; its numbers read with ``one`` decimal, ``three`` digits or as ``whole`` ones."""
    return {
        "key": key,
        "title": title,
        "unit": unit,
        "kind": kind,
        "better": better,
        "digits": digits,
        **{name: value for name, value in data.items() if value not in (None, {}, [])},
    }


def _exact(key: str, title: str, unit: str, rows: Sequence[Row], per_unit: float) -> dict[str, Any]:
    """A quantity of the weight files, which has no interval."""
    values = [None if row[key] is None else _digits(row[key] / per_unit) for row in rows]
    return _column(key, title, unit, "identity", "less", "three", value=values)


def _groups(rows: Sequence[Row], texts: _Texts) -> dict[str, Any]:
    groups = [row["group"] for row in rows]
    return _column(
        "group",
        "Tied group",
        "rank",
        "overall",
        "less",
        "whole",
        value=[group["rank"] for group in groups],
        n=[group["rows"] for group in groups],
        notes=_notes([("none", g["reason"]) if g["rank"] is None else None for g in groups], texts),
    )


def _aggregates(
    key: str, title: str, aggregates: Sequence[Record], texts: _Texts
) -> dict[str, Any]:
    """An overall or category score; a warning names the tasks that are missing."""
    return _column(
        key,
        title,
        "normalized, %",
        "overall" if key == "overall" else "category",
        "more",
        "one",
        **_intervals(aggregates, 100, _decimals),
        n=[aggregate["tasks"] for aggregate in aggregates],
        notes=_notes(
            [("none", a["reason"]) if a["value"] is None else None for a in aggregates], texts
        ),
        warnings=_warnings(
            [[f"without {', '.join(a['missing'])}"] if a["missing"] else [] for a in aggregates],
            texts,
        ),
    )


def _scores(task: Record, scores: Sequence[Record], texts: _Texts) -> dict[str, Any]:
    return _column(
        f"task:{task['id']}",
        task["title"],
        f"{task['metric']}, {formats.scale(task)}",
        "task",
        "more" if task["higher_is_better"] else "less",
        "one",
        **_intervals(scores, _factor(task["unit"]), _decimals),
        n=[score["n"] for score in scores],
        notes=_notes(
            [(STATES[s["state"]], s["reason"]) if s["state"] != "ok" else None for s in scores],
            texts,
        ),
        warnings=_warnings([score["warnings"] for score in scores], texts),
        parts={
            place: texts.place(", ".join(score["parts"]))
            for place, score in enumerate(scores)
            if score["parts"]
        },
    )


def _metric(metric: Metric, rows: Sequence[Row], texts: _Texts) -> dict[str, Any]:
    nothing = {"value": None, "ci95": None, "reason": None}
    found = [row["performance"].get(metric.key) or nothing for row in rows]
    measured = [row["measurement"] for row in rows]
    notes = [
        None if q["value"] is not None else (metric.lacking(how is not None), q["reason"])
        for q, how in zip(found, measured, strict=True)
    ]
    warnings = [
        [] if q["value"] is None or how is None else _measurement_warnings(metric, how)
        for q, how in zip(found, measured, strict=True)
    ]
    return _column(
        metric.key,
        metric.title,
        metric.unit,
        "performance",
        "more" if metric.higher_is_better else "less",
        "three",
        same_machine=True,
        **_intervals(found, 1 / metric.per_unit, _digits),
        notes=_notes(notes, texts),
        warnings=_warnings(warnings, texts),
    )


def _measurement_warnings(metric: Metric, measurement: Record) -> list[str]:
    """Where an energy comes from, and what may have disturbed a value."""
    energy = measurement["energy"]
    label = [f"energy {energy['label']}: {energy['source']}"] if metric.is_energy else []
    return [*label, *measurement["warnings"]]


def _intervals(
    found: Sequence[Record], factor: float, kept: Callable[..., float]
) -> dict[str, list[float | None]]:
    """Values and the ends of their intervals, times ``factor``."""
    ends = [one["ci95"] if one["value"] is not None else None for one in found]
    return {
        "value": [None if o["value"] is None else kept(factor * o["value"]) for o in found],
        "low": [None if end is None else kept(factor * end[0], end=True) for end in ends],
        "high": [None if end is None else kept(factor * end[1], end=True) for end in ends],
    }


def _notes(
    notes: Sequence[tuple[str, str | None] | None], texts: _Texts
) -> dict[int | str, list[int]]:
    """Row → places of the word and of the reason; ``all`` where every row has the same."""

    def places(word: str, reason: str | None) -> list[int]:
        return [texts.place(word), texts.place(reason or "no reason was recorded")]

    if notes and notes[0] and len(set(notes)) == 1:
        return {"all": places(*notes[0])}
    return {place: places(*note) for place, note in enumerate(notes) if note}


def _warnings(warnings: Sequence[Sequence[str]], texts: _Texts) -> dict[int, list[int]]:
    return {
        place: [texts.place(warning) for warning in own]
        for place, own in enumerate(warnings)
        if own
    }


def _model(model: str, card: Record) -> dict[str, Any]:
    kept = ("name", "parameters", "license", "languages", "tags", "reference")
    return {"id": model, **{name: card[name] for name in kept}}


def _places(listed: Sequence[str], values: Sequence[str]) -> list[int]:
    place = {value: index for index, value in enumerate(listed)}
    return [place[value] for value in values]


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
