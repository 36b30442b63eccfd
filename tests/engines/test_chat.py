"""Prompts through chat templates: the same on every day, and answers without reasoning."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from slm_benchmark.common.errors import UserError
from slm_benchmark.engines.chat import ChatTemplate, without_reasoning
from slm_benchmark.tasks.conversation import AnswersLM, ConversationLM, conversation
from tests.support.members import member

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HISTORY = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
CLOSED = "<think>\n\n</think>\n\n"


@pytest.fixture
def template(tiny_model: Path, tmp_path: Path) -> Callable[[str], ChatTemplate]:
    """Make the chat template of a tokenizer that has this text."""

    def make(text: str) -> ChatTemplate:
        from transformers import AutoTokenizer

        folder = tmp_path / "tokenizer"
        shutil.copytree(tiny_model, folder)
        (folder / "chat_template.jinja").write_text(text)
        return ChatTemplate(AutoTokenizer.from_pretrained(folder), folder)

    return make


@pytest.mark.parametrize(
    ("text", "begins", "date"),
    [
        pytest.param(
            "Today: {{ strftime_now('%d %b %Y') }}\n" + PLAIN,
            "Today: 01 Jan 2026\n",
            "2026-01-01",
            marks=member(
                "prompts", "a template that prints the date", "a fixed date, in the record"
            ),
        ),
        pytest.param(
            "{% set now = strftime_now('%H:%M') %}{{ now }}|" + PLAIN,
            "12:00|",
            "2026-01-01",
            marks=member("prompts", "a template that prints the time", "a fixed time of that date"),
        ),
        pytest.param(
            "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
            "{{ date_string }}|" + PLAIN,
            "26 Jul 2024|",
            None,
            marks=member("prompts", "a template with a date of its own", "used as it is"),
        ),
        pytest.param("{# never | random, thinking #}|" + PLAIN, "|<|im_start|>", None),
        pytest.param("You are thinking.|" + PLAIN, "You are thinking.|", None),
        pytest.param(
            "{% if tools is defined and tools %}tools{% endif %}|" + PLAIN,
            "|<|im_start|>system",
            None,
            marks=member("prompts", "a template that can list tools", "none are listed"),
        ),
    ],
)
def test_a_prompt_is_the_same_on_every_day(
    template: Callable[[str], ChatTemplate], text: str, begins: str, date: str | None
) -> None:
    chat = template(text)
    assert chat.render(HISTORY).startswith(begins)
    block = chat.block()
    assert (block["date"], block["thinking"]) == (date, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "{{ ['Hello', 'Hi'] | random }}" + PLAIN,
            "chooses by chance",
            marks=member("prompts", "a template that chooses by chance", "refused in one line"),
        ),
        pytest.param(
            "{{ lipsum(n=1) }}" + PLAIN,
            "chooses by chance",
            marks=member("prompts", "a template with random filler text", "refused in one line"),
        ),
        pytest.param("{{ ['a', 'b'] | map('random') | list }}" + PLAIN, "chooses by chance"),
        pytest.param("{% filter random %}ab{% endfilter %}" + PLAIN, "chooses by chance"),
        pytest.param("{% set f = lipsum %}{{ f() }}" + PLAIN, "chooses by chance"),
        pytest.param(
            "{{ raise_exception }}" + PLAIN,
            "an object's address",
            marks=member("prompts", "a template that prints an address", "refused in one line"),
        ),
        pytest.param("{{ raise_exception('') }}" + PLAIN, "fails: TemplateError"),
        pytest.param("{{ 1 + 'a' }}" + PLAIN, "fails: unsupported operand"),
        pytest.param("{% if %}" + PLAIN, "fails: Expected an expression"),
        pytest.param(
            "{{ now().year }}" + PLAIN,
            "fails: 'now' is undefined",
            marks=member(
                "prompts", "a template that asks for the clock itself", "refused in one line"
            ),
        ),
        pytest.param(
            "{{ raise_exception('no roles please') }}" + PLAIN,
            "fails: no roles please",
            marks=member("prompts", "a template that always fails", "refused, with its own words"),
        ),
    ],
)
def test_what_cannot_be_the_same_is_refused(
    template: Callable[[str], ChatTemplate], text: str, said: str
) -> None:
    chat = template(text)
    with pytest.raises(UserError, match=said) as refusal:
        chat.render(HISTORY)
    assert "chat_template.jinja: chat_template: " in str(refusal.value)


@member("prompts", "a template that refuses a system message", "the message is left out")
def test_a_refused_system_message_is_left_out(template: Callable[[str], ChatTemplate]) -> None:
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    assert template(refusing + PLAIN).render(HISTORY).startswith("<|im_start|>user\nHi")


@pytest.mark.parametrize(
    "switch",
    [
        pytest.param(
            "enable_thinking",
            marks=member(
                "prompts", "thinking that is on by default", "off, and the record says so"
            ),
        ),
        pytest.param("thinking"),
    ],
)
def test_thinking_is_off_where_there_is_a_switch(
    template: Callable[[str], ChatTemplate], switch: str
) -> None:
    chat = template(
        PLAIN + f"{{% if {switch} is defined and {switch} is false %}}{CLOSED}{{% endif %}}"
    )
    assert chat.render(HISTORY).endswith("assistant\n" + CLOSED)
    assert chat.block()["thinking"] is False


def test_the_digest_is_of_the_rendered_prompts(template: Callable[[str], ChatTemplate]) -> None:
    chat = template(PLAIN)
    empty = chat.block()["sha256"]
    chat.render(HISTORY)
    once = chat.block()["sha256"]
    chat.render(HISTORY)
    assert len({empty, once, chat.block()["sha256"]}) == 3


ANSWERED = "Four."


@pytest.mark.parametrize(
    ("prompt", "text", "answer"),
    [
        pytest.param("", ANSWERED, ANSWERED, id="no reasoning"),
        pytest.param(
            "",
            f"<think>\n2 + 2\n</think>\n\n{ANSWERED}",
            ANSWERED,
            marks=member("prompts", "reasoning before an answer", "cut off and counted"),
        ),
        pytest.param(
            "",
            "<think>\n2 + 2, so",
            "",
            marks=member("prompts", "reasoning that the limit cut", "no answer is left"),
        ),
        pytest.param(
            "<|im_start|>assistant\n<think>\n",
            f"2 + 2\n</think>\n{ANSWERED}",
            ANSWERED,
            marks=member(
                "prompts", "reasoning that the template opened", "cut at its closing mark"
            ),
        ),
        pytest.param("…<think>\n", "2 + 2, so", "", id="opened and cut"),
        pytest.param(
            "",
            f"<think>a <think>b</think> c</think>{ANSWERED}",
            ANSWERED,
            marks=member("prompts", "reasoning within reasoning", "all of it is cut off"),
        ),
        pytest.param("", f"<think>a</think>b</think>{ANSWERED}", ANSWERED, id="closed twice"),
        pytest.param("", f"<THINK>a</THINK>{ANSWERED}", ANSWERED, id="large letters"),
        pytest.param(
            "",
            "Use the tag <thinking> in XML, then </thinking>.",
            "Use the tag <thinking> in XML, then </thinking>.",
            marks=member("prompts", "an answer about such marks", "left as it is"),
        ),
        pytest.param("What does <think> do?", ANSWERED, ANSWERED, id="asked about marks"),
        pytest.param(
            "",
            f"[THINK]2 + 2[/THINK]{ANSWERED}",
            ANSWERED,
            marks=member("prompts", "reasoning in other marks", "cut off and counted"),
        ),
        pytest.param("", f"<reasoning>a</reasoning>{ANSWERED}", ANSWERED, id="reasoning"),
        pytest.param(
            "", f"<think>a</think>{ANSWERED} <think>b</think>Yes.", f"{ANSWERED} Yes.", id="twice"
        ),
        pytest.param("", "I think: <b>4</b>", "I think: <b>4</b>", id="other marks"),
        pytest.param("…<think>\n\n</think>\n\n", ANSWERED, ANSWERED, id="switched off"),
    ],
)
def test_an_answer_has_no_reasoning(prompt: str, text: str, answer: str) -> None:
    assert without_reasoning(prompt, text) == answer


class Thinker:
    """A model that thinks before it says which turn it is."""

    def __init__(self) -> None:
        self.reasoning: dict[tuple[str | None, int | None], int] = {}
        self.prompts: list[str] = []

    def chat_template(self, _: bool | str) -> str:
        return PLAIN

    def apply_chat_template(self, history: list[dict[str, str]], _: bool = True) -> str:
        return json.dumps(history)

    def generate_until(self, requests: list[Instance], _: bool = False) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [f"<think>secret</think> turn {len(self.prompts)}"] * len(requests)


def request(context: str) -> Instance:
    return Instance("generate_until", {}, (context, {"until": []}), 0, ("task", 7, 1))


@member("prompts", "reasoning in a conversation", "reaches neither a judge nor the next turn")
def test_a_conversation_holds_no_reasoning() -> None:
    thinker: Any = Thinker()
    (answers,) = ConversationLM(thinker).generate_until([request(conversation(["1", "2"], {}))])
    assert json.loads(answers) == ["turn 1", "turn 2"]
    assert "secret" not in thinker.prompts[1]
    assert thinker.reasoning == {("task", 7): 2 * len("<think>secret</think> ")}


def test_a_single_answer_holds_no_reasoning() -> None:
    thinker: Any = Thinker()
    assert AnswersLM(thinker).generate_until([request("1")]) == ["turn 1"]
    assert list(thinker.reasoning) == [("task", 7)]


@member("prompts", "the same template in another process", "the same prompts, bit for bit")
def test_another_process_renders_the_same(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dated"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%c') }}" + PLAIN)
    script = (
        "import sys; from transformers import AutoTokenizer\n"
        "from slm_benchmark.engines.chat import ChatTemplate\n"
        "chat = ChatTemplate(AutoTokenizer.from_pretrained(sys.argv[1]), sys.argv[1])\n"
        "chat.render([{'role': 'user', 'content': 'Hi'}]); print(chat.block()['sha256'])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
