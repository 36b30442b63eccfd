"""The real tokenizers that packages carry: what is written behind a prompt, whole and unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.engines.base_tokenizer import BaseTokenizer
from tests.support.members import member
from tests.support.starters import tokenizer_files

pytestmark = pytest.mark.slow

TEXTS = {
    "code": "def halves(numbers):\n    # Half of each.\n    for n in numbers:\n        yield n\n",
    "many new lines": "First.\n\n\n  Second, indented;\n\tthird, with a tab.  \n",
    "other scripts": "Größe: 5 µm, 你好，世界 🙂👩‍🔬 — नमस्ते",
    "marks": "A: [x] (y) {z} <b> && || != 3.14e-5, don't",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tokenizers lie between the tests."""
    return tmp_path_factory.mktemp("tokenizers")


def whole(tokenizer: Any, ids: list[int]) -> str:
    """What tokens say together, or nothing where a character is cut."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return "" if "\ufffd" in text else text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "llama2",
            marks=member(
                "tokenizers",
                "the real tokenizer of Llama 2, as TinyLlama and Phi-3 have it",
                "an answer keeps every space and line, wherever the prompt ends",
            ),
        ),
        pytest.param(
            "gemma",
            marks=member("tokenizers", "the real tokenizer of Gemma", "so does its answer"),
        ),
        pytest.param(
            "qwen3",
            marks=member("tokenizers", "the real tokenizer of Qwen 2 and 3", "so does its answer"),
        ),
    ],
)
@pytest.mark.parametrize("kind", TEXTS)
def test_an_answer_is_what_follows_the_prompt(name: str, kind: str, cache: Path) -> None:
    """Cut a text at every token: prompt and answer together are the text."""
    text = TEXTS[kind]
    ours = BaseTokenizer(tokenizer_files(name, cache))
    ids = ours.encode(text)
    assert whole(ours.hub, ids) == text
    tried = 0
    for cut in range(2, len(ids)):
        prompt = whole(ours.hub, ids[:cut])
        if prompt and text.startswith(prompt):
            assert ours.answer(ids[:cut], ids[cut:]) == text[len(prompt) :], prompt
            tried += 1
    assert tried > len(ids) / 3


@pytest.mark.parametrize("name", ["llama2", "gemma", "qwen3"])
def test_a_completion_of_code_keeps_its_indent(name: str, cache: Path) -> None:
    """As HumanEval asks for it: the first line of an answer stands four spaces in."""
    ours = BaseTokenizer(tokenizer_files(name, cache))
    prompt, body = "def twice(n):\n", "    return 2 * n\n"
    context = ours.encode(prompt)
    new = ours.encode(prompt + body)[len(context) :]
    assert ours.encode(prompt + body)[: len(context)] == context
    answer = ours.answer(context, new)
    assert answer == body
    scope: dict[str, Any] = {}
    exec(prompt + answer, scope)
    assert scope["twice"](4) == 8
