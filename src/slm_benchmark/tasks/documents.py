"""Documents as a task reads them: what cannot be scored rightly is named before a model is asked.

The harness renders a missing value as "None", takes the empty option for the likeliest text there
is, and counts a document whose gold answer is no option as wrong for every model.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import relative
from slm_benchmark.common.progress import say
from slm_benchmark.download.rows import comparable, is_blank, odd_characters

_FIX = "correct the row in the data, or leave it out"


@dataclass(frozen=True)
class _Origin:
    """Where a document lies, for the messages."""

    file: str
    row: str

    def error(self, what: str, field: str | None = None, value: object = None) -> UserError:
        named = self.row if field is None else f"{self.row}, {field}"
        return UserError(what, file=self.file, field=named, value=value, fix=_FIX)


def check_documents(
    task: Any, indices: Iterable[int], file: Path, columns: Sequence[str] = ()
) -> None:
    """Refuse documents that the task cannot score rightly, and say where options are equal.

    Args:
        task: The harness's task.
        indices: Places of the documents in the split that is scored.
        file: The prepared split, for messages.
        columns: Columns that the task's entry says it reads.

    Raises:
        UserError: naming file, row and field of the first such document.
    """
    documents = task.eval_docs
    # A task that filters its documents counts those that are left.
    word = "row" if task.config.process_docs is None else "document"
    equal: list[int] = []
    for index in indices:
        origin = _Origin(relative(file), f"{word} {index + 1}")
        document = documents[index]
        _check_columns(document, columns, origin)
        _check_prompt(task, document, origin)
        if task.OUTPUT_TYPE == "multiple_choice" or task.config.doc_to_choice is not None:
            options = _options(task, document, origin)
            if task.config.process_results is None:
                _check_gold(task, document, options, origin)
            if len({comparable(option) for option in options}) < len(options):
                equal.append(index + 1)
        elif task.OUTPUT_TYPE == "loglikelihood" or _compares_target(task):
            _check_target(task, document, origin)
    if equal:
        more = f" and {len(equal) - 1} more" if len(equal) > 1 else ""
        say(f"note: {relative(file)}: {word} {equal[0]}{more}: has equal options")


def check_examples(task: Any, dataset: Path) -> None:
    """Let each few-shot example be checked when it is drawn first, before any prompt is asked.

    Published sets have odd rows among thousands of examples; only those that prompts show matter.

    Args:
        task: The harness's task, whose sampler draws. When it draws an example without a prompt or
            an answer, that raises a `UserError` that names file, row and field.
        dataset: Folder of the prepared splits, for messages.
    """
    sampler = getattr(task, "sampler", None)
    if sampler is None or not hasattr(task, "fewshot_cfg"):
        return
    checked = set[str]()

    # A class, as a copy of the sampler has to draw from its own examples.
    class Checked(type(sampler)):  # type: ignore[misc]
        def sample(self, *arguments: Any, **named: Any) -> Any:
            drawn = super().sample(*arguments, **named)
            for document in drawn:
                if (key := repr(document)) not in checked:
                    checked.add(key)
                    origin = _example_origin(task, self.df, document, dataset)
                    _check_example(task, document, origin)
            return drawn

    sampler.__class__ = Checked


def _example_origin(task: Any, examples: Iterable[Any], document: Any, dataset: Path) -> _Origin:
    """The place of a few-shot example: in a split's file, or in the task's own definition."""
    split = task.fewshot_cfg.split or task.config.training_split or task.config.validation_split
    number = next((n for n, row in enumerate(examples, 1) if row == document), 0)
    file = dataset / f"{split}.parquet"
    where = relative(file) if file.is_file() else str(task.config.task)
    return _Origin(where, f"few-shot example {number}")


def _check_example(task: Any, document: Any, origin: _Origin) -> None:
    """Refuse a few-shot example that would show a prompt or an answer that is none."""

    def shown(name: str) -> Any:
        make, way = getattr(task, name), getattr(task.fewshot_cfg, name)
        return None if way is None else _called(lambda row: make(row, way), document, origin, name)

    options = shown("doc_to_choice")
    for name in ("doc_to_text", "doc_to_target"):
        value = shown(name)
        for part in value if isinstance(value, list | tuple) else [value]:
            field = _field(document, part, name)
            if part is None or (isinstance(part, float) and not math.isfinite(part)):
                raise origin.error("a few-shot example has no value here", field, part)
            if isinstance(part, str) and is_blank(part):
                raise origin.error("a few-shot example is empty here", field, part)
            if isinstance(part, numbers.Integral) and options is None:
                raise origin.error("a few-shot example is no text here", field, part)
            if isinstance(part, numbers.Integral) and not 0 <= int(part) < len(options):
                what = f"the answer is no option: they are numbered from 0 to {len(options) - 1}"
                raise origin.error(what, field, part)


def _check_columns(document: Mapping[str, Any], columns: Sequence[str], origin: _Origin) -> None:
    for column in columns:
        value = document.get(column, "")
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise origin.error("there is no value, and the task reads it", column, value)


def _called(function: Callable[[Any], Any], document: Any, origin: _Origin, name: str) -> Any:
    """What a function of the task makes of a document."""
    try:
        return function(document)
    except UserError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise origin.error(f"{name} of the task cannot read this row: {what}") from error


def _check_prompt(task: Any, document: Any, origin: _Origin) -> None:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return
    text = _called(task.doc_to_text, document, origin, "doc_to_text")
    field = _field(document, text, "doc_to_text")
    if text is None or (isinstance(text, float) and not math.isfinite(text)):
        raise origin.error("the prompt has no value", field, text)
    if isinstance(text, str) and is_blank(text) and task.config.doc_to_text != text:
        raise origin.error("the prompt is empty", field, text)


def _options(task: Any, document: Any, origin: _Origin) -> list[str]:
    """The options of a document, each of which is a text that shows something."""
    options = _called(task.doc_to_choice, document, origin, "doc_to_choice")
    field = _field(document, options, "doc_to_choice")
    if not isinstance(options, list | tuple) or not options:
        raise origin.error("there are no options", field, options)
    for number, option in enumerate(options):
        if not isinstance(option, str):
            raise origin.error("an option is no text", f"{field}[{number}]", option)
        if is_blank(option):
            raise origin.error("an option is empty", f"{field}[{number}]", option)
    if len(options) == 1:
        raise origin.error("there is one option only, which every model chooses", field, options)
    return list(options)


def _check_gold(task: Any, document: Any, options: Sequence[str], origin: _Origin) -> None:
    """Refuse a gold answer that is none of the options, as an index or as a text."""
    several_inputs = getattr(task, "multiple_input", 0)
    name = "doc_to_text" if several_inputs else "doc_to_target"
    gold = _called(getattr(task, name), document, origin, name)
    field = _field(document, gold, name)
    several = bool(getattr(task, "multiple_target", 0)) and not several_inputs
    if isinstance(gold, list | tuple) != several:
        kind = "a list of answers" if not several else "one answer"
        raise origin.error(f"the gold answer is {kind}, unlike that of the first row", field, gold)
    for answer in gold if several else [gold]:
        if isinstance(answer, str) and not several:
            if answer not in options:
                near = [o for o in options if comparable(o) == comparable(answer)]
                hint = "; it differs in white space or in how letters are composed" if near else ""
                odd = odd_characters(answer)
                hint = hint or (f"; it {odd}" if odd else "")
                raise origin.error(f"the gold answer is none of the options{hint}", field, answer)
        # A task may compute its answer with NumPy, whose integers are no int.
        elif not isinstance(answer, numbers.Integral):
            raise origin.error("the gold answer is no option's number or text", field, answer)
        elif not 0 <= int(answer) < len(options):
            what = f"the gold answer is no option: they are numbered from 0 to {len(options) - 1}"
            raise origin.error(what, field, answer)
    if several and not gold:
        raise origin.error("there is no gold answer", field, gold)


def _compares_target(task: Any) -> bool:
    """Whether the harness itself compares a generation with the target."""
    return task.OUTPUT_TYPE == "generate_until" and task.config.process_results is None


def _check_target(task: Any, document: Any, origin: _Origin) -> None:
    target = _called(task.doc_to_target, document, origin, "doc_to_target")
    field = _field(document, target, "doc_to_target")
    several = bool(getattr(task, "multiple_target", 0))
    for answer in target if several and isinstance(target, list | tuple) else [target]:
        if answer is None or (isinstance(answer, float) and not math.isfinite(answer)):
            raise origin.error("there is no gold answer", field, answer)
        if isinstance(answer, str) and is_blank(answer):
            raise origin.error("the gold answer is empty", field, answer)
    if several and (not isinstance(target, list | tuple) or not target):
        raise origin.error("there is no list of gold answers, as the first row has", field, target)


def _field(document: Mapping[str, Any], value: object, otherwise: str) -> str:
    """The column that a value is, or else the key of the task that makes it."""
    for name, member in document.items():
        if type(member) is type(value) and member == value:
            return str(name)
    return otherwise
