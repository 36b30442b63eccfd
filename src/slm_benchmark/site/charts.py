"""Charts: Altair specifications, drawn once as SVG and again by Vega when a reader points at one.

Colours are CSS variables and ``currentColor``, so that a drawn chart follows the page's scheme.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The Vega-Lite version that Altair writes; the renderer and the bundle use the same."""

FAMILIES = ("base", "gptq", "awq", "gguf")
"""Families of weight formats; each has a shape and the colour variable ``--slm-{family}``."""

_SHAPES = ("circle", "square", "triangle-up", "diamond")
_LABELLED_POINTS = 12

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """One model variant on one machine: speed in tokens/s, score as a share of one."""

    model: str
    variant: str
    family: str
    speed: float
    speed_ci95: Interval
    score: float
    score_ci95: Interval
    on_front: bool
    """Whether no other point dominates it beyond its interval."""


@dataclass(frozen=True)
class Bar:
    """The score of one variant on one task, as a share of one."""

    variant: str
    family: str
    value: float
    ci95: Interval
    n: int


@dataclass(frozen=True)
class Figure:
    """A chart for a page: a drawing that needs no script, and what Vega draws it again from."""

    caption: str
    svg: str
    spec: str


def scatter(points: Sequence[Point], caption: str) -> Figure:
    """Overall score against generation throughput, with 95 % intervals both ways.

    Points of the Pareto front have an outline. The throughput axis is logarithmic when the values
    span a factor of ten or more.
    """
    values = [
        {
            "name": f"{point.model} · {point.variant}",
            "variant": point.variant,
            "family": point.family,
            "speed": point.speed,
            **_bounds("speed", point.speed, point.speed_ci95),
            "score": point.score,
            **_bounds("score", point.score, point.score_ci95),
            "front": "on the front" if point.on_front else "dominated, or not compared",
        }
        for point in points
    ]
    speeds = [point.speed for point in points]
    logarithmic = min(speeds) > 0 and max(speeds) >= 10 * min(speeds)
    x = alt.X(
        "speed:Q",
        title="Generation throughput, tokens per s",
        scale=alt.Scale(
            type="log" if logarithmic else "linear", zero=False, nice=False, padding=40
        ),
        axis=alt.Axis(tickCount=6),
    )
    y = alt.Y(
        "score:Q",
        title="Overall score above chance",
        axis=alt.Axis(format="%", tickCount=6),
        scale=alt.Scale(zero=False, padding=12),
    )
    tooltip = [
        alt.Tooltip("name:N", title="Model · variant"),
        alt.Tooltip("score:Q", title="Overall above chance", format=".1%"),
        alt.Tooltip("speed:Q", title="Tokens per s", format=",.3~r"),
        alt.Tooltip("front:N", title="Pareto front"),
    ]
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y, color=_color(legend=True))
    layers = [
        base.mark_rule(opacity=0.55).encode(
            x=alt.X("speed_low:Q"), x2="speed_high:Q", tooltip=tooltip
        ),
        base.mark_rule(opacity=0.55).encode(
            y=alt.Y("score_low:Q"), y2="score_high:Q", tooltip=tooltip
        ),
        base.mark_point(filled=True, size=90, opacity=1, strokeWidth=2).encode(
            stroke=alt.condition(
                "datum.front === 'on the front'",
                alt.value("currentColor"),
                alt.value("transparent"),
            ),
            shape=alt.Shape(
                "family:N",
                title="Quantization",
                scale=alt.Scale(domain=list(FAMILIES), range=list(_SHAPES)),
            ),
            tooltip=tooltip,
        ),
    ]
    if len(points) <= _LABELLED_POINTS:
        one_model = len({point.model for point in points}) == 1
        layers.append(
            base.mark_text(align="left", dx=8, dy=-8, fontSize=12).encode(
                text="variant:N" if one_model else "name:N", color=alt.value("currentColor")
            )
        )
    return _figure(alt.layer(*layers).properties(width=620, height=360), caption)


def bars(
    scores: Sequence[Bar], chance: float | None, caption: str, best: float | None = None
) -> Figure:
    """Scores of one task by variant, with 95 % intervals and a rule at chance.

    Args:
        scores: The bars.
        chance: Score of a guesser; None where there is no such level.
        caption: What the figure shows.
        best: Score of a perfect answer in points, to which the axis goes or beyond; None for
            shares, which are shown as percentages.
    """
    number, axis = (".1%", "%") if best is None else (".1f", ".3~r")
    values = [
        {
            "variant": bar.variant,
            "family": bar.family,
            "value": bar.value,
            **_bounds("value", bar.value, bar.ci95),
            "n": bar.n,
        }
        for bar in scores
    ]
    # Where less is better, the best score is at the left.
    highest = max(bar.ci95[1] if bar.ci95 else bar.value for bar in scores)
    end = 1.0 if best is None else max(best, highest)
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y(
            "variant:N",
            sort=None,
            title=None,
            axis=alt.Axis(ticks=False, domain=False, labelPadding=6),
        ),
        tooltip=[
            alt.Tooltip("variant:N", title="Variant"),
            alt.Tooltip("value:Q", title="Score", format=number),
            alt.Tooltip("value_low:Q", title="Lower bound", format=number),
            alt.Tooltip("value_high:Q", title="Upper bound", format=number),
            alt.Tooltip("n:Q", title="Documents"),
        ],
    )
    x = alt.X(
        "value:Q",
        title=None,
        axis=alt.Axis(format=axis, values=[(best or end) * step / 4 for step in range(5)]),
        scale=alt.Scale(domain=[0, end]),
    )
    layers: list[alt.Chart] = [
        base.mark_bar(size=14, opacity=0.75).encode(x=x, color=_color(legend=False)),
        base.mark_rule(strokeWidth=1.5, color="currentColor").encode(
            x=alt.X("value_low:Q"), x2="value_high:Q"
        ),
    ]
    if chance:
        layers.append(
            alt.Chart(alt.Data(values=[{"chance": chance}]))
            .mark_rule(strokeDash=[3, 3], color="currentColor", opacity=0.7)
            .encode(x="chance:Q")
        )
    return _figure(alt.layer(*layers).properties(width=210, height=alt.Step(24)), caption)


def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one classic script that keeps its names to itself."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return f"(() => {{\n{bundle}\n}})();\n"


def _bounds(name: str, value: float, interval: Interval) -> dict[str, float]:
    low, high = interval or (value, value)
    return {f"{name}_low": low, f"{name}_high": high}


def _color(*, legend: bool) -> alt.Color:
    scale = alt.Scale(domain=list(FAMILIES), range=[f"var(--slm-{name})" for name in FAMILIES])
    shown = {"title": "Quantization"} if legend else {"legend": None}
    return alt.Color("family:N", scale=scale, **shown)


def _figure(chart: alt.LayerChart, caption: str) -> Figure:
    quiet = {"labelColor": "currentColor", "titleColor": "currentColor"}
    drawn = (
        chart.properties(background="transparent", description=caption)
        .configure(font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            **quiet,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            domainColor="var(--slm-line)",
            tickColor="var(--slm-line)",
            gridColor="var(--slm-grid)",
        )
        .configure_legend(
            **quiet, labelFontSize=12, titleFontSize=12, orient="top", symbolOpacity=1
        )
    )
    spec: dict[str, Any] = drawn.to_dict()
    svg: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(caption)}" ', 1)
    return Figure(caption=caption, svg=named, spec=json.dumps(spec, ensure_ascii=False))
