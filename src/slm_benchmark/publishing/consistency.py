"""What a record says against itself, against its documents, and against what is possible.

Nothing is measured here. Each check recomputes one part of a record from another part, so an edit
of one of them alone is found, whatever digests were made to fit it.
"""

from __future__ import annotations

import datetime
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.files import digest
from slm_benchmark.profiling.types import RawPoint, RawProcess
from slm_benchmark.records.hardware import Description, fingerprint
from slm_benchmark.records.provenance import CLOCK_SLACK, EARLIEST
from slm_benchmark.records.store import documents_digest
from slm_benchmark.records.types import (
    DocumentRow,
    EquivalenceRecord,
    FidelityMetric,
    FidelityRecord,
    Freeform,
    HardwareBlock,
    MeasuredRecord,
    NoiseRecord,
    PerformancePoint,
    PerformanceRecord,
    Quantity,
    Score,
    ScoreRecord,
    VariantBlock,
    WorkflowBlock,
)

Contradiction = tuple[str, str]
"""Dotted path of a field, and what is wrong with it."""

HIGHEST_UTILIZATION = 1.1
"""A share of what the machine can do is above one by a little where the machine was slower for a
moment while its limits were measured."""

REL_TOL = 1e-9
"""Numbers are recomputed to so many digits: libraries of mathematics differ in the last ones."""

SIZE_SLACK_SHARE, SIZE_SLACK_BYTES = 0.25, 2**25
"""A variant's files hold more than weights, such as a vocabulary; the sum of these is allowed."""

_NEVER_NEGATIVE = ("_s", "_ms", "_bytes", "_tokens")
"""Endings of keys whose numbers are durations, sizes and counts."""


def contradictions(
    record: MeasuredRecord, documents: Sequence[DocumentRow] | None, catalogue: Catalogue
) -> Iterator[Contradiction]:
    """All contradictions of a record that fits its schema.

    Args:
        record: A record of any kind.
        documents: The per-document values of a score; None for a kind that has none.
        catalogue: The catalogue of the checkout. What it no longer knows is not held against it.
    """
    yield from _state(record)
    yield from impossible_times(record)
    yield from _machine(record["hardware"], record["workflow"], "")
    yield from irreproducible(record)
    yield from _negative(record, "")
    if record["kind"] == "score" and "scored" in record:
        scored = record["scored"]
        yield from _machine(scored["hardware"], scored["workflow"], "scored.")
    for field, variant in _variants(record):
        yield from _size(record, field, variant, catalogue)
    if record["kind"] == "score":
        yield from _score(record, documents or [], catalogue)
    elif record["kind"] == "performance":
        yield from _performance(record)
    elif record["kind"] == "equivalence":
        yield from _equivalence(record)
    elif record["kind"] == "fidelity":
        yield from _fidelity(record)
    else:
        yield from _noise(record)


def irreproducible(record: MeasuredRecord) -> Iterator[Contradiction]:
    """What forbids to publish a record because its environment cannot be made again.

    Stored generations are scored by a step of its own, with its own environment.
    """
    blocks = [("", record["environment"], record["workflow"])]
    if record["kind"] == "score" and "scored" in record:
        scored = record["scored"]
        blocks.append(("scored.", scored["environment"], scored["workflow"]))
    for step, environment, workflow in blocks:
        if environment["locked"] is not True:
            yield f"{step}environment.locked", "the environment differs from requirements.lock"
        if workflow["commit"] is None:
            yield f"{step}workflow.commit", "no commit: it was not measured in a git repository"
        elif workflow["dirty"] is not False:
            yield (
                f"{step}workflow.dirty",
                "the files that decide the measurement were not committed",
            )


def _state(record: MeasuredRecord) -> Iterator[Contradiction]:
    state, error = record["state"], record["error"]
    if (state == "failed") != (error is not None):
        yield "state", f"the state is {state}, {'with' if error else 'without'} an error"
    lacking = state in ("not_run", "not_applicable")
    if lacking != ("reason" in record):
        yield "reason", f"the state is {state}, {'without' if lacking else 'with'} a reason"


def impossible_times(record: MeasuredRecord) -> Iterator[Contradiction]:
    """Times that a clock which is right cannot have given."""
    earliest, before = datetime.datetime.fromisoformat(EARLIEST), "the project began"
    times = [("started", record["started"])]
    if record["kind"] == "score" and "scored" in record:
        times.append(("scored.started", record["scored"]["started"]))
    for field, started in times:
        try:
            moment = datetime.datetime.fromisoformat(started)
        except ValueError:
            moment = datetime.datetime.min
        if moment.tzinfo is None:
            yield field, "not a time with a zone"
            return
        if moment < earliest:
            yield field, f"before {before}"
        if moment > datetime.datetime.now(datetime.UTC) + CLOCK_SLACK:
            yield field, "in the future"
        # Generations are scored after they were made.
        earliest, before = moment, "the generations were made"


def _machine(
    hardware: HardwareBlock | Freeform, workflow: WorkflowBlock, step: str
) -> Iterator[Contradiction]:
    # Where stored generations are scored, the machine has a description alone.
    if "fingerprint" in hardware and not _is_of(hardware["fingerprint"], hardware["description"]):
        yield f"{step}hardware.fingerprint", "not the fingerprint of the description"
    commit = workflow["commit"]
    if commit is None or len(commit) != 40 or not set(commit) <= set("0123456789abcdef"):
        yield f"{step}workflow.commit", "not a commit"


def _is_of(recorded: str, description: Mapping[str, object]) -> bool:
    try:
        return recorded == fingerprint(cast(Description, description))
    except (KeyError, TypeError, AttributeError):
        return False


def _negative(value: object, path: str) -> Iterator[Contradiction]:
    """Every negative duration, size and count, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            inner_path = f"{path}.{key}" if path else str(key)
            if str(key).endswith(_NEVER_NEGATIVE):
                numbers = inner if isinstance(inner, list) else [inner]
                if any(isinstance(n, int | float) and n < 0 for n in numbers):
                    yield inner_path, "below zero"
            if isinstance(inner, dict | list):
                yield from _negative(inner, inner_path)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            if isinstance(inner, dict | list):
                yield from _negative(inner, f"{path}.{index}")


def _variants(record: MeasuredRecord) -> Iterator[tuple[str, VariantBlock]]:
    if record["kind"] == "equivalence":
        for name, variant in record["variants"].items():
            yield f"variants.{name}", variant
    else:
        yield "variant", record["variant"]


def _size(
    record: MeasuredRecord, field: str, variant: VariantBlock, catalogue: Catalogue
) -> Iterator[Contradiction]:
    if variant["id"] == "base" and variant["sha256"] != record["model"]["sha256"]:
        yield f"{field}.sha256", "not the digest of the base model, whose weights these are"
    model = catalogue.models.get(record["model"]["id"])
    if model is None:
        return
    expected = variant["effective_bits_per_weight"] * model.parameters / 8
    slack = SIZE_SLACK_SHARE * expected + SIZE_SLACK_BYTES
    if abs(variant["size_bytes"] - expected) > slack:
        yield (
            f"{field}.size_bytes",
            f"far from the {expected:.0f} bytes of {variant['effective_bits_per_weight']} bits for "
            f"each of {model.parameters} weights",
        )


# --- scores --------------------------------------------------------------------------------------


def _score(
    record: ScoreRecord, documents: Sequence[DocumentRow], catalogue: Catalogue
) -> Iterator[Contradiction]:
    if record["documents_sha256"] != documents_digest(documents):
        yield "documents_sha256", "not the digest of the documents beside the record"
    if record["state"] != "ok":
        yield from _without_score(record, documents)
        return
    shapes = list(document_shapes(documents))
    yield from shapes
    dataset = record["dataset"]
    distinct = len({(row.get("part", ""), cast(Freeform, row).get("index")) for row in documents})
    if dataset["documents"] != distinct:
        yield "dataset.documents", f"there are {distinct} documents beside the record"
    if dataset["documents"] > dataset["documents_total"]:
        yield "dataset.documents", "more documents than the split has"
    if record["samples_sha256"] is None and documents:
        yield "samples_sha256", "null, though there are documents"
    if not shapes:
        # What a task of custom/ calls acc, and what its lists add up to, only that task knows.
        entry = catalogue.tasks.get(record["task"]["id"])
        custom = entry is None or entry["category"] == "custom"
        yield from _scores_follow(record, documents, custom)
        yield from () if custom else _margins(documents)
    yield from _headline(record, catalogue)
    yield from _choices(record, catalogue)


def _choices(record: ScoreRecord, catalogue: Catalogue) -> Iterator[Contradiction]:
    """Compare with what the protocol decides, where it decides now what it decided then."""
    task, protocol = record["task"], record["protocol"]
    recorded: Mapping[str, object] = {"unit": "share", **task}
    entry, chosen = catalogue.tasks.get(task["id"]), catalogue.protocols.get(protocol["id"])
    if entry is None or chosen is None:
        return
    if digest(catalogue.scoring_choices(task["id"], protocol["id"])) != protocol["sha256"]:
        return
    for name, expected in {
        "harness_task": entry["harness_task"],
        "num_fewshot": entry["num_fewshot"],
        "fewshot_sampler": chosen["fewshot_sampler"],
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "unit": entry.get("unit", "share"),
    }.items():
        if recorded[name] != expected:
            yield f"task.{name}", f"the protocol has {expected!r}"
    for index, row in enumerate(record["scores"]):
        fixed = row["headline"] and entry["chance"] != "options" and row["value"] is not None
        if fixed and not same(row["chance"], entry["chance"]):
            yield f"scores.{index}.chance", f"the task has {entry['chance']!r}"


def _without_score(
    record: ScoreRecord, documents: Sequence[DocumentRow]
) -> Iterator[Contradiction]:
    state = record["state"]
    empty: dict[str, object] = {
        "scores": record["scores"],
        "samples_sha256": record["samples_sha256"],
        "dataset.documents": record["dataset"]["documents"],
    }
    for field, value in empty.items():
        if value:
            yield field, f"there is one, though the state is {state}"
    if documents:
        yield "documents_sha256", f"there are documents, though the state is {state}"
    for name, value in record["checks"].items():
        if value is not None:
            yield f"checks.{name}", f"not null, though the state is {state}"


_DOCUMENT_KEYS = {"document", "index", "part", "filter", "values", "margin", "cluster", "group"}
_NEEDED_KEYS = {"document", "index", "filter", "values", "margin"}


def document_shapes(documents: Sequence[object]) -> Iterator[Contradiction]:
    """What is malformed among per-document values, and every document that is there twice."""
    seen: set[tuple[object, ...]] = set()
    for position, row in enumerate(documents):
        where = f"documents.{position}"
        if not isinstance(row, dict) or not _NEEDED_KEYS <= row.keys() <= _DOCUMENT_KEYS:
            yield where, f"not an object with the keys {', '.join(sorted(_NEEDED_KEYS))}"
            continue
        texts = [row["document"], row["filter"], row.get("part", ""), row.get("cluster", "")]
        index, values, group = row["index"], row["values"], row.get("group", [])
        if not (isinstance(group, list) and all(isinstance(text, str) for text in texts + group)):
            yield where, "document, filter, part, cluster and groups are texts"
        elif not _is_count(index):
            yield f"{where}.index", "not the row of a split"
        elif not isinstance(values, dict) or not all(map(_is_value, values.values())):
            yield f"{where}.values", "not numbers, lists of numbers or nulls"
        elif row["margin"] is not None and not _is_number(row["margin"]):
            yield f"{where}.margin", "not a number or null"
        else:
            key = (row.get("part", ""), index, row["filter"])
            if key in seen:
                yield where, f"row {index} is there twice"
            seen.add(key)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_value(value: object) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return value is None or all(map(_is_number, numbers))


def _row_name(row: Score) -> tuple[str, str, str]:
    return row["metric"], row["filter"], row.get("part", "")


def _scores_follow(
    record: ScoreRecord, documents: Sequence[DocumentRow], custom: bool
) -> Iterator[Contradiction]:
    """Compare the scores with the ones that follow from the documents."""
    from slm_benchmark.publishing.recompute import CannotRecompute, recompute

    try:
        expected = {_row_name(row): row for row in recompute(record, documents)}
    except CannotRecompute as error:
        if not custom:
            yield "scores", f"do not follow from the documents: {error}"
        return
    names = [_row_name(row) for row in record["scores"]]
    for name, count in Counter(names).items():
        if count > 1:
            yield "scores", f"{_shown(name)} is there {count} times"
    for index, (name, row) in enumerate(zip(names, record["scores"], strict=True)):
        if name not in expected:
            yield f"scores.{index}", f"{_shown(name)} does not follow from the documents"
            continue
        recorded, again = cast(Freeform, row), cast(Freeform, expected[name])
        for key in again | recorded:
            if not same(recorded.get(key), again.get(key)):
                what = f"the documents give {again.get(key)!r} for {_shown(name)}"
                yield f"scores.{index}.{key}", what
    for name in [name for name in expected if name not in names]:
        yield "scores", f"{_shown(name)} is missing, and the documents have values of it"


def _shown(name: tuple[str, str, str]) -> str:
    return " ".join(filter(None, name))


def _margins(documents: Sequence[DocumentRow]) -> Iterator[Contradiction]:
    """The top choice is right where it lies above all others; a tie may go either way."""
    for index, row in enumerate(documents):
        value, margin = row["values"].get("acc"), row["margin"]
        if value in (0, 1) and margin and (margin > 0) != (value == 1):
            yield f"documents.{index}.margin", f"{margin:+g} nats, and acc is {value:g}"


def _headline(record: ScoreRecord, catalogue: Catalogue) -> Iterator[Contradiction]:
    task, total = record["task"], record["dataset"]["documents"]
    headlines = [(i, row) for i, row in enumerate(record["scores"]) if row["headline"]]
    if len(headlines) != 1:
        yield "scores", f"{len(headlines)} headlines"
        return
    ((index, row),) = headlines
    if _row_name(row) != (task["metric"], task["filter"], ""):
        yield f"scores.{index}.headline", "not the task's metric over all documents"
    # A document may have no such metric at all.
    if row["n"] + row.get("missing", 0) > total:
        yield f"scores.{index}.n", f"with the missing ones more than the {total} documents"
    best = 1 if task.get("unit", "share") == "share" else _best(task["id"], catalogue)
    for name, value in (("value", row["value"]), ("chance", row["chance"])):
        if value is not None and not 0 <= value <= best:
            yield f"scores.{index}.{name}", f"outside of 0 … {best:g}"
    yield from _interval(f"scores.{index}", row)
    interval, chance = row["ci95"], row["chance"]
    at_chance = None
    if interval is not None and chance is not None:
        at_chance = interval[0] <= chance <= interval[1]
    checks = record["checks"]
    if checks["at_chance"] is not at_chance:
        yield "checks.at_chance", f"the headline says {at_chance}"
    for name, count in cast(Mapping[str, int | None], checks).items():
        if name != "at_chance" and count is not None and count > total:
            yield f"checks.{name}", f"more than the {total} documents"


def _best(task: str, catalogue: Catalogue) -> float:
    return catalogue.tasks[task].get("best", math.inf) if task in catalogue.tasks else math.inf


def _interval(field: str, block: Score | FidelityMetric) -> Iterator[Contradiction]:
    """An interval holds its value. A bootstrap's need not: its resamples may be biased."""
    if block["ci95"] is None:
        return
    low, high = block["ci95"]
    inside = block["value"] is not None and low <= block["value"] <= high
    if low > high or (not inside and "bootstrap" not in (block["ci_method"] or "")):
        yield f"{field}.ci95", "does not hold the value"


# --- performance ---------------------------------------------------------------------------------


def _performance(record: PerformanceRecord) -> Iterator[Contradiction]:
    """Compare all quantities with the ones that follow from the raw repetitions."""
    if record["schema_version"] == 1:
        from slm_benchmark.profiling.schema_v1 import first_metrics

        yield from _quantities("metrics", record["metrics"], first_metrics(record))
        return
    yield from _session(record)
    yield from _quantities_follow(record)
    points: list[tuple[str, Mapping[str, object]]] = [("metrics", record["metrics"])]
    points += [(f"grid.{i}.metrics", point["metrics"]) for i, point in enumerate(record["grid"])]
    for field, metrics in points:
        for name, quantity in cast(Mapping[str, Quantity], metrics).items():
            share = quantity["value"] if name in ("mbu", "mfu") else None
            if share is not None and share > HIGHEST_UTILIZATION:
                yield f"{field}.{name}", "more than the machine can do"


def _session(record: PerformanceRecord) -> Iterator[Contradiction]:
    from slm_benchmark.profiling.session import rounds

    session = record["session"]
    processes: list[RawProcess] = record["raw"]["processes"]
    ran = session["variants"]
    if session["id"] != digest([record["started"], record["hardware"]["fingerprint"], ran]):
        yield "session.id", "not the digest of time, machine and variants"
    if session["order"] != rounds(ran, session["processes"]):
        yield "session.order", "not the order of such a session"
    if record["variant"]["id"] not in ran:
        yield "session.variants", f"{record['variant']['id']} is not among them"
    planned = 0 if record["state"] == "failed" else session["processes"]
    if len(processes) != planned:
        yield "raw.processes", f"not the {planned} of the session"
    if not same(record["duration_s"], round(math.fsum(p["duration_s"] for p in processes), 3)):
        yield "duration_s", "not the sum of the processes'"
    if len(record["host"]["processes"]) != len(processes):
        yield "host.processes", "not one for each process"
    for index, process in enumerate(processes):
        if process["size_bytes"] != record["variant"]["size_bytes"]:
            yield f"raw.processes.{index}.size_bytes", "not the size of the variant"
    if processes:
        here, last = record["engine"], processes[-1]["engine"]
        if {**here, "schedule": ""} != {**last, "schedule": ""}:
            yield "engine", "not the engine of the last process"
        elif not here["schedule"].startswith(last["schedule"]):
            yield "engine.schedule", "not what the engine of the last process did"
    roofline = record["roofline"]
    for name, value, by_round in (
        (
            "bandwidth_bytes_per_s",
            roofline["bandwidth_bytes_per_s"],
            roofline.get("bandwidth_by_round_bytes_per_s"),
        ),
        (
            "matrix_flops_per_s",
            roofline["matrix_flops_per_s"],
            roofline.get("matrix_by_round_flops_per_s"),
        ),
    ):
        if by_round and not same(value, median(by_round)):
            yield f"roofline.{name}", "not the median of the rounds"


def _quantities_follow(record: PerformanceRecord) -> Iterator[Contradiction]:
    """Compare the quantities of every point with those that the processes' numbers give."""
    from slm_benchmark.profiling.energy.metrics import EnergyMetrics
    from slm_benchmark.profiling.job import Point
    from slm_benchmark.profiling.summary import summarize

    processes: list[RawProcess] = record["raw"]["processes"]
    energy = record["energy"]
    points = [Point(*_sizes(point)) for point in record["grid"]]
    points.insert(0, Point(*_sizes(processes[0]["points"][0])) if processes else Point(1, 1))
    for number, process in enumerate(processes):
        if [Point(*_sizes(point)) for point in process["points"]] != points:
            yield f"raw.processes.{number}.points", "not the points of the grid"
            return
    expected = summarize(
        points, processes, record["roofline"], cast(Any, energy["idle"]), record["error"]
    )
    # The energy of a wall meter follows from its readings, which are not in the record.
    metered = "readings_sha256" not in energy
    unknown = () if metered else tuple(EnergyMetrics.__annotations__)
    yield from _quantities("metrics", record["metrics"], expected["metrics"], unknown)
    for index, (point, again) in enumerate(zip(record["grid"], expected["grid"], strict=True)):
        yield from _quantities(f"grid.{index}.metrics", point["metrics"], again["metrics"], unknown)
    if not same(record["latency_distribution_ms"], expected["latency_distribution_ms"]):
        yield "latency_distribution_ms", "does not follow from the repetitions"
    if metered and not same({**energy, **expected["energy"]}, energy):
        yield "energy", "not the meter of the last process"


def _sizes(point: RawPoint | PerformancePoint) -> tuple[int, int, int]:
    return point["prompt_tokens"], point["output_tokens"], point["sequences"]


def _quantities(
    field: str,
    recorded: Mapping[str, object],
    expected: Mapping[str, object],
    unknown: Sequence[str] = (),
) -> Iterator[Contradiction]:
    for name, quantity in cast(Mapping[str, Quantity], expected).items():
        if name not in unknown and not same(recorded.get(name), quantity):
            yield f"{field}.{name}", f"the repetitions give {quantity['value']!r}"


# --- the other kinds -----------------------------------------------------------------------------


def _equivalence(record: EquivalenceRecord) -> Iterator[Contradiction]:
    """Recompute the verdict from the bounds, and what the differences allow of each other."""
    from slm_benchmark.evaluation.equivalence import DIGITS, breaches

    for name, variant in record["variants"].items():
        if variant["id"] != name:
            yield f"variants.{name}.id", "not the side that it stands for"
    reasons, tasks = record["reasons"], record["tasks"]
    if record["passed"] is bool(reasons):
        yield "passed", f"{record['passed']}, with {len(reasons)} reasons against it"
    if record["state"] == "ok":
        if reasons != breaches(tasks, record["bounds"]):
            yield "reasons", "not the bounds that do not hold"
        if [task["id"] for task in tasks] != list(record["datasets"]):
            yield "tasks", "not one for each dataset"
    elif tasks or record["passed"]:
        yield "tasks", "there are some, though a side failed"
    for index, task in enumerate(tasks):
        field, worst = f"tasks.{index}", task["worst"]
        for name, share, count in (
            ("decision_agreement", task["decision_agreement"], task["documents"]),
            ("greedy_agreement", task["greedy_agreement"], task["continuations"]),
        ):
            if not same(share, round(share * count) / count):
                yield f"{field}.{name}", f"not a share of {count}"
        delta, base, gguf = task["max_delta_nats"], worst["base_nats"], worst["gguf_nats"]
        if delta is not None and base is not None and gguf is not None:
            apart = abs(base - gguf)
            # Each of the three numbers is rounded.
            if abs(apart - delta) > 2 * 10**-DIGITS:
                yield f"{field}.max_delta_nats", f"the two sides are {apart:.6f} nats apart"
        deltas = {
            "max_delta_nats": delta,
            "mean_delta_nats": task["mean_delta_nats"],
            "max_delta_nats_per_token": task["max_delta_nats_per_token"],
            "mean_delta_nats_per_token": task["mean_delta_nats_per_token"],
        }
        for largest, others in (
            ("max_delta_nats", ("mean_delta_nats", "max_delta_nats_per_token")),
            ("max_delta_nats_per_token", ("mean_delta_nats_per_token",)),
            ("mean_delta_nats", ("mean_delta_nats_per_token",)),
        ):
            for other in others:
                upper, lower = deltas[largest], deltas[other]
                if upper is not None and lower is not None and lower > upper:
                    yield f"{field}.{other}", f"larger than {largest}"


def _fidelity(record: FidelityRecord) -> Iterator[Contradiction]:
    """Recompute what follows from the sums of each text; quantiles need every position."""
    texts, metrics = record["texts"], cast(Mapping[str, FidelityMetric], record["metrics"])
    tokens = sum(text["tokens"] for text in texts)
    if record["tokens"] != tokens:
        yield "tokens", "not the sum of the texts'"
    if record["state"] != "ok":
        if texts or any(metric["value"] is not None for metric in metrics.values()):
            yield "metrics", f"there are some, though the state is {record['state']}"
        return
    if len(texts) != record["text"]["texts"]:
        yield "texts", f"not the {record['text']['texts']} of the text"
    for index, text in enumerate(texts):
        if text["tokens"] > record["text"]["tokens_each"]:
            yield f"texts.{index}.tokens", "more than a text has"
        if text["agreeing"] > text["tokens"]:
            yield f"texts.{index}.agreeing", "more than the text has tokens"
        if (1 + REL_TOL) * text["kl_max_nats"] < text["kl_sum_nats"] / text["tokens"]:
            yield f"texts.{index}.kl_max_nats", "less than the mean"
    nll_nats = math.fsum(text["nll_nats"] for text in texts)
    base_nll_nats = math.fsum(text["base_nll_nats"] for text in texts)
    for name, value in {
        "kl_mean_nats": math.fsum(text["kl_sum_nats"] for text in texts) / tokens,
        "kl_max_nats": max(text["kl_max_nats"] for text in texts),
        "top_token_agreement": sum(text["agreeing"] for text in texts) / tokens,
        "perplexity": math.exp(nll_nats / tokens),
        "base_perplexity": math.exp(base_nll_nats / tokens),
        "perplexity_ratio": math.exp((nll_nats - base_nll_nats) / tokens),
    }.items():
        if not same(metrics[name]["value"], value):
            yield f"metrics.{name}", f"the texts give {value!r}"
    quantiles = [cast(float, metrics[f"kl_{q}_nats"]["value"]) for q in ("median", "p99", "max")]
    if quantiles != sorted(quantiles):
        yield "metrics.kl_p99_nats", "median, 99th percentile and maximum do not ascend"
    for name, metric in metrics.items():
        yield from _interval(f"metrics.{name}", metric)


def _noise(record: NoiseRecord) -> Iterator[Contradiction]:
    """Recompute differences and the floor from the perturbations."""
    from slm_benchmark.evaluation.noise_floor import floor

    reference, perturbations = record["reference"], record["perturbations"]
    if not same(record["floor"], floor(perturbations, record["floor"]["prompt"]["families"])):
        yield "floor", "does not follow from the perturbations"
    if reference is None:
        if perturbations or record["state"] == "ok":
            yield "reference", "null, though the state is ok or there are perturbations"
        return
    total = record["dataset"]["documents"]
    if reference["n"] > total:
        yield "reference.n", "more than the documents"
    for index, entry in enumerate(perturbations):
        field, delta = f"perturbations.{index}", None
        if entry["value"] is not None and reference["value"] is not None:
            delta = entry["value"] - reference["value"]
        if not same(entry["delta"], delta):
            yield f"{field}.delta", f"the scores are {delta!r} apart"
        if entry["n"] > reference["n"]:
            yield f"{field}.n", "more documents than the reference has"
        if (entry["documents_changed"] or 0) > total:
            yield f"{field}.documents_changed", "more than the documents"
        right, wrong = entry["flips_to_right"], entry["flips_to_wrong"]
        if right is None or wrong is None:
            continue
        if right + wrong > entry["n"]:
            yield f"{field}.flips_to_right", "more flips than documents"
        alike = entry["n"] == reference["n"] and "parts" not in record["task"]
        if alike and delta is not None and not same(delta, (right - wrong) / entry["n"]):
            yield f"{field}.flips_to_right", "not the flips that make the difference"


def same(recorded: object, expected: object) -> bool:
    """Whether two JSON values are equal, numbers to nine digits."""
    if isinstance(expected, bool) or isinstance(recorded, bool):
        return recorded is expected
    if isinstance(recorded, int | float) and isinstance(expected, int | float):
        return math.isclose(recorded, expected, rel_tol=REL_TOL, abs_tol=1e-12)
    if isinstance(recorded, Mapping) and isinstance(expected, Mapping):
        return recorded.keys() == expected.keys() and all(
            same(recorded[key], expected[key]) for key in recorded
        )
    if isinstance(recorded, list | tuple) and isinstance(expected, list | tuple):
        pairs = itertools.zip_longest(recorded, expected, fillvalue=_ABSENT)
        return all(same(ours, theirs) for ours, theirs in pairs)
    return bool(recorded == expected)


_ABSENT = object()
