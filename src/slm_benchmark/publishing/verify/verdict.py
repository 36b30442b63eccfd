"""What a repeated measurement says of a published one; pure functions of the two.

The engines are batch-invariant: a document's numbers are bitwise identical for any batch
composition. So on the machine of the record nothing may differ. Elsewhere sums are rounded
otherwise: `TOLERANCES` says how far, and `DISCREPANCY` what has to be excluded before silence
counts as agreement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slm_benchmark.catalog.types import Task
from slm_benchmark.records.types import DocumentRow, ScoreRecord

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
        rerun: Documents that were run again.
        total: Documents of the record.
        differences: What differs between the machines.
        deviations: Numbers that came out otherwise; none where the verdict is identical.
    """

    verdict: str
    reason: str
    rerun: int = 0
    total: int = 0
    differences: Sequence[Difference] = ()
    deviations: Sequence[Deviation] = ()

    def as_json(self) -> dict[str, object]:
        """The outcome as JSON values."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "asked": self.rerun,
            "total": self.total,
            "differences": [asdict(difference) for difference in self.differences],
            "deviations": [asdict(deviation) for deviation in self.deviations],
            "exit_code": EXIT_CODES[self.verdict],
        }


@dataclass(frozen=True)
class Repeat:
    """A published cell and its repetition, on the documents that were run again.

    Attributes:
        entry: The task's entry in config/tasks.yaml.
        published: The record.
        here: The new record.
        documents: The record's per-document values.
        rerun: Of these the ones that were run again.
        new_documents: The new per-document values.
        samples: The new samples, with texts.
        differences: What differs between the machines.
    """

    entry: Task
    published: ScoreRecord
    here: ScoreRecord
    documents: Sequence[DocumentRow]
    rerun: Sequence[DocumentRow]
    new_documents: Sequence[DocumentRow]
    samples: Sequence[Mapping[str, Any]]
    differences: Sequence[Difference]

    @property
    def complete(self) -> bool:
        """Whether all documents were run again."""
        return len(self.rerun) == len(self.documents)


def decide(repeat: Repeat) -> Outcome:
    """Compare a published cell with its repetition.

    Args:
        repeat: Both, on the same documents.
    """
    tolerance = tolerance_of(repeat.published, repeat.here)
    deviations = list(_deviations(repeat, tolerance))
    rerun, total = (len(documents(rows)) for rows in (repeat.rerun, repeat.documents))

    def outcome(verdict: str, reason: str) -> Outcome:
        return Outcome(verdict, reason, rerun, total, repeat.differences, deviations)

    texts = repeat.complete and "answers_sha256" in repeat.published
    other_texts = texts and repeat.published["answers_sha256"] != repeat.here["answers_sha256"]
    if not deviations and not other_texts:
        return outcome("identical", "all values are the same" + _unseen(rerun, total))
    if not repeat.differences:
        what = "the values differ" if deviations else "the texts of the answers differ"
        return outcome(
            "disagrees", f"{what}, and no difference of machine, threads or kernel explains it"
        )
    if repeat.entry["kind"] == "generate":
        return outcome(*_by_pairs(repeat, deviations))
    return outcome(*_by_margins(repeat, deviations, tolerance, rerun, total))


def documents(rows: Sequence[DocumentRow]) -> list[tuple[str, int]]:
    """Part and index of each document, once; the values of several filters belong to one."""
    return list(dict.fromkeys((row.get("part", ""), row["index"]) for row in rows))


def tolerance_of(*records: ScoreRecord) -> Tolerance:
    """The coarsest tolerance of some records: rounding anywhere moves the difference."""
    tolerances = [TOLERANCES[_rounding(record)] for record in records]
    return max(tolerances, key=lambda tolerance: tolerance.largest)


def _rounding(record: ScoreRecord) -> str:
    """What rounds the sums of a record's engine, as `TOLERANCES` calls it."""
    if record["engine"]["name"] == "llama.cpp":
        return "float16" if record["variant"]["id"] == "gguf-f16" else "quantized"
    dtype = str(record["engine"]["dtype"])
    return dtype if dtype in TOLERANCES else "quantized"


def hidden_share(drawn: int, total: int) -> float:
    """The largest share of wrong documents that a random part without one may have missed.

    Of ``total`` documents ``drawn`` are chosen without replacement; with ``wrong`` wrong ones among
    them the draw misses all with the probability C(total − wrong, drawn) / C(total, drawn), the
    hypergeometric one. A share is excluded where that is at most 1 − CONFIDENCE.

    Args:
        drawn: Documents that were run again, at least 1.
        total: Documents of the record.
    """
    missed, wrong = 1.0, 0
    while wrong < total:
        missed *= max(0, total - drawn - wrong) / (total - wrong)
        if missed <= 1 - CONFIDENCE:
            break
        wrong += 1
    return wrong / total


def _unseen(rerun: int, total: int) -> str:
    """What a random part cannot say, for a sentence."""
    share = hidden_share(rerun, total)
    if not share:
        return ""
    return (
        f"; of the {total - rerun} documents that were not run again, values of up to "
        f"{100 * share:.1f} % of all documents could be wrong unseen"
    )


def _deviations(repeat: Repeat, tolerance: Tolerance) -> Iterator[Deviation]:
    new_rows = {_key(row): row for row in repeat.new_documents}
    slack = {_key(row): slack_nats(row, repeat.entry) for row in repeat.samples}
    for row in repeat.rerun:
        key = _key(row)
        here = new_rows.pop(key, None)

        def deviation(
            what: str, published: Any, now: Any, explained: bool, row: DocumentRow = row
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
    for key, here in new_rows.items():
        part, index, filter_name = key
        document = here["document"]
        yield Deviation(part, index, "", filter_name, "document", None, document, None, False)


def _key(row: DocumentRow | Mapping[str, Any]) -> Key:
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


def _ties(row: DocumentRow, slack: float | None, metric: str, tolerance: Tolerance) -> bool:
    """Whether a document's answer hung on a tie: by its published margin, or by the new numbers.

    The published margin is one of log-probabilities as they are, which decide ``acc`` alone.
    """
    if metric == "acc" and row["margin"] is not None:
        return bool(abs(row["margin"]) <= tolerance.largest)
    return slack is not None and slack <= tolerance.largest


def slack_nats(sample: Mapping[str, Any], entry: Task) -> float | None:
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
    rerun: int,
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
    mean = math.fsum(moved) / rerun
    if mean > tolerance.mean:
        return "disagrees", (
            f"the margins differ by {mean:.3g} nats on average; another machine or kernel explains "
            f"{tolerance.mean:g}"
        )
    flips = sum(
        (d.what, d.filter) == (task["metric"], task["filter"]) and _flipped(d.published, d.here)
        for d in deviations
    )
    share = flips / rerun
    if share > MAX_FLIP_SHARE:
        verdict = "disagrees"
        if binom.sf(flips - 1, rerun, MAX_FLIP_SHARE) > 1 - CONFIDENCE:
            verdict = "underpowered"
        return verdict, (
            f"{flips} of {rerun} answers changed sides; where they hang on a tie, up to "
            f"{100 * MAX_FLIP_SHARE:g} % may"
        )
    hidden = hidden_share(rerun, total)
    largest = max(moved, default=0.0)
    seen = (
        f"margins differ by up to {largest:.3g} nats (allowed {tolerance.largest:g}), "
        f"{mean:.3g} on average (allowed {tolerance.mean:g}), and {flips} answers changed sides"
    )
    if hidden > DISCREPANCY:
        return "underpowered", (
            f"{seen}; but values of {100 * hidden:.1f} % of all documents could be wrong unseen, "
            f"and {100 * DISCREPANCY:g} % have to be excluded: verify more documents"
        )
    return "agrees", seen


def _by_pairs(repeat: Repeat, deviations: Sequence[Deviation]) -> tuple[str, str]:
    """Verdict and reason where the values are those of texts, by the headline metric."""
    from slm_benchmark.statistics.paired import compare_paired

    if any(d.what == "document" for d in deviations):
        return "disagrees", "the record's documents are not those of the dataset"
    task = repeat.published["task"]
    here = {_key(row): row["values"].get(task["metric"]) for row in repeat.new_documents}
    pairs = [
        (row["values"].get(task["metric"]), here[_key(row)])
        for row in repeat.rerun
        if row["filter"] == task["filter"]
    ]
    known = [pair for pair in pairs if None not in pair]
    if not known or any(isinstance(value, list) for pair in known for value in pair):
        return "underpowered", "a corpus metric has no value of single documents to compare"
    best = float(repeat.entry.get("best", 1))
    paired = compare_paired(*zip(*known, strict=True), span=best)
    if paired.ci95 is None or paired.p is None:
        return "underpowered", "a single document has no interval"
    unit = "" if repeat.entry.get("unit") == "points" else " %"
    scale = 100 if unit else 1
    low, high = (f"{scale * bound:+.1f}" for bound in paired.ci95)
    seen = (
        f"{paired.gained} documents gained and {paired.lost} lost of {paired.n}; the score differs "
        f"by {scale * paired.difference:+.1f}{unit} [{low}, {high}] "
        f"(p = {paired.p:.2g}, {paired.p_method})"
    )
    lost = len(pairs) - len(known)
    if paired.p < 1 - CONFIDENCE:
        return "disagrees", f"{seen}; chance does not explain it"
    if lost > MAX_FLIP_SHARE * len(pairs):
        return "disagrees", f"{seen}; {lost} documents have a value on one side alone"
    allowed = DISCREPANCY * best
    if max(map(abs, paired.ci95)) > allowed:
        return "underpowered", (
            f"{seen}; a difference of {scale * allowed:g}{unit} could not be excluded: "
            "verify more documents"
        )
    return "agrees", seen


SHOWN = 50
"""Most documents that are printed; a report has all of them."""


def render(outcome: Outcome, file: str) -> str:
    """An outcome in lines: the verdict, what may differ here, and the documents that do."""
    lines = [f"{file}: {outcome.verdict}", f"  {outcome.reason}"]
    if outcome.total:
        lines.append(f"  run again: {outcome.rerun} of {outcome.total} documents")
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


def _shown(deviation: Deviation) -> str:
    names = [
        f"document {deviation.index}",
        deviation.document[:12],
        deviation.part,
        deviation.filter,
    ]
    margin = "" if deviation.margin is None else f", margin {deviation.margin:+.6f} nats"
    tie = " (a tie within the tolerance)" if deviation.explained else ""
    where = " ".join(filter(None, names))
    return f"{where}: {deviation.what} {deviation.published} → {deviation.here}{margin}{tie}"
