"""The prompt of a measurement: exactly so many tokens, and a text that gives them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.profiling.prompts import PASSAGE, make_prompt


@pytest.mark.parametrize("tokens", [1, 2, 31, 512, 3000])
def test_a_prompt_has_exactly_the_tokens_asked_for(tiny_model: Path, tokens: int) -> None:
    prompt = make_prompt(tiny_model, tokens)
    assert len(prompt.ids) == tokens
    assert prompt.encode(prompt.text) == prompt.ids
    assert prompt.decode(prompt.ids) == prompt.text


def test_a_long_prompt_does_not_repeat_itself_exactly(tiny_model: Path) -> None:
    text = make_prompt(tiny_model, 3000).text
    assert text.count(PASSAGE[:80]) > 1
    assert "Part 1." in text
    assert "Part 2." in text


def test_tokens_around_a_text_are_part_of_the_prompt(tiny_model: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    prompt = make_prompt(tmp_path, 40)
    assert len(prompt.ids) == 40
    assert prompt.ids[0] == 1
    assert "<|im_start|>" not in prompt.text
    assert prompt.encode(prompt.text) == prompt.ids


def test_a_base_without_a_tokenizer_is_told(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(UserError, match=r"tokenizer\.json: the file is missing.*Fix: ") as caught:
        make_prompt(tmp_path, 8)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
