"""The figures of pages, from the sections of a leaderboard and the reports of models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from slm_benchmark.leaderboard.board import COSTS
from slm_benchmark.records.types import (
    AggregateScore,
    Leaderboard,
    LeaderboardTask,
    PooledEffect,
    QuantizationReport,
    ReportTask,
    ReportVariant,
)
from slm_benchmark.site import formats
from slm_benchmark.site.charts import (
    AXES,
    SERIES,
    Bar,
    Effect,
    Figure,
    Interval,
    Point,
    Scale,
    Spoke,
    bars,
    impact,
    namer,
    radar,
    scatter,
    scores,
)
from slm_benchmark.site.metrics import METRICS, Metric
from slm_benchmark.site.sections import Row, Section, label_of

RADAR_ROWS = 5
"""Rows in the radar chart of a protocol: with more, no reader can follow a line."""

_LEGEND_LETTERS = 46
_REASONS = 3
_ALL_TASKS = "All tasks together"
_COSTS = tuple(metric for metric in METRICS if metric.key in COSTS)


@dataclass(frozen=True)
class Group:
    """Figures under one heading, and notes on those that cannot be drawn."""

    id: str
    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


def size_figure(section: Section, leaderboard: Leaderboard) -> Figure | None:
    """The overall score against the size of the files; None where no row has both."""
    (size,) = (metric for metric in _COSTS if not metric.same_machine)
    return _against(section, leaderboard, size, section["rows"], "")


def chart_groups(section: Section, leaderboard: Leaderboard) -> list[Group]:
    """All charts of a protocol: costs, categories, and the best rows of each task."""
    return [
        _costs(section, leaderboard),
        _dimensions(section, leaderboard),
        *_best(section, leaderboard),
    ]


def model_figures(section: Section, leaderboard: Leaderboard) -> list[Figure]:
    """For each machine, a model's scores by task, and the categories of its variants.

    Args:
        section: A section with the rows of one model.
        leaderboard: The leaderboard that it is of.
    """
    figures = []
    for machine in section["machines"]:
        rows = [row for row in section["rows"] if row["machine"] == machine]
        prefix, where = f"{section['id']}-{_slug(machine)}", _where(section, machine)
        tasks = [
            (
                _scale(task, scored),
                [_bar(row, task["id"], leaderboard, row["variant"]) for row in scored],
            )
            for task in section["tasks"]
            if (scored := _scored(rows, task["id"]))
        ]
        if tasks:
            caption = f"Scores by task and variant, {where}"
            figures.append(scores(tasks, caption, f"{prefix}-scores"))
        spokes = _spokes([(row["variant"], row) for row in rows], section["categories"], SERIES)
        if spokes:
            figures.append(radar(spokes, f"Category scores by variant, {where}", f"{prefix}-radar"))
    return figures


def impact_figures(
    report: QuantizationReport | None, protocol: str, hardware: str, leaderboard: Leaderboard
) -> list[Figure]:
    """What quantization costs a model under one protocol on one machine.

    Args:
        report: A record of the schema ``quantization``; None where there is none.
        protocol: The protocol.
        hardware: The hardware, by id.
        leaderboard: A record of the schema ``leaderboard``, which knows where lower is better.
    """
    groups = report["groups"] if report else []
    effects = [
        effect
        for group in groups
        if (group["protocol"], group["hardware"]) == (protocol, hardware)
        for effect in _effects(group["variants"], leaderboard)
    ]
    if not effects:
        return []
    caption = f"Variant minus base on the same questions, protocol {protocol}"
    return [impact(effects, f"{caption} on {hardware}", f"{protocol}-{hardware}-impact")]


# ── score against cost ──


def _costs(section: Section, leaderboard: Leaderboard) -> Group:
    """One scatter for the size, and one for each machine and cost that compares only there."""
    figures, notes = [], []
    for metric in _COSTS:
        for machine in section["machines"] if metric.same_machine else [None]:
            rows = [row for row in section["rows"] if machine in (None, row["machine"])]
            where = f" on {machine}" if machine else ""
            figure = _against(section, leaderboard, metric, rows, where)
            if figure:
                figures.append(figure)
            else:
                notes.append(f"{metric.title}{where}: no chart, as {_lacking(metric, rows)}.")
    title = "Overall score against size, speed, memory and energy"
    return Group(f"{section['id']}-costs", title, tuple(figures), tuple(notes))


def _against(
    section: Section, leaderboard: Leaderboard, metric: Metric, rows: Sequence[Row], where: str
) -> Figure | None:
    """The scatter of the rows that have both quantities; None where no row has."""
    candidates = rows if metric.same_machine else _one_each(rows, metric)
    points = [
        Point(
            model=leaderboard["models"][row["model"]]["name"],
            variant=row["variant"],
            family=row["quantization"],
            cost=cost[0],
            cost_ci95=_interval(cost[1]),
            score=score,
            score_ci95=_interval(row["overall"]["ci95"]),
            front=row["pareto"][metric.key]["front"],
        )
        for row in candidates
        if (cost := _cost(row, metric)) and (score := row["overall"]["value"]) is not None
    ]
    if not points:
        return None
    left_out = len(candidates) - len(points)
    lacking = (
        f" ({left_out:,} of {len(candidates):,} rows have only one of the two)" if left_out else ""
    )
    title = f"{metric.title[0].lower()}{metric.title[1:]}"
    return scatter(
        points,
        metric,
        f"Overall score against {title}{where}, protocol {section['id']}{lacking}",
        f"{section['id']}-{_slug(title + where)}",
    )


def _one_each(rows: Iterable[Row], metric: Metric) -> list[Row]:
    """Of a variant that several machines scored, one row: a Pareto-optimal one, if there is any."""
    chosen: dict[tuple[str, str], Row] = {}
    for row in rows:
        first = chosen.setdefault((row["model"], row["variant"]), row)
        if not first["pareto"][metric.key]["front"] and row["pareto"][metric.key]["front"]:
            chosen[row["model"], row["variant"]] = row
    return list(chosen.values())


def _cost(row: Row, metric: Metric) -> tuple[float, Sequence[float] | None] | None:
    """A cost that can be compared, with its interval: a size, or what a known machine measured."""
    if not metric.same_machine:
        return None if row["size_bytes"] is None else (row["size_bytes"], None)
    quantity = row["performance"].get(metric.key)
    if row["fingerprint"] is None or quantity is None or quantity["value"] is None:
        return None
    return quantity["value"], quantity["ci95"]


def _lacking(metric: Metric, rows: Sequence[Row]) -> str:
    """Why no row has both quantities."""
    if all(row["overall"]["value"] is None for row in rows):
        return "no row has an overall score"
    quantities = (row["performance"].get(metric.key) for row in rows)
    reasons = list(dict.fromkeys(q["reason"] for q in quantities if q and q["reason"]))
    more = f"; and {len(reasons) - _REASONS} more reasons" if len(reasons) > _REASONS else ""
    return f"no row has a value ({'; '.join(reasons[:_REASONS]) or 'not measured'}{more})"


# ── categories ──


def _dimensions(section: Section, leaderboard: Leaderboard) -> Group:
    """The categories of the best rows, one of each model where there are enough."""
    rated = [row for row in section["rows"] if row["overall"]["value"] is not None]
    rated.sort(key=lambda row: -_number(row["overall"]["value"]))
    models = {row["model"]: leaderboard["models"][row["model"]]["name"] for row in rated}
    name = namer(models.values(), _LEGEND_LETTERS)
    named = [
        (name(models[row["model"]], label_of(row, section)), row)
        for row in _each_model_first(rated)
    ]
    spokes = _spokes(named, section["categories"], RADAR_ROWS)
    title, id = "Category scores of the best rows", f"{section['id']}-categories"
    if not spokes:
        why = f"No chart: no row with an overall score has a score in {AXES} categories or more."
        return Group(id, title, (), (why,))
    caption = f"Category scores of the rows with the best overall scores, protocol {section['id']}"
    return Group(id, title, (radar(spokes, caption, f"{section['id']}-radar"),), ())


def _each_model_first(rows: Iterable[Row]) -> list[Row]:
    """The first row of each model, then the others, each in their order."""
    seen: set[str] = set()
    first: list[Row] = []
    further: list[Row] = []
    for row in rows:
        (further if row["model"] in seen else first).append(row)
        seen.add(row["model"])
    return first + further


def _spokes(named: Sequence[tuple[str, Row]], categories: Sequence[str], most: int) -> list[Spoke]:
    """Those rows that have every category of the first row that has enough of them."""

    def valued(row: Row) -> list[str]:
        return [c for c in categories if row["categories"][c]["value"] is not None]

    axes = next((keys for _, row in named if len(keys := valued(row)) >= AXES), [])
    whole = [(name, row) for name, row in named if axes and set(axes) <= set(valued(row))]
    return [
        Spoke(
            series=name,
            family=row["quantization"],
            axis=axis.capitalize(),
            share=_number(row["categories"][axis]["value"]),
            text=_percent(row["categories"][axis]),
        )
        for name, row in whole[:most]
        for axis in axes
    ]


def _percent(aggregate: AggregateScore) -> str:
    ci95 = aggregate["ci95"]
    interval = f" ({formats.span(*map(formats.percent, ci95))})" if ci95 else ""
    return f"{formats.percent(_number(aggregate['value']))} %{interval}"


# ── the best of each task, and all of a model ──


def _best(section: Section, leaderboard: Leaderboard) -> Iterator[Group]:
    """The best rows of each task, by category."""
    by_category: dict[str, list[LeaderboardTask]] = {}
    for task in section["tasks"]:
        by_category.setdefault(task["category"], []).append(task)
    for category, tasks in by_category.items():
        figures, without = [], []
        for task in tasks:
            scored = _scored(section["rows"], task["id"])
            if not scored:
                without.append(task["title"])
                continue
            scale = _scale(task, scored)
            drawn = [_bar(row, task["id"], leaderboard, label_of(row, section)) for row in scored]
            figures.append(bars(drawn, scale, scale.heading, f"{section['id']}-{task['id']}"))
        yield Group(
            f"{section['id']}-best-{_slug(category)}",
            f"Best of each task: {category}",
            tuple(figures),
            (f"No row has a score yet: {', '.join(without)}.",) if without else (),
        )


def _scored(rows: Iterable[Row], task: str) -> list[Row]:
    return [row for row in rows if task in row["scores"] and row["scores"][task]["state"] == "ok"]


def _scale(task: LeaderboardTask, rows: Iterable[Row]) -> Scale:
    """The scale of a task, with the level of chance that the scores of some rows have."""
    scores = [row["scores"][task["id"]] for row in rows]
    chances = {score["chance"] for score in scores}
    return Scale(
        title=task["title"],
        metric=task["metric"],
        unit=task["unit"],
        best=task["best"],
        higher_is_better=task["higher_is_better"],
        # Questions of several subsets may have several levels, of which a line would show one.
        chance=chances.pop() if len(chances) == 1 else None,
    )


def _bar(row: Row, task: str, leaderboard: Leaderboard, variant: str) -> Bar:
    score = row["scores"][task]
    return Bar(
        model=leaderboard["models"][row["model"]]["name"],
        variant=variant,
        family=row["quantization"],
        value=_number(score["value"]),
        ci95=_interval(score["ci95"]),
        n=int(_number(score["n"])),
    )


# ── differences to the base ──


def _effects(variants: Sequence[ReportVariant], leaderboard: Leaderboard) -> Iterator[Effect]:
    """The pooled difference of each variant, then those of the tasks."""
    less = {task["id"] for task in leaderboard["tasks"] if not task["higher_is_better"]}
    for variant in variants:
        yield from _effect(variant["variant"], _ALL_TASKS, "share", variant["pooled"])
    for variant in variants:
        for task in variant["tasks"]:
            title = f"{task['title']}{', lower is better' if task['task'] in less else ''}"
            yield from _effect(variant["variant"], title, task["unit"], task)


def _effect(
    variant: str, title: str, unit: str, comparison: ReportTask | PooledEffect
) -> Iterator[Effect]:
    """One difference in points, if the two could be compared."""
    if comparison["difference"] is None:
        return
    is_share = unit == "share"

    def points(value: float) -> float:
        return 100 * value if is_share else value

    ci95, floor = comparison["ci95"], comparison["noise_floor"]
    yield Effect(
        variant=variant,
        family=variant.partition("-")[0],
        task=title,
        difference=points(comparison["difference"]),
        ci95=None if ci95 is None else (points(ci95[0]), points(ci95[1])),
        floor=None if floor is None else points(floor),
        unit="percentage points" if is_share else "points",
    )


# ── names ──


def _where(section: Section, machine: str) -> str:
    """Protocol, and the machine where there are several."""
    on = f" on {machine}" if len(section["machines"]) > 1 else ""
    return f"protocol {section['id']}{on}"


def _slug(text: str) -> str:
    """A part of an id of HTML and of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _number(value: float | None) -> float:
    """A number of a row that was chosen for having it."""
    assert value is not None
    return value


def _interval(ci95: Sequence[float] | None) -> Interval:
    return None if ci95 is None else (ci95[0], ci95[1])
