"""Cells of the tables of pages: what stands in one, and the one renderer of all of them.

A builder makes a `Cell` of a score, an aggregate or a quantity of the leaderboard; `render`, which
templates know as the filter ``td``, makes its HTML. `assets/shared.js` does the same for the tables
that scripts draw. Pages of models have hundreds of cells, so nothing here takes a template's
detour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from slm_benchmark.records.types import (
    AggregateScore,
    LeaderboardScore,
    Measurement,
    Quantity,
    TiedGroup,
)
from slm_benchmark.site import formats
from slm_benchmark.site.metrics import Metric
from slm_benchmark.site.rows import STATES

if TYPE_CHECKING:
    from slm_benchmark.site.sources import Source

NO_REASON = "no reason was recorded"


@dataclass(frozen=True)
class Cell:
    """A number with smaller lines below, or a word and its reason.

    Attributes:
        text: The number or the word.
        is_number: Whether it is a number; words stand last in a sorted table.
        lines: The lines below; a pair is a line and its tooltip.
        reason: Why there is no number; the word's tooltip.
        mark: A sign behind the number, such as †.
        mark_reason: What the sign says; its tooltip.
    """

    text: str
    is_number: bool = True
    lines: tuple[str | tuple[str, str], ...] = ()
    reason: str = ""
    mark: str = ""
    mark_reason: str = ""


def render(cell: Cell, record: str | None = None) -> Markup:
    """The HTML of a cell, with all text escaped.

    Args:
        cell: The cell.
        record: Id of the line of its record, to which the cell then leads.
    """
    text = escape(cell.text)
    if cell.reason:
        text = Markup(f'<span title="{escape(cell.reason)}">{text}</span>')
    if record is not None:
        text = Markup(f'<a href="#{escape(record)}">{text}</a>')
    if not cell.is_number:
        return Markup(f'<td class="slm-missing">{text}</td>')
    mark = escape(cell.mark)
    if cell.mark_reason:
        mark = Markup(f'<abbr class="slm-warning" title="{escape(cell.mark_reason)}">{mark}</abbr>')
    return Markup(f"<td>{text}{mark}{''.join(map(_line, cell.lines))}</td>")


def _line(line: str | tuple[str, str]) -> str:
    if isinstance(line, str):
        return f"<small>{escape(line)}</small>"
    text, tooltip = line
    return f'<small title="{escape(tooltip)}">{escape(text)}</small>'


def word(text: str, reason: str | None = None) -> Cell:
    """A word in place of a number, with its reason."""
    return Cell(text, is_number=False, reason=reason or NO_REASON)


def score(result: LeaderboardScore) -> Cell:
    """A score with its interval and number of questions, or its state; the record has reasons."""
    if result["value"] is None:
        return Cell(STATES[result["state"]], is_number=False)
    unit, ci95 = result["unit"], result["ci95"]
    interval = formats.span(*(formats.scored(end, unit) for end in ci95)) if ci95 else "no interval"
    return Cell(
        formats.scored(result["value"], unit),
        lines=(interval, f"n = {result['n'] or 0:,}"),
        mark="*" if result["warnings"] else "",
    )


def aggregate(result: AggregateScore) -> Cell:
    """A category's or the overall score; ‡ marks an incomplete one."""
    if result["value"] is None:
        return word("none", result["reason"])
    missing, ci95 = result["missing"], result["ci95"]
    of = f" of {result['of']}" if missing else ""
    return Cell(
        formats.percent(result["value"]),
        lines=(
            formats.span(*map(formats.percent, ci95))
            if ci95
            else ("no interval", result["reason"] or NO_REASON),
            f"{result['tasks']}{of} task{'' if result['of'] == 1 else 's'}",
        ),
        mark="‡" if missing else "",
        mark_reason=f"incomplete, without {', '.join(missing)}" if missing else "",
    )


def group(tied: TiedGroup) -> Cell:
    """The rank of a tied group and its number of rows."""
    if tied["rank"] is None:
        return word("none", tied["reason"])
    return Cell(str(tied["rank"]), lines=(f"{tied['rows']} row{'' if tied['rows'] == 1 else 's'}",))


def quantity(measured: Quantity | None, metric: Metric, measurement: Measurement | None) -> Cell:
    """A quantity of performance with its interval, mark and label, or a word.

    Args:
        measured: The quantity; None where the point has none of this kind.
        metric: What it is.
        measurement: How the row was measured; None where it was not.
    """
    if measured is None or measured["value"] is None:
        reason = measured["reason"] if measured else "not measured at this point"
        return word(metric.lacking(measurement is not None), reason)
    lines: list[str | tuple[str, str]] = []
    if measured["ci95"] and metric.same_machine:  # the bytes of files are what they are
        lines.append(formats.span(*map(metric.show, measured["ci95"])))
    if metric.is_energy and measurement:
        energy = measurement["energy"]
        lines.append((energy["label"], energy["source"] or "no source was recorded"))
    warnings = measurement["warnings"] if measurement and metric.same_machine else []
    return Cell(
        metric.show(measured["value"]),
        lines=tuple(lines),
        mark="†" if warnings else "",
        mark_reason="; ".join(warnings),
    )


def size(size_bytes: float | None) -> Cell:
    """The size of the weight files, in MB."""
    if size_bytes is None:
        return word("not known", "no manifest or performance record gives it")
    return Cell(formats.megabytes(size_bytes))


def bits(per_weight: float | None) -> Cell:
    """Effective bits per weight."""
    if per_weight is None:
        return word("not known", "no record gives it")
    return Cell(f"{per_weight:.2f}")


def rate(per_second: float | None, reason: str | None) -> Cell:
    """A rate of the machine, in thousands of millions a second."""
    return word("not measured", reason) if per_second is None else Cell(formats.giga(per_second))


def source_line(key: str, source: Source) -> Markup:
    """The line of a score in the table of records.

    Args:
        key: Its id.
        source: Of `sources.with_sources`.
    """
    record, command = (
        f"<code>{escape(value)}</code>" if value else missing
        for value, missing in ((source.record, "none"), (source.command, "not applicable"))
    )
    title = escape(f"{source.title}, {source.label}")
    notes = escape("; ".join(source.notes) or "none")
    return Markup(
        f'<tr id="{escape(key)}" data-source="{escape(" ".join(source.shared))}">'
        f'<th scope="row">{title}</th><td>{notes}</td><td>{record}</td><td>{command}</td></tr>'
    )
