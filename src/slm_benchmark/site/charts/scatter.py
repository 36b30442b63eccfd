"""Score against a cost: which rows buy their quality most cheaply."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from slm_benchmark.site import formats
from slm_benchmark.site.charts.figure import (
    FAMILIES,
    SHAPES,
    Figure,
    Interval,
    VegaSpec,
    bounds,
    draw,
    family_color,
    namer,
    plain,
    styled,
)
from slm_benchmark.site.metrics import Metric

WIDTH, HEIGHT = 420, 320

ALL_INTERVALS = 60
"""With more points than this, only those of the front have their intervals drawn."""

ALL_POINTS = 1000
"""With more points than this, all but the front are drawn as a density."""

FRONT_POINTS = 300
"""Of a larger front every second, third, … point is drawn, and the others join the density."""

LABELS = 12

_CELLS = (30, 20)
"""Cells of the density, across and up."""

_PAD = 0.06

_LEAST_SPAN = 0.1
"""Least length of an axis, as a share of its values, so that its ticks have unlike numbers."""

_LETTER, _LINE, _LETTERS = 6.9, 13.0, 34
"""Width of a letter and height of a line of a label in pixels; letters at most."""

_SIDES = tuple(
    (align, dx, dy) for dy in (-11, 12, -25, 26) for align, dx in (("left", 6), ("right", -6))
)
"""Where a label may stand beside its point, best first: alignment, shift right, shift down."""

FRONT = {True: "optimal", False: "dominated", None: "not compared"}
"""Words for what is known of a point."""


@dataclass(frozen=True)
class Point:
    """One model variant on one machine: its overall score, as a share of one, and a cost."""

    model: str
    variant: str
    family: str
    cost: float
    cost_ci95: Interval
    score: float
    score_ci95: Interval
    front: bool | None
    """Whether no other point dominates it beyond its interval; None where it is not compared."""


@dataclass(frozen=True)
class _Axis:
    """An axis of the plot: its ends, whether it is logarithmic, and its length in pixels."""

    low: float
    high: float
    is_log: bool
    pixels: int

    def position(self, value: float) -> float:
        """Pixels from the lower end."""
        low, high, at = (self._scaled(v) for v in (self.low, self.high, value))
        return self.pixels * (at - low) / (high - low)

    def value(self, share: float) -> float:
        """The value at a share of the length."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + share * (high - low)
        return 10**scaled if self.is_log else scaled

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def scatter(points: Sequence[Point], metric: Metric, caption: str, id: str) -> Figure:
    """Overall score against a cost or a speed, with 95 % intervals and the Pareto front.

    Pareto-optimal points have an outline and their names; a step line is the front of the
    values. The axis of the cost is logarithmic when its values span a factor of ten or more.

    Args:
        points: At least one.
        metric: What ``cost`` is, in units of the record.
        caption: Which rows these are; how to read the chart is added.
        id: Of the figure.
    """
    ordered = sorted(points, key=lambda point: (-point.score, point.model, point.variant))
    shown, hidden = _split(ordered)
    with_interval = {p for p in shown if len(ordered) <= ALL_INTERVALS or p.front}
    if len(with_interval) > ALL_INTERVALS:
        with_interval.clear()
    x, y = _axes(ordered, with_interval, metric)
    name = namer(point.model for point in ordered)
    return draw(
        _structure(x.is_log, metric.title, metric.unit, metric.higher_is_better),
        id=id,
        caption=f"{caption}. {_reading(ordered, with_interval, hidden)}",
        description=_description(ordered, metric),
        head=(
            "Model",
            "Variant",
            "Overall, normalized, %",
            "95 % interval",
            f"{metric.title}, {metric.unit}",
            "95 % interval",
            "Pareto front",
        ),
        rows=(_cells(point, metric) for point in ordered),
        datasets={
            "points": [
                _drawn(p, metric, name(p.model, p.variant), interval=p in with_interval)
                for p in shown
            ],
            "density": list(_density(hidden, metric, x, y)),
            "front": _steps(ordered, metric),
            "labels": list(_labels(shown, metric, x, y)),
        },
        params=[
            {"name": "x_ends", "value": [x.low, x.high]},
            {"name": "y_ends", "value": [y.low, y.high]},
        ],
    )


def _split(ordered: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """What is drawn as points, the front last and so on top, and what as a density."""
    front = [point for point in ordered if point.front]
    others = [point for point in ordered if not point.front]
    if len(ordered) <= ALL_POINTS:
        return others + front, []
    every = math.ceil(len(front) / FRONT_POINTS) or 1
    return front[::every], others + [p for i, p in enumerate(front) if i % every]


def _axes(
    points: Sequence[Point], with_interval: Collection[Point], metric: Metric
) -> tuple[_Axis, _Axis]:
    """Axes that hold every value, and every interval that is drawn."""
    costs = [point.cost / metric.per_unit for point in points]
    is_log = min(costs) > 0 and max(costs) >= 10 * min(costs)
    for point in with_interval:
        ends = [end / metric.per_unit for end in bounds(point.cost, point.cost_ci95)]
        costs += [end for end in ends if end > 0 or not is_log]
    shares = [point.score for point in points]
    for point in with_interval:
        shares += bounds(point.score, point.score_ci95)
    return _padded(costs, is_log, WIDTH), _padded(shares, False, HEIGHT)


def _padded(values: Sequence[float], is_log: bool, pixels: int) -> _Axis:
    low, high = min(values), max(values)
    lacking = _LEAST_SPAN * max(abs(low), abs(high)) - (high - low)
    if lacking > 0:
        low, high = low - lacking / 2, high + lacking / 2
    elif low == high:
        low, high = -1.0, 1.0
    whole = _Axis(low, high, is_log, pixels)
    return _Axis(whole.value(-_PAD), whole.value(1 + _PAD), is_log, pixels)


def _drawn(point: Point, metric: Metric, name: str, interval: bool) -> VegaSpec:
    """A point as data of the specification, to five digits, which no reader could distinguish."""
    drawn: VegaSpec = {
        "name": name,
        "family": point.family,
        "cost": _digits(point.cost / metric.per_unit),
        "score": _digits(point.score),
        "front": FRONT[point.front],
    }
    if interval:
        drawn["cost_low"], drawn["cost_high"] = (
            _digits(end / metric.per_unit) for end in bounds(point.cost, point.cost_ci95)
        )
        drawn["score_low"], drawn["score_high"] = map(
            _digits, bounds(point.score, point.score_ci95)
        )
    return drawn


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def _density(points: Sequence[Point], metric: Metric, x: _Axis, y: _Axis) -> Iterator[VegaSpec]:
    """Cells of a grid with the number of points in each that has any."""
    across, up = _CELLS

    def cell(point: Point) -> tuple[int, int]:
        column = x.position(point.cost / metric.per_unit) / x.pixels * across
        row = y.position(point.score) / y.pixels * up
        return min(int(column), across - 1), min(int(row), up - 1)

    for (column, row), count in sorted(Counter(map(cell, points)).items()):
        yield {
            "cost": _digits(x.value(column / across)),
            "cost_high": _digits(x.value((column + 1) / across)),
            "score": _digits(y.value(row / up)),
            "score_high": _digits(y.value((row + 1) / up)),
            "rows": count,
        }


def _steps(points: Sequence[Point], metric: Metric) -> list[dict[str, float]]:
    """The points of the front that nobody exceeds in both values, along the cost."""
    sign = -1 if metric.higher_is_better else 1
    best = -math.inf
    steps = []
    for point in sorted(points, key=lambda p: (sign * p.cost, -p.score)):
        if point.front and point.score > best:
            best = point.score
            steps.append({"cost": _digits(point.cost / metric.per_unit), "score": _digits(best)})
    return sorted(steps, key=lambda step: step["cost"])


def _labels(shown: Sequence[Point], metric: Metric, x: _Axis, y: _Axis) -> Iterator[VegaSpec]:
    """Names of points of the front, each on the first side where it covers no other name."""
    name = namer((point.model for point in shown), _LETTERS)
    front = sorted((p for p in shown if p.front), key=lambda p: -p.score)
    places = [(x.position(p.cost / metric.per_unit), y.position(p.score)) for p in front]
    taken = [(left - 5, up - 5, left + 5, up + 5) for left, up in places]
    for point, (left, up) in list(zip(front, places, strict=True))[:LABELS]:
        label = name(point.model, point.variant)
        width = _LETTER * len(label)
        for align, dx, dy in _SIDES:
            start = left + dx - (width if align == "right" else 0)
            box = (start, up - dy - _LINE / 2, start + width, up - dy + _LINE / 2)
            inside = box[0] >= 0 and box[2] <= WIDTH
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                drawn = _drawn(point, metric, label, False)
                yield {**drawn, "align": align, "dx": dx, "dy": dy}
                break


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@functools.cache
def _structure(is_log: bool, title: str, unit: str, more_is_better: bool) -> VegaSpec:
    """The specification without data."""
    better = "higher" if more_is_better else "lower"
    x = alt.X(
        "cost:Q",
        title=f"{title}, {unit} ({better} is better)",
        scale=alt.Scale(
            type="log" if is_log else "linear", domain=alt.ExprRef("x_ends"), nice=False, zero=False
        ),
        axis=alt.Axis(tickCount=5, format=",.3~r", labelOverlap=True),
    )
    y = alt.Y(
        "score:Q",
        title="Overall score, normalized",
        scale=alt.Scale(domain=alt.ExprRef("y_ends"), nice=False, zero=False),
        axis=alt.Axis(format="~%", tickCount=6),
    )
    tooltip = [
        alt.Tooltip("name:N", title="Model · variant"),
        alt.Tooltip("score:Q", title="Overall, normalized", format=".1%"),
        alt.Tooltip("cost:Q", title=f"{title}, {unit}", format=",.3~r"),
        alt.Tooltip("front:N", title="Pareto front"),
    ]
    legend = alt.Legend(title=None, orient="top", symbolSize=90)
    color = family_color(legend)
    on_front = "datum.front === 'optimal'"
    points = alt.Chart(alt.NamedData("points")).encode(x=x, y=y, tooltip=tooltip)
    with_interval = points.transform_filter("isValid(datum.cost_low)").encode(
        color=color,
        opacity=alt.condition(on_front, alt.value(0.75), alt.value(0.25)),
    )
    cells = alt.Chart(alt.NamedData("density")).mark_rect(color="currentColor")
    layers = [
        cells.encode(
            x=x,
            x2="cost_high",
            y=y,
            y2="score_high",
            opacity=alt.Opacity(
                "rows:Q", scale=alt.Scale(type="log", range=[0.06, 0.5]), legend=None
            ),
            tooltip=[alt.Tooltip("rows:Q", title="Rows here")],
        ),
        alt.Chart(alt.NamedData("front"))
        .mark_line(
            interpolate="step-before" if more_is_better else "step-after",
            strokeWidth=1,
            color="currentColor",
            opacity=0.6,
        )
        .encode(x=x, y=y),
        with_interval.mark_rule().encode(x=alt.X("cost_low:Q"), x2="cost_high"),
        with_interval.mark_rule().encode(y=alt.Y("score_low:Q"), y2="score_high"),
        points.mark_point(filled=True, strokeWidth=1.5).encode(
            color=color,
            stroke=alt.condition(on_front, alt.value("currentColor"), alt.value(None)),
            size=alt.condition(on_front, alt.value(90), alt.value(45)),
            opacity=alt.condition(on_front, alt.value(1), alt.value(0.55)),
            shape=alt.Shape(
                "family:N",
                scale=alt.Scale(domain=list(FAMILIES), range=list(SHAPES)),
                legend=legend,
            ),
        ),
        alt.Chart(alt.NamedData("labels"))
        .mark_text(
            align=alt.ExprRef("datum.align"),
            dx=alt.ExprRef("datum.dx"),
            dy=alt.ExprRef("datum.dy"),
            baseline="middle",
            color="currentColor",
        )
        .encode(x=x, y=y, text="name:N"),
    ]
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))


def _reading(
    points: Sequence[Point], with_interval: Collection[Point], hidden: Sequence[Point]
) -> str:
    """How to read the chart."""
    sentences = []
    if any(point.front for point in points):
        sentences.append(
            "Outlined: Pareto-optimal rows, intervals taken into account. Line: Pareto front of "
            "the values alone"
        )
    if len(with_interval) == len(points):
        sentences.append("Thin lines: 95 % intervals")
    elif with_interval:
        sentences.append("Thin lines: 95 % intervals of Pareto-optimal rows")
    if hidden:
        sentences.append(f"Shading: density of the other {len(hidden):,} rows")
    return ". ".join(sentences)


def _description(points: Sequence[Point], metric: Metric) -> str:
    """What the chart says, in numbers."""
    name = namer(point.model for point in points)
    front = sum(point.front is True for point in points)
    sign = 1 if metric.higher_is_better else -1
    cheapest = max(points, key=lambda point: (sign * point.cost, point.score))

    def in_words(point: Point) -> str:
        interval = _span(point.score_ci95, formats.percent)
        score = f"{formats.percent(point.score)} %{interval and f' ({interval})'}"
        cost = f"{metric.show(point.cost)} {metric.unit}"
        return f"{name(point.model, point.variant)} with {score} at {cost}"

    number = f"{len(points):,} point{'s' if len(points) > 1 else ''}, {front:,} Pareto-optimal"
    extreme = "Highest" if metric.higher_is_better else "Lowest"
    return (
        f"{number}. Highest overall score: {in_words(points[0])}. "
        f"{extreme} {metric.title[0].lower()}{metric.title[1:]}: {in_words(cheapest)}."
    )


def _cells(point: Point, metric: Metric) -> tuple[str, ...]:
    return (
        plain(point.model),
        point.variant,
        formats.percent(point.score),
        _span(point.score_ci95, formats.percent) or "none",
        metric.show(point.cost),
        _span(point.cost_ci95, metric.show) or "none",
        FRONT[point.front],
    )


def _span(interval: Interval, show: Any) -> str:
    return formats.span(show(interval[0]), show(interval[1])) if interval else ""
