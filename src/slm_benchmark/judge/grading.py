"""Single-answer grading as MT-Bench was published: prompts, references, ratings.

Source: L. Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, NeurIPS 2023
(arXiv:2306.05685), and its code, FastChat's ``llm_judge``. The prompts' texts are read from a
prepared dataset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest
from slm_benchmark.common.paths import relative
from slm_benchmark.engines.journal import Journal
from slm_benchmark.judge.protocol import Chat, Judge, Verdict

NEEDS_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are graded beside a reference answer."""

TEMPLATES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
"""Names of the published prompts: first turn, and second turn, without and with a reference."""

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_RATING_IN_SINGLE_BRACKETS = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True)
class Template:
    """A grading prompt.

    Attributes:
        system: The system message.
        user: The user's message, with the places that ``str.format`` fills.
    """

    system: str
    user: str


@dataclass(frozen=True)
class Grade:
    """What came of one turn.

    Attributes:
        rating: 1 to 10; None where the verdict holds no such rating, or there is no verdict.
        verdict: The judge's words; None where it was not asked, or could not read the question.
    """

    rating: float | None
    verdict: str | None


def load_templates(prompts: Path) -> dict[str, Template]:
    """The grading prompts of a prepared dataset, by name.

    Args:
        prompts: Folder of the dataset, whose split ``prompts`` has the fields ``name``,
            ``system_prompt`` and ``prompt_template``.

    Raises:
        UserError: when one of `TEMPLATES` is not there.
    """
    from slm_benchmark.download.datasets import load_splits

    rows = load_splits(prompts)["prompts"].to_list()
    templates = {
        row["name"]: Template(row["system_prompt"], row["prompt_template"]) for row in rows
    }
    missing = [name for name in TEMPLATES if name not in templates]
    if missing:
        raise UserError(
            "the dataset of grading prompts lacks one",
            file=relative(prompts / "manifest.json"),
            field="splits.prompts",
            value=missing[0],
            fix="prepare the dataset mt_bench_judge_prompts again",
        )
    return {name: templates[name] for name in TEMPLATES}


def read_rating(verdict: str) -> float | None:
    """The rating in a verdict: ``[[7]]``, or ``[7]`` where there is none in double brackets.

    A number outside 1 to 10 is no rating.
    """
    match = _RATING.search(verdict) or _RATING_IN_SINGLE_BRACKETS.search(verdict)
    rating = None if match is None else float(match[1])
    return rating if rating is not None and 1 <= rating <= 10 else None


def grading_chats(
    doc: Mapping[str, Any], answers: Sequence[str], templates: Mapping[str, Template]
) -> list[Chat | None]:
    """What the judge is asked about each of two turns.

    Args:
        doc: ``category``, ``prompt`` (two questions) and ``reference`` (two answers, or none).
        answers: The model's two answers.
        templates: As `load_templates` gives them.

    Returns:
        The chat about the first turn and that about the second; None where the category needs a
        reference that the document lacks.
    """
    (question_1, question_2), (answer_1, answer_2) = doc["prompt"], answers
    fields = {
        "question": question_1,
        "answer": answer_1,
        "question_1": question_1,
        "answer_1": answer_1,
        "question_2": question_2,
        "answer_2": answer_2,
    }
    if doc["category"] not in NEEDS_REFERENCE:
        return [_chat(templates[name], fields) for name in ("single-v1", "single-v1-multi-turn")]
    references = [*doc["reference"], "", ""][:2]
    fields |= {"ref_answer_1": references[0], "ref_answer_2": references[1]}
    return [
        _chat(templates["single-math-v1"], fields) if references[0] else None,
        _chat(templates["single-math-v1-multi-turn"], fields) if all(references) else None,
    ]


def _chat(template: Template, fields: Mapping[str, str]) -> Chat:
    return [
        {"role": "system", "content": template.system},
        {"role": "user", "content": template.user.format_map(fields)},
    ]


class Grader:
    """A judge with the published prompts, and its verdicts on disk.

    Args:
        judge: Who grades.
        templates: As `load_templates` gives them.
        cache: Where verdicts are kept, and looked up; those of another judge are dropped. None
            keeps none.
    """

    def __init__(
        self, judge: Judge, templates: Mapping[str, Template], cache: Path | None = None
    ) -> None:
        self._judge, self._templates = judge, templates
        self._cache = None if cache is None else Journal(cache, judge.identity)
        self._served: set[tuple[str | None, str | None]] = set()

    @property
    def identity(self) -> dict[str, Any]:
        """The cell schema's ``judge`` block.

        ``served`` lists the model names and fingerprints that the endpoint gave for the verdicts
        so far; more than one pair says that the endpoint changed while it graded.
        """
        return {
            **self._judge.identity,
            "templates_sha256": {
                name: digest(asdict(template)) for name, template in self._templates.items()
            },
            "served": [
                {"model": model, "system_fingerprint": fingerprint}
                for model, fingerprint in sorted(self._served, key=str)
            ],
        }

    def grade(
        self, docs: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str]]
    ) -> list[list[Grade]]:
        """Grade both turns of each document.

        Args:
            docs: See `grading_chats`.
            answers: The model's two answers to each.

        Raises:
            UserError, RunEnvironmentError: as `Judge.ask`.
        """
        chats = [
            chat
            for doc, turns in zip(docs, answers, strict=True)
            for chat in grading_chats(doc, turns, self._templates)
        ]
        verdicts = iter(self._verdicts([chat for chat in chats if chat is not None]))
        grades = [
            Grade(None, None) if chat is None else _grade(next(verdicts).text) for chat in chats
        ]
        return [grades[2 * i : 2 * i + 2] for i in range(len(docs))]

    def _verdicts(self, chats: Sequence[Chat]) -> list[Verdict]:
        keys = [digest(chat) for chat in chats]
        verdicts: dict[str, Verdict] = {}
        if self._cache is not None:
            cached = {key: self._cache.get(key) for key in keys}
            verdicts = {key: Verdict(**verdict) for key, verdict in cached.items() if verdict}
        # The same question needs one answer only.
        missing = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in verdicts}
        tell = progress.documents("judge")
        for index, verdict in self._judge.ask(list(missing.values())):
            key = list(missing)[index]
            verdicts[key] = verdict
            if self._cache is not None:
                self._cache.put(key, asdict(verdict))
            tell(len(verdicts), len(set(keys)))
        self._served |= {(v.model, v.system_fingerprint) for v in verdicts.values()}
        return [verdicts[key] for key in keys]


def _grade(verdict: str | None) -> Grade:
    return Grade(None if verdict is None else read_rating(verdict), verdict)
