"""Rows of values with intervals under headings: the layout of bars, scores and differences.

Everything stands at pixels that are counted here, so that one drawing holds many tasks, each under
its own heading, and is no wider than a phone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import altair as alt

from slm_benchmark.site.charts.figure import Interval, VegaSpec, bounds, family_color, styled

WIDTH = 350
"""Width of a whole drawing in pixels: that of a phone's page."""

_ROW = 15
_HEADING = 19
_GAP = 9
_GUTTER = 84
"""Pixels for the labels of rows, where they have any."""

_LETTERS = 52
"""Letters of a heading at most, as many as a phone is wide."""


@dataclass(frozen=True)
class Row:
    """A value with its interval, in the unit of the axis.

    Attributes:
        label: What stands left of it.
        family: Of the weight format; decides the color.
        value: In the unit of the axis.
        ci95: Its interval.
        text: Value and interval as a reader gets them on pointing.
        floor: Half the width of a band around zero; None where there is none.
    """

    label: str
    family: str
    value: float
    ci95: Interval
    text: str
    floor: float | None = None


@dataclass(frozen=True)
class Strip:
    """Rows under one heading.

    Attributes:
        heading: What they have in common.
        note: What stands at the right of the heading.
        rows: From the top down.
        mark: Where a dashed line crosses them; None for none.
    """

    heading: str
    note: str
    rows: tuple[Row, ...]
    mark: float | None = None


def positioned(strips: Sequence[Strip]) -> VegaSpec:
    """Data, size and parameters of a specification of `structure`, each row at its pixel."""
    rows, headings, marks = [], [], []
    y = 0.0
    for strip in strips:
        heading = _cut(strip.heading)
        headings.append({"heading": heading, "note": strip.note, "y": y + _HEADING / 2})
        y += _HEADING
        top = y
        for row in strip.rows:
            rows.append({**_drawn(row), "heading": heading, "y": y + _ROW / 2})
            y += _ROW
        if strip.mark is not None:
            marks.append({"x": strip.mark, "y": top, "bottom": y})
        y += _GAP
    return {
        "datasets": {"rows": rows, "headings": headings, "marks": marks},
        "height": y,
        "params": [{"name": "y_ends", "value": [0, y]}],
    }


def with_ends(placed: VegaSpec, low: float, high: float) -> VegaSpec:
    """``placed`` with the ends of the value axis."""
    return {**placed, "params": [*placed["params"], {"name": "x_ends", "value": [low, high]}]}


def ends_of(rows: Sequence[Row]) -> Iterator[float]:
    """Every value, both ends of its interval, and of its band."""
    for row in rows:
        yield row.value
        yield from bounds(row.value, row.ci95)
        if row.floor is not None:
            yield from (-row.floor, row.floor)


def _cut(heading: str) -> str:
    """A heading that fits; the renderer's own limit would take longer than all else."""
    return heading if len(heading) <= _LETTERS else f"{heading[: _LETTERS - 1].rstrip()}…"


def _drawn(row: Row) -> VegaSpec:
    low, high = bounds(row.value, row.ci95)
    drawn = {
        "label": row.label,
        "family": row.family,
        "value": round(row.value, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "text": row.text,
    }
    return drawn if row.floor is None else {**drawn, "floor": row.floor, "floor_low": -row.floor}


@functools.cache
def structure(
    mark: Literal["bar", "point"], *, title: str, labelled: bool, axis: Literal["top", "bottom"]
) -> VegaSpec:
    """The specification without data.

    Args:
        mark: Bars from zero, or points, of which zero has a line.
        title: Of the value axis.
        labelled: Whether rows have labels, which need room.
        axis: Where the value axis stands.
    """
    width = WIDTH - 12 - (_GUTTER if labelled else 0)
    left = -(_GUTTER - 4) if labelled else 0
    y = alt.Y(
        "y:Q", axis=None, scale=alt.Scale(domain=alt.ExprRef("y_ends"), nice=False, reverse=True)
    )
    x_scale = alt.Scale(domain=alt.ExprRef("x_ends"), nice=False, zero=False)
    x_axis = alt.Axis(orient=axis, tickCount=5, format=",~r", domain=False, labelFlush=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, scale=x_scale, axis=x_axis)

    # What is above one row alone is its name and no heading.
    weight = 600 if labelled else "normal"
    text = {"baseline": "middle", "color": "currentColor"}
    tooltip = [
        alt.Tooltip("heading:N", title="Of"),
        alt.Tooltip("label:N", title="Variant"),
        alt.Tooltip("text:N", title="Value"),
    ]
    rows = alt.Chart(alt.NamedData("rows")).encode(y=y, tooltip=tooltip)
    headings = alt.Chart(alt.NamedData("headings")).encode(y=y)
    layers = [
        rows.transform_filter("isValid(datum.floor)")
        .mark_rule(strokeWidth=_ROW, color="var(--slm-floor)")
        .encode(x=x("floor_low"), x2="floor"),
    ]
    if mark == "bar":
        layers.append(
            rows.transform_calculate(zero="0")
            .mark_rule(strokeWidth=9, opacity=0.75)
            .encode(x=x("zero"), x2="value", color=family_color())
        )
    else:
        layers.append(
            alt.Chart(alt.Data(values=[{"zero": 0}]))
            .mark_rule(color="currentColor", opacity=0.7)
            .encode(x=x("zero"))
        )
    layers.append(
        rows.mark_rule(
            strokeWidth=1.5, **({"color": "currentColor"} if mark == "bar" else {})
        ).encode(
            x=x("low"),
            x2="high",
            **({} if mark == "bar" else {"color": family_color()}),
        )
    )
    if mark == "point":
        layers.append(
            rows.mark_point(filled=True, size=55, opacity=1).encode(
                x=x("value"), color=family_color()
            )
        )
    layers += [
        alt.Chart(alt.NamedData("marks"))
        .mark_rule(strokeDash=[3, 3], color="currentColor", opacity=0.8)
        .encode(x=x("x"), y=y, y2="bottom"),
        headings.mark_text(align="left", fontWeight=weight, **text).encode(
            x=alt.value(left), text="heading:N"
        ),
        headings.mark_text(align="right", **text).encode(x=alt.value(width), text="note:N"),
    ]
    if labelled:
        layers.append(
            rows.mark_text(align="right", dx=-6, **text).encode(x=alt.value(0), text="label:N")
        )
    return styled(alt.layer(*layers).properties(width=width))
