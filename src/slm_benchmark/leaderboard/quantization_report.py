"""What quantization costs: each variant of a model against its base, on the same documents."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import erfc, ndtri

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.common.files import atomic_write_text, read_json
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import write_record
from slm_benchmark.records.store import Record, documents_file
from slm_benchmark.statistics.bootstrap import bootstrap_interval, estimate, of_totals
from slm_benchmark.statistics.multiple import holm
from slm_benchmark.statistics.paired import Paired, compare_paired, heterogeneity
from slm_benchmark.statistics.power import (
    ALPHA,
    POWER,
    smallest_detectable_loss,
    smallest_detectable_shift,
)
from slm_benchmark.tasks.corpus_metrics import bleu, chrf

Found = tuple[Path, Record]
Key = tuple[str, str, int]
"""Part ("" where the task has none), hash and index of a document."""

CORPUS_METRICS = {"chrf": chrf, "bleu": bleu}
"""Metrics of which a document has statistics, not a value of its own."""

FIDELITY = ("kl_mean_nats", "kl_median_nats", "kl_p99_nats", "top_token_agreement")
"""Metrics of a fidelity record that stand in the report."""

NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Shared:
    """The values of two records on the documents that both have.

    Attributes:
        keys: The documents.
        first: Their values in the base's record.
        second: Their values in the variant's record.
        clusters: The cluster of each, itself where it has none.
        asked: Documents with a value in either record.
    """

    keys: list[Key]
    first: list[Any]
    second: list[Any]
    clusters: list[Any]
    asked: tuple[int, int]


@dataclass(frozen=True)
class Difference:
    """A variant's score against its base's; more is better in ``first``, ``second`` and below.

    Attributes:
        n: Shared documents.
        first: The base's score.
        second: The variant's score.
        difference: ``second − first``.
        ci95: Its interval; None where there is none.
        ci_method: The interval's method.
        p: Two-sided p-value of no difference; None where there is none.
        p_method: The test.
        lost: Documents that got worse; None for a corpus metric.
        gained: Documents that got better; None for a corpus metric.
        detectable: Smallest loss that would be seen; None where none would be.
    """

    n: int
    first: float
    second: float
    difference: float
    ci95: tuple[float, float] | None
    ci_method: str | None
    p: float | None
    p_method: str | None
    lost: int | None
    gained: int | None
    detectable: float | None


# ── documents ──


def outcomes(path: Path, record: Record) -> dict[Key, float]:
    """The value of each document of a score, in the column's metric after its filter.

    Documents without a value are left out, and all those of a corpus metric, which has values of
    whole sets only.

    Args:
        path: The record's file; its documents lie beside it.
        record: A score.
    """
    return {
        key: float(value)
        for key, value, _ in _answered(path, record)
        if not isinstance(value, list)
    }


def _documents(path: Path, record: Record) -> dict[Key, tuple[Any, Any]]:
    """Value and cluster of each document that has a value."""
    return {key: (value, row.get("cluster", key)) for key, value, row in _answered(path, record)}


def _answered(path: Path, record: Record) -> Iterator[tuple[Key, Any, Record]]:
    """Key, value and entry of each document that has a value."""
    metric, chosen = record["task"]["metric"], record["task"]["filter"]
    for row in read_json(documents_file(path)):
        if row["filter"] == chosen and (value := row["values"].get(metric)) is not None:
            yield (row.get("part", ""), row["document"], row["index"]), value, row


def shared_documents(base: Found, variant: Found) -> Shared:
    """The documents of which both records have a value, in one order."""
    first, second = _documents(*base), _documents(*variant)
    keys = sorted(first.keys() & second.keys())
    return Shared(
        keys=keys,
        first=[first[key][0] for key in keys],
        second=[second[key][0] for key in keys],
        clusters=[first[key][1] for key in keys],
        asked=(len(first), len(second)),
    )


def incomparable_reason(base: Found, variant: Found) -> str | None:
    """Why two scores must not be compared document by document; None where they can be.

    Under one version of a protocol, other numbers of documents are no obstacle: those that both
    have are compared.
    """
    for name, (path, record) in (("base", base), ("variant", variant)):
        if record["state"] != "ok":
            return f"the {name}'s score is {record['state'].replace('_', ' ')}"
        if not documents_file(path).exists():
            return f"the {name}'s values of single documents are missing"
    first, second = base[1], variant[1]
    unlike = (
        ("model", "sha256", "the variant was made from another base"),
        ("dataset", "sha256", "the dataset's bytes differ"),
        ("task", "config_sha256", "the task's configuration differs"),
        ("task", "metric", "the metric differs"),
        ("task", "filter", "the filter of answers differs"),
        ("protocol", "id", "the protocol differs"),
        ("protocol", "version", "the protocol's version differs"),
    )
    for block, key, reason in unlike:
        if first[block][key] != second[block][key]:
            return f"{reason}: measure both again"
    same_number = first["dataset"]["documents"] == second["dataset"]["documents"]
    if same_number and first["protocol"]["sha256"] != second["protocol"]["sha256"]:
        return "the protocol's choices changed without a new version: measure both again"
    return None


# ── one difference ──


def compare_task(shared: Shared, entry: Mapping[str, Any], metric: str) -> Difference:
    """Compare the scores of a task on shared documents.

    Args:
        shared: At least one document.
        entry: The task's entry in the catalogue.
        metric: The column's metric.
    """
    parts = [key[0] for key in shared.keys]
    by_parts = entry.get("combine") == "parts" and len(set(parts)) > 1
    if metric in CORPUS_METRICS:
        return _corpus_difference(shared, metric, parts if by_parts else None)
    first, second = _oriented(shared, entry)
    span = _span(entry)
    sizes = Counter(parts)
    if by_parts and len(set(sizes.values())) > 1:
        # Each part counts the same, so a document of a small one counts more.
        weights = [len(parts) / (len(sizes) * sizes[part]) for part in parts]
        first = [w * value for w, value in zip(weights, first, strict=True)]
        second = [w * value for w, value in zip(weights, second, strict=True)]
        span *= max(weights)
    return _of_documents(compare_paired(first, second, clusters=shared.clusters, span=span), span)


def _of_documents(paired: Paired, span: float) -> Difference:
    names = ("n", "first", "second", "difference", "ci95", "ci_method", "p", "p_method")
    kept = {name: getattr(paired, name) for name in (*names, "lost", "gained")}
    return Difference(**kept, detectable=_detectable(paired, span))


def _detectable(paired: Paired, span: float) -> float | None:
    """Smallest loss that the test of ``paired`` would have found, in the unit of its values."""
    if paired.p is None:
        return None
    effective = max(1, int(paired.n / paired.design_effect))
    if paired.p_method == "t" and paired.sd:
        return smallest_detectable_shift(effective, paired.sd)
    loss = smallest_detectable_loss(effective, paired.turnover / span)
    return None if loss is None else span * loss


def _corpus_difference(shared: Shared, metric: str, strata: Sequence[str] | None) -> Difference:
    """Compare a corpus metric by drawing the same documents for both sides.

    Source: P. Koehn, EMNLP 2004, https://aclanthology.org/W04-3250.
    """
    function = CORPUS_METRICS[metric].function
    width = len(shared.first[0])

    @of_totals
    def gain(totals: Any, n: int) -> float:
        return function(totals[width:], n) - function(totals[:width], n)

    both = [[*one, *other] for one, other in zip(shared.first, shared.second, strict=True)]
    value, found = estimate(both, gain, strata), bootstrap_interval(both, gain, strata=strata)
    p = detectable = None
    if found and found.stderr:
        p = float(erfc(abs(value) / found.stderr / math.sqrt(2)))
        detectable = float(ndtri(1 - ALPHA / 2) + ndtri(POWER)) * found.stderr
    return Difference(
        n=len(shared.keys),
        first=estimate(shared.first, CORPUS_METRICS[metric], strata),
        second=estimate(shared.second, CORPUS_METRICS[metric], strata),
        difference=value,
        ci95=(found.low, found.high) if p is not None and found else None,
        ci_method="paired bootstrap" if p is not None else None,
        p=p,
        p_method="paired bootstrap" if p is not None else None,
        lost=None,
        gained=None,
        detectable=detectable,
    )


def _oriented(shared: Shared, entry: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Values of both sides of which more is better."""
    if entry.get("higher_is_better", True):
        return shared.first, shared.second
    span = _span(entry)
    return [span - v for v in shared.first], [span - v for v in shared.second]


def _span(entry: Mapping[str, Any]) -> float:
    """Largest minus smallest value that a document of a task can have."""
    return 1.0 if _is_share(entry) else float(entry.get("best", 0)) or 100.0


def _is_share(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("unit", "share") == "share")


# ── what may be said ──


def conclude(
    found: Difference, *, p_holm: float | None, floor: float | None, factor: float
) -> tuple[str, str]:
    """What the numbers allow to say of a difference: a word for programs and a sentence.

    Args:
        found: The difference.
        p_holm: Its p-value adjusted over all tasks; None where it stands alone.
        floor: Largest change of the score by numerical perturbations; None where not measured.
        factor: Points in one unit of the scores.

    Returns:
        loses, gains, may_lose, may_gain, no_measurable_loss, too_few_documents, not_tested or
        below_noise_floor; and the sentence.
    """

    def points(value: float) -> str:
        return f"{factor * value:.1f}"

    limits = _limits(found, points)
    if floor is not None and _within(found.difference, floor):
        return "below_noise_floor", (
            f"a difference of {points(abs(found.difference))} points is within the numerical "
            f"noise floor of {points(floor)}; {limits[1]}"
        )
    if found.p is None or found.ci95 is None:
        return limits
    low, high = found.ci95
    significant, apart = found.p <= ALPHA, low > 0 or high < 0
    if not (significant or apart):
        return limits
    loses = found.difference < 0
    bounds = (-high, -low) if loses else (low, high)
    size = f"{points(abs(found.difference))} points [{', '.join(map(points, bounds))}]"
    if not significant:
        return f"may_{'lose' if loses else 'gain'}", (
            f"may {'lose' if loses else 'gain'} {size}: the interval leaves zero out, the test "
            f"does not (p = {found.p:.2g}); {limits[1]}"
        )
    chance = "" if p_holm is None or p_holm <= ALPHA else _after_holm(p_holm)
    return ("loses" if loses else "gains"), f"{'loses' if loses else 'gains'} {size}{chance}"


def _after_holm(p: float) -> str:
    return f"; with as many tasks as here it may be chance (Holm's p = {p:.2g})"


def _limits(found: Difference, points: Callable[[float], str]) -> tuple[str, str]:
    """What can be said where no difference was found."""
    if found.p is None:
        return "not_tested", "no test: too few independent documents, or none that differ"
    if found.detectable is None:
        return "too_few_documents", f"too few documents: at n = {found.n} no loss would be seen"
    if found.detectable > found.first:
        return "too_few_documents", (
            f"too few documents: at n = {found.n} a loss would be seen from "
            f"{points(found.detectable)} points, and the base has {points(found.first)} to lose"
        )
    return "no_measurable_loss", (
        f"no measurable loss at n = {found.n}; "
        f"a loss under {points(found.detectable)} points could not be seen"
    )


# ── the report ──


def quantization_report(
    records: Sequence[Found],
    fidelity: Sequence[Found],
    noise: Sequence[Found],
    tasks: Mapping[str, Mapping[str, Any]],
) -> Record:
    """The quantization report of one model, as its schema describes it.

    Args:
        records: The model's current records; those of scores are compared.
        fidelity: Its current fidelity records.
        noise: Its current noise records.
        tasks: The catalogue's tasks; scores of others are left out.

    Raises:
        ValueError: without a record.
    """
    places: dict[tuple[str, str], dict[str, dict[str, Found]]] = defaultdict(dict)
    for path, record in records:
        if record["kind"] == "score" and record["task"]["id"] in tasks:
            place = (record["hardware"]["id"], record["protocol"]["id"])
            scores = places[place].setdefault(record["variant"]["id"], {})
            scores[record["task"]["id"]] = (path, record)
    if not places:
        raise ValueError("there are no scores")
    floors = {_place(record): record["floor"]["numerical"]["max_abs_delta"] for _, record in noise}
    streams = {record["variant"]["id"]: record for _, record in fidelity}
    groups = []
    for (hardware, protocol), variants in sorted(places.items()):
        base = variants.pop("base", {})
        known = [variant for variant in VARIANTS if variant in variants]
        groups.append(
            {
                "hardware": hardware,
                "protocol": protocol,
                "base": _facts(base) if base else None,
                "variants": [
                    _variant_row(base, variants[variant], floors, streams.get(variant), tasks)
                    for variant in known
                ],
            }
        )
    model = next(record["model"]["id"] for _, record in records)
    return {
        "schema_version": 1,
        "kind": "quantization",
        "model": model,
        "alpha": ALPHA,
        "power": POWER,
        "groups": groups,
    }


Place = tuple[str, str, str, str]
"""Variant, machine, protocol and task."""


def _place(record: Record) -> Place:
    variant, hardware, protocol, task = (
        record[block]["id"] for block in ("variant", "hardware", "protocol", "task")
    )
    return variant, hardware, protocol, task


def _facts(scores: Mapping[str, Found]) -> Record:
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


def _variant_row(
    base: Mapping[str, Found],
    variant: Mapping[str, Found],
    floors: Mapping[Place, float | None],
    stream: Record | None,
    tasks: Mapping[str, Mapping[str, Any]],
) -> Record:
    """A variant's rows of tasks, their pooled effect, and its fidelity."""
    facts = _facts(variant)
    rows: list[Record] = []
    compared: dict[str, tuple[Shared, Difference]] = {}
    for task in tasks:
        if task not in base and task not in variant:
            continue
        row = _empty_row(task, tasks[task])
        rows.append(row)
        if task not in base or task not in variant:
            row["reason"] = f"the {'base' if task not in base else 'variant'} was not measured"
        elif (reason := incomparable_reason(base[task], variant[task])) is not None:
            row["reason"] = reason
        elif not (shared := shared_documents(base[task], variant[task])).keys:
            row["reason"] = "no document has a value in both records"
        else:
            found = compare_task(shared, tasks[task], base[task][1]["task"]["metric"])
            compared[task] = (shared, found)
            row |= _numbers(found, tasks[task])
            row |= _noise(found, base[task][1], variant[task][1], floors)
            row["notes"] = _notes(shared, base[task][1], variant[task][1])
            row["records"] = [relative(base[task][0]), relative(variant[task][0])]
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    for row in rows:
        if row["task"] in compared:
            row["finding"], row["statement"] = conclude(
                compared[row["task"]][1],
                p_holm=row["p_holm"],
                floor=row["noise_floor"],
                factor=_factor(tasks[row["task"]]),
            )
        else:
            row["statement"] = f"{NOT_COMPARED}: {row['reason']}"
    return {
        **facts,
        "tasks": rows,
        "pooled": _pooled(compared, {row["task"]: row["noise_floor"] for row in rows}, tasks),
        "fidelity": _fidelity(stream, facts["sha256"]),
    }


def _empty_row(task: str, entry: Mapping[str, Any]) -> Record:
    names = ("n", "base", "value", "difference", "ci95", "ci_method", "p", "p_method", "p_holm")
    more = ("right_to_wrong", "wrong_to_right", "discordance", "smallest_detectable_loss")
    last = ("noise_floor", "below_noise_floor", "finding", "statement", "reason")
    return {
        "task": task,
        "title": entry["title"],
        "unit": entry.get("unit", "share"),
        **dict.fromkeys((*names, *more, *last)),
        "notes": [],
        "records": None,
    }


def _numbers(found: Difference, entry: Mapping[str, Any]) -> Record:
    """A difference as the report shows it: in the metric's own direction."""
    first, second, change, interval = found.first, found.second, found.difference, found.ci95
    if not entry.get("higher_is_better", True):
        span = _span(entry)
        first, second, change = span - first, span - second, -change
        interval = (-interval[1], -interval[0]) if interval else None
    flips = None if found.lost is None or found.gained is None else found.lost + found.gained
    return {
        "n": found.n,
        "base": first,
        "value": second,
        "difference": change,
        "ci95": list(interval) if interval else None,
        "ci_method": found.ci_method,
        "p": found.p,
        "p_method": found.p_method,
        "right_to_wrong": found.lost,
        "wrong_to_right": found.gained,
        "discordance": None if flips is None else flips / found.n,
        "smallest_detectable_loss": found.detectable,
    }


def _within(difference: float, floor: float) -> bool:
    """Whether a difference is no larger than the floor; both are differences of rounded means."""
    return abs(difference) <= floor + 1e-9


def _noise(
    found: Difference, base: Record, variant: Record, floors: Mapping[Place, float | None]
) -> Record:
    """The larger numerical floor of the two scores, and whether the difference is within it."""
    both = [floors.get(_place(record)) for record in (base, variant)]
    known = [floor for floor in both if floor is not None]
    floor = max(known) if known else None
    below = None if floor is None else _within(found.difference, floor)
    return {"noise_floor": floor, "below_noise_floor": below}


def _notes(shared: Shared, base: Record, variant: Record) -> list[str]:
    """What a reader should know beside a comparison."""
    n, notes = len(shared.keys), []
    if shared.asked != (n, n):
        first, second = shared.asked
        notes.append(f"{n} documents are shared: the base has {first}, the variant {second}")
    if base["engine"]["name"] != variant["engine"]["name"]:
        names = f"{base['engine']['name']} and {variant['engine']['name']}"
        notes.append(f"the engines differ too, {names}: gguf-f16 shows their share")
    if base["hardware"]["fingerprint"] != variant["hardware"]["fingerprint"]:
        notes.append("the machines differ too")
    return notes


def _pooled(
    compared: Mapping[str, tuple[Shared, Difference]],
    floors: Mapping[str, float | None],
    tasks: Mapping[str, Mapping[str, Any]],
) -> Record:
    """The difference over the documents of all tasks that score shares.

    Every document counts the same. Of two forms of a benchmark one is taken, as they share their
    documents.
    """
    shares = {task: entry for task, entry in tasks.items() if task in compared and _is_share(entry)}
    forms: dict[str, str] = {}
    for task in sorted(shares, key=lambda task: not shares[task].get("default", True)):
        forms.setdefault(shares[task].get("benchmark", task), task)
    chosen = [task for task in shares if task in forms.values()]
    block: Record = {
        "tasks": chosen,
        "left_out": [task for task in compared if task not in chosen],
        "q": None,
        "q_df": None,
        "q_p": None,
        "i2": None,
    }
    if not chosen:
        empty = _empty_row("", {"title": ""})
        reason = "no task that scores shares was compared"
        kept = {key: empty[key] for key in empty if key in _POOLED}
        return block | kept | {"reason": reason, "statement": f"{NOT_COMPARED}: {reason}"}
    first: list[float] = []
    second: list[float] = []
    clusters: list[Any] = []
    counts = []
    for task in chosen:
        shared = compared[task][0]
        one, other = _oriented(shared, tasks[task])
        paired = compare_paired(one, other, clusters=shared.clusters)
        effective = (paired.losses, paired.gains, paired.n)
        counts.append(tuple(number / paired.design_effect for number in effective))
        first += one
        second += other
        clusters += [(task, cluster) for cluster in shared.clusters]
    found = _of_documents(compare_paired(first, second, clusters=clusters), 1.0)
    spread = heterogeneity([(a, b, n) for a, b, n in counts])
    weights = [compared[task][1].n / found.n for task in chosen]
    known = [floors[task] for task in chosen]
    floor = (
        None
        if None in known
        else math.fsum(w * f for w, f in zip(weights, known, strict=True) if f is not None)
    )
    finding, statement = conclude(found, p_holm=None, floor=floor, factor=100)
    if spread.p is not None and spread.p <= ALPHA:
        statement += f"; the tasks differ among each other (p = {spread.p:.2g})"
    numbers = _numbers(found, {})
    return (
        block
        | {key: numbers[key] for key in numbers if key in _POOLED}
        | {"noise_floor": floor}
        | {"below_noise_floor": None if floor is None else abs(found.difference) <= floor}
        | {"q": spread.q, "q_df": spread.df, "q_p": spread.p, "i2": spread.i2}
        | {"finding": finding, "statement": statement, "reason": None}
    )


_POOLED = (
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
    "finding",
    "statement",
    "reason",
)


def _fidelity(record: Record | None, weights: str) -> Record:
    """How near a variant's probabilities are to the base's, or why that is not known."""
    if record is None:
        reason = "fidelity was not measured"
    elif record["variant"]["sha256"] != weights:
        reason = "fidelity was measured on other weights"
    elif record["state"] != "ok":
        reason = f"the fidelity record is {record['state'].replace('_', ' ')}"
    else:
        return {
            "tokens": record["tokens"],
            "text": record["text"]["id"],
            "metrics": {name: record["metrics"][name] for name in FIDELITY},
        }
    nothing = {"value": None, "ci95": None, "reason": reason}
    return {"tokens": None, "text": None, "metrics": dict.fromkeys(FIDELITY, nothing)}


def _factor(entry: Mapping[str, Any]) -> float:
    """Points in one unit of a task's scores."""
    return 100 if _is_share(entry) else 1


# ── Markdown ──


def write_reports(
    current: Sequence[Found], tasks: Mapping[str, Mapping[str, Any]], folder: Path
) -> list[str]:
    """Write quantization.json and quantization.md of each model that has a score.

    Args:
        current: The current records of all kinds and models.
        tasks: The catalogue's tasks.
        folder: Where each model gets a folder.

    Returns:
        The models.
    """
    by_model: dict[str, dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
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


def render_quantization(report: Record) -> str:
    """The report as Markdown: variants side by side, then the tasks of each."""
    lines: list[str] = []
    for group in report["groups"]:
        lines += [f"### {group['protocol']} on {group['hardware']}", ""]
        base = group["base"]
        if base is None:
            lines += ["The base was not measured here, so nothing can be compared with it.", ""]
        lines += table(_VARIANT_HEADER, [_variant_cells(row) for row in _with_base(group)])
        lacking: dict[str, list[str]] = defaultdict(list)
        for row in group["variants"]:
            if reason := row["fidelity"]["metrics"][FIDELITY[0]]["reason"]:
                lacking[reason].append(row["variant"])
        lines += ["", *(f"- {', '.join(names)}: {text}." for text, names in lacking.items())]
        lines += [""] if lacking else []
        for row in group["variants"]:
            lines += [f"#### {row['variant']}", ""]
            lines += table(_TASK_HEADER, [_task_cells(task) for task in row["tasks"]])
            notes: dict[str, list[str]] = defaultdict(list)
            for task in row["tasks"]:
                for note in task["notes"]:
                    notes[note].append(task["title"])
            lines += ["", *(f"- {', '.join(titles)}: {note}." for note, titles in notes.items())]
            lines += [""] if notes else []
    return "\n".join(lines)


_VARIANT_HEADER = (
    "Variant",
    "Bits per weight",
    "MB",
    "Documents",
    "Difference (points)",
    "Flips − / +",
    "KL mean (nats)",
    "KL median",
    "KL p99",
    "Top token agrees (%)",
    "All tasks together",
)

_TASK_HEADER = (
    "Task",
    "n",
    "Base",
    "Variant",
    "Difference (points)",
    "Right → wrong",
    "Wrong → right",
    "McNemar p",
    "Holm p",
    "Smallest loss seen",
    "Statement",
)


def _with_base(group: Record) -> list[Record]:
    return [*([group["base"]] if group["base"] else []), *group["variants"]]


def _variant_cells(row: Record) -> list[str]:
    facts = [row["variant"], f"{row['effective_bits_per_weight']:.2f}"]
    facts.append(f"{row['size_bytes'] / 1e6:.0f}")
    if "pooled" not in row:
        return [*facts, *["–"] * (len(_VARIANT_HEADER) - len(facts))]
    pooled, metrics = row["pooled"], row["fidelity"]["metrics"]
    flips = (pooled["right_to_wrong"], pooled["wrong_to_right"])
    return [
        *facts,
        _shown(pooled["n"], "d"),
        _change(pooled, 100),
        "–" if None in flips else f"{flips[0]} / {flips[1]}",
        *(_shown(metrics[name]["value"], ".3g") for name in FIDELITY[:3]),
        _shown(metrics["top_token_agreement"]["value"], ".1f", 100),
        pooled["statement"],
    ]


def _task_cells(row: Record) -> list[str]:
    factor = _factor(row)
    return [
        row["title"],
        _shown(row["n"], "d"),
        _shown(row["base"], ".1f", factor),
        _shown(row["value"], ".1f", factor),
        _change(row, factor),
        _shown(row["right_to_wrong"], "d"),
        _shown(row["wrong_to_right"], "d"),
        _shown(row["p"], ".2g"),
        _shown(row["p_holm"], ".2g"),
        _shown(row["smallest_detectable_loss"], ".1f", factor),
        row["statement"],
    ]


def _change(row: Record, factor: float) -> str:
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
