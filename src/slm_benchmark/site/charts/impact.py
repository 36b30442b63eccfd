"""What quantization costs: paired differences to the base, by task."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from slm_benchmark.site import formats
from slm_benchmark.site.charts import strips
from slm_benchmark.site.charts.figure import Figure, Interval, draw
from slm_benchmark.site.charts.strips import Row, Strip

_PAD = 0.04

_signed = functools.partial(formats.signed, unit="points")


@dataclass(frozen=True)
class Effect:
    """The difference of a variant to its base on one task, or on all together.

    Attributes:
        variant: The variant.
        family: Of its weight format.
        task: Title of the task, or what stands for all of them.
        difference: Variant minus base, in points.
        ci95: Its interval, in points.
        floor: Largest difference that numerical noise makes, in points; None where not measured.
        unit: Of the points: ``percentage points``, or ``points`` of the task's own scale.
    """

    variant: str
    family: str
    task: str
    difference: float
    ci95: Interval
    floor: float | None
    unit: str


def impact(effects: Sequence[Effect], caption: str, id: str) -> Figure:
    """Differences to the base by task, with 95 % intervals, and the noise floor as a band.

    Args:
        effects: At least one; tasks stand in their order.
        caption: Which model, protocol and machine these are of.
        id: Of the figure.
    """
    by_task: dict[tuple[str, str], list[Effect]] = {}
    for effect in effects:
        by_task.setdefault((effect.task, effect.unit), []).append(effect)
    groups = [
        Strip(_heading(*task), "", tuple(map(_row, group))) for task, group in by_task.items()
    ]
    rows = [row for strip in groups for row in strip.rows]
    ends = [0.0, *strips.ends_of(rows)]
    pad = _PAD * (max(ends) - min(ends)) or 1.0
    band = any(effect.floor is not None for effect in effects)
    return draw(
        strips.structure("point", title="Variant minus base, points", labelled=True, axis="top"),
        id=id,
        caption=f"{caption}. Lines are 95 % intervals"
        + (", the band is the noise floor: what numerical noise alone can do" if band else ""),
        description=_description(effects),
        head=("Task", "Variant", "Difference", "95 % interval", "Unit", "Noise floor"),
        rows=map(_cells, (effect for same in by_task.values() for effect in same)),
        **strips.with_ends(strips.positioned(groups), min(ends) - pad, max(ends) + pad),
    )


def _heading(task: str, unit: str) -> str:
    return task if unit == "percentage points" else f"{task}, {unit}"


def _row(effect: Effect) -> Row:
    text = _signed(effect.difference)
    if effect.ci95:
        text += f" ({_interval(effect.ci95)})"
    return Row(
        effect.variant,
        effect.family,
        effect.difference,
        effect.ci95,
        f"{text} {effect.unit}",
        effect.floor,
    )


def _interval(ci95: tuple[float, float]) -> str:
    return formats.span(*map(_signed, ci95))


def _description(effects: Sequence[Effect]) -> str:
    """The largest loss and gain, and how many intervals exclude zero."""
    beyond = sum(e.ci95 is not None and (e.ci95[0] > 0 or e.ci95[1] < 0) for e in effects)
    lowest = min(effects, key=lambda e: e.difference)
    highest = max(effects, key=lambda e: e.difference)

    def in_words(effect: Effect) -> str:
        interval = f" ({_interval(effect.ci95)})" if effect.ci95 else ""
        return f"{effect.variant} on {effect.task}, {_signed(effect.difference)}{interval}"

    return (
        f"{len(effects)} differences, {beyond} of them with a 95 % interval that excludes zero. "
        f"Lowest: {in_words(lowest)}. Highest: {in_words(highest)}."
    )


def _cells(effect: Effect) -> tuple[str, ...]:
    return (
        effect.task,
        effect.variant,
        _signed(effect.difference),
        _interval(effect.ci95) if effect.ci95 else "none",
        effect.unit,
        "not measured" if effect.floor is None else formats.scored(effect.floor, "points"),
    )
