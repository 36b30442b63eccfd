"""Charts: Altair specifications, drawn once as SVG and again by Vega when a reader points at one.

A chart is a `Figure`: a drawing that needs no script, its specification, a sentence with what it
says, and the table of its data. One module makes each kind; `figure` draws all of them.
"""

from slm_benchmark.site.charts.bars import Bar, Scale, bars, compare_bars_spec, scores
from slm_benchmark.site.charts.figure import Figure, Interval, is_forkable, namer, vega_bundle
from slm_benchmark.site.charts.impact import Effect, impact
from slm_benchmark.site.charts.radar import AXES, Spoke, radar, radar_spec
from slm_benchmark.site.charts.scatter import Point, scatter
from slm_benchmark.site.charts.series import SERIES

__all__ = [
    "AXES",
    "SERIES",
    "Bar",
    "Effect",
    "Figure",
    "Interval",
    "Point",
    "Scale",
    "Spoke",
    "bars",
    "compare_bars_spec",
    "impact",
    "is_forkable",
    "namer",
    "radar",
    "radar_spec",
    "scatter",
    "scores",
    "vega_bundle",
]
