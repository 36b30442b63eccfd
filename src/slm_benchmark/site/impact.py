"""What quantization costs a model, from its report: tables for its page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from slm_benchmark.records.types import (
    Leaderboard,
    PooledEffect,
    QuantizationReport,
    ReportBase,
    ReportQuantity,
    ReportTask,
    ReportVariant,
)
from slm_benchmark.site import formats
from slm_benchmark.site.cells import Cell, word
from slm_benchmark.site.charts import Figure
from slm_benchmark.site.figures import impact_figures
from slm_benchmark.site.sections import Section
from slm_benchmark.site.sources import Sources, fidelity_command

Distance = Literal["kl_mean_nats", "kl_p99_nats", "top_token_agreement"]

FIDELITY: tuple[tuple[Distance, str, str, int], ...] = (
    ("kl_mean_nats", "KL divergence, mean", "nats", 1),
    ("kl_p99_nats", "KL divergence, p99", "nats", 1),
    ("top_token_agreement", "Same top-1 token", "%", 100),
)
"""Metrics of the next-token distributions: name, title, unit, factor into the unit."""

NO_FLOOR = "the noise floor was not measured"
NO_FLIPS = "a metric of the whole corpus, so no question is right or wrong"
NO_TEST = "no significance test applies"


@dataclass(frozen=True)
class VariantLine:
    """A line of the table of variants: the base, or a variant and its cells."""

    variant: str
    size_bytes: int
    bits: float
    cells: tuple[Cell, ...]
    conclusion: str


@dataclass(frozen=True)
class TaskLine:
    """A line of the table of tasks.

    Attributes:
        title: Of the task.
        variant: The variant.
        key: Of the line of the variant's record, if the page has one.
        difference: To the base.
        numbers: Flips either way, questions, p-value.
        floor: The noise floor.
        conclusion: Of the comparison.
    """

    title: str
    variant: str
    key: str | None
    difference: Cell
    numbers: tuple[Cell, ...]
    floor: Cell
    conclusion: str


@dataclass(frozen=True)
class Impact:
    """What quantization costs a model under one protocol on one machine.

    Attributes:
        hardware: The machine, by its id.
        base_key: `row_key` of the base.
        variants: The base, then its variants.
        tasks: Each task of each variant.
        notes: Note → the comparisons that it concerns.
        commands: Variant → what measures its distributions again.
        figures: Of the differences.
    """

    hardware: str
    base_key: str
    variants: list[VariantLine]
    tasks: list[TaskLine]
    notes: dict[str, list[str]]
    commands: dict[str, str]
    figures: list[Figure]

    @property
    def has_floors(self) -> bool:
        """Whether the noise floor of some task was measured."""
        return any(task.floor.is_number for task in self.tasks)


def impacts(
    report: QuantizationReport | None, section: Section, sources: Sources, leaderboard: Leaderboard
) -> list[Impact]:
    """The comparisons of a section's protocol, one for each machine.

    Args:
        report: The model's report; None where there is none.
        section: A section of one model.
        sources: Where its scores come from.
        leaderboard: The leaderboard that it is of.
    """
    if report is None:
        return []
    keys = {line.record: key for key, line in sources.scores.items() if line.record}
    return [
        Impact(
            hardware=group["hardware"],
            base_key=f"{section['id']}/base/{group['hardware']}",
            variants=[*_base_line(group["base"]), *map(_variant_line, group["variants"])],
            tasks=[
                _task_line(task, row["variant"], keys)
                for row in group["variants"]
                for task in row["tasks"]
            ],
            notes=_notes(group["variants"]),
            commands={
                row["variant"]: fidelity_command(report["model"], row["variant"], group["hardware"])
                for row in group["variants"]
                if row["fidelity"]["tokens"]
            },
            figures=impact_figures(report, section["id"], group["hardware"], leaderboard),
        )
        for group in report["groups"]
        if group["protocol"] == section["id"] and group["variants"]
    ]


def pooled_differences(
    report: QuantizationReport | None, protocol: str
) -> dict[tuple[str, str], Cell]:
    """(Hardware, variant) → the pooled difference of each variant of a protocol."""
    return {
        (group["hardware"], variant["variant"]): _difference(variant["pooled"], "share")
        for group in (report["groups"] if report else [])
        if group["protocol"] == protocol
        for variant in group["variants"]
    }


def _base_line(base: ReportBase | None) -> Iterator[VariantLine]:
    if base:
        cells = (Cell("base", is_number=False),) * (4 + len(FIDELITY))
        bits = base["effective_bits_per_weight"]
        yield VariantLine(
            base["variant"], base["size_bytes"], bits, cells, "reference of the comparison"
        )


def _variant_line(row: ReportVariant) -> VariantLine:
    pooled, metrics = row["pooled"], row["fidelity"]["metrics"]
    return VariantLine(
        variant=row["variant"],
        size_bytes=row["size_bytes"],
        bits=row["effective_bits_per_weight"],
        cells=(
            _difference(pooled, "share"),
            _count(pooled["right_to_wrong"], pooled["reason"] or NO_FLIPS),
            _count(pooled["wrong_to_right"], pooled["reason"] or NO_FLIPS),
            _count(pooled["n"], pooled["reason"]),
            *(_quantity(metrics[name], factor) for name, _, _, factor in FIDELITY),
        ),
        conclusion=pooled["statement"],
    )


def _task_line(task: ReportTask, variant: str, keys: Mapping[str, str]) -> TaskLine:
    _, record = task["records"] or ("", "")
    return TaskLine(
        title=task["title"],
        variant=variant,
        key=keys.get(record),
        difference=_difference(task, task["unit"]),
        numbers=(
            _count(task["right_to_wrong"], task["reason"] or NO_FLIPS),
            _count(task["wrong_to_right"], task["reason"] or NO_FLIPS),
            _count(task["n"], task["reason"]),
            _probability(task["p_holm"], task["reason"]),
        ),
        floor=_floor(task),
        conclusion=f"not compared: {task['reason']}" if task["reason"] else task["statement"],
    )


def _difference(comparison: ReportTask | PooledEffect, unit: str) -> Cell:
    """A difference in points with its sign and interval."""
    difference, ci95 = comparison["difference"], comparison["ci95"]
    if difference is None:
        return word("not compared", comparison["reason"])
    interval = formats.span(*(formats.signed(end, unit) for end in ci95)) if ci95 else "no interval"
    return Cell(formats.signed(difference, unit), lines=(interval,))


def _count(number: int | None, reason: str | None) -> Cell:
    if number is None:
        return word("none", reason or "no question was compared")
    return Cell(f"{number:,}")


def _probability(p: float | None, reason: str | None) -> Cell:
    if p is None:
        return word("none", reason or NO_TEST)
    return Cell("< 0.001" if p < 0.001 else formats.significant(p, 2))


def _floor(task: ReportTask) -> Cell:
    floor = task["noise_floor"]
    if floor is None:
        return word("not measured", NO_FLOOR)
    within = ("the difference is within it",) if task["below_noise_floor"] else ()
    return Cell(formats.scored(floor, task["unit"]), lines=within)


def _quantity(metric: ReportQuantity, factor: float) -> Cell:
    value, ci95 = metric["value"], metric["ci95"]
    if value is None:
        return word("not measured", metric["reason"])
    ends = [formats.significant(factor * end) for end in ci95 or ()]
    return Cell(formats.significant(factor * value), lines=(formats.span(*ends),) if ends else ())


def _notes(variants: Iterable[ReportVariant]) -> dict[str, list[str]]:
    """What a reader should know of some comparisons → these, as task and variant."""
    notes: dict[str, list[str]] = {}
    for row in variants:
        for task in row["tasks"]:
            for note in task["notes"]:
                notes.setdefault(note, []).append(f"{task['title']}, {row['variant']}")
    return notes
