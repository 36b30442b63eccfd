"""Awkward rows, through the preparation of a dataset and the loading of its task."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.tasks import loader
from slm_benchmark.tasks.documents import check_documents, check_examples
from slm_benchmark.tasks.requests import build_requests
from tests.support.members import member

QUESTIONS: list[dict[str, Any]] = [
    {"id": n, "question": f"What is {n} + 1?", "options": [str(n), str(n + 1), "9"], "gold": 1}
    for n in range(4)
]
CHOICE = """\
task: awkward
dataset_path: own
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: options
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """\
task: awkward
dataset_path: own
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: gold
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ENTRY: Any = {"harness_task": "awkward", "num_fewshot": 0, "columns": ["question"]}


@pytest.fixture(autouse=True)
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tasks of custom/ are those of the test."""
    monkeypatch.setattr(loader, "CUSTOM", tmp_path / "custom")
    loader.definitions.cache_clear()
    loader._task_manager.cache_clear()
    yield
    loader.definitions.cache_clear()
    loader._task_manager.cache_clear()


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a JSON-lines file; NaN is written as Python does."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def changed(**fields: Any) -> list[dict[str, Any]]:
    """The rows with other fields in the third."""
    return [*QUESTIONS[:2], {**QUESTIONS[2], **fields}, QUESTIONS[3]]


def prepared(tmp_path: Path, data: bytes, name: str = "rows.jsonl") -> Path:
    """A dataset made from a local file."""
    (tmp_path / name).write_bytes(data)
    entry: Any = {"source": "local", "files": {"test": str(tmp_path / name)}, "license": "MIT"}
    prepare_dataset("awkward", entry, tmp_path / "dataset")
    return tmp_path / "dataset"


def checked(tmp_path: Path, dataset: Path, definition: str) -> None:
    """Load the task and check all documents, as a job does before it loads a model."""
    folder = tmp_path / "custom" / "awkward"
    folder.mkdir(parents=True)
    (folder / "awkward.yaml").write_text(definition)
    (part,) = loader.load_parts("awkward", ENTRY, dataset, "first_n")
    file = loader.evaluation_file(part, dataset)
    check_documents(part.task, range(len(part.task.eval_docs)), file, ENTRY["columns"])


UTF16 = lines(QUESTIONS).decode().encode("utf-16")
LATIN = lines(changed(question="Où ?")).decode().encode("latin-1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            UTF16,
            "UTF-16, not JSON lines in UTF-8",
            marks=member("documents", "a file in UTF-16", "refused: the encoding is named"),
        ),
        pytest.param(
            LATIN,
            "line 3 is not UTF-8: it has the byte 0xF9",
            marks=member("documents", "a file in Latin-1", "refused: line and byte are named"),
        ),
        pytest.param(
            lines(QUESTIONS)[:-20],
            r"line 4 is not a JSON object: .*Fix: the file was cut off",
            marks=member("documents", "a file that was cut off", "refused: the line is named"),
        ),
        pytest.param(
            lines(changed(gold=float("nan"))),
            "line 3 has nan in gold",
            marks=member("documents", "NaN in JSON lines", "refused: line and field are named"),
        ),
        pytest.param(
            lines(changed(gold=float("inf"))),
            "line 3 has inf in gold",
            marks=member("documents", "Infinity in JSON lines", "refused: line and field"),
        ),
        pytest.param(
            lines(changed(gold="1")),
            "line 3 has a text in gold, where line 1 has a number",
            marks=member("documents", "a number as text in one row", "refused: line and field"),
        ),
        pytest.param(
            lines([*QUESTIONS[:2], {"id": 2, "question": "?", "gold": 1}]),
            "line 3 lacks the field 'options', which line 1 has",
            marks=member("documents", "a row without a field", "refused: line and field"),
        ),
        pytest.param(
            lines(changed(note="new")),
            "line 1 lacks the field 'note', which line 3 has",
            marks=member("documents", "a field that the first row lacks", "refused, not dropped"),
        ),
        pytest.param(
            lines(changed(id=1)),
            "test: row 3, id: has the id of an earlier row",
            marks=member("documents", "one id for two documents", "refused: row and field"),
        ),
        pytest.param(
            b'{"question": "a", "question": "b"}\n',
            "line 1 has the field 'question' twice",
            marks=member("documents", "a JSON object with a field twice", "refused: line, field"),
        ),
        pytest.param(
            b'{"question": "\\ud800"}\n',
            "line 1 has half of a surrogate pair in question",
            marks=member("documents", "half of a surrogate pair", "refused: line and field"),
        ),
        pytest.param(
            b"\n\n",
            "this split has no rows",
            marks=member("documents", "an empty split", "refused"),
        ),
    ],
)
def test_a_file_that_does_not_hold_rows_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepared(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert "rows.jsonl" in str(caught.value) or message == "this split has no rows"
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"\xef\xbb\xbf" + lines(QUESTIONS),
            marks=member("documents", "a byte-order mark", "no part of the rows"),
        ),
        pytest.param(
            lines(QUESTIONS).replace(b"\n", b"\r\n"),
            marks=member("documents", "CRLF at the ends of lines", "no part of the rows"),
        ),
        pytest.param(
            lines(QUESTIONS).replace(b"\n", b"\r"),
            marks=member("documents", "lone CR at the ends of lines", "no part of the rows"),
        ),
    ],
)
def test_what_an_editor_adds_is_no_part_of_the_rows(tmp_path: Path, data: bytes) -> None:
    assert load_splits(prepared(tmp_path, data))["test"].to_list() == QUESTIONS


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        pytest.param(
            [*QUESTIONS, QUESTIONS[1]],
            "test: row 5: repeats an earlier row",
            marks=member("documents", "a document twice", "used as often as it is there; a note"),
        ),
        pytest.param(
            changed(question="What\r\nis it?"),
            "test: row 3, question: has line ends of Windows (CR)",
            marks=member("documents", "CRLF inside a text", "used as it is; a note names it"),
        ),
        pytest.param(
            changed(question="What is\u200b it?"),
            "test: row 3, question: has an invisible character of no width",
            marks=member("documents", "a character of no width", "used as it is; a note names it"),
        ),
        pytest.param(
            changed(question="What is\x00 it?"),
            "test: row 3, question: has a control character",
            marks=member("documents", "a control character", "used as it is; a note names it"),
        ),
        pytest.param(
            changed(options=["3", "3", "4"]),
            "test: row 3, options: has equal options",
            marks=member("documents", "two equal options", "used as they are; a note names them"),
        ),
    ],
)
def test_oddities_of_published_sets_are_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rows: list[dict[str, Any]], note: str
) -> None:
    dataset = prepared(tmp_path, lines(rows))
    assert note.replace("test:", "note: awkward/test:") in capfd.readouterr().err
    assert load_splits(dataset)["test"].to_list() == rows
    checked(tmp_path, dataset, CHOICE)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(
            changed(question=None),
            r"row 3, question: there is no value",
            marks=member("documents", "null where the task reads", "refused: row and field"),
        ),
        pytest.param(
            changed(question=" \u200b"),
            r"row 3, question: the prompt is empty",
            marks=member("documents", "a prompt of white space", "refused: row and field"),
        ),
        pytest.param(
            changed(options=["3", " ", "4"]),
            r"row 3, options\[1\]: an option is empty",
            marks=member("documents", "an option of white space", "refused: row and option"),
        ),
        pytest.param(
            changed(options=["3", None, "4"]),
            r"row 3, options\[1\]: an option is no text",
            marks=member("documents", "null as an option", "refused: row and option"),
        ),
        pytest.param(
            changed(options=[]),
            r"row 3, options: there are no options",
            marks=member("documents", "no options", "refused: row and field"),
        ),
        pytest.param(
            changed(gold=3),
            r"row 3, gold: the gold answer is no option: they are numbered from 0 to 2 \(got 3\)",
            marks=member("documents", "a gold index out of range", "refused: row, field, range"),
        ),
        pytest.param(
            changed(gold=-1),
            r"row 3, gold: the gold answer is no option",
            marks=member("documents", "a negative gold index", "refused: row, field, range"),
        ),
        pytest.param(
            changed(gold=None),
            r"row 3, .*: the gold answer is no option's number or text",
            marks=member("documents", "null as the gold answer", "refused: row and field"),
        ),
        pytest.param(
            [
                {**row, "gold": row["options"][1] + ("\u200b" if row["id"] == 2 else "")}
                for row in QUESTIONS
            ],
            r"row 3, gold: the gold answer is none of the options; it has an invisible character",
            marks=member("documents", "a gold text that is no option", "refused: row and field"),
        ),
        pytest.param(
            [{**row, "gold": "1"} for row in QUESTIONS],
            r"row 3, gold: the gold answer is none of the options",
            marks=member("documents", "gold indices as text", "refused: row and field"),
        ),
        pytest.param(
            [{**row, "gold": 1.0} for row in QUESTIONS],
            r"row 1, gold: the gold answer is no option's number or text",
            marks=member("documents", "gold indices as 1.0", "refused: row and field"),
        ),
        pytest.param(
            [{**row, "gold": [1] if row["id"] < 2 else []} for row in QUESTIONS],
            r"row 3, gold: there is no gold answer",
            marks=member("documents", "an empty list of gold answers", "refused: row and field"),
        ),
    ],
)
def test_a_document_that_cannot_be_scored_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    dataset = prepared(tmp_path, lines(rows))
    with pytest.raises(UserError, match=rf"test\.parquet: {message}") as caught:
        checked(tmp_path, dataset, CHOICE)
    assert "\n" not in str(caught.value)


def test_a_written_answer_needs_a_gold_answer(tmp_path: Path) -> None:
    rows = [{"question": row["question"], "gold": str(row["gold"])} for row in QUESTIONS]
    rows[1]["gold"] = ""
    with pytest.raises(UserError, match=r"row 2, gold: the gold answer is empty"):
        checked(tmp_path, prepared(tmp_path, lines(rows)), WRITTEN)


@member("documents", "a column that the task reads is missing", "refused: the column is named")
def test_a_missing_column_is_named(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("question", "gold")} for row in QUESTIONS]
    dataset = prepared(tmp_path, lines(rows))
    with pytest.raises(UserError, match=r"doc_to_choice names no column .*'options'"):
        checked(tmp_path, dataset, CHOICE)


def test_an_index_that_numpy_computed_is_a_number(tmp_path: Path) -> None:
    """As ToxiGen's, which rounds two ratings."""
    config = SimpleNamespace(
        process_docs=None, process_results=None, doc_to_choice=["No", "Yes"], doc_to_text="text"
    )
    task = SimpleNamespace(
        OUTPUT_TYPE="multiple_choice",
        config=config,
        eval_docs=[{"text": "Is it?"}],
        doc_to_text=lambda document: document["text"],
        doc_to_choice=lambda _: ["No", "Yes"],
        doc_to_target=lambda _: np.int32(1),
    )
    check_documents(task, [0], tmp_path / "test.parquet")
    task.doc_to_target = lambda _: np.int32(2)
    with pytest.raises(UserError, match="the gold answer is no option"):
        check_documents(task, [0], tmp_path / "test.parquet")


# --- few-shot examples ---------------------------------------------------------------------------


def prompts_with(
    tmp_path: Path, examples: list[dict[str, Any]], definition: str, shots: int = 3
) -> list[Any]:
    """Requests of a task whose prompts begin with examples, as a job builds them."""
    questions = [{**row, "answer": row["options"][1]} for row in QUESTIONS]
    for split, rows in (("test", questions), ("train", examples)):
        (tmp_path / f"{split}.jsonl").write_bytes(lines(rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("test", "train")}
    entry: Any = {"source": "local", "files": files, "license": "MIT"}
    prepare_dataset("awkward", entry, tmp_path / "dataset")
    folder = tmp_path / "custom" / "awkward"
    folder.mkdir(parents=True)
    (folder / "awkward.yaml").write_text(f"{definition}fewshot_split: train\n")
    task: Any = {**ENTRY, "num_fewshot": shots}
    (part,) = loader.load_parts("awkward", task, tmp_path / "dataset", "first_n")
    check_examples(part.task, tmp_path / "dataset")
    build_requests([part], {part.name: range(4)}, seed=1)
    return list(part.task.instances)


@pytest.mark.parametrize(
    ("definition", "fields", "said"),
    [
        pytest.param(
            WRITTEN.replace("gold", "answer"),
            {"answer": None},
            "few-shot example 3, answer: a few-shot example has no value",
            marks=member("documents", "null as a few-shot example's answer", "refused: row, field"),
        ),
        pytest.param(
            WRITTEN,
            {},
            "example 1, gold: a few-shot example is no text",
            id="a number as an answer",
        ),
        pytest.param(
            CHOICE,
            {"gold": 7},
            "few-shot example 3, gold: the answer is no option: they are numbered from 0 to 2",
            marks=member("documents", "a few-shot answer that is no option", "refused: row, field"),
        ),
        pytest.param(
            CHOICE,
            {"question": " "},
            "few-shot example 3, question: a few-shot example is empty",
            marks=member("documents", "a blank few-shot example", "refused: row and field"),
        ),
        pytest.param(
            CHOICE.replace("doc_to_target: gold", 'doc_to_target: "{{options.index(answer)}}"'),
            {"answer": "Z"},
            "few-shot example 3: doc_to_target of the task cannot read this row: ValueError",
            id="a label that is none",
        ),
    ],
)
def test_a_few_shot_example_without_an_answer_is_refused(
    tmp_path: Path, definition: str, fields: dict[str, Any], said: str
) -> None:
    rows = [{**row, "answer": row["options"][1]} for row in QUESTIONS]
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        prompts_with(tmp_path, [*rows[:2], {**rows[2], **fields}, rows[3]], definition)
    assert "train.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_odd_row_that_no_prompt_shows_stops_nothing(tmp_path: Path) -> None:
    examples = [*QUESTIONS[:3], {**QUESTIONS[3], "question": " "}]
    requests = prompts_with(tmp_path, examples, CHOICE)
    assert len(requests) == 12
    assert "What is 2 + 1?" in requests[0].args[0]
