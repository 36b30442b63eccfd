"""Prompts through a chat template that are the same in every run.

A template is a program: it can print today's date, choose by chance, and let a model think before
it answers. Here the date is fixed, thinking is off where the template has a switch for it, and a
template that chooses by chance is refused.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes

from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError, suggestion
from slm_benchmark.download.context import read_configuration
from slm_benchmark.records.types import PromptsBlock

DATE = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
"""What every template takes for today."""

DEFAULT = "default"
"""Name of the template that is used where none is named."""

_SWITCHES = (
    "enable_thinking",
    "thinking",
    "enable_reasoning",
    "enable_think",
    "thinking_enabled",
    "use_thinking",
)
"""Variables of templates that let a model think."""

_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""Marks of Transformers around an assistant's text, which Jinja alone does not know."""

_ADDRESS = re.compile(r"\S+ at 0x[0-9a-f]+>")
"""What Python prints of an object that has no text: its address, another one in each process."""

_CHANNEL = "<|channel|>"
"""A mark before each part of an answer, in the manner of gpt-oss."""

_TRIES = 8
"""How often a prompt is made to see whether it is always the same."""

_PLAIN = "write chat: false into the model's card"


@dataclass(frozen=True)
class Template:
    """A chat template of a model's folder.

    Attributes:
        text: The program.
        file: The file that holds it.
        hidden: A file with another one of the same name, which is not used.
    """

    text: str
    file: Path
    hidden: Path | None = None


def read_templates(folder: Path) -> dict[str, Template]:
    """Name → chat template, of all places for them in a model's folder.

    As Transformers reads them: chat_template.jinja comes before what tokenizer_config.json says,
    and each file of additional_chat_templates/ is one more, by its own name.

    Raises:
        UserError: when a file cannot be read, or holds something else.
    """
    described = folder / "tokenizer_config.json"
    templates = {
        name: Template(text, described) for name, text in _described_templates(described).items()
    }
    named = {file.stem: file for file in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        named[DEFAULT] = folder / "chat_template.jinja"
    for name, file in named.items():
        before = templates.get(name)
        try:
            text = file.read_text(encoding="utf-8-sig")
        except ValueError as error:
            raise UserError(
                f"the chat template is no text in UTF-8: {error}", file=file, fix="fetch it again"
            ) from error
        other = before is not None and before.text != text
        templates[name] = Template(text, file, described if other else None)
    return templates


def _described_templates(file: Path) -> dict[str, str]:
    """Name → text of the templates in tokenizer_config.json: one, or several with their names."""
    stated = read_configuration(file).get("chat_template") if file.is_file() else None
    if not stated:
        return {}
    if isinstance(stated, str):
        return {DEFAULT: stated}
    pairs: list[tuple[Any, Any]] = []
    if isinstance(stated, dict):
        pairs = [*stated.items()]
    elif isinstance(stated, list):
        one_by_one = [entry if isinstance(entry, dict) else {} for entry in stated]
        pairs = [(entry.get("name"), entry.get("template")) for entry in one_by_one]
    if not pairs or any(not isinstance(part, str) for pair in pairs for part in pair):
        raise UserError(
            "neither the text of a template nor a list of templates with their names",
            file=file,
            field="chat_template",
            fix="fetch the file again",
        )
    return dict(pairs)


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: Of Transformers; None where no prompt is to be made.
        folder: That of its files.

    Attributes:
        in_use: Whether it was asked for, so that prompts are its prompts.
    """

    def __init__(self, tokenizer: Any, folder: Path | str) -> None:
        self._tokenizer = tokenizer
        self._folder = Path(folder)
        self._name = DEFAULT
        self._prompts = hashlib.sha256()
        self.in_use = False

    def select(self, name: str | None = None) -> str | None:
        """Use a template from now on.

        Args:
            name: One of several; None = the one that is used where none is named.

        Returns:
            Its text; None where the tokenizer has no template at all.

        Raises:
            UserError: when none has this name, or none is to be used without a name.
        """
        self._name = name or DEFAULT
        if not self._templates:
            return None
        if not self.in_use and (hidden := self._template.hidden):
            progress.say(
                f"{hidden}: chat_template: not used, as {self._template.file.name} beside it holds "
                "another one"
            )
        self.in_use = True
        return self._template.text

    @property
    def text(self) -> str | None:
        """The program that is used; None where there is none, or none can be chosen."""
        template = self._templates.get(self._name)
        return None if template is None else template.text

    @functools.cached_property
    def _templates(self) -> Mapping[str, Template]:
        if templates := read_templates(self._folder):
            return templates
        # A tokenizer with code of its own may bring one.
        text = getattr(self._tokenizer, "chat_template", None)
        file = self._folder / "tokenizer_config.json"
        return {DEFAULT: Template(text, file)} if isinstance(text, str) and text else {}

    @property
    def _template(self) -> Template:
        template = self._templates.get(self._name)
        if template is not None:
            return template
        file = next((one.file for one in self._templates.values()), self._folder)
        if not self._templates:
            raise UserError(
                "the model's files hold no chat template",
                file=file,
                field="chat_template",
                fix=_PLAIN,
            )
        if self._name != DEFAULT:
            raise UserError(
                "no chat template has this name",
                file=file,
                field="chat_template",
                value=self._name,
                fix=suggestion(self._name, self._templates),
            )
        raise UserError(
            "none of several chat templates is the default",
            file=file,
            field="chat_template",
            value=", ".join(sorted(self._templates)),
            fix="write the one to use into chat_template.jinja beside it",
        )

    def check_program(self) -> None:
        """Refuse a template whose text alone shows that no prompt can be made with it.

        Raises:
            UserError: when it chooses by chance or is no template; or when answers come in
                channels.
        """
        if _CHANNEL in self._template.text:
            raise self.refuse(
                f"the model answers in channels ({_CHANNEL}), and which of them is the answer is "
                "not known here",
                _PLAIN,
            )
        try:
            by_chance = self._program().by_chance
        except jinja2.TemplateError as error:
            raise self._failure(error) from error
        if by_chance:
            raise self._by_chance()

    def check(self) -> str:
        """Refuse a template that no prompt can be made with, before a model is asked anything.

        Returns:
            A short prompt, to see how it ends.

        Raises:
            UserError: as `check_program` and `render`.
        """
        self.check_program()
        question = "Which number follows 2?"
        history = [{"role": "user", "content": question}]
        before = random.getstate()
        prompts = set()
        for seed in range(_TRIES):
            random.seed(seed)
            prompts.add(self._rendered(history))
        random.setstate(before)
        if len(prompts) > 1:
            raise self._by_chance()
        if question not in (prompt := prompts.pop()):
            raise self.refuse(
                "a prompt through the chat template does not hold what was asked",
                f"correct the template, or {_PLAIN}",
            )
        return prompt

    def render(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The history as one prompt; a system message that the template refuses is left out.

        Raises:
            UserError: when the template chooses by chance or fails.
        """
        if not self.in_use:
            self.select()
        prompt = self._rendered(history, add_generation_prompt)
        self._prompts.update(prompt.encode("utf-8", "surrogatepass") + b"\0")
        return prompt

    def _rendered(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            if self._program().by_chance:
                raise self._by_chance()
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
                raise self._failure(second) from second
        contents = "".join(str(message["content"]) for message in history)
        if any(address not in contents for address in _ADDRESS.findall(prompt)):
            raise self.refuse(
                "the chat template prints an object's address, so prompts would differ from run to "
                "run",
                "remove what prints it from the template",
            )
        return prompt

    def block(self) -> PromptsBlock:
        """What a record says of the prompts so far."""
        program = self._program()
        return {
            "sha256": self._prompts.hexdigest(),
            "date": DATE.date().isoformat() if program.reads_clock else None,
            "thinking": False if program.switches else None,
        }

    def refuse(self, problem: str, fix: str) -> UserError:
        """An error about the template that is used."""
        return UserError(problem, file=self._template.file, field="chat_template", fix=fix)

    def _failure(self, error: Exception) -> UserError:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return self.refuse(
            f"the chat template fails: {first}", f"correct the template, or {_PLAIN}"
        )

    def _by_chance(self) -> UserError:
        return self.refuse(
            "the chat template chooses by chance, so prompts would differ from run to run",
            "remove the choice from the template",
        )

    def _program(self) -> _Program:
        return _read(self._template.text)

    def _apply(self, history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        with _fixed_clock():
            return str(
                self._tokenizer.apply_chat_template(
                    history,
                    chat_template=self._template.text,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                    **dict.fromkeys(self._program().switches, False),
                )
            )


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
