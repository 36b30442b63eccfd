"""Several dimensions of a few rows at once, on axes of which more is always better."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from slm_benchmark.site import formats
from slm_benchmark.site.charts.figure import Figure, VegaSpec, draw, plain, styled
from slm_benchmark.site.charts.series import SERIES, series_color, series_shape

AXES = 3
"""Fewer axes than this enclose no area."""

_WIDTH, _HEIGHT = 338, 268
_RADIUS = 105
"""Pixels from the center to a share of one."""

_RINGS = (0.25, 0.5, 0.75, 1.0)
_WHOLES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares that the outer ring may stand for, so that low scores are no dot at the center."""


@dataclass(frozen=True)
class Spoke:
    """One row's share on one axis.

    Attributes:
        series: Name of the row.
        family: Of its weight format.
        axis: Title of the axis.
        share: From 0 to 1; what is below zero is drawn at the center.
        text: Raw value with its interval.
    """

    series: str
    family: str
    axis: str
    share: float
    text: str


def radar(spokes: Sequence[Spoke], caption: str, id: str) -> Figure:
    """A radar chart of at most six series.

    Args:
        spokes: Every series on every axis, in the order of both; at least `AXES` axes.
        caption: Which rows these are; how to read the chart is added.
        id: Of the figure.
    """
    axes = list(dict.fromkeys(spoke.axis for spoke in spokes))
    below = any(spoke.share < 0 for spoke in spokes)
    highest = max(spoke.share for spoke in spokes)
    whole = next((whole for whole in _WHOLES if whole >= highest), 1.0)
    return draw(
        _structure(SERIES, named=True),
        id=id,
        caption=f"{caption}. The center is the chance level{' or below it' if below else ''}, "
        f"the outer ring a normalized score of {whole:.0%}",
        description=_description(spokes, axes),
        head=("Row", "Quantization", "Axis", "Normalized score, %", "With 95 % interval"),
        rows=((s.series, s.family, s.axis, formats.percent(s.share), s.text) for s in spokes),
        data={"values": [_drawn(spoke, axes, whole) for spoke in spokes]},
        params=[
            {"name": "series", "value": list(dict.fromkeys(plain(s.series) for s in spokes))},
            {"name": "whole", "value": whole},
        ],
    )


@functools.cache
def radar_spec() -> str:
    """A Vega-Lite specification of a radar chart, with ``data.values`` to be filled in a page.

    A value is one series on one axis, for every series and axis, in the order of the axes:

    - ``series``: name of the row; series stand in the order of the values, at most 4
    - ``axis``: title of the axis
    - ``angle``: of axis k of n, 2π·k/n, in radians clockwise from the top, k from 0
    - ``share``: from 0 to 1
    - ``x`` = r·sin(angle) and ``y`` = r·cos(angle), with r = min(max(share, 0), 1)
    - ``text``: raw value with its interval, for the tooltip

    The parameter ``whole`` is the share at the outer ring. With another than 1, the radius is
    r = min(max(share / whole, 0), 1).
    """
    filled = {"data": {"values": []}, "params": [{"name": "whole", "value": 1}]}
    return json.dumps({**_structure(4, named=False), **filled}, ensure_ascii=False)


def _drawn(spoke: Spoke, axes: Sequence[str], whole: float) -> VegaSpec:
    angle = 2 * math.pi * axes.index(spoke.axis) / len(axes)
    radius = min(max(spoke.share / whole, 0.0), 1.0)
    return {
        "series": plain(spoke.series),
        "axis": spoke.axis,
        "angle": round(angle, 4),
        "share": round(spoke.share, 4),
        "x": round(radius * math.sin(angle), 4),
        "y": round(radius * math.cos(angle), 4),
        "text": spoke.text,
    }


@functools.cache
def _structure(number: int, *, named: bool) -> VegaSpec:
    """The specification without data, for at most ``number`` series; see `series_color`."""

    def scale(pixels: int) -> alt.Scale:
        end = pixels / 2 / _RADIUS
        return alt.Scale(domain=[-end, end], nice=False, zero=False)

    across, up = scale(_WIDTH), scale(_HEIGHT)
    x = alt.X("x:Q", axis=None, scale=across)
    y = alt.Y("y:Q", axis=None, scale=up)
    tooltip = [
        alt.Tooltip("series:N", title="Row"),
        alt.Tooltip("axis:N", title="Axis"),
        alt.Tooltip("text:N", title="Value"),
    ]
    # The area of a symbol is that of the square around it.
    rings = alt.Chart(
        alt.Data(
            values=[{"x": 0, "y": 0, "share": r, "area": (2 * _RADIUS * r) ** 2} for r in _RINGS]
        )
    )
    rows = alt.Chart().encode(x=x, y=y)
    ends = (
        alt.Chart()
        .transform_aggregate(groupby=["axis", "angle"], found="count()")
        .transform_calculate(x="sin(datum.angle)", y="cos(datum.angle)", zero="0")
    )
    away = f"{_RADIUS} * 0.11"
    layers = [
        rings.mark_point(filled=False, stroke="var(--slm-line)", strokeWidth=1, opacity=0.4).encode(
            x=x, y=y, size=alt.Size("area:Q", scale=None)
        ),
        rings.transform_calculate(label="format(datum.share * whole, '.0%')")
        .mark_text(
            dx=3,
            dy=alt.ExprRef(f"-{_RADIUS} * datum.share + 7"),
            align="left",
            fontSize=10,
            color="currentColor",
            opacity=0.8,
        )
        .encode(x=x, y=y, text="label:N"),
        ends.mark_rule(color="var(--slm-line)", opacity=0.4).encode(
            x=alt.X("zero:Q", axis=None, scale=across),
            y=alt.Y("zero:Q", axis=None, scale=up),
            x2="x",
            y2="y",
        ),
        ends.mark_text(
            align=alt.ExprRef("datum.x > 0.1 ? 'left' : datum.x < -0.1 ? 'right' : 'center'"),
            baseline="middle",
            dx=alt.ExprRef(f"datum.x * {away}"),
            dy=alt.ExprRef(f"-datum.y * {away}"),
            limit=96,
            color="currentColor",
        ).encode(x=x, y=y, text="axis:N"),
        rows.mark_line(interpolate="linear-closed", strokeWidth=2).encode(
            color=series_color(number, named=named), order=alt.Order("angle:Q")
        ),
        rows.mark_point(filled=True, size=50, opacity=1).encode(
            color=series_color(number, named=named),
            shape=series_shape(number, named=named),
            tooltip=tooltip,
        ),
    ]
    chart = alt.layer(*layers, data=alt.NamedData("shares"))
    spec = styled(chart.properties(width=_WIDTH, height=_HEIGHT))
    return {key: value for key, value in spec.items() if key != "data"}


def _description(spokes: Sequence[Spoke], axes: Sequence[str]) -> str:
    """The best row of each axis."""
    best_rows = []
    for axis in axes:
        best = max((s for s in spokes if s.axis == axis), key=lambda spoke: spoke.share)
        best_rows.append(f"{axis}: {plain(best.series)}, {best.text}")
    number = len({spoke.series for spoke in spokes})
    return f"{number} rows on {len(axes)} axes. Highest by axis: {'; '.join(best_rows)}."
