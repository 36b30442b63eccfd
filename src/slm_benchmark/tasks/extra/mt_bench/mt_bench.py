"""MT-Bench: 80 conversations of two turns, graded by a judge or compared with references."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.judge.active import active_judge
from slm_benchmark.judge.grading import NEEDS_REFERENCE
from slm_benchmark.records.types import Score
from slm_benchmark.tasks.conversation import conversation
from slm_benchmark.tasks.extra.means import mean_score
from slm_benchmark.tasks.requests import ScoredDocument

Doc = Mapping[str, Any]
"""``category``, ``prompt`` (two questions), ``reference`` (two answers, or none), ``prompt_id``."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
}
"""The published temperature of each category; others have that of writing."""


def turns(doc: Doc) -> str:
    """The two questions as the context of a request, with the category's temperature."""
    temperature = TEMPERATURES.get(doc["category"], TEMPERATURES["writing"])
    settings = {"do_sample": True, "temperature": temperature} if temperature else {}
    return conversation(doc["prompt"], settings)


def judged(responses: Iterable[str], docs: Sequence[Doc]) -> list[str]:
    """Filter: answers → the judge's grades, as JSON: ``ratings`` and ``verdicts`` by turn.

    All documents are graded together, so that a judge may answer several at once.

    Raises:
        UserError: when there is no judge.
    """
    grader = active_judge()
    if grader is None:
        raise UserError(
            "no judge is configured", fix="name one of config/judges.yaml in config/config.yaml"
        )
    grades = grader.grade(docs, [json.loads(response) for response in responses])
    return [
        json.dumps(
            {
                "ratings": [grade.rating for grade in graded],
                "verdicts": [grade.verdict for grade in graded],
            },
            ensure_ascii=False,
        )
        for graded in grades
    ]


def judge_scores(doc: Doc, results: Sequence[str]) -> dict[str, float | None]:
    """Ratings from 1 to 10: each turn's, and the mean of both; None where a rating is missing."""
    first, second = json.loads(results[0])["ratings"]
    return {
        "judge_score": None if None in (first, second) else (first + second) / 2,
        "judge_score_turn_1": first,
        "judge_score_turn_2": second,
    }


def reference_scores(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """chrF of the answers against the references, 0 to 100, as the mean over the turns.

    Only categories with a reference answer by design have the metric, and of them only documents
    that carry one; others give none.

    Source: M. Popović, chrF: character n-gram F-score for automatic MT evaluation (WMT 2015), as
    sacrebleu computes it for a sentence.
    """
    import sacrebleu

    answers = json.loads(results[0])
    pairs = list(zip(answers, [*doc["reference"], "", ""], strict=False))
    scores = [
        sacrebleu.sentence_chrf(answer, [reference]).score
        for answer, reference in pairs
        if reference
    ]
    if doc["category"] not in NEEDS_REFERENCE or not scores:
        return {}
    return {"reference_chrf": sum(scores) / len(scores)}


def category_scores(samples: Sequence[ScoredDocument]) -> list[Score]:
    """Scores by category, as rows of the cell schema's ``scores``, none of them the headline.

    Args:
        samples: What `slm_benchmark.tasks.requests.score_documents` gives; read are ``filter``,
            ``doc`` and ``values``, a number or None (missing) by metric.

    Returns:
        For each filter and metric the mean of each category (``part``) that has a value.
    """
    grouped: dict[tuple[str, str, str], list[float | None]] = {}
    for sample in samples:
        for metric, value in sample["values"].items():
            key = sample["filter"], metric, sample["doc"]["category"]
            grouped.setdefault(key, []).append(value)
    return [
        mean_score(metric, filter_name, category, values, share=False)  # 1 to 10 is no proportion
        for (filter_name, metric, category), values in sorted(grouped.items())
        if any(value is not None for value in values)
    ]
