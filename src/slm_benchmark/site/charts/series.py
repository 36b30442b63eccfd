"""Colors and shapes of the series that a chart compares by hand."""

from __future__ import annotations

import altair as alt

SERIES = 6
"""Series with a color of their own, the variable ``--slm-series-{n}``."""

_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def series_color(number: int, *, named: bool = False) -> alt.Color:
    """The color of a series, with a legend of one name a line.

    Args:
        number: Series at most.
        named: Whether the parameter ``series`` of the specification lists the names. Otherwise they
            stand in the order of the data.
    """
    colors = [f"var(--slm-series-{n})" for n in range(1, number + 1)]
    return alt.Color("series:N", sort=None, scale=_scale(colors, named), legend=_legend())


def series_shape(number: int, *, named: bool = False) -> alt.Shape:
    """The shape of a series: two of like colors still differ.

    It joins the legend of the colors where the series are ``named``.
    """
    scale = _scale(list(_SHAPES[:number]), named)
    return alt.Shape("series:N", sort=None, scale=scale, legend=_legend() if named else None)


def _scale(values: list[str], named: bool) -> alt.Scale:
    if named:
        return alt.Scale(domain=alt.ExprRef("series"), range=values)
    return alt.Scale(range=values)


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=1, labelLimit=320, symbolSize=70)
