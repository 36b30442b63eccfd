"""Prompts through chat templates: the same on every day, and answers without reasoning."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.api.instance import Instance
from tokenizers import AddedToken

from slm_benchmark.common.errors import UserError
from slm_benchmark.download.chat_template import ChatTemplate
from slm_benchmark.engines.identity import Name
from slm_benchmark.engines.reasoning import without_reasoning
from slm_benchmark.tasks.conversation import ConversationLM, conversation
from tests.engines.test_tokenizers import END, ENGINES, opened, write
from tests.support.members import member
from tests.support.tokenizers import byte_level, scripted

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
            f"2 + 2\n</think>\n\n{ANSWERED}",
            ANSWERED,
            marks=member("prompts", "a closing mark that none opened", "cut at this mark"),
        ),
        pytest.param("", "<think>a</think>\n\n    return 4", "    return 4", id="an indent"),
        pytest.param(
            "", f"<|channel>thought\na<channel|>{ANSWERED}", ANSWERED, id="a channel of thought"
        ),
        pytest.param(
            "",
            f"Sure. <think>2 + 2</think>{ANSWERED}",
            f"Sure. {ANSWERED}",
            marks=member("prompts", "reasoning behind a first sentence", "cut off and counted"),
        ),
        pytest.param(
            "", f"Sure.\n<think>2 + 2</think>{ANSWERED}", f"Sure.\n{ANSWERED}", id="a line"
        ),
        pytest.param("", "Sure: <think>2 + 2", "Sure: ", id="behind a sentence, and cut"),
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


def thinker(folder: Path, marks: Sequence[str], *, special: bool, template: str = PLAIN) -> str:
    """Save a model that thinks "fo;x" and answers "12"; returns its prompt."""
    named: dict[str, Any] = {"extra_special_tokens": list(marks)} if special else {}
    hub = byte_level(folder, chat_template=template, **named)
    if not special:
        hub.add_tokens([AddedToken(mark, special=False) for mark in marks])
        hub.save_pretrained(folder)
    first, last = hub.convert_tokens_to_ids(list(marks))
    words = [hub.encode(word)[0] for word in ("f", "o", ";", "x")]
    prompt = str(
        hub.apply_chat_template(
            [{"role": "user", "content": "Q"}], tokenize=False, add_generation_prompt=True
        )
    )
    opened = prompt.rstrip().endswith(marks[0])
    thoughts = [*words, last, *hub.encode("12"), END]
    answer = thoughts if opened else [first, *thoughts]
    begins = hub.encode(prompt, add_special_tokens=False)[-1]
    scripted(folder, len(hub), [begins, *answer])
    return prompt


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("marks", "special"),
    [
        pytest.param(
            ("[THINK]", "[/THINK]"),
            True,
            marks=member(
                "prompts", "marks of reasoning that are special tokens", "cut off and counted"
            ),
        ),
        pytest.param(
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            True,
            marks=member("prompts", "special tokens of another form", "cut off and counted"),
        ),
        pytest.param(("<think>", "</think>"), False, id="tokens that are text"),
    ],
)
def test_reasoning_between_tokens_is_cut(
    engine: Name, marks: Sequence[str], special: bool, tmp_path: Path
) -> None:
    thinker(tmp_path, marks, special=special)
    with opened(tmp_path, engine) as lm:
        prompt = lm.apply_chat_template([{"role": "user", "content": "Q"}])
        assert write(lm, prompt) == "12"
        assert lm.reasoning == {("test", 0): len(f"{marks[0]}fo;x{marks[1]}")}
        assert not lm.unfinished
        # Cut by the limit, it is no answer.
        assert write(lm, prompt, limit=3) == ""
        assert lm.unfinished


@member("prompts", "a stop string within reasoning", "ends nothing; one in the answer does")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stop_string_within_reasoning(engine: Name, tmp_path: Path) -> None:
    thinker(tmp_path, ("<think>", "</think>"), special=False)
    with opened(tmp_path, engine) as lm:
        prompt = lm.apply_chat_template([{"role": "user", "content": "Q"}])
        assert write(lm, prompt, [";"]) == "12"
        assert write(lm, prompt, ["2"]) == "1"


def test_without_a_chat_template_a_text_is_left_as_it_is(tmp_path: Path) -> None:
    prompt = thinker(tmp_path, ("<think>", "</think>"), special=False)
    with opened(tmp_path, "transformers") as lm:
        assert write(lm, prompt) == "<think>fo;x</think>12"
        assert not lm.reasoning


OPENING = PLAIN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
"""A template that lets a model think, and has no switch against it."""


def test_what_the_template_opened_is_cut(tmp_path: Path) -> None:
    thinker(tmp_path, ("<think>", "</think>"), special=True, template=OPENING)
    with opened(tmp_path, "transformers") as lm:
        assert write(lm, lm.apply_chat_template([{"role": "user", "content": "Q"}])) == "12"


@pytest.mark.parametrize(
    ("template", "switched"),
    [
        pytest.param(
            OPENING,
            False,
            marks=member(
                "prompts",
                "options behind a template that lets a model think",
                "refused before a score is computed",
            ),
        ),
        pytest.param(
            OPENING.replace(
                "<think>\n{%",
                "<think>\n{% if enable_thinking is defined and not enable_thinking %}\n</think>\n"
                "{% endif %}{%",
            ),
            True,
            marks=member(
                "prompts",
                "options behind a template with a switch of thinking",
                "scored behind the closed block",
            ),
        ),
    ],
)
def test_options_are_not_scored_as_thoughts(template: str, switched: bool, tmp_path: Path) -> None:
    thinker(tmp_path, ("<think>", "</think>"), special=True, template=template)
    with opened(tmp_path, "transformers") as lm:
        prompt = lm.apply_chat_template([{"role": "user", "content": "Q"}])
        asked = [Instance("loglikelihood", {}, (prompt, option), 0, ("t", 0, 1)) for option in "AB"]
        if switched:
            assert len(lm.loglikelihood(asked)) == 2
            return
        with pytest.raises(UserError, match=r"chat_template: .*has no switch against it.*Fix: "):
            lm.loglikelihood(asked)


@member("prompts", "reasoning in a conversation", "reaches neither a judge nor the next turn")
def test_a_conversation_holds_no_reasoning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinker(tmp_path, ("<think>", "</think>"), special=True)
    with opened(tmp_path, "transformers") as lm:
        prompts: list[str] = []
        render = lm.chat.render

        def rendered(*history: Any) -> str:
            prompts.append(render(*history))
            return prompts[-1]

        monkeypatch.setattr(lm.chat, "render", rendered)
        settings = {"until": [], "max_gen_toks": 24}
        turns = (conversation(["Q", "R"], {}), settings)
        asked = Instance("generate_until", {}, turns, 0, ("task", 7, 1))
        (answers,) = ConversationLM(lm).generate_until([asked])
        assert json.loads(answers) == ["12", "12"]
        assert "fo;x" not in prompts[1]
        assert lm.reasoning == {("task", 7): 2 * len("<think>fo;x</think>")}


def test_another_model_of_the_harness_leaves_its_reasoning_in(tmp_path: Path) -> None:
    """What it writes reaches neither a judge nor the next turn all the same."""
    thinker(tmp_path, ("<think>", "</think>"), special=True)
    with opened(tmp_path, "transformers") as lm:
        prompts: list[str] = []

        def write_all(requests: list[Instance], _: bool = False) -> list[str]:
            prompts.extend(request.args[0] for request in requests)
            return ["<think>secret</think>\n\nfour"] * len(requests)

        lm.generate_until = write_all
        turns = (conversation(["Q", "R"], {}), {"until": [], "max_gen_toks": 24})
        (answers,) = ConversationLM(lm).generate_until(
            [Instance("generate_until", {}, turns, 0, ("task", 7, 1))]
        )
    assert json.loads(answers) == ["four", "four"]
    assert "secret" not in prompts[1]


@member("prompts", "reasoning, by `lm_eval --apply_chat_template`", "cut off, as in the workflow")
def test_the_command_cuts_reasoning(tmp_path: Path) -> None:
    """`lm_eval --apply_chat_template` gives answers as the workflow does."""
    thinker(tmp_path / "model", ("<think>", "</think>"), special=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "Q", "answer": "12"}) + "\n")
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [";"], "max_gen_toks": 24},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "slm-transformers"),
            *("--model_args", f"pretrained={tmp_path / 'model'},dtype=float32,threads=1"),
            *("--tasks", "sums", "--include_path", str(tmp_path), "--apply_chat_template"),
            *("--output_path", str(tmp_path / "out"), "--log_samples"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_sums_*")
    (sample,) = [json.loads(line) for line in samples.open()]
    assert sample["resps"] == [["12"]]
    assert sample["exact_match"] == 1.0


@member("prompts", "the same template in another process", "the same prompts, bit for bit")
def test_another_process_renders_the_same(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dated"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%c') }}" + PLAIN)
    script = (
        "import sys; from transformers import AutoTokenizer\n"
        "from slm_benchmark.download.chat_template import ChatTemplate\n"
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
