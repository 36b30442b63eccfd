"""What a repeated measurement says of a published one; pure functions of the two.

The engines give a document the same bits in any company, so on the machine of the record nothing
may differ. Elsewhere sums are rounded otherwise: `TOLERANCES` says how far, and `DISCREPANCY` what
has to be excluded before silence counts as agreement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Record = dict[str, Any]
Key = tuple[str, int, str]
"""Part, row of the split, and filter of a document's values."""

EXIT_CODES = {
    "identical": 0,
    "agrees": 3,
    "underpowered": 4,
    "not verified": 5,
    "changed input": 6,
    "disagrees": 7,
}
"""Verdict → exit code, the worse the higher; 1 and 2 stay for bad input and bad usage."""


@dataclass(frozen=True)
class Tolerance:
    """How far rounding may move margins on another machine or kernel, in nats.

    Attributes:
        largest: Of a single document.
        mean: Of all documents on average.
    """

    largest: float
    mean: float


TOLERANCES = {
    "float32": Tolerance(0.01, 0.002),
    "float16": Tolerance(0.5, 0.05),
    "bfloat16": Tolerance(2.0, 0.3),
    "quantized": Tolerance(2.0, 0.3),
}
"""By what is rounded; docs/how-to/verifying.md says what each follows from."""

MAX_FLIP_SHARE = 0.05
"""Documents whose answer hung on a tie may change sides, up to this share of all."""

DISCREPANCY = 0.05
"""What has to be excluded before two measurements agree: a difference of five points of a score, or
wrong values of so many documents."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Something that may differ between machines: it makes `agrees` the best answer to expect.

    Attributes:
        name: Dotted path of the field in the record.
        published: Its value there.
        here: Its value now.
    """

    name: str
    published: Any
    here: Any


@dataclass(frozen=True)
class Deviation:
    """One number of a document that came out otherwise.

    Attributes:
        part: The document's part; empty for a task without parts.
        index: Its row in the split.
        document: The hash that the record gives.
        filter: The filter of the values.
        what: Name of the metric, or margin, or document.
        published: The number in the record.
        here: The number now.
        margin: The record's margin in nats.
        explained: Whether the tolerance allows for it.
    """

    part: str
    index: int
    document: str
    filter: str
    what: str
    published: Any
    here: Any
    margin: float | None
    explained: bool


@dataclass(frozen=True)
class Outcome:
    """A verdict with what it rests on.

    Attributes:
        verdict: A key of `EXIT_CODES`.
        reason: A sentence.
        asked: Documents that were asked again.
        total: Documents of the record.
        differences: What differs between the machines.
        deviations: Numbers that came out otherwise; none where the verdict is identical.
    """

    verdict: str
    reason: str
    asked: int = 0
    total: int = 0
    differences: Sequence[Difference] = ()
    deviations: Sequence[Deviation] = ()

    def as_json(self) -> Record:
        """The outcome as JSON values."""
        return {**asdict(self), "exit_code": EXIT_CODES[self.verdict]}


@dataclass(frozen=True)
class Repeat:
    """A published cell and its repetition, on the documents that were asked again.

    Attributes:
        entry: The task's entry in config/tasks.yaml.
        published: The record.
        here: The new record.
        documents: The record's per-document values.
        asked: Of these the ones that were asked again.
        found: The new per-document values.
        samples: The new samples, with texts.
        differences: What differs between the machines.
    """

    entry: Mapping[str, Any]
    published: Record
    here: Record
    documents: Sequence[Record]
    asked: Sequence[Record]
    found: Sequence[Record]
    samples: Sequence[Record]
    differences: Sequence[Difference]

    @property
    def complete(self) -> bool:
        """Whether all documents were asked again."""
        return len(self.asked) == len(self.documents)


def decide(repeat: Repeat) -> Outcome:
    """Compare a published cell with its repetition.

    Args:
        repeat: Both, on the same documents.
    """
    tolerance = tolerance_of(repeat.published, repeat.here)
    deviations = list(_deviations(repeat, tolerance))
    asked, total = (len(documents(rows)) for rows in (repeat.asked, repeat.documents))

    def outcome(verdict: str, reason: str) -> Outcome:
        return Outcome(verdict, reason, asked, total, repeat.differences, deviations)

    texts = repeat.complete and "answers_sha256" in repeat.published
    other_texts = texts and repeat.published["answers_sha256"] != repeat.here["answers_sha256"]
    if not deviations and not other_texts:
        return outcome("identical", "all values are the same" + _unseen(asked, total))
    if not repeat.differences:
        what = "the values differ" if deviations else "the texts of the answers differ"
        return outcome(
            "disagrees", f"{what}, and no difference of machine, threads or kernel explains it"
        )
    if repeat.entry["kind"] == "generate":
        return outcome(*_by_pairs(repeat, deviations))
    return outcome(*_by_margins(repeat, deviations, tolerance, asked, total))


def documents(rows: Sequence[Record]) -> list[tuple[str, int]]:
    """Part and index of each document, once; the values of several filters belong to one."""
    return list(dict.fromkeys((row.get("part", ""), row["index"]) for row in rows))


def tolerance_of(*records: Record) -> Tolerance:
    """The coarsest tolerance of some records: rounding anywhere moves the difference."""
    found = [TOLERANCES[_rounding(record)] for record in records]
    return max(found, key=lambda tolerance: tolerance.largest)


def _rounding(record: Record) -> str:
    """What rounds the sums of a record's engine, as `TOLERANCES` calls it."""
    if record["engine"]["name"] == "llama.cpp":
        return "float16" if record["variant"]["id"] == "gguf-f16" else "quantized"
    dtype = str(record["engine"]["dtype"])
    return dtype if dtype in TOLERANCES else "quantized"


def hidden_share(asked: int, total: int) -> float:
    """The largest share of wrong documents that a random part without one may have missed.

    Of ``total`` documents ``asked`` are drawn without replacement; with ``wrong`` wrong ones among
    them the draw misses all with the probability C(total − wrong, asked) / C(total, asked), the
    hypergeometric one. A share is excluded where that is at most 1 − CONFIDENCE.

    Args:
        asked: Documents that were asked again, at least 1.
        total: Documents of the record.
    """
    missed, wrong = 1.0, 0
    while wrong < total:
        missed *= max(0, total - asked - wrong) / (total - wrong)
        if missed <= 1 - CONFIDENCE:
            break
        wrong += 1
    return wrong / total


def _unseen(asked: int, total: int) -> str:
    """What a random part cannot say, for a sentence."""
    share = hidden_share(asked, total)
    if not share:
        return ""
    return (
        f"; of the {total - asked} documents that were not asked, values of up to "
        f"{100 * share:.1f} % of all documents could be wrong unseen"
    )


def _deviations(repeat: Repeat, tolerance: Tolerance) -> Iterator[Deviation]:
    found = {_key(row): row for row in repeat.found}
    slack = {_key(row): slack_nats(row, repeat.entry) for row in repeat.samples}
    for row in repeat.asked:
        key = _key(row)
        here = found.pop(key, None)

        def deviation(
            what: str, published: Any, now: Any, explained: bool, row: Record = row
        ) -> Deviation:
            return Deviation(
                row.get("part", ""),
                row["index"],
                row["document"],
                row["filter"],
                what,
                published,
                now,
                row["margin"],
                explained,
            )

        if here is None or here["document"] != row["document"]:
            now = None if here is None else here["document"]
            yield deviation("document", row["document"], now, False)
            continue
        if here["margin"] != row["margin"]:
            near = _near(row["margin"], here["margin"], tolerance)
            yield deviation("margin", row["margin"], here["margin"], near)
        for metric in dict.fromkeys([*row["values"], *here["values"]]):
            old, new = (values.get(metric) for values in (row["values"], here["values"]))
            if old != new:
                tie = _ties(row, slack.get(key), metric, tolerance)
                explained = tie if _flipped(old, new) else _near(old, new, tolerance)
                yield deviation(metric, old, new, explained)
    for key, here in found.items():
        part, index, filter_name = key
        document = here["document"]
        yield Deviation(part, index, "", filter_name, "document", None, document, None, False)


def _key(row: Mapping[str, Any]) -> Key:
    return row.get("part", ""), row["index"], row["filter"]


def _flipped(published: Any, here: Any) -> bool:
    """Whether an answer was right on one side and wrong on the other."""
    return (published, here) in ((0, 1), (1, 0))


def _near(published: Any, here: Any, tolerance: Tolerance) -> bool:
    """Whether two margins, or values that follow smoothly from them, are within the tolerance.

    A share of probability moves by at most half of what its log-odds move by.
    """
    if not (isinstance(published, int | float) and isinstance(here, int | float)):
        return False
    return abs(published - here) <= tolerance.largest


def _ties(row: Record, slack: float | None, metric: str, tolerance: Tolerance) -> bool:
    """Whether a document's answer hung on a tie: by its published margin, or by the new numbers.

    The published margin is one of log-probabilities as they are, which decide ``acc`` alone.
    """
    if metric == "acc" and row["margin"] is not None:
        return bool(abs(row["margin"]) <= tolerance.largest)
    return slack is not None and slack <= tolerance.largest


def slack_nats(sample: Mapping[str, Any], entry: Mapping[str, Any]) -> float | None:
    """How far the log-probabilities of a document may move, in nats, before another option wins.

    Under ``acc_norm`` options compete by their log-probability per character, so the gap is counted
    in the characters of the shorter option. The options' lengths are those of the continuations
    without blanks around them.

    Args:
        sample: A sample with texts.
        entry: The task's entry in config/tasks.yaml.

    Returns:
        The distance to the runner-up; None for an answer that is no choice of options.
    """
    if entry["kind"] != "loglikelihood" or len(sample["answers"]) < 2:
        return None
    sums = [float(answer[0]) for answer in sample["answers"]]
    texts = [str(prompt[-1]).strip() for prompt in sample["prompts"]]
    lengths = [max(1, len(text)) if entry["metric"] == "acc_norm" else 1 for text in texts]
    weighed = [total / length for total, length in zip(sums, lengths, strict=True)]
    best = max(range(len(weighed)), key=weighed.__getitem__)
    return min(
        (weighed[best] - weighed[other]) * min(lengths[best], lengths[other])
        for other in range(len(weighed))
        if other != best
    )


def _by_margins(
    repeat: Repeat,
    deviations: Sequence[Deviation],
    tolerance: Tolerance,
    asked: int,
    total: int,
) -> tuple[str, str]:
    """Verdict and reason where the values follow from log-probabilities."""
    from scipy.stats import binom

    task = repeat.published["task"]
    if grave := [d for d in deviations if not d.explained]:
        return "disagrees", (
            f"{len(grave)} numbers differ by more than another machine or kernel explains "
            f"({tolerance.largest:g} nats)"
        )
    moved = [abs(d.published - d.here) for d in deviations if d.what == "margin"]
    mean = math.fsum(moved) / asked
    if mean > tolerance.mean:
        return "disagrees", (
            f"the margins differ by {mean:.3g} nats on average; another machine or kernel explains "
            f"{tolerance.mean:g}"
        )
    flips = sum(
        (d.what, d.filter) == (task["metric"], task["filter"]) and _flipped(d.published, d.here)
        for d in deviations
    )
    share = flips / asked
    if share > MAX_FLIP_SHARE:
        verdict = "disagrees"
        if binom.sf(flips - 1, asked, MAX_FLIP_SHARE) > 1 - CONFIDENCE:
            verdict = "underpowered"
        return verdict, (
            f"{flips} of {asked} answers changed sides; where they hang on a tie, up to "
            f"{100 * MAX_FLIP_SHARE:g} % may"
        )
    hidden = hidden_share(asked, total)
    largest = max(moved, default=0.0)
    seen = (
        f"margins differ by up to {largest:.3g} nats (allowed {tolerance.largest:g}), "
        f"{mean:.3g} on average (allowed {tolerance.mean:g}), and {flips} answers changed sides"
    )
    if hidden > DISCREPANCY:
        return "underpowered", (
            f"{seen}; but values of {100 * hidden:.1f} % of all documents could be wrong unseen, "
            f"and {100 * DISCREPANCY:g} % have to be excluded: ask more documents"
        )
    return "agrees", seen


def _by_pairs(repeat: Repeat, deviations: Sequence[Deviation]) -> tuple[str, str]:
    """Verdict and reason where the values are those of texts, by the headline metric."""
    from slm_benchmark.statistics.paired import compare_paired

    if any(d.what == "document" for d in deviations):
        return "disagrees", "the record's documents are not those of the dataset"
    task = repeat.published["task"]
    here = {_key(row): row["values"].get(task["metric"]) for row in repeat.found}
    pairs = [
        (row["values"].get(task["metric"]), here[_key(row)])
        for row in repeat.asked
        if row["filter"] == task["filter"]
    ]
    known = [pair for pair in pairs if None not in pair]
    if not known or any(isinstance(value, list) for pair in known for value in pair):
        return "underpowered", "a corpus metric has no value of single documents to compare"
    best = float(repeat.entry.get("best", 1))
    found = compare_paired(*zip(*known, strict=True), span=best)
    if found.ci95 is None or found.p is None:
        return "underpowered", "a single document has no interval"
    unit = "" if repeat.entry.get("unit") == "points" else " %"
    scale = 100 if unit else 1
    low, high = (f"{scale * bound:+.1f}" for bound in found.ci95)
    seen = (
        f"{found.gained} documents gained and {found.lost} lost of {found.n}; the score differs "
        f"by {scale * found.difference:+.1f}{unit} [{low}, {high}] "
        f"(p = {found.p:.2g}, {found.p_method})"
    )
    lost = len(pairs) - len(known)
    if found.p < 1 - CONFIDENCE:
        return "disagrees", f"{seen}; chance does not explain it"
    if lost > MAX_FLIP_SHARE * len(pairs):
        return "disagrees", f"{seen}; {lost} documents have a value on one side alone"
    allowed = DISCREPANCY * best
    if max(map(abs, found.ci95)) > allowed:
        return "underpowered", (
            f"{seen}; a difference of {scale * allowed:g}{unit} could not be excluded: "
            "ask more documents"
        )
    return "agrees", seen


SHOWN = 50
"""Most documents that are printed; a report has all of them."""


def render(outcome: Outcome, file: str) -> str:
    """An outcome in lines: the verdict, what may differ here, and the documents that do."""
    lines = [f"{file}: {outcome.verdict}", f"  {outcome.reason}"]
    if outcome.total:
        lines.append(f"  asked again: {outcome.asked} of {outcome.total} documents")
    for difference in outcome.differences:
        lines.append(
            f"  may differ: {difference.name}: {difference.published!r} in the record, "
            f"{difference.here!r} here"
        )
    shown = [d for d in outcome.deviations if d.what != "margin" or not d.explained]
    lines += [f"  {_shown(deviation)}" for deviation in shown[:SHOWN]]
    if len(shown) > SHOWN:
        lines.append(f"  and {len(shown) - SHOWN} more; --report FILE writes all of them")
    return "\n".join(lines)


def _shown(found: Deviation) -> str:
    names = [f"document {found.index}", found.document[:12], found.part, found.filter]
    margin = "" if found.margin is None else f", margin {found.margin:+.6f} nats"
    tie = " (a tie within the tolerance)" if found.explained else ""
    where = " ".join(filter(None, names))
    return f"{where}: {found.what} {found.published} → {found.here}{margin}{tie}"
