"""Prompts through a chat template that are the same in every run, and what is no part of an answer.

A template is a program: it can print today's date, choose by chance, and let a model think before
it answers. Here the date is fixed, thinking is off where the template has a switch for it, and a
template that chooses by chance is refused.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from slm_benchmark.common.errors import UserError
from slm_benchmark.records.types import PromptsBlock

DATE = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
"""What every template takes for today."""

_SWITCHES = ("enable_thinking", "thinking")
"""Variables of templates that let a model think."""

_CHANCE = re.compile(r"\|\s*random\b|\blipsum\s*\(")
"""What Jinja chooses by chance: a filter and a function."""

_REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
"""What models put before and behind their reasoning."""


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: Of Transformers.
        folder: That of its files, to name in errors.
    """

    def __init__(self, tokenizer: Any, folder: Path | str) -> None:
        self._tokenizer = tokenizer
        self._folder = Path(folder)
        self._prompts = hashlib.sha256()

    def render(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The history as one prompt; a system message that the template refuses is left out.

        Raises:
            UserError: when the template chooses by chance or fails.
        """
        template = self._template()
        if _CHANCE.search(template):
            raise self._refuse(
                "the chat template chooses by chance, so prompts would differ from run to run",
                "remove the choice from the template",
            )
        try:
            prompt = self._apply(template, history, add_generation_prompt)
        except jinja2.TemplateError as error:
            others = [message for message in history if message["role"] != "system"]
            try:
                if len(others) == len(history):
                    raise error
                # The harness's own backend drops a system message that is refused, too.
                prompt = self._apply(template, others, add_generation_prompt)
            except jinja2.TemplateError as second:
                raise self._refuse(
                    f"the chat template fails: {str(second).splitlines()[0]}",
                    "correct the template, or write chat: false into the model's card",
                ) from second
        self._prompts.update(prompt.encode("utf-8", "surrogatepass") + b"\0")
        return prompt

    def block(self) -> PromptsBlock:
        """What a record says of the prompts so far."""
        template = self._template()
        return {
            "sha256": self._prompts.hexdigest(),
            "date": DATE.date().isoformat() if "strftime_now" in template else None,
            "thinking": False if self._switches(template) else None,
        }

    def _template(self) -> str:
        return str(self._tokenizer.get_chat_template())

    @staticmethod
    def _switches(template: str) -> dict[str, bool]:
        """The template's switches of thinking, all off."""
        return {name: False for name in _SWITCHES if re.search(rf"(?<![\w.'\"]){name}\b", template)}

    def _apply(
        self, template: str, history: list[dict[str, str]], add_generation_prompt: bool
    ) -> str:
        with _fixed_clock():
            return str(
                self._tokenizer.apply_chat_template(
                    history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                    **self._switches(template),
                )
            )

    def _refuse(self, problem: str, fix: str) -> UserError:
        file = self._folder / "chat_template.jinja"
        if not file.is_file():
            file = self._folder / "tokenizer_config.json"
        return UserError(problem, file=str(file), field="chat_template", fix=fix)


class _Clock(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Clock:
        return cls.fromtimestamp(DATE.timestamp(), tz or datetime.UTC)


@contextlib.contextmanager
def _fixed_clock() -> Iterator[None]:
    """Let templates read `DATE`: Transformers gives them a function of the clock, and no choice."""
    from transformers.utils import chat_template_utils

    clock = chat_template_utils.datetime
    chat_template_utils.datetime = _Clock
    try:
        yield
    finally:
        chat_template_utils.datetime = clock


def without_reasoning(prompt: str, text: str) -> str:
    """An answer without the reasoning before it; all of a text that is reasoning to its end.

    A model may open its reasoning itself, or the template has opened it at the prompt's end: then
    the text has the closing mark alone. Text without such marks comes back as it is.

    Args:
        prompt: What was answered.
        text: The whole generation.
    """
    for opening, closing in _REASONING:
        opened = prompt.rstrip().endswith(opening)
        if opened and closing not in text:
            return ""
        if opened or (closing in text and opening not in text.partition(closing)[0]):
            text = text.partition(closing)[2].lstrip()
        while opening in text:
            before, _, rest = text.partition(opening)
            text = before + rest.partition(closing)[2].lstrip()
    return text
