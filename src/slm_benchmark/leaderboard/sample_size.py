"""Sample size before measuring: documents for a margin, detectable losses, and times."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from slm_benchmark.catalog.catalog import VARIANTS, Catalogue
from slm_benchmark.common.errors import UserError, suggestion
from slm_benchmark.common.files import read_json
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import RESULTS, ROOT, relative
from slm_benchmark.leaderboard.comparison import (
    CORPUS_METRICS,
    ScoreRun,
    incomparable_reason,
    shared_documents,
)
from slm_benchmark.records.store import current_records, published_records
from slm_benchmark.records.types import PerformanceRecord, ScoreRecord
from slm_benchmark.statistics.paired import compare_paired
from slm_benchmark.statistics.power import (
    ALPHA,
    WORST_DISCORDANCE,
    documents_needed,
    documents_needed_shift,
    smallest_detectable_loss,
    smallest_detectable_shift,
)
from slm_benchmark.statistics.proportion import wilson_interval

Run = tuple[Path, ScoreRecord | PerformanceRecord]
"""A score or a profile, and the file that it was read from."""

FEWEST_PAIRS = 20
"""Recorded pairs of a variant that tell something of how often outcomes change."""

MARGIN = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>pp|%|)")


@dataclass(frozen=True)
class SampleSizeRequest:
    """What a sample size is computed for.

    Attributes:
        task: Id of the task.
        margin: Loss to be detected, as a share of the score's range: 0.01 is one percentage point.
        power: Probability of detecting it.
        model: Id of the model; None = any.
        variant: Which weight format is compared with the base; None = any.
        hardware: Id of the machine; None = all.
        documents: A number of documents to judge; None = none.
    """

    task: str
    margin: float
    power: float
    model: str | None = None
    variant: str | None = None
    hardware: str | None = None
    documents: int | None = None


@dataclass(frozen=True)
class Discordance:
    """The share of documents that change from base to variant, recorded or assumed.

    Attributes:
        model: Of the recorded pairs; None where nothing is recorded.
        variant: Of the recorded pairs; None where nothing is recorded.
        turnover: Mean change of a document, as a share of its range: of zeros and ones, the share
            that flips.
        sd: Standard deviation of the changes, as a share of the range; None for zeros and ones.
        documents: Recorded pairs; 0 where nothing is recorded.
        source: Where this comes from, as a sentence.
    """

    model: str | None
    variant: str | None
    turnover: float
    sd: float | None
    documents: int
    source: str

    def documents_needed(self, margin: float, power: float) -> int:
        """Documents for a margin."""
        if self.sd:
            return documents_needed_shift(margin, self.sd, power=power)
        return documents_needed(margin, self.turnover, power=power)

    def detectable_loss(self, n: int, power: float) -> float | None:
        """Smallest loss that is detected on ``n`` documents, as a share of the range."""
        if self.sd:
            return smallest_detectable_shift(n, self.sd, power=power)
        return smallest_detectable_loss(n, self.turnover, power=power)

    def bounds(self, margin: float, power: float) -> tuple[int, int] | None:
        """Documents for a margin at either end of the recorded share of flips' 95 % interval."""
        if self.sd or not self.documents:
            return None
        low, high = wilson_interval(self.turnover * self.documents, self.documents)
        return (
            documents_needed(margin, low, power=power),
            documents_needed(margin, high, power=power),
        )


def parse_margin(text: str) -> float:
    """A margin as a share: ``1pp``, ``1%`` and ``0.01`` are the same.

    Raises:
        UserError: for anything that is no such number above 0 and below 1.
    """
    match = MARGIN.fullmatch(text.strip())
    share = float(match["number"]) / (100 if match["unit"] else 1) if match else math.nan
    if not 0 < share < 1:
        raise UserError(
            "not a margin between 0 and 100 percentage points",
            field="--margin",
            value=text,
            fix="write it as 1pp, 0.5pp, 1% or 0.01",
        )
    return share


def recorded_runs() -> list[Run]:
    """The current scores and profiles of results/ and of this checkout's runs/."""
    paths = [*published_records(RESULTS), *published_records(ROOT / "runs")]
    return cast(list[Run], current_records(paths))


def check_request(request: SampleSizeRequest, catalogue: Catalogue) -> None:
    """Refuse what cannot be planned.

    Raises:
        UserError: for an unknown task, model, variant or machine, a number out of its range, or a
            metric that documents have no values of.
    """
    known: tuple[tuple[str, str | None, Sequence[str]], ...] = (
        ("task", request.task, list(catalogue.tasks)),
        ("model", request.model, list(catalogue.models)),
        ("variant", request.variant, [v for v in VARIANTS if v != "base"]),
        ("hardware", request.hardware, list(catalogue.hardware)),
    )
    for name, value, choices in known:
        if value is not None and value not in choices:
            fix = suggestion(value, list(choices))
            if (name, value) == ("variant", "base"):
                fix = "name the format that is compared with the base"
            raise UserError(f"unknown {name}", field=f"--{name}", value=value, fix=fix)
    metric = catalogue.tasks[request.task]["metric"]
    if metric in CORPUS_METRICS:
        raise UserError(
            f"{metric} is a score of whole sets: documents have no values to plan with",
            field="--task",
            value=request.task,
            fix="plan with a task that scores each document, such as arc_challenge",
        )
    if not 0.5 <= request.power < 1:
        raise UserError(
            "not a power from 0.5 to below 1", field="--power", value=request.power, fix="use 0.8"
        )
    if request.documents is not None and request.documents < 1:
        raise UserError(
            "not a number of documents",
            field="--documents",
            value=request.documents,
            fix="use 1 or more",
        )


# ── how outcomes change ──


def observed_discordance(
    request: SampleSizeRequest, catalogue: Catalogue, records: Sequence[Run]
) -> Discordance:
    """How often outcomes change: from records, else a stated assumption.

    Of each model and variant the pairs with the most documents count; then the variant that
    changes most is taken, so that the plan is enough for the others too.
    """
    fitting = [
        pairs
        for pairs in _recorded_discordances(request.task, catalogue, records)
        if request.variant in (None, pairs.variant) and pairs.documents >= FEWEST_PAIRS
    ]
    same_model = [pairs for pairs in fitting if pairs.model == request.model]
    largest: dict[tuple[str | None, str | None], Discordance] = {}
    for pairs in same_model if request.model and same_model else fitting:
        key = (pairs.model, pairs.variant)
        if key not in largest or pairs.documents > largest[key].documents:
            largest[key] = pairs
    if largest:
        return max(largest.values(), key=lambda pairs: pairs.turnover)
    what = f"{request.variant or 'a variant'} and its base"
    return Discordance(
        model=None,
        variant=None,
        turnover=WORST_DISCORDANCE,
        sd=None,
        documents=0,
        source=f"an assumption, as no records pair {what} on {FEWEST_PAIRS} documents of this "
        "task: half of the documents change, as between two models that have nothing to do with "
        "each other. That is the worst case; variants of one model change far fewer",
    )


def _recorded_discordances(
    task: str, catalogue: Catalogue, records: Sequence[Run]
) -> list[Discordance]:
    """Every variant's score of a task paired with its base's, where they can be paired."""
    span = 1.0 if catalogue.tasks[task].get("unit", "share") == "share" else None
    span = span or float(catalogue.tasks[task].get("best", 0)) or 100.0
    scores: dict[tuple[str, str, str, str], ScoreRun] = {
        (
            record["model"]["id"],
            record["hardware"]["id"],
            record["protocol"]["id"],
            record["variant"]["id"],
        ): (path, record)
        for path, record in _scores_of(task, records)
    }
    pairs = []
    for (model, hardware, protocol, variant), run in scores.items():
        base = scores.get((model, hardware, protocol, "base"))
        if variant == "base" or base is None or incomparable_reason(base, run):
            continue
        shared = shared_documents(base, run)
        if not shared.keys:
            continue
        paired = compare_paired(shared.first, shared.second, span=span)
        pairs.append(
            Discordance(
                model=model,
                variant=variant,
                turnover=paired.turnover / span,
                sd=None if paired.binary else paired.sd / span,
                documents=paired.n,
                source=f"{paired.lost + paired.gained} of {paired.n} documents of {model} change "
                f"from base to {variant}, on {hardware} under {protocol} "
                f"({relative(base[0])}, {relative(run[0])})",
            )
        )
    return pairs


# ── how many documents there are ──


@dataclass(frozen=True)
class SampleSize:
    """A number of documents that is worth judging.

    Attributes:
        name: What has that number.
        documents: The number; None where it is not known here.
    """

    name: str
    documents: int | None


def sample_sizes(
    request: SampleSizeRequest, catalogue: Catalogue, records: Sequence[Run]
) -> list[SampleSize]:
    """The task's datasets in full, the documents of each protocol, and the requested number."""
    task = request.task
    totals = {
        dataset: _dataset_size(task, dataset, catalogue, records)
        for dataset in dict.fromkeys(map(str, catalogue.tasks[task]["datasets"].values()))
    }
    sizes = [SampleSize(f"all of {dataset}", total) for dataset, total in totals.items()]
    for protocol in catalogue.protocols:
        limit = catalogue.documents(task, protocol)
        dataset = catalogue.dataset_id(task, protocol)
        if task in catalogue.protocol_tasks(protocol) and limit is not None and dataset:
            number = min(limit, totals[dataset] or limit)
            sizes.append(SampleSize(f"protocol {protocol}", number))
    if request.documents is not None:
        sizes.append(SampleSize("--documents", request.documents))
    return sizes


def _dataset_size(
    task: str, dataset: str, catalogue: Catalogue, records: Sequence[Run]
) -> int | None:
    """Documents of a dataset: as a record tells, else as prepared on this machine."""
    for _, record in _evaluations(task, records):
        if record["dataset"]["id"] == dataset:
            return int(record["dataset"]["documents_total"])
    manifest = ROOT / "resources" / "datasets" / dataset / "manifest.json"
    # A task of parts takes some of the rows, and which ones only the harness knows.
    if "parts" in catalogue.tasks[task] or not manifest.exists():
        return None
    splits = read_json(manifest)["splits"]
    # The split of the documents is named before that of few-shot examples.
    entry = catalogue.datasets[dataset]
    first = next(iter(splits if entry["source"] == "local" else entry["splits"]))
    return int(splits[first]["rows"]) if first in splits else None


# ── how long it takes ──


@dataclass(frozen=True)
class Cost:
    """What a document costs on a machine.

    Attributes:
        hardware: Id of the machine.
        model: Id of the model; None where none is chosen or recorded.
        variant: Its weight format.
        seconds: For one document; None where it is not known.
        source: Where the number comes from, or why there is none.
    """

    hardware: str
    model: str | None
    variant: str
    seconds: float | None
    source: str


def costs(
    request: SampleSizeRequest, catalogue: Catalogue, records: Sequence[Run], pairs: Discordance
) -> list[Cost]:
    """What a document costs on each machine, of the base and of the variant."""
    machines = [request.hardware] if request.hardware else list(catalogue.hardware)
    model, variant = request.model or pairs.model, request.variant or pairs.variant
    if model is None:
        measured = [record["model"]["id"] for _, record in records]
        model = measured[0] if measured else None
    variants = ["base", *([variant] if variant else [])]
    return [
        _cost(request.task, records, machine, model, each)
        for machine in machines
        for each in variants
    ]


def _cost(
    task: str, records: Sequence[Run], hardware: str, model: str | None, variant: str
) -> Cost:
    here = [
        (path, record)
        for path, record in records
        if record["model"]["id"] == model
        and record["variant"]["id"] == variant
        and record["hardware"]["id"] == hardware
    ]
    scored = _evaluations(task, here)
    if scored:
        path, record = max(scored, key=lambda run: run[1]["dataset"]["documents"])
        n, duration = record["dataset"]["documents"], record["duration_s"]
        threads = record["engine"]["threads"]
        rate = ""
        if counts := record.get("tokens"):
            tokens = counts["forwarded_tokens"]
            rate = f", {tokens / n:.0f} tokens a document at {tokens / duration:.0f} tokens/s"
        source = f"{n} documents took {duration:.0f} s, loading included, threads: {threads}{rate}"
        return Cost(hardware, model, variant, duration / n, f"{source} ({relative(path)})")
    profiles = [
        (path, record)
        for path, record in here
        if record["kind"] == "performance"
        and record["metrics"]["prompt_throughput_tokens_per_s"]["value"]
    ]
    counted = [run for run in _evaluations(task, records) if run[1].get("tokens")]
    same = [run for run in counted if run[1]["model"]["id"] == model]
    if not profiles or not counted:
        lacking = "profile of it" if not profiles else "record tells the tokens of a document"
        reason = f"unknown: no record of the task here, and no {lacking}"
        return Cost(hardware, model, variant, None, reason)
    return _from_profile(hardware, model, variant, profiles[-1], (same or counted)[0])


def _scores_of(task: str, records: Sequence[Run]) -> list[ScoreRun]:
    """The scores of a task."""
    return [
        (path, record)
        for path, record in records
        if record["kind"] == "score" and record["task"]["id"] == task
    ]


def _evaluations(task: str, records: Sequence[Run]) -> list[ScoreRun]:
    """Scores of a task that say what their documents cost."""
    return [
        (path, record)
        for path, record in _scores_of(task, records)
        if record["state"] == "ok" and record["dataset"]["documents"]
    ]


def _from_profile(
    hardware: str,
    model: str | None,
    variant: str,
    profile: tuple[Path, PerformanceRecord],
    counted: ScoreRun,
) -> Cost:
    """Tokens of a document from one record, divided by the speed from another."""
    path, record = counted
    n, tokens = record["dataset"]["documents"], record.get("tokens")
    metrics = profile[1]["metrics"]
    assert tokens is not None
    reading = (tokens["forwarded_tokens"] - tokens["generated_tokens"]) / n
    speed = metrics["prompt_throughput_tokens_per_s"]["value"]
    assert speed is not None
    seconds = reading / speed
    source = f"{reading:.0f} tokens a document ({relative(path)}) at {speed:.0f} tokens/s"
    if tokens["generated_tokens"]:
        writing = tokens["generated_tokens"] / n
        speed = metrics["generation_throughput_tokens_per_s"]["value"]
        if not speed:
            reason = "unknown: the profile has no speed of generation"
            return Cost(hardware, model, variant, None, reason)
        seconds += writing / speed
        source += f", and {writing:.0f} written at {speed:.1f} tokens/s"
    return Cost(
        hardware, model, variant, seconds, f"{source} ({relative(profile[0])}), without loading"
    )


# ── the report ──


def sample_size_report(
    request: SampleSizeRequest, catalogue: Catalogue, records: Sequence[Run]
) -> str:
    """The sample size as text: documents, detectable losses and times.

    Raises:
        UserError: as `check_request`.
    """
    check_request(request, catalogue)
    entry = catalogue.tasks[request.task]
    share = entry.get("unit", "share") == "share"
    factor = 100.0 if share else float(entry.get("best", 0)) or 100.0

    def points(value: float | None) -> str:
        return "none detectable" if value is None else f"{factor * value:.2f}"

    pairs = observed_discordance(request, catalogue, records)
    power = request.power
    needed = pairs.documents_needed(request.margin, power)
    sizes = sample_sizes(request, catalogue, records)
    lines = [
        f"{entry['title']}: to detect a loss of {points(request.margin)} points",
        "",
        f"Documents needed: {needed}{_between(pairs.bounds(request.margin, power))}",
        f"Changes from base to variant: {100 * pairs.turnover:.1f} % of documents"
        if pairs.sd is None
        else f"Changes from base to variant: standard deviation {points(pairs.sd)} points",
        f"Source: {pairs.source}.",
        f"Power {100 * power:.0f} %, exact McNemar test, two-sided, {100 * ALPHA:.0f} %"
        if not pairs.sd
        else f"Power {100 * power:.0f} %, paired t test, two-sided, {100 * ALPHA:.0f} %",
        "",
    ]
    rows = [SampleSize(f"margin {points(request.margin)}", needed), *sizes]
    shown = [
        (size.name, str(size.documents), points(pairs.detectable_loss(size.documents, power)))
        if size.documents is not None
        else (size.name, "unknown", "–")
        for size in rows
    ]
    lines += table(["", "Documents", "Smallest detectable loss (points)"], shown)
    lines += _too_small(sizes, needed)
    return "\n".join([*lines, "", *_times(rows, costs(request, catalogue, records, pairs))])


def _between(bounds: tuple[int, int] | None) -> str:
    """The range over the interval of the recorded share of flips."""
    if bounds is None:
        return ""
    return f" (from {bounds[0]} to {bounds[1]} over the 95 % interval of the recorded changes)"


def _too_small(sizes: Sequence[SampleSize], needed: int) -> list[str]:
    """A sentence for each dataset that has fewer documents than the margin needs."""
    return [
        f"{size.name[0].upper()}{size.name[1:]} is too small for this margin: it has "
        f"{size.documents} of {needed} documents."
        for size in sizes
        if size.name.startswith("all of") and size.documents is not None and size.documents < needed
    ]


def _times(rows: Sequence[SampleSize], prices: Sequence[Cost]) -> list[str]:
    """How long each number of documents takes on each machine, and where that is from."""
    numbers = list(dict.fromkeys(size.documents for size in rows if size.documents is not None))
    header = ["Machine", "Model", "Variant", *(f"{n} documents" for n in numbers)]
    lines = [
        [cost.hardware, cost.model or "–", cost.variant]
        + ["–" if cost.seconds is None else duration(n * cost.seconds) for n in numbers]
        for cost in prices
    ]
    sources: dict[str, list[str]] = {}
    for cost in prices:
        sources.setdefault(cost.source, []).append(f"{cost.hardware} {cost.variant}")
    notes = [f"- {', '.join(cells)}: {source}" for source, cells in sources.items()]
    return [*table(header, lines), "", "A comparison needs both. Times are from:", *notes]


def duration(seconds: float) -> str:
    """A duration in two significant digits or whole units, such as 45 s, 12 min or 3.4 h."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
