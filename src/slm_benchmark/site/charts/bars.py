"""Scores as bars: the best of a task, all of a model, and those that a reader compares."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from slm_benchmark.site import formats
from slm_benchmark.site.charts import strips
from slm_benchmark.site.charts.figure import Figure, Interval, draw, namer, plain, styled
from slm_benchmark.site.charts.series import series_color
from slm_benchmark.site.charts.strips import Row, Strip

BEST = 10
"""Bars of a chart of the best."""

_LETTERS = 32
"""Letters of a name above a bar that leave room for the score and its interval beside it."""


@dataclass(frozen=True)
class Scale:
    """A task and the scale of its scores.

    Attributes:
        title: Of the task.
        metric: What its scores are.
        unit: ``share`` or ``points``.
        best: Score of a perfect answer.
        higher_is_better: Whether more is better.
        chance: Chance level; None where there is none.
    """

    title: str
    metric: str
    unit: str
    best: float
    higher_is_better: bool
    chance: float | None

    @property
    def whole(self) -> float:
        """The score at the end of an axis: the best one, or one where the best is zero."""
        return self.best or 1.0

    @property
    def heading(self) -> str:
        """Title, with what differs from a share of which higher is better."""
        points = f", points of {self.best:g}" if self.unit == "points" and self.best else ""
        points = points or (", points" if self.unit == "points" else "")
        return f"{self.title}{points}{'' if self.higher_is_better else ', lower is better'}"

    @property
    def column(self) -> str:
        """Metric and unit, for the head of a table."""
        return f"{self.metric}, {'%' if self.unit == 'share' else 'points'}"

    def show(self, value: float) -> str:
        """A score in the scale's unit."""
        return formats.scored(value, self.unit)

    def percent(self, value: float) -> float:
        """A score as percent of the whole scale."""
        return 100 * value / self.whole


@dataclass(frozen=True)
class Bar:
    """The score of one variant of a model, in the unit of its scale."""

    model: str
    variant: str
    family: str
    value: float
    ci95: Interval
    n: int


def bars(scores: Sequence[Bar], scale: Scale, caption: str, id: str) -> Figure:
    """The ten best scores of a task, with 95 % intervals and a dashed line at chance.

    Equal scores stand by name. Where further rows tie with the last one shown, the caption says
    how many.

    Args:
        scores: All scores of the task, at least one.
        scale: Of the task.
        caption: Which rows these are.
        id: Of the figure.
    """
    sign = -1 if scale.higher_is_better else 1
    ordered = sorted(scores, key=lambda bar: (sign * bar.value, bar.model, bar.variant))
    name = namer((bar.model for bar in scores), _LETTERS)
    shown = ordered[:BEST]
    tied = sum(bar.value == shown[-1].value for bar in ordered[BEST:])
    names = [name(bar.model, bar.variant) for bar in shown]
    has_room = max(map(len, names)) <= _LETTERS
    placed = strips.positioned(
        [
            Strip(
                heading,
                _text(bar, scale) if has_room else scale.show(bar.value),
                (_row(bar, scale, ""),),
                _chance(scale),
            )
            for heading, bar in zip(names, shown, strict=True)
        ]
    )
    number = f"{len(shown)} of {len(ordered):,} rows" if len(ordered) > BEST else _rows(len(shown))
    also = f", and {tied} more tie with the last one" if tied else ""
    chance = ", the dashed line is the chance level" if _chance(scale) else ""
    return draw(
        strips.structure("bar", title=_axis_title(scale), labelled=False, axis="bottom"),
        id=id,
        caption=f"{caption}: {number}{also}. Lines are 95 % intervals{chance}",
        description=_ends_in_words(shown, scale),
        head=("Model", "Variant", scale.column, "95 % interval", "Questions"),
        rows=(_cells(bar, scale) for bar in shown),
        **strips.with_ends(placed, *_ends(placed)),
    )


def scores(tasks: Sequence[tuple[Scale, Sequence[Bar]]], caption: str, id: str) -> Figure:
    """All scores of a model, by task and variant, each task on its whole scale.

    Args:
        tasks: Scale and bars of each task, of which each has at least one.
        caption: Which model, protocol and machine these are of.
        id: Of the figure.
    """
    placed = strips.positioned(
        [
            Strip(
                scale.heading,
                "",
                tuple(_row(bar, scale, bar.variant) for bar in bars),
                _chance(scale),
            )
            for scale, bars in tasks
        ]
    )
    extremes = "; ".join(f"{scale.heading}: {_extremes(bars, scale)}" for scale, bars in tasks)
    return draw(
        strips.structure("bar", title="Score, % of the maximum", labelled=True, axis="top"),
        id=id,
        caption=f"{caption}. Lines are 95 % intervals, dashed lines the chance level",
        description=f"{extremes}.",
        head=("Task", "Variant", "Score", "95 % interval", "Unit", "Chance level", "Questions"),
        rows=(
            (
                scale.title,
                bar.variant,
                scale.show(bar.value),
                _interval(bar, scale) or "none",
                scale.column,
                "none" if scale.chance is None else scale.show(scale.chance),
                f"{bar.n:,}",
            )
            for scale, bars in tasks
            for bar in bars
        ),
        **strips.with_ends(placed, *_ends(placed)),
    )


@functools.cache
def compare_bars_spec() -> str:
    """A Vega-Lite specification of grouped bars, with ``data.values`` to be filled in a page.

    A value is one bar:

    - ``task``: its title
    - ``series``: name of the row, of at most 4; tasks and series stand in the order of the values
    - ``value``, ``low``, ``high``: score and ends of its interval, in percent of the whole scale;
      without an interval all three are equal
    - ``text``: raw value with its interval, for the tooltip
    """
    y = alt.Y(
        "task:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelLimit=110, ticks=False, domain=False, labelPadding=6),
        scale=alt.Scale(paddingInner=0.25, paddingOuter=0.1),
    )
    scale = alt.Scale(domainMin=0, domainMax=100, nice=False)
    x = alt.X("value:Q", title="Score, % of the maximum", scale=scale)
    base = alt.Chart(alt.Data(values=[])).encode(
        y=y,
        yOffset=alt.YOffset("series:N", sort=None),
        tooltip=[
            alt.Tooltip("task:N", title="Task"),
            alt.Tooltip("series:N", title="Row"),
            alt.Tooltip("text:N", title="Score"),
        ],
    )
    layers = [
        base.mark_bar(opacity=0.8).encode(x=x, color=series_color(4)),
        base.mark_rule(strokeWidth=1.5, color="currentColor").encode(x=alt.X("low:Q"), x2="high"),
    ]
    chart = alt.layer(*layers).properties(width=220, height=alt.Step(13))
    return json.dumps(_with_own_data(styled(chart)), ensure_ascii=False)


def _with_own_data(spec: dict[str, object]) -> dict[str, object]:
    """``spec`` with its data at the top, where a page fills them in, and not in ``datasets``."""
    return {**{key: spec[key] for key in spec if key != "datasets"}, "data": {"values": []}}


def _row(bar: Bar, scale: Scale, label: str) -> Row:
    interval = bar.ci95 and (scale.percent(bar.ci95[0]), scale.percent(bar.ci95[1]))
    text = f"{_text(bar, scale)}, n = {bar.n:,}"
    return Row(label, bar.family, scale.percent(bar.value), interval, text)


def _chance(scale: Scale) -> float | None:
    """The chance level; at zero the axis is line enough."""
    return scale.percent(scale.chance) if scale.chance else None


def _ends(placed: dict[str, object]) -> tuple[float, float]:
    """The whole scale, or as far beyond it as an interval goes."""
    datasets = placed["datasets"]
    assert isinstance(datasets, dict)
    return (
        min(0.0, *(row["low"] for row in datasets["rows"])),
        max(100.0, *(row["high"] for row in datasets["rows"])),
    )


def _axis_title(scale: Scale) -> str:
    if scale.unit == "share":
        return f"{scale.metric}, %"
    return f"{scale.metric}, % of {scale.whole:g} points"


def _rows(number: int) -> str:
    return "the only row" if number == 1 else f"all {number} rows"


def _interval(bar: Bar, scale: Scale) -> str:
    return formats.span(*map(scale.show, bar.ci95)) if bar.ci95 else ""


def _text(bar: Bar, scale: Scale) -> str:
    interval = _interval(bar, scale)
    return f"{scale.show(bar.value)}{interval and f' ({interval})'}"


def _ends_in_words(shown: Sequence[Bar], scale: Scale) -> str:
    """The ends of what is shown, in words."""
    name = namer(bar.model for bar in shown)
    unit = "%" if scale.unit == "share" else "points"
    best, last = (
        f"{name(bar.model, bar.variant)} with {_text(bar, scale)} {unit}"
        for bar in (shown[0], shown[-1])
    )
    return f"Best: {best}." if len(shown) == 1 else f"Best: {best}; last shown: {last}."


def _extremes(bars: Sequence[Bar], scale: Scale) -> str:
    """The best and the worst variant of a task, in words."""
    sign = 1 if scale.higher_is_better else -1
    ordered = sorted(bars, key=lambda bar: -sign * bar.value)
    best, worst = ordered[0], ordered[-1]
    if best.value == worst.value:
        return f"{scale.show(best.value)} for all variants"
    return (
        f"{best.variant} best with {scale.show(best.value)}, "
        f"{worst.variant} last with {scale.show(worst.value)}"
    )


def _cells(bar: Bar, scale: Scale) -> tuple[str, ...]:
    interval = _interval(bar, scale) or "none"
    return (plain(bar.model), bar.variant, scale.show(bar.value), interval, f"{bar.n:,}")
