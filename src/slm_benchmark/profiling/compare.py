"""A performance record and its repeat: does the second fall where the first said that it would?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.common.schemas import read_record
from slm_benchmark.records.types import PerformancePoint, PerformanceRecord, Quantity

Measured = tuple[Path, PerformanceRecord]


@dataclass(frozen=True)
class Row:
    """One quantity of both records.

    Attributes:
        point: Sequences and lengths; empty at the reference point.
        quantity: Its name in the record.
        first: Median of the first record.
        pi95: The first record's 95 % prediction interval; None for what has none, such as the
            machine's bandwidth, which is shown and not counted.
        second: Median of the second record; None where it has none.
    """

    point: str
    quantity: str
    first: float
    pi95: tuple[float, float] | None
    second: float | None

    @property
    def inside(self) -> bool:
        """Whether the repeat fell into the interval; a missing median did not."""
        return (
            self.pi95 is not None
            and self.second is not None
            and self.pi95[0] <= self.second <= self.pi95[1]
        )


@dataclass(frozen=True)
class Comparison:
    """All quantities of a record and its repeat.

    Attributes:
        title: Model, variant, machine and protocol.
        rows: Those that the first record has a value of.
    """

    title: str
    rows: list[Row]


def compare(first: Path, second: Path) -> tuple[list[Comparison], list[str]]:
    """Compare two performance records, or all that two folders have in common.

    Args:
        first: A record, or a folder that is searched for records. Of several records of one
            model, variant, machine and protocol the newest counts.
        second: Of the same kind as ``first``: its repeat.

    Returns:
        The comparisons, and a sentence for each record of a folder that the other one lacks.

    Raises:
        UserError: for records that are invalid, failed, of an old version, of one session, or not
            of the same model, weights, protocol and machine; and when nothing is there to compare.
    """
    if first.is_dir() != second.is_dir():
        raise UserError(
            "one is a folder and the other is not",
            file=second,
            fix="name two records, or two folders of records",
        )
    if not first.is_dir():
        return [_compare((first, _read(first)), (second, _read(second)))], []
    ours, theirs = _newest(first), _newest(second)
    common = [cell for cell in ours if cell in theirs]
    if not common:
        raise UserError(
            f"no performance record here has a repeat in {second}",
            file=first,
            fix="name folders with records of the same model, variant, machine and protocol",
        )
    lacking = [
        f"{folder} has no record to compare of {_title(cell)}"
        for folder, cells in ((second, ours.keys() - theirs), (first, theirs.keys() - ours))
        for cell in sorted(cells)
    ]
    return [_compare(ours[cell], theirs[cell]) for cell in common], lacking


def render(comparison: Comparison) -> str:
    """A comparison as Markdown: its title and a table."""
    head = ("Quantity", "Point", "First", "95 % prediction interval", "Repeat", "Inside")
    lines = [head, ["---"] * len(head)]
    for row in comparison.rows:
        interval = "–" if row.pi95 is None else f"{row.pi95[0]:.4g} to {row.pi95[1]:.4g}"
        second = "missing" if row.second is None else f"{row.second:.4g}"
        inside = "–" if row.pi95 is None else "yes" if row.inside else "no"
        lines.append((row.quantity, row.point, f"{row.first:.4g}", interval, second, inside))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{comparison.title}\n\n{table}"


def count_inside(comparisons: Sequence[Comparison]) -> tuple[int, int]:
    """How many medians fell inside, and how many there are.

    Raises:
        UserError: when no quantity has a prediction interval.
    """
    rows = [row for comparison in comparisons for row in comparison.rows if row.pi95 is not None]
    if not rows:
        raise UserError(
            "no quantity of the first has a prediction interval",
            field="metrics",
            fix="measure it in two processes or more",
        )
    return sum(row.inside for row in rows), len(rows)


def _newest(folder: Path) -> dict[tuple[str, ...], Measured]:
    """The newest performance record of each model, variant, machine and protocol in a folder."""
    newest: dict[tuple[str, ...], Measured] = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name != "performance.json" and path.parent.name != "performance":
            continue
        if "content" in read_json(path):
            continue  # results/ has a summary of each model under the same name
        record = _read(path)
        if record["schema_version"] == 1 or record["state"] != "ok":
            continue  # the others can be compared all the same
        cell = _cell(record)
        if cell not in newest or record["started"] > newest[cell][1]["started"]:
            newest[cell] = (path, record)
    return newest


def _read(path: Path) -> PerformanceRecord:
    record: PerformanceRecord = read_record(path, "performance")
    return record


def _check(file: Path, record: PerformanceRecord) -> None:
    """Make sure that a record has medians with prediction intervals."""
    if record["schema_version"] == 1:
        raise UserError(
            "a record of one process, which has no prediction intervals",
            file=file,
            field="schema_version",
            value=1,
            fix="measure it again",
        )
    if record["state"] != "ok":
        raise UserError(
            "the measurement failed, so there is nothing to compare",
            file=file,
            field="state",
            value=record["state"],
            fix="measure it again",
        )


def _check_repeat(one: PerformanceRecord, other: PerformanceRecord, file: Path) -> None:
    """Make sure that ``other``, read from ``file``, is a repeat of ``one``."""
    # What has to be equal in two records for the second to be a repeat of the first.
    for field, first, second in (
        ("model.sha256", one["model"]["sha256"], other["model"]["sha256"]),
        ("variant.sha256", one["variant"]["sha256"], other["variant"]["sha256"]),
        ("protocol.sha256", one["protocol"]["sha256"], other["protocol"]["sha256"]),
        (
            "hardware.fingerprint",
            one["hardware"]["fingerprint"],
            other["hardware"]["fingerprint"],
        ),
    ):
        if first != second:
            raise UserError(
                f"no repeat of the first record, which has {first!r}",
                file=file,
                field=field,
                value=second,
                fix="compare records of the same model, weights, protocol and machine",
            )
    if one["session"]["id"] == other["session"]["id"]:
        raise UserError(
            "both records are of one session, which is no repeat of itself",
            file=file,
            field="session.id",
            value=other["session"]["id"],
            fix="measure its performance once more",
        )


def _compare(first: Measured, second: Measured) -> Comparison:
    for measured in (first, second):
        _check(*measured)
    (_, one), (file, other) = first, second
    _check_repeat(one, other, file)
    rows = _rows("", one["metrics"], other["metrics"])
    repeated = {_point(entry): entry["metrics"] for entry in other["grid"]}
    for entry in one["grid"]:
        point = _point(entry)
        if point not in repeated:
            raise UserError(
                f"the point {point} is missing",
                file=file,
                field="grid",
                fix="restore the file, or measure it again",
            )
        rows += _rows(point, entry["metrics"], repeated[point])
    if (value := one["roofline"]["bandwidth_bytes_per_s"]) is not None:
        repeat = other["roofline"]["bandwidth_bytes_per_s"]
        rows.append(Row("machine", "bandwidth_bytes_per_s", value, None, repeat))
    return Comparison(_title(_cell(one)), rows)


def _rows(point: str, first: Mapping[str, object], second: Mapping[str, object]) -> list[Row]:
    repeats = cast(Mapping[str, Quantity], second)
    rows = []
    for name, quantity in cast(Mapping[str, Quantity], first).items():
        if quantity["value"] is not None:
            pi95 = (quantity["pi95"][0], quantity["pi95"][1]) if quantity["pi95"] else None
            repeat = repeats[name]["value"] if name in repeats else None
            rows.append(Row(point, name, quantity["value"], pi95, repeat))
    return rows


def _point(entry: PerformancePoint) -> str:
    return f"{entry['sequences']} × {entry['prompt_tokens']} + {entry['output_tokens']} tokens"


def _cell(record: PerformanceRecord) -> tuple[str, ...]:
    return (
        record["model"]["id"],
        record["variant"]["id"],
        record["hardware"]["id"],
        record["protocol"]["id"],
    )


def _title(cell: Sequence[str]) -> str:
    model, variant, hardware, protocol = cell
    return f"{model}, {variant}, on {hardware} under {protocol}"
