"""Awkward tokenizers and chat templates, by the workflow as typed: one run of several models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.support.checkout import Checkout, Done, half_written, make_checkout
from tests.support.members import member
from tests.support.tokenizers import byte_level, scripted
from tests.workflow.test_workflow import add_card, card, small_demo

TURNS = (
    "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|turn_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
DATED = "Today is {{ strftime_now('%d %B %Y') }}.\n" + TURNS
OPENING = TURNS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CHANCE = "{{ ['Hello', 'Good day'] | random }} " + TURNS


def thinker(folder: Path, template: str) -> None:
    """A chat model that writes ``<think>fo</think>12`` and ends its turn.

    Its tokenizer puts EOS behind every text, and generation_config.json alone names a turn's end.
    """
    hub = byte_level(
        folder,
        around="<s> $A </s>",
        chat_template=template,
        extra_special_tokens=["<think>", "</think>"],
    )
    opening, closing, end = hub.convert_tokens_to_ids(["<think>", "</think>", "<|turn_end|>"])
    begin = hub.encode("assistant\n", add_special_tokens=False)[-1]
    thoughts = [hub.encode(letter, add_special_tokens=False)[0] for letter in "fo"]
    answer = hub.encode("12", add_special_tokens=False)
    scripted(folder, len(hub), [begin, opening, *thoughts, closing, *answer, end])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, end]}))


def cut_off(folder: Path) -> None:
    """A chat model whose tokenizer.json is the first half of one."""
    thinker(folder, TURNS)
    file = folder / "tokenizer.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])


MODELS: dict[str, Callable[[Path], None]] = {
    "dated": lambda folder: thinker(folder, DATED),
    "opening": lambda folder: thinker(folder, OPENING),
    "chance": lambda folder: thinker(folder, CHANCE),
    "cut": cut_off,
}
"""Id of a model → what writes its files."""

CELLS = {
    "dated": "gsm8k",
    "opening": "arc_challenge",
    "chance": "gsm8k",
    "cut": "gsm8k",
}
"""Model → the task that is asked of it."""


def result(model: str) -> str:
    """The record of a model's task."""
    return f"runs/{model}/base/local/demo/{CELLS[model]}.json"


@dataclass(frozen=True)
class Run:
    """A checkout and what a run over all models printed."""

    checkout: Checkout
    done: Done

    def error(self, model: str) -> str:
        """The one line about a model."""
        (line,) = {
            line for line in self.done.errors() if f"{model}." in line or f"{model}/" in line
        }
        return line

    def answers(self, model: str) -> list[dict[str, Any]]:
        """What a model answered, by document."""
        file = self.checkout.path(result(model)).with_suffix(".answers.parquet")
        return [json.loads(t) for t in pyarrow.parquet.read_table(file)["sample"].to_pylist()]


@pytest.fixture(scope="module")
def awkward(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("texts")
    checkout = make_checkout(folder)
    small_demo(checkout, folder / "index", tiny_model)
    for model, write in MODELS.items():
        path = checkout.path(f"data/{model}")
        write(path)
        source = {"type": "local", "path": f"data/{model}", "format": "transformers"}
        add_card(checkout, card(model, source, chat=True, parameters=size(path)))

    def templated(protocols: dict[str, Any]) -> None:
        protocols["demo"] |= {
            "chat_template": "chat_models",
            "documents": {"default": 2},
            "max_gen_toks": 24,
        }

    checkout.edit("config/protocols.yaml", templated)
    checkout.commit("Awkward texts")
    chosen = ("--config", f"models={json.dumps([*MODELS])}", 'variants=["base"]')
    targets = [result(model) for model in MODELS]
    return Run(checkout, checkout.snakemake("--keep-going", *targets, *chosen))


def size(folder: Path) -> int:
    """Parameters of a model's file."""
    import safetensors.numpy

    return sum(t.size for t in safetensors.numpy.load_file(folder / "model.safetensors").values())


@member(
    "prompts",
    "by the workflow: a date, and thoughts between special tokens",
    "a fixed date in the record; answers without the thoughts, which are counted",
)
def test_a_dated_thinker_is_measured(awkward: Run) -> None:
    record = awkward.checkout.record(result("dated"))
    assert record["state"] == "ok", awkward.done.output
    assert record["prompts"]["date"] == "2026-01-01"
    answers = awkward.checkout.record(result("dated").replace(".json", ".answers.json"))
    assert answers["prompts"] == record["prompts"]
    assert answers["prompts"]["reasoning_documents"] == 2
    assert answers["prompts"]["reasoning_characters"] == 2 * len("<think>fo</think>")
    assert [row["responses"] for row in awkward.answers("dated")] == [[["12"]]] * 2


@member(
    "tokenizers",
    "by the workflow: EOS behind every text, and a turn's end in generation_config.json alone",
    "prompts hold no EOS, and the answer ends there",
)
def test_nothing_is_cut_by_its_limit(awkward: Run) -> None:
    assert [row["truncated"] for row in awkward.answers("dated")] == [False, False]
    assert "</s>" in awkward.done.output


@member(
    "prompts",
    "by the workflow: options behind a template that lets a model think",
    "one line before weights are loaded; no record",
)
def test_options_are_not_thoughts(awkward: Run) -> None:
    line = awkward.error("opening")
    assert "chat_template: the chat template lets the model think" in line
    assert "Fix: " in line


@member("prompts", "by the workflow: a template that chooses by chance", "refused at download")
def test_chance_is_refused(awkward: Run) -> None:
    assert "chat_template: the chat template chooses by chance" in awkward.error("chance")
    assert not awkward.checkout.path("resources/models/chance/base").exists()


@member("tokenizers", "by the workflow: a tokenizer.json that was cut off", "refused at download")
def test_half_a_tokenizer_is_refused(awkward: Run) -> None:
    assert "tokenizer.json: the file cannot be read" in awkward.error("cut")
    assert not awkward.checkout.path("resources/models/cut/base").exists()


def test_refused_models_leave_nothing_and_stop_no_other(awkward: Run) -> None:
    assert awkward.done.code == 1
    assert len(awkward.done.errors()) == 3, awkward.done.errors()
    assert "Traceback" not in awkward.done.output
    assert half_written(awkward.checkout) == []
    assert not any(awkward.checkout.path(result(m)).exists() for m in ("opening", "chance", "cut"))
