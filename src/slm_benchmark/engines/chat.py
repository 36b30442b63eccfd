"""Prompts through a chat template that are the same in every run, and what is no part of an answer.

A template is a program: it can print today's date, choose by chance, and let a model think before
it answers. Here the date is fixed, thinking is off where the template has a switch for it, and a
template that chooses by chance is refused.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes

from slm_benchmark.common.errors import UserError
from slm_benchmark.records.types import PromptsBlock

DATE = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
"""What every template takes for today."""

_SWITCHES = ("enable_thinking", "thinking")
"""Variables of templates that let a model think."""

_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""Marks of Transformers around an assistant's text, which Jinja alone does not know."""

_ADDRESS = re.compile(r"\S+ at 0x[0-9a-f]+>")
"""What Python prints of an object that has no text: its address, another one in each process."""

_REASONING = tuple(
    re.compile(rf"(?P<opening>{re.escape(opening)})|{re.escape(closing)}", re.IGNORECASE)
    for opening, closing in (
        ("<think>", "</think>"),
        ("<thinking>", "</thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<analysis>", "</analysis>"),
        ("<seed:think>", "</seed:think>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
    )
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
        try:
            if self._program().by_chance:
                raise self._refuse(
                    "the chat template chooses by chance, so prompts would differ from run to run",
                    "remove the choice from the template",
                )
            prompt = self._apply(history, add_generation_prompt)
        except UserError:
            raise
        except Exception as error:  # a template is a program, and can fail in any way
            others = [message for message in history if message["role"] != "system"]
            try:
                if len(others) == len(history):
                    raise error
                # The harness's own backend drops a system message that is refused, too.
                prompt = self._apply(others, add_generation_prompt)
            except Exception as second:
                first = (str(second).strip() or type(second).__name__).splitlines()[0]
                raise self._refuse(
                    f"the chat template fails: {first}",
                    "correct the template, or write chat: false into the model's card",
                ) from second
        contents = "".join(str(message["content"]) for message in history)
        if any(address not in contents for address in _ADDRESS.findall(prompt)):
            raise self._refuse(
                "the chat template prints an object's address, so prompts would differ from run to "
                "run",
                "remove what prints it from the template",
            )
        self._prompts.update(prompt.encode("utf-8", "surrogatepass") + b"\0")
        return prompt

    def block(self) -> PromptsBlock:
        """What a record says of the prompts so far."""
        program = self._program()
        return {
            "sha256": self._prompts.hexdigest(),
            "date": DATE.date().isoformat() if program.reads_clock else None,
            "thinking": False if program.switches else None,
        }

    def _program(self) -> _Program:
        return _read(str(self._tokenizer.get_chat_template()))

    def _apply(self, history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        with _fixed_clock():
            return str(
                self._tokenizer.apply_chat_template(
                    history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                    **dict.fromkeys(self._program().switches, False),
                )
            )

    def _refuse(self, problem: str, fix: str) -> UserError:
        file = self._folder / "chat_template.jinja"
        if not file.is_file():
            file = self._folder / "tokenizer_config.json"
        return UserError(problem, file=str(file), field="chat_template", fix=fix)


@dataclass(frozen=True)
class _Program:
    """What a template does that its prompts alone do not show.

    Attributes:
        by_chance: Whether it chooses by chance.
        reads_clock: Whether it reads the date or the time.
        switches: Its switches of thinking.
    """

    by_chance: bool
    reads_clock: bool
    switches: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def _read(template: str) -> _Program:
    """Read a template once for all of its prompts; Jinja's own errors come up."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    parsed = environment.parse(_GENERATION.sub("", template))
    filters = {used.name for used in parsed.find_all(nodes.Filter)}
    names = {used.name for used in parsed.find_all(nodes.Name)}
    texts = {used.value for used in parsed.find_all(nodes.Const)}
    variables = meta.find_undeclared_variables(parsed)
    return _Program(
        by_chance="random" in filters
        or "lipsum" in names
        or ("map" in filters and "random" in texts),
        reads_clock="strftime_now" in variables,
        switches=tuple(name for name in _SWITCHES if name in variables),
    )


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
    """An answer without its reasoning; nothing, where the limit cut the reasoning itself.

    A text reasons when it begins with an opening mark, or when the template has opened one at the
    prompt's end. Any other text comes back as it is, whatever marks it speaks of.

    Args:
        prompt: What was answered.
        text: The whole generation.
    """
    for marks in _REASONING:
        opened = [match for match in marks.finditer(prompt.rstrip()) if match["opening"]]
        by_template = bool(opened) and opened[-1].end() == len(prompt.rstrip())
        begins = marks.match(text.lstrip())
        if by_template or (begins and begins["opening"]):
            return _outside(marks, text, depth=1 if by_template else 0)
    return text


def _outside(marks: re.Pattern[str], text: str, depth: int) -> str:
    """The parts of a text that reasons which lie outside all pairs of marks."""
    parts, end = [], 0
    for mark in marks.finditer(text):
        if depth == 0 and mark["opening"]:
            parts.append(text[end : mark.start()])
        # A closing mark without its opening one ends reasoning as well.
        elif depth == 0:
            parts.clear()
        depth = depth + 1 if mark["opening"] else max(0, depth - 1)
        end = mark.end()
    if depth == 0:
        parts.append(text[end:])
    return "".join(parts).lstrip()
