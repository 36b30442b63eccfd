"""Cells and lines that a model's page has by the hundred, made without a template's detours.

All text is escaped; numbers are formatted here and need no escaping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from slm_benchmark.site import formats
from slm_benchmark.site.metrics import Metric
from slm_benchmark.site.rows import STATES

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: a number with a smaller line below, or a word and its reason.

    Attributes:
        text: The number or the word.
        value: What the cell is sorted by; None for a word.
        small: The line below.
        reason: Why there is no number.
    """

    text: str
    value: float | None = None
    small: str = ""
    reason: str = ""


def score_cell(score: Record, place: str) -> Markup:
    """A score with its interval and documents, or its state, which leads to its record.

    Args:
        score: Of a row.
        place: Id of the line of its record.
    """
    if score["state"] != "ok":
        return Markup(
            f'<td class="slm-missing"><a href="#{escape(place)}">{STATES[score["state"]]}</a></td>'
        )
    unit, flag = score["unit"], "*" if score["warnings"] else ""
    interval = "no interval"
    if score["ci95"]:
        interval = formats.span(*(formats.scored(end, unit) for end in score["ci95"]))
    return Markup(
        f'<td><a href="#{escape(place)}">{formats.scored(score["value"], unit)}</a>{flag}'
        f"<small>{interval}</small><small>n = {score['n']:,}</small></td>"
    )


def quantity_cell(found: Record | None, metric: Metric, measured: Record | None) -> Markup:
    """A quantity of performance with its interval, flag and label, or a word.

    Args:
        found: The quantity; None where the point has none of this kind.
        metric: What it is.
        measured: How the row was measured; None where it was not.
    """
    if found is None or found["value"] is None:
        return Markup(f'<td class="slm-missing">{metric.lacking(measured is not None)}</td>')
    flag = "†" if metric.same_machine and measured and measured["warnings"] else ""
    interval = label = ""
    if found["ci95"] and metric.same_machine:  # the bytes of files are what they are
        interval = f"<small>{formats.span(*map(metric.show, found['ci95']))}</small>"
    if metric.is_energy and measured:
        label = f"<small>{escape(measured['energy']['label'])}</small>"
    return Markup(f"<td>{metric.show(found['value'])}{flag}{interval}{label}</td>")


def plain_cell(cell: Cell, place: str | None = None) -> Markup:
    """A cell that sorts by what it shows.

    Args:
        cell: The cell.
        place: Id of the line of its record; None where it leads nowhere.
    """
    text, small = escape(cell.text), f"<small>{escape(cell.small)}</small>" if cell.small else ""
    if cell.value is None:
        return Markup(f'<td class="slm-missing">{text}</td>')
    if place:
        return Markup(f'<td><a href="#{escape(place)}">{text}</a>{small}</td>')
    return Markup(f"<td>{text}{small}</td>")


def source_line(place: str, source: Record) -> Markup:
    """The line of a score in the table of records.

    Args:
        place: Its id.
        source: Of `sources.with_sources`.
    """
    record, command = (
        f"<code>{escape(source[name])}</code>" if source[name] else lacking
        for name, lacking in (("record", "none"), ("command", "not applicable"))
    )
    title = escape(f"{source['title']}, {source['label']}")
    remarks = escape("; ".join(source["remarks"]) or "none")
    return Markup(
        f'<tr id="{escape(place)}" data-source="{escape(" ".join(source["shared"]))}">'
        f'<th scope="row">{title}</th><td>{remarks}</td><td>{record}</td><td>{command}</td></tr>'
    )
