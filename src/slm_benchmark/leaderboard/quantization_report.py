"""What quantization costs: each variant of a model against its base, on the same documents."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.catalog.types import Task
from slm_benchmark.common.files import atomic_write_text
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import write_record
from slm_benchmark.leaderboard.comparison import (
    Difference,
    ScoreRun,
    Shared,
    compare_task,
    difference_of,
    incomparable_reason,
    is_share,
    oriented,
    shared_documents,
    span_of,
)
from slm_benchmark.leaderboard.report import templates
from slm_benchmark.records.types import (
    FidelityRecord,
    Finding,
    NoiseRecord,
    PooledEffect,
    QuantizationReport,
    ReportBase,
    ReportFidelity,
    ReportGroup,
    ReportQuantity,
    ReportTask,
    ReportVariant,
    ScoreRecord,
)
from slm_benchmark.statistics.multiple import holm
from slm_benchmark.statistics.paired import compare_paired, heterogeneity
from slm_benchmark.statistics.power import ALPHA, POWER

FIDELITY = ("kl_mean_nats", "kl_median_nats", "kl_p99_nats", "top_token_agreement")
"""Metrics of a fidelity record that stand in the report."""

NOT_COMPARED = "not compared"

ScoreKey = tuple[str, str, str, str]
"""Variant, machine, protocol and task."""

Floors = Mapping[ScoreKey, float | None]
"""Largest change of a score by numerical perturbations; None where that is not known."""


# ── statements ──


def conclude(
    effect: Difference, *, p_holm: float | None, floor: float | None, factor: float
) -> tuple[Finding, str]:
    """The conclusion that a difference allows: a word for programs and a sentence.

    Args:
        effect: The difference.
        p_holm: Its p-value adjusted over all tasks; None where it stands alone.
        floor: Largest change of the score by numerical perturbations; None where not measured.
        factor: Points in one unit of the scores.

    Returns:
        loses, gains, may_lose, may_gain, no_measurable_loss, too_few_documents, not_tested or
        below_noise_floor; and the sentence.
    """

    def points(value: float) -> str:
        return f"{factor * value:.1f}"

    limits = _limits(effect, points)
    if floor is not None and _within(effect.difference, floor):
        return "below_noise_floor", (
            f"a difference of {points(abs(effect.difference))} points is within the numerical "
            f"noise floor of {points(floor)}; {limits[1]}"
        )
    if effect.p is None or effect.ci95 is None:
        return limits
    low, high = effect.ci95
    significant, without_zero = effect.p <= ALPHA, low > 0 or high < 0
    if not (significant or without_zero):
        return limits
    loses = effect.difference < 0
    bounds = (-high, -low) if loses else (low, high)
    size = f"{points(abs(effect.difference))} points [{', '.join(map(points, bounds))}]"
    if not significant:
        return "may_lose" if loses else "may_gain", (
            f"may {'lose' if loses else 'gain'} {size}: the interval excludes zero, the test "
            f"does not (p = {effect.p:.2g}); {limits[1]}"
        )
    chance = ""
    if p_holm is not None and p_holm > ALPHA:
        chance = f"; not significant after Holm's correction over the tasks (p = {p_holm:.2g})"
    return "loses" if loses else "gains", f"{'loses' if loses else 'gains'} {size}{chance}"


def _limits(effect: Difference, points: Callable[[float], str]) -> tuple[Finding, str]:
    """The conclusion where no difference is significant: the smallest loss that would be."""
    if effect.p is None:
        return "not_tested", "no test: too few independent documents, or none that differ"
    if effect.detectable is None:
        return "too_few_documents", f"too few documents: at n = {effect.n} no loss is detectable"
    if effect.detectable > effect.first:
        return "too_few_documents", (
            f"too few documents: at n = {effect.n} the smallest detectable loss is "
            f"{points(effect.detectable)} points, and the base scores {points(effect.first)}"
        )
    return "no_measurable_loss", (
        f"no measurable loss at n = {effect.n}; "
        f"smallest detectable loss {points(effect.detectable)} points"
    )


# ── the report ──


def quantization_report(
    records: Sequence[ScoreRun],
    fidelity: Sequence[tuple[Path, FidelityRecord]],
    noise: Sequence[tuple[Path, NoiseRecord]],
    tasks: Mapping[str, Task],
) -> QuantizationReport:
    """The quantization report of one model, as its schema describes it.

    Args:
        records: The model's current records; those of scores are compared.
        fidelity: Its current fidelity records.
        noise: Its current noise records.
        tasks: The catalogue's tasks; scores of others are left out.

    Raises:
        ValueError: without a record.
    """
    groups: dict[tuple[str, str], dict[str, dict[str, ScoreRun]]] = defaultdict(dict)
    for path, record in records:
        if record["kind"] == "score" and record["task"]["id"] in tasks:
            group = groups[record["hardware"]["id"], record["protocol"]["id"]]
            group.setdefault(record["variant"]["id"], {})[record["task"]["id"]] = (path, record)
    if not groups:
        raise ValueError("there are no scores")
    floors = {
        _score_key(record): record["floor"]["numerical"]["max_abs_delta"] for _, record in noise
    }
    streams = {record["variant"]["id"]: record for _, record in fidelity}
    return {
        "schema_version": 1,
        "kind": "quantization",
        "model": next(record["model"]["id"] for _, record in records),
        "alpha": ALPHA,
        "power": POWER,
        "groups": [
            _group(key, variants, floors, streams, tasks)
            for key, variants in sorted(groups.items())
        ],
    }


def _group(
    key: tuple[str, str],
    variants: Mapping[str, Mapping[str, ScoreRun]],
    floors: Floors,
    streams: Mapping[str, FidelityRecord],
    tasks: Mapping[str, Task],
) -> ReportGroup:
    """The variants of one machine and protocol beside their base."""
    base = variants.get("base", {})
    return {
        "hardware": key[0],
        "protocol": key[1],
        "base": _facts(base) if base else None,
        "variants": [
            _variant_row(base, variants[variant], floors, streams.get(variant), tasks)
            for variant in VARIANTS
            if variant in variants and variant != "base"
        ],
    }


def _score_key(record: ScoreRecord | NoiseRecord) -> ScoreKey:
    return (
        record["variant"]["id"],
        record["hardware"]["id"],
        record["protocol"]["id"],
        record["task"]["id"],
    )


def _facts(scores: Mapping[str, ScoreRun]) -> ReportBase:
    """What a variant is, from any of its records."""
    _, record = next(iter(scores.values()))
    block, engine = record["variant"], record["engine"]
    return {
        "variant": block["id"],
        "engine": engine["name"],
        "size_bytes": block["size_bytes"],
        "effective_bits_per_weight": block["effective_bits_per_weight"],
        "sha256": block["sha256"],
    }


@dataclass(frozen=True)
class Comparison:
    """A task that base and variant have on the same documents.

    Attributes:
        base: The base's score.
        variant: The variant's score.
        shared: The documents of both.
        effect: The difference on them.
        floor: The larger numerical noise floor of the two scores; None where neither is known.
    """

    base: ScoreRun
    variant: ScoreRun
    shared: Shared
    effect: Difference
    floor: float | None


def _compare(
    task: str,
    entry: Task,
    base: Mapping[str, ScoreRun],
    variant: Mapping[str, ScoreRun],
    floors: Floors,
) -> Comparison | str:
    """The comparison of a task, or why there is none."""
    if task not in base or task not in variant:
        return f"the {'base' if task not in base else 'variant'} was not measured"
    first, second = base[task], variant[task]
    if (reason := incomparable_reason(first, second)) is not None:
        return reason
    shared = shared_documents(first, second)
    if not shared.keys:
        return "no document has a value in both records"
    effect = compare_task(shared, entry, first[1]["task"]["metric"])
    both = [floors.get(_score_key(record)) for _, record in (first, second)]
    floor = max((floor for floor in both if floor is not None), default=None)
    return Comparison(first, second, shared, effect, floor)


def _variant_row(
    base: Mapping[str, ScoreRun],
    variant: Mapping[str, ScoreRun],
    floors: Floors,
    stream: FidelityRecord | None,
    tasks: Mapping[str, Task],
) -> ReportVariant:
    """A variant's rows of tasks, their pooled effect, and its fidelity."""
    outcomes = {
        task: _compare(task, entry, base, variant, floors)
        for task, entry in tasks.items()
        if task in base or task in variant
    }
    compared = {task: c for task, c in outcomes.items() if isinstance(c, Comparison)}
    p_values = {task: c.effect.p for task, c in compared.items() if c.effect.p is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        **_facts(variant),
        "tasks": [
            _task_row(task, tasks[task], outcome, adjusted.get(task))
            for task, outcome in outcomes.items()
        ],
        "pooled": _pooled(compared, tasks),
        "fidelity": _fidelity(stream, _facts(variant)["sha256"]),
    }


def _task_row(
    task: str, entry: Task, outcome: Comparison | str, p_holm: float | None
) -> ReportTask:
    """The row of a task in a variant's table."""
    shown: dict[str, object] = {"task": task, "title": entry["title"]}
    shown["unit"] = entry.get("unit", "share")
    if isinstance(outcome, str):
        numbers = {**_numbers(None), "p_holm": None, "notes": [], "records": None}
        statement = {"finding": None, "statement": f"{NOT_COMPARED}: {outcome}", "reason": outcome}
    else:
        effect, floor = outcome.effect, outcome.floor
        numbers = {**_numbers(effect, entry), **_noise(floor, effect), "p_holm": p_holm}
        numbers |= {
            "notes": _notes(outcome),
            "records": [relative(outcome.base[0]), relative(outcome.variant[0])],
        }
        finding, sentence = conclude(
            effect, p_holm=p_holm, floor=floor, factor=100 if is_share(entry) else 1
        )
        statement = {"finding": finding, "statement": sentence, "reason": None}
    cells = shown | numbers | statement
    return cast(ReportTask, {name: cells[name] for name in ReportTask.__annotations__})


def _numbers(effect: Difference | None, entry: Task | None = None) -> dict[str, object]:
    """A difference as the report shows it: in the metric's own direction.

    Args:
        effect: The difference; None gives nulls.
        entry: Its task; None where more is better.
    """
    if effect is None:
        return dict.fromkeys(_NUMBERS)
    first, second, change, interval = effect.first, effect.second, effect.difference, effect.ci95
    if entry is not None and not entry.get("higher_is_better", True):
        span = span_of(entry)
        first, second, change = span - first, span - second, -change
        interval = (-interval[1], -interval[0]) if interval else None
    flips = None if effect.lost is None or effect.gained is None else effect.lost + effect.gained
    return {
        "n": effect.n,
        "base": first,
        "value": second,
        "difference": change,
        "ci95": list(interval) if interval else None,
        "ci_method": effect.ci_method,
        "p": effect.p,
        "p_method": effect.p_method,
        "right_to_wrong": effect.lost,
        "wrong_to_right": effect.gained,
        "discordance": None if flips is None else flips / effect.n,
        "smallest_detectable_loss": effect.detectable,
    }


_NUMBERS = (
    "n",
    "base",
    "value",
    "difference",
    "ci95",
    "ci_method",
    "p",
    "p_method",
    "right_to_wrong",
    "wrong_to_right",
    "discordance",
    "smallest_detectable_loss",
    "noise_floor",
    "below_noise_floor",
)


def _within(difference: float, floor: float) -> bool:
    """Whether a difference is no larger than the floor; both are differences of rounded means."""
    return abs(difference) <= floor + 1e-9


def _noise(floor: float | None, effect: Difference) -> dict[str, object]:
    """The numerical noise floor, and whether the difference is within it."""
    below = None if floor is None else _within(effect.difference, floor)
    return {"noise_floor": floor, "below_noise_floor": below}


def _notes(comparison: Comparison) -> list[str]:
    """What a reader should know beside a comparison."""
    base, variant = comparison.base[1], comparison.variant[1]
    n, (first, second) = len(comparison.shared.keys), comparison.shared.available
    notes = []
    if (first, second) != (n, n):
        notes.append(f"{n} documents are shared: the base has {first}, the variant {second}")
    if base["engine"]["name"] != variant["engine"]["name"]:
        names = f"{base['engine']['name']} and {variant['engine']['name']}"
        notes.append(f"the engines differ too, {names}: gguf-f16 shows their share")
    if base["hardware"]["fingerprint"] != variant["hardware"]["fingerprint"]:
        notes.append("the machines differ too")
    return notes


def _pooled(compared: Mapping[str, Comparison], tasks: Mapping[str, Task]) -> PooledEffect:
    """The difference over the documents of all tasks whose scores are shares.

    Every document counts the same. Of two forms of a benchmark one is taken, as they share their
    documents.
    """
    shares = {task: entry for task, entry in tasks.items() if task in compared and is_share(entry)}
    forms: dict[str, str] = {}
    for task in sorted(shares, key=lambda task: not shares[task].get("default", True)):
        forms.setdefault(shares[task].get("benchmark", task), task)
    chosen = [task for task in shares if task in forms.values()]
    listed = {"tasks": chosen, "left_out": [task for task in compared if task not in chosen]}
    if not chosen:
        reason = "no task whose scores are shares was compared"
        lacking = {"finding": None, "statement": f"{NOT_COMPARED}: {reason}", "reason": reason}
        nothing: dict[str, object] = dict.fromkeys(("q", "q_df", "q_p", "i2"))
        return cast(PooledEffect, {**listed, **nothing, **_numbers(None), **lacking})
    first: list[float] = []
    second: list[float] = []
    clusters: list[Any] = []
    counts = []
    for task in chosen:
        shared = compared[task].shared
        one, other = oriented(shared, tasks[task])
        paired = compare_paired(one, other, clusters=shared.clusters)
        effective = paired.design_effect
        counts.append((paired.losses / effective, paired.gains / effective, paired.n / effective))
        first += one
        second += other
        clusters += [(task, cluster) for cluster in shared.clusters]
    effect = difference_of(compare_paired(first, second, clusters=clusters), 1.0)
    floor = _pooled_floor([compared[task] for task in chosen], effect.n)
    finding, statement = conclude(effect, p_holm=None, floor=floor, factor=100)
    spread = heterogeneity(counts)
    if spread.p is not None and spread.p <= ALPHA:
        statement += f"; the tasks differ among each other (p = {spread.p:.2g})"
    return cast(
        PooledEffect,
        {
            **listed,
            "q": spread.q,
            "q_df": spread.df,
            "q_p": spread.p,
            "i2": spread.i2,
            **_numbers(effect),
            "noise_floor": floor,
            "below_noise_floor": None if floor is None else abs(effect.difference) <= floor,
            "finding": finding,
            "statement": statement,
            "reason": None,
        },
    )


def _pooled_floor(compared: Sequence[Comparison], documents: int) -> float | None:
    """The noise floors of tasks, weighted by their documents; None where one is not known."""
    parts = [(c.effect.n / documents, c.floor) for c in compared]
    known = [weight * floor for weight, floor in parts if floor is not None]
    return math.fsum(known) if len(known) == len(parts) else None


def _fidelity(record: FidelityRecord | None, weights: str) -> ReportFidelity:
    """How near a variant's probabilities are to the base's, or why that is not known."""
    if record is None:
        reason = "fidelity was not measured"
    elif record["variant"]["sha256"] != weights:
        reason = "fidelity was measured on other weights"
    elif record["state"] != "ok":
        reason = f"the fidelity record is {record['state'].replace('_', ' ')}"
    else:
        metrics = record["metrics"]
        return {
            "tokens": record["tokens"],
            "text": record["text"]["id"],
            "metrics": {
                "kl_mean_nats": metrics["kl_mean_nats"],
                "kl_median_nats": metrics["kl_median_nats"],
                "kl_p99_nats": metrics["kl_p99_nats"],
                "top_token_agreement": metrics["top_token_agreement"],
            },
        }
    nothing: ReportQuantity = {"value": None, "ci95": None, "reason": reason}
    return {
        "tokens": None,
        "text": None,
        "metrics": {
            "kl_mean_nats": nothing,
            "kl_median_nats": nothing,
            "kl_p99_nats": nothing,
            "top_token_agreement": nothing,
        },
    }


# ── Markdown ──


def write_reports(
    current: Sequence[tuple[Path, Any]], tasks: Mapping[str, Task], folder: Path
) -> list[str]:
    """Write quantization.json and quantization.md of each model that has a score.

    Args:
        current: The current records of all kinds and models.
        tasks: The catalogue's tasks.
        folder: Where each model gets a folder.

    Returns:
        The models.
    """
    by_model: dict[str, dict[str, list[tuple[Path, Any]]]] = defaultdict(lambda: defaultdict(list))
    for path, record in current:
        if record["kind"] != "score" or record["task"]["id"] in tasks:
            by_model[record["model"]["id"]][record["kind"]].append((path, record))
    models = sorted(model for model, kinds in by_model.items() if kinds["score"])
    for model in models:
        kinds = by_model[model]
        report = quantization_report(kinds["score"], kinds["fidelity"], kinds["noise"], tasks)
        write_record(folder / model / "quantization.json", report, "quantization")
        title = f"# {model}: what quantization costs\n\n"
        page = title + render_quantization(report).rstrip() + "\n"
        atomic_write_text(folder / model / "quantization.md", page)
    return models


def render_quantization(report: QuantizationReport) -> str:
    """The report as Markdown: variants side by side, then the tasks of each."""
    groups = [
        {
            **group,
            "lacking": _by_text(
                (variant["fidelity"]["metrics"]["kl_mean_nats"]["reason"], variant["variant"])
                for variant in group["variants"]
            ),
            "variants": [
                {
                    **variant,
                    "notes": _by_text(
                        (note, task["title"]) for task in variant["tasks"] for note in task["notes"]
                    ),
                }
                for variant in group["variants"]
            ],
        }
        for group in report["groups"]
    ]
    template = templates().get_template("quantization.md.j2")
    return template.render(groups=groups, shown=_shown, change=_change)


def _by_text(pairs: Iterable[tuple[str | None, str]]) -> dict[str, list[str]]:
    """Text → what it is about; without a text nothing."""
    notes: dict[str, list[str]] = defaultdict(list)
    for text, name in pairs:
        if text:
            notes[text].append(name)
    return notes


def _change(row: ReportTask | PooledEffect, factor: float) -> str:
    """A difference with its sign and interval, in points."""
    if row["difference"] is None:
        return "–"
    text = f"{factor * row['difference']:+.1f}"
    if row["ci95"]:
        low, high = (factor * bound for bound in row["ci95"])
        text += f" [{low:+.1f}, {high:+.1f}]"
    return text


def _shown(value: float | None, form: str, factor: float = 1) -> str:
    return "–" if value is None else format(factor * value, form)
