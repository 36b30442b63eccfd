"""How a chart is drawn: one look, colors that follow the page, and an SVG without ballast.

Colors are CSS variables and ``currentColor``, so that a drawn chart follows the page's scheme.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import altair as alt
import vl_convert
from markupsafe import Markup

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The Vega-Lite version that Altair writes; the renderer and the bundle use the same."""

FAMILIES = ("base", "gptq", "awq", "gguf")
"""Families of weight formats; each has a shape and the color variable ``--slm-{family}``."""

SHAPES = ("circle", "square", "triangle-up", "diamond")

Interval = tuple[float, float] | None

VegaSpec = dict[str, Any]
"""A specification of Vega-Lite, or a part of one."""


_SVG = "http://www.w3.org/2000/svg"
_HOISTED = {"font-family": "sans-serif", "font-size": "12px"}
"""Attributes that stand once, on the root, where Vega repeats them on every text."""

_DEFAULTS = {"opacity": "1", "stroke-width": "1", "x2": "0", "y2": "0", **_HOISTED}
_BALLAST = ("class", "role", "aria-hidden", "aria-label", "aria-roledescription", "pointer-events")
_COORDINATES = ("transform", "d", "x1", "x2", "y1", "y2", "width", "height")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")

_FEWEST_LETTERS = 12
"""Letters of a model's name that stay, however long its variant is."""

_used = False


@dataclass(frozen=True)
class Figure:
    """A chart for a page: a drawing that needs no script, and what Vega draws it again from.

    Attributes:
        id: Unique on its page; names the downloads.
        caption: What the chart shows and how to read it.
        description: What it says, in numbers.
        svg: The drawing.
        spec: The Vega-Lite specification, as JSON.
        head: Heads of the data table's columns, with units.
        rows: The data table, sorted; texts.
    """

    id: str
    caption: str
    description: str
    svg: str
    spec: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def drawing(self) -> Markup:
        """The drawing as markup."""
        return Markup(self.svg)

    @property
    def embedded_spec(self) -> Markup:
        """The specification as the text of an element: quotes stay, which keeps pages small."""
        return Markup(self.spec.replace("&", "&amp;").replace("<", "&lt;"))


def draw(
    structure: Mapping[str, Any],
    *,
    id: str,
    caption: str,
    description: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    **filled: Any,
) -> Figure:
    """Fill a specification with its data, and draw it.

    Args:
        structure: A specification of `styled`, without data.
        id: Of the figure.
        caption: Of the figure.
        description: Of the figure.
        head: Of the data table.
        rows: Of the data table.
        filled: Further keys of the specification: ``data``, ``datasets``, ``params``, ``height``.
    """
    global _used
    _used = True
    spec = {**structure, **filled, "description": f"{caption}. {description}"}
    svg: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    return Figure(
        id=id,
        caption=caption,
        description=description,
        svg=_compact(svg, label=caption, describedby=f"{id}-says"),
        spec=json.dumps(spec, ensure_ascii=False, separators=(",", ":")),
        head=tuple(head),
        rows=tuple(tuple(row) for row in rows),
    )


def styled(chart: alt.LayerChart) -> VegaSpec:
    """The specification of a chart in the look that all share."""
    quiet = {"labelColor": "currentColor", "titleColor": "currentColor"}
    drawn = (
        chart.properties(background="transparent", padding=2)
        .configure(font="sans-serif", aria=False)
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
        .configure_legend(**quiet, labelFontSize=12, titleFontSize=12, symbolOpacity=1)
    )
    spec: VegaSpec = drawn.to_dict()
    return spec


def is_forkable() -> bool:
    """Whether charts can be drawn in forks of this process.

    The renderer lives in threads, which a fork does not inherit: once this process has drawn, a
    fork that draws would wait for ever.
    """
    return not _used


def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one classic script that keeps its names to itself."""
    global _used
    _used = True
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return f"(() => {{\n{bundle}\n}})();\n"


def bounds(value: float, interval: Interval) -> tuple[float, float]:
    """The ends of an interval; without one, the value twice."""
    return interval or (value, value)


def plain(name: str) -> str:
    """A name for a line of a chart: nothing invisible, and its writing direction kept to itself."""
    visible = "".join(c for c in name if c.isprintable())
    return visible if visible.isascii() else f"\u2068{visible}\u2069"


def namer(models: Iterable[str], letters: int | None = None) -> Callable[[str, str], str]:
    """Names of rows in a chart: model and variant, or of one model the variant alone.

    Args:
        models: The models of all rows.
        letters: A longer name loses the end of the model's; None keeps it whole.

    Returns:
        A function of model and variant.
    """
    if len(set(models)) == 1:
        return lambda _, variant: variant

    def name(model: str, variant: str) -> str:
        room = len(model) if letters is None else max(letters - len(variant) - 3, _FEWEST_LETTERS)
        short = plain(model) if len(model) <= room else f"{plain(model[: room - 1].rstrip())}…"
        return f"{short} · {variant}"

    return name


def family_color(legend: alt.Legend | None = None) -> alt.Color:
    """The color of a family of weight formats."""
    colors = [f"var(--slm-{family})" for family in FAMILIES]
    scale = alt.Scale(domain=list(FAMILIES), range=colors)
    return alt.Color("family:N", scale=scale, legend=legend)


def _compact(svg: str, *, label: str, describedby: str) -> str:
    """The drawing without what no reader sees, as one image with a name and a description."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    size = {key: root.attrib[key] for key in ("width", "height", "viewBox")}
    _strip(root)
    root.attrib.clear()
    named = {"role": "img", "aria-label": label, "aria-describedby": describedby}
    root.attrib.update({**size, **_HOISTED, **named})
    return ElementTree.tostring(root, encoding="unicode")


def _strip(element: ElementTree.Element) -> None:
    """Drop attributes that say nothing, elements that draw nothing, and groups without meaning."""
    children: list[ElementTree.Element] = []
    for child in element:
        _strip(child)
        is_group = child.tag == f"{{{_SVG}}}g"
        if is_group and not child.attrib:
            children.extend(child)
        elif not (is_group and not len(child)) and not _is_invisible(child):
            children.append(child)
    element[:] = children
    for name in list(element.attrib):
        if name in _BALLAST or _DEFAULTS.get(name) == element.attrib[name]:
            del element.attrib[name]
        elif name in _COORDINATES:
            element.attrib[name] = _LONG_NUMBER.sub(_short, element.attrib[name])
    if "stroke" not in element.attrib:
        element.attrib.pop("stroke-width", None)


def _is_invisible(element: ElementTree.Element) -> bool:
    """Whether it is a label without text, or a path without a color: the root's fill is none."""
    if element.tag == f"{{{_SVG}}}text":
        return not element.text or element.get("opacity") == "0"
    return element.tag == f"{{{_SVG}}}path" and not {"fill", "stroke"} & element.attrib.keys()


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
