"""The columns of the leaderboard: leaderboard.csv, the tables of the API and the site follow them.

leaderboard.json nests the values of a row. A `Column` says where one lies in it, how readers see
it, and which `Field` of the flat tables gives it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from slm_benchmark.common.schemas import schema
from slm_benchmark.records.types import (
    AggregateScore,
    Leaderboard,
    LeaderboardModel,
    LeaderboardRow,
    LeaderboardScore,
    LeaderboardTask,
    Quantity,
)

Kind = Literal["text", "number", "integer", "flag", "time"]
View = Literal["csv", "api"]
"""leaderboard.csv, and the API's table of rows."""

Page = Literal["overview", "categories", "tasks", "hardware"]
"""A choice of columns on the site's leaderboard."""

ValueReader = Callable[[LeaderboardModel, LeaderboardRow], object]
Cell = AggregateScore | LeaderboardScore | Quantity
CellReader = Callable[[LeaderboardRow], Cell | None]

NOT_RUN = "not measured yet"
"""Reason of a number without a record."""

CSV: tuple[View, ...] = ("csv",)
API: tuple[View, ...] = ("api",)
BOTH: tuple[View, ...] = ("csv", "api")


@dataclass(frozen=True)
class Field:
    """A field of the flat tables.

    Attributes:
        name: Its name there, with the unit where it has one.
        kind: What its values are; every one can be missing.
        about: What they mean.
        value: Reads it from a row and the card of the row's model.
        views: The tables that have it.
    """

    name: str
    kind: Kind
    about: str
    value: ValueReader
    views: Collection[View] = BOTH


@dataclass(frozen=True)
class Metric:
    """A quantity of performance.

    Attributes:
        key: Its name in records and tables.
        title: Its name for readers.
        unit: The unit that readers see.
        higher_is_better: Whether more is better.
        per_unit: How many of the record's units one of the shown unit is.
        part: Which file of a protocol's rows has it; None where only the pages of models do.
        same_machine: Whether values compare only on one machine; the size of files compares
            everywhere.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    per_unit: float = 1.0
    part: Literal["rows", "details"] | None = None
    same_machine: bool = True


THROUGHPUT = "generation_throughput_tokens_per_s"
PROMPT_THROUGHPUT = "prompt_throughput_tokens_per_s"

METRICS = (
    Metric(THROUGHPUT, "Throughput", "tokens/s", True, part="rows"),
    Metric(PROMPT_THROUGHPUT, "Prompt throughput", "tokens/s", True, part="rows"),
    Metric("batch_generation_throughput_tokens_per_s", "Batch throughput", "tokens/s", True),
    Metric("ttft_ms", "TTFT, engine", "ms", False, part="details"),
    Metric("client_ttft_ms", "TTFT, client", "ms", False, part="details"),
    Metric("inter_token_latency_ms", "Inter-token latency, p50", "ms", False, part="details"),
    Metric("inter_token_latency_p90_ms", "Inter-token latency, p90", "ms", False, part="details"),
    Metric("inter_token_latency_p99_ms", "Inter-token latency, p99", "ms", False, part="details"),
    Metric("peak_memory_bytes", "Peak memory", "MB", False, 1e6, "rows"),
    Metric("device_peak_memory_bytes", "Peak memory, device", "MB", False, 1e6, "rows"),
    Metric("allocator_peak_memory_bytes", "Peak memory, allocator", "MB", False, 1e6),
    Metric("load_time_s", "Load time", "s", False, part="details"),
    Metric("mbu", "MBU", "% of bandwidth", True, 0.01, "details"),
    Metric("mfu", "MFU", "% of measured FLOP/s", True, 0.01, "details"),
    Metric("energy_mwh_per_token", "Energy", "mWh/token", False, part="rows"),
    Metric("energy_net_mwh_per_token", "Energy, net", "mWh/token", False),
    Metric("power_w", "Power", "W", False),
    Metric("size_bytes", "Size", "MB", False, 1e6, same_machine=False),
)
"""Every quantity of a performance record, in the order in which readers see them."""

OVERVIEW = (THROUGHPUT, PROMPT_THROUGHPUT, "peak_memory_bytes", "energy_mwh_per_token")
"""The quantities in the site's overview."""

FRONTS = {
    "size_bytes": "size",
    THROUGHPUT: "throughput",
    "peak_memory_bytes": "memory",
    "energy_mwh_per_token": "energy",
}
"""Costs that the overall score is set against in a Pareto front → their names."""

COSTS = {
    cost: metric.higher_is_better for cost in FRONTS for metric in METRICS if metric.key == cost
}
"""The same costs → whether more of it is better."""


@dataclass(frozen=True)
class Column:
    """A value of every row, as readers see it and as flat tables hold it.

    Attributes:
        key: Its name in the site's files and addresses; an empty one is not on the site.
        fields: Of flat tables, in order.
        title: For readers.
        unit: For readers.
        kind: identity, group, overall, category, task or performance.
        better: more, less, or None where neither is.
        digits: How a page writes its numbers: with ``one`` decimal, ``three`` significant digits
            or as ``whole`` ones.
        factor: Shown number ÷ number in leaderboard.json.
        part: The file of a protocol's rows that has it: what the first view needs lies in "rows".
        pages: The site's choices of columns that show it.
        same_machine: Whether values compare only on one machine.
        cell: Reads value and interval from a row; None for a column without an interval.
    """

    key: str
    fields: tuple[Field, ...]
    title: str = ""
    unit: str = ""
    kind: Literal["", "identity", "group", "overall", "category", "task", "performance"] = ""
    better: Literal["more", "less"] | None = None
    digits: Literal["one", "three", "whole"] = "three"
    factor: float = 1.0
    part: Literal["rows", "details"] | None = None
    pages: tuple[Page, ...] = ()
    same_machine: bool = False
    cell: CellReader | None = None


def metric_names() -> list[str]:
    """Names of the performance metrics, in the order of their schema."""
    return list(schema("performance")["properties"]["metrics"]["properties"])


def columns(categories: Iterable[str], tasks: Iterable[LeaderboardTask]) -> tuple[Column, ...]:
    """The one list of columns, in the order of the flat tables.

    Args:
        categories: Categories that rows have a score in.
        tasks: Tasks that rows have a score in.
    """
    by_name = {metric.key: metric for metric in METRICS}
    return (
        *_IDENTITY,
        *_WEIGHTS,
        _GROUP,
        _aggregate("overall", "Overall", "overall score", lambda row: row["overall"]),
        *(_category(category) for category in categories),
        *(_front(cost, title) for cost, title in FRONTS.items()),
        *(_task(task) for task in tasks),
        # The size is a fact of the row too, known without a profile.
        *(_performance(by_name[name]) for name in metric_names() if name != "size_bytes"),
        *_MEASUREMENT,
    )


def board_columns(board: Leaderboard) -> tuple[Column, ...]:
    """The columns of a whole leaderboard: the categories and tasks that its rows have."""
    rows = board["rows"]
    tasks = {task["id"]: task for task in board["tasks"]}
    return columns(
        dict.fromkeys(name for row in rows for name in row["categories"]),
        [tasks[task] for task in dict.fromkeys(task for row in rows for task in row["scores"])],
    )


def flat_fields(chosen: Iterable[Column], view: View) -> list[Field]:
    """The fields of a flat table, in order."""
    return [field for column in chosen for field in column.fields if view in field.views]


def page_columns(chosen: Iterable[Column], part: Literal["rows", "details"]) -> list[Column]:
    """The columns in a file of the site's rows, in the order in which readers see them."""
    order = {metric.key: position for position, metric in enumerate(METRICS, 1)}
    # Quantities come last, and in their own order.
    return sorted(
        (column for column in chosen if column.part == part),
        key=lambda column: order[column.key] if column.kind == "performance" else 0,
    )


def render_table(board: Leaderboard) -> str:
    """The leaderboard as CSV: one line for each row; a missing value is an empty field."""
    fields = flat_fields(board_columns(board), "csv")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields])
    for row in board["rows"]:
        card = board["models"][row["model"]]
        writer.writerow([field.value(card, row) for field in fields])
    return stream.getvalue()


# ── views ──


def rows_by(
    board: Leaderboard, key: Literal["model", "protocol", "hardware"]
) -> dict[str, list[LeaderboardRow]]:
    """Model, protocol or hardware → its rows, in their order; one without rows has none."""
    listed: Mapping[str, Mapping[str, object]] = {
        "model": board["models"],
        "protocol": board["protocols"],
        "hardware": board["hardware"],
    }
    views: dict[str, list[LeaderboardRow]] = {name: [] for name in listed[key]}
    for row in board["rows"]:
        views[row[key]].append(row)
    return views


# ── columns ──


def _fact(
    name: str, kind: Kind, about: str, value: ValueReader, views: Collection[View] = BOTH
) -> Column:
    """A column that no page of the site shows as a number of its own."""
    return Column("", (Field(name, kind, about, value, views),))


def joined(sign: str, texts: Sequence[str]) -> str | None:
    """Texts in one; None where there are none, as CSV cannot tell an empty text."""
    return sign.join(texts) or None


def _measured(read: Callable[[Any], object]) -> ValueReader:
    """Reads a fact of how a row's performance was measured; None where it was not."""
    return lambda _, row: None if row["measurement"] is None else read(row["measurement"])


_IDENTITY = (
    _fact("model", "text", "Model, by its id in models/.", lambda _, row: row["model"]),
    _fact("name", "text", "The model's name.", lambda card, _: card["name"], CSV),
    _fact("variant", "text", "Weight format.", lambda _, row: row["variant"]),
    _fact(
        "hardware",
        "text",
        "Machine, by its id in config/hardware.yaml.",
        lambda _, row: row["hardware"],
    ),
    _fact(
        "protocol",
        "text",
        "Protocol, by its id in config/protocols.yaml.",
        lambda _, row: row["protocol"],
    ),
    _fact("model_name", "text", "The model's name.", lambda card, _: card["name"], API),
    _fact(
        "quantization",
        "text",
        "base, gptq, awq or gguf.",
        lambda _, row: row["quantization"],
        API,
    ),
    _fact(
        "ranked",
        "flag",
        "Whether it is ranked: not under a protocol for trying.",
        lambda _, row: row["ranked"],
    ),
    _fact(
        "hardware_fingerprint",
        "text",
        "Digest of the machine's stable description.",
        lambda _, row: row["fingerprint"],
        API,
    ),
    _fact(
        "parameters",
        "integer",
        "Parameters of the model.",
        lambda card, _: card["parameters"],
        API,
    ),
    _fact("license", "text", "License of the model.", lambda card, _: card["license"], API),
)

_WEIGHTS = (
    Column(
        "size_bytes",
        (
            Field(
                "size_bytes", "integer", "Bytes of the weight files.", lambda _, r: r["size_bytes"]
            ),
        ),
        "Size",
        "MB",
        "identity",
        "less",
        factor=1e-6,
        part="rows",
        pages=("overview", "hardware"),
    ),
    Column(
        "effective_bits_per_weight",
        (
            Field(
                "effective_bits_per_weight",
                "number",
                "Bits of the weight files ÷ weights.",
                lambda _, row: row["effective_bits_per_weight"],
            ),
        ),
        "Effective bits",
        "per weight",
        "identity",
        "less",
        part="rows",
        pages=("hardware",),
    ),
)

_GROUP = Column(
    "group",
    (
        Field(
            "group",
            "integer",
            "Rank of the tied group; ties share it and count as rows: 1, 1, 1, 4.",
            lambda _, row: row["group"]["rank"],
        ),
        Field(
            "group_rows",
            "integer",
            "Rows in the tied group, this one included.",
            lambda _, row: row["group"]["rows"],
            API,
        ),
        Field(
            "group_reason",
            "text",
            "Why the row is in no group.",
            lambda _, row: row["group"]["reason"],
            API,
        ),
    ),
    "Tied group",
    "rank",
    "group",
    "less",
    "whole",
    part="rows",
    pages=("overview", "categories"),
)


def _value(cell: CellReader, key: str) -> ValueReader:
    """Reads a fact of a cell; None where the row has no such cell."""

    def read(_: LeaderboardModel, row: LeaderboardRow) -> object:
        facts: Mapping[str, object] | None = cell(row)
        return None if facts is None else facts[key]

    return read


def _interval(
    name: str, kind: tuple[Kind, str], cell: CellReader, views: Collection[View] = BOTH
) -> Iterator[Field]:
    """The fields of a value, described by ``kind``, and of the ends of its 95 % interval."""

    def end(side: int) -> ValueReader:
        def read(_: LeaderboardModel, row: LeaderboardRow) -> object:
            facts = cell(row)
            return None if facts is None or not facts["ci95"] else facts["ci95"][side]

        return read

    yield Field(name, *kind, _value(cell, "value"), views)
    yield Field(f"{name}_low", "number", "Lower end of its 95 % interval.", end(0), views)
    yield Field(f"{name}_high", "number", "Upper end of its 95 % interval.", end(1), views)


def _aggregate(
    key: str,
    title: str,
    words: str,
    cell: Callable[[LeaderboardRow], AggregateScore | None],
) -> Column:
    """The overall score, or that of a category."""
    name = key.replace(":", "_")
    about = f"The {words}, normalized: 0 = chance, 1 = perfect."

    def missing(_: LeaderboardModel, row: LeaderboardRow) -> str | None:
        score = cell(row)
        return None if score is None else joined(" ", score["missing"])

    def only_api(suffix: str, kind: Kind, meaning: str) -> Field:
        return Field(f"{name}_{suffix}", kind, meaning, _value(cell, suffix), API)

    overall = key == "overall"
    return Column(
        key,
        (
            *_interval(name, ("number", about), cell),
            only_api("tasks", "integer", "Counted tasks that have a score."),
            only_api("of", "integer", "Counted tasks."),
            Field(
                f"{name}_missing",
                "text",
                "Counted tasks without one, spaces between them.",
                missing,
            ),
            only_api("reason", "text", "Why there is no value or no interval."),
        ),
        title,
        "normalized, %",
        "overall" if overall else "category",
        "more",
        "one",
        100.0,
        "rows",
        ("overview", "categories", "tasks") if overall else ("categories",),
        cell=cell,
    )


def _category(category: str) -> Column:
    return _aggregate(
        f"category:{category}",
        category.capitalize(),
        f"score of the category {category}",
        lambda row: row["categories"].get(category),
    )


def _front(cost: str, title: str) -> Column:
    def fact(key: Literal["front", "reason"]) -> ValueReader:
        return lambda _, row: row["pareto"][cost][key] if cost in row["pareto"] else None

    name = f"pareto_{cost}"
    about = f"Whether it is on the Pareto front of overall score and {title}."
    reason = "What dominates it, or why it is not compared."
    return Column(
        "",
        (
            Field(name, "flag", about, fact("front")),
            Field(f"{name}_reason", "text", reason, fact("reason"), API),
        ),
    )


def score_scale(task: LeaderboardTask) -> str:
    """The scale of a task's scores, and its better end where that is not the upper one."""
    unit = "%" if task["unit"] == "share" else "points"
    if not task["higher_is_better"]:
        return f"{unit}, lower is better"
    return f"{unit} of {task['best']:g}" if task["unit"] == "points" else unit


def _task(task: LeaderboardTask) -> Column:
    """The score in a task; the API has a table of its own for these."""
    name = task["id"]

    def cell(row: LeaderboardRow) -> LeaderboardScore | None:
        return row["scores"].get(name)

    return Column(
        f"task:{name}",
        (
            *_interval(name, ("number", f"Score in {task['title']}."), cell, CSV),
            Field(f"{name}_n", "integer", "Documents with a value.", _value(cell, "n"), CSV),
            Field(
                f"{name}_state",
                "text",
                "ok, failed, not_run or not_applicable.",
                _value(cell, "state"),
                CSV,
            ),
        ),
        task["title"],
        f"{task['metric']}, {score_scale(task)}",
        "task",
        "more" if task["higher_is_better"] else "less",
        "one",
        100.0 if task["unit"] == "share" else 1.0,
        "details",
        ("tasks",),
        cell=cell,
    )


def _performance(metric: Metric) -> Column:
    name = metric.key

    def cell(row: LeaderboardRow) -> Quantity | None:
        return row["performance"].get(name)

    about = schema("performance")["properties"]["metrics"]["properties"][name]["description"]
    overview: tuple[Page, ...] = ("overview",) if name in OVERVIEW else ()
    return Column(
        name,
        (
            *_interval(name, ("number", about), cell),
            Field(f"{name}_reason", "text", "Why there is no value.", _value(cell, "reason"), API),
        ),
        metric.title,
        metric.unit,
        "performance",
        "more" if metric.higher_is_better else "less",
        "three",
        1 / metric.per_unit,
        metric.part,
        (*overview, "hardware"),
        same_machine=True,
        cell=cell,
    )


_WARNINGS = _fact(
    "performance_warnings",
    "text",
    "Why the measurement may be disturbed.",
    _measured(lambda m: joined("; ", m["warnings"])),
    API,
)

_MEASUREMENT = (
    _fact(
        "performance_record",
        "text",
        "The record of performance.",
        _measured(lambda m: m["record"]),
        API,
    ),
    _WARNINGS,
    _fact(
        "engine",
        "text",
        "What ran the model.",
        lambda _, row: row["measurement"]["engine"] if row["measurement"] else row.get("engine"),
        API,
    ),
    _fact(
        "kernel",
        "text",
        "What did the matrix products.",
        _measured(lambda m: m["kernel"]),
        API,
    ),
    _fact(
        "energy_label",
        "text",
        "How far energy was measured.",
        _measured(lambda m: m["energy"]["label"]),
    ),
    _fact(
        "energy_source",
        "text",
        "Counter, sensor or model.",
        _measured(lambda m: m["energy"]["source"]),
        API,
    ),
    _fact(
        "bandwidth_bytes_per_s",
        "number",
        "What the machine reads from memory in a second.",
        _measured(lambda m: m["roofline"]["bandwidth_bytes_per_s"]),
    ),
    _fact(
        "matrix_flops_per_s",
        "number",
        "What the machine multiplies in a second.",
        _measured(lambda m: m["roofline"]["matrix_flops_per_s"]),
        API,
    ),
    # leaderboard.csv ends with them.
    Column("", tuple(replace(field, views=CSV) for field in _WARNINGS.fields)),
)
