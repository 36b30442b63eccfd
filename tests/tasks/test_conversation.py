"""Two-turn conversations over the engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from slm_benchmark.engines.engine import Engine
from slm_benchmark.engines.journal import Journal
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings
from slm_benchmark.tasks.conversation import ConversationLM, NoChatTemplate, conversation

QUESTIONS = [(f"Name planet {number}.", f"And {number} moons?") for number in range(6)]


def requests(
    questions: Sequence[Sequence[str]] = QUESTIONS, limit: int = 8, **settings: Any
) -> list[Instance]:
    return [
        Instance(
            "generate_until",
            {},
            (conversation(turns, settings), {"until": [], "max_gen_toks": limit}),
            0,
            ("talk", number, 1),
        )
        for number, turns in enumerate(questions)
    ]


def load(tiny_model: Path, weights: Path, **more: Any) -> Engine:
    return load_engine("llama.cpp", weights, tiny_model, Settings(256, 1, seed=3), **more)


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tiny_gguf: Path) -> Engine:
    return load(tiny_model, tiny_gguf)


class Listening:
    """A language model that remembers what it is asked, around another."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        self.asked: list[list[tuple[str, dict[str, Any]]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked.append([request.args for request in requests])
        answers: list[str] = self.lm.generate_until(requests, disable_tqdm)
        return answers


def test_the_second_turn_sees_the_first_answer_in_the_chat_template(engine: Engine) -> None:
    heard = Listening(engine.lm)
    answers = [json.loads(text) for text in ConversationLM(heard).generate_until(requests())]
    first, second = heard.asked  # all first turns together, then all second ones
    assert len({answer for answer, _ in answers}) > 1
    for (question, further), (answer, _), (one, _), (two, _) in zip(
        QUESTIONS, answers, first, second, strict=True
    ):
        begin = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        assert one == begin
        assert answer
        assert two == (
            f"{begin}{answer}<|im_end|>\n<|im_start|>user\n{further}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


def test_each_answer_is_what_the_model_says_to_that_prompt(engine: Engine) -> None:
    heard = Listening(engine.lm)
    answers = [json.loads(text) for text in ConversationLM(heard).generate_until(requests())]
    prompts = [
        Instance("generate_until", {}, arguments, 0, ("talk", number, 1))
        for turn in heard.asked
        for number, arguments in enumerate(turn)
    ]
    alone = [text.strip() for text in engine.lm.generate_until(prompts)]
    assert alone == [answer for answer, _ in answers] + [answer for _, answer in answers]


def test_conversations_of_different_lengths_keep_their_order(engine: Engine) -> None:
    told = [["One?"], ["One?", "Two?", "Three?"], ["One?", "Two?"]]
    answers = [json.loads(t) for t in ConversationLM(engine.lm).generate_until(requests(told))]
    assert [len(said) for said in answers] == [1, 3, 2]
    assert answers[0][0] == answers[1][0] == answers[2][0]
    assert answers[1][1] == answers[2][1]


def test_a_conversations_own_settings_come_before_its_tasks(engine: Engine) -> None:
    heard = Listening(engine.lm)
    ConversationLM(heard).generate_until(requests(do_sample=True, temperature=0.7))
    asked = [settings for turn in heard.asked for _, settings in turn]
    assert len(asked) == 2 * len(QUESTIONS)
    wanted = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 0.7}
    assert all(settings == wanted for settings in asked)


def test_sampled_conversations_repeat_with_the_seed(tiny_model: Path, tiny_gguf: Path) -> None:
    def answers(seed: int) -> list[str]:
        engine = load_engine("llama.cpp", tiny_gguf, tiny_model, Settings(256, 1, seed=seed))
        asked = requests(do_sample=True, temperature=0.7)
        found = ConversationLM(engine.lm).generate_until(asked)
        engine.close()
        return found

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_marks_are_by_document(tiny_model: Path, tiny_gguf: Path) -> None:
    engine = load(tiny_model, tiny_gguf)
    lm = ConversationLM(engine.lm)
    long = "Why? " * 100
    lm.generate_until(requests([["Short?", "Shorter?"], ["Short?", long]]))
    assert lm.truncated == {("talk", 1)}
    assert lm.unfinished <= {("talk", 0), ("talk", 1)}
    assert lm.unfinished  # the limit of 8 tokens ends most answers of a random model
    assert lm.tokens()["generated_tokens"] > 8


def test_everything_else_is_the_models_own(engine: Engine) -> None:
    lm = ConversationLM(engine.lm)
    assert lm.max_length == 256
    assert lm.tokenizer_name == engine.lm.tokenizer_name
    assert lm.chat_template(True) == engine.lm.chat_template(True)
    said = [{"role": "user", "content": "Mars?"}]
    assert lm.apply_chat_template(said) == engine.lm.apply_chat_template(said)
    scored = [Instance("loglikelihood", {}, ("Mars is", " a planet"), 0, ("s", 0, 1))]
    assert lm.loglikelihood(scored) == engine.lm.loglikelihood(scored)
    with pytest.raises(AttributeError):
        _ = lm.nothing_of_that_name


def test_answers_survive_as_json(engine: Engine) -> None:
    class Odd(Listening):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return ['  "a\\n[[5]]"\u2028é\n' for _ in requests]

    (text,) = ConversationLM(Odd(engine.lm)).generate_until(requests([["One?", "Two?"]]))
    assert json.loads(text) == ['"a\\n[[5]]"\u2028é'] * 2


def test_a_model_without_a_chat_template_is_told_apart(
    tiny_model: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    plain = shutil.copytree(tiny_model, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    engine = load(plain, tiny_gguf)
    with pytest.raises(NoChatTemplate, match="no chat template"):
        ConversationLM(engine.lm)
    engine.close()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [2, 8])  # inside the first turn, inside the second
def test_a_killed_conversation_asks_nothing_twice(
    after: int, tiny_model: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    def journal(path: Path) -> Any:
        return lambda identity: Journal(path, identity)

    def answers(path: Path, kill_after: int | None) -> tuple[list[str], int]:
        done = 0

        def progress(*counts: int) -> None:
            nonlocal done
            done += 1
            if done == kill_after:
                raise Killed

        engine = load(tiny_model, tiny_gguf, progress=progress, journal=journal(path))
        try:
            return ConversationLM(engine.lm).generate_until(requests()), done
        finally:
            engine.close()

    whole, asked = answers(tmp_path / "whole.jsonl", None)
    assert asked == 2 * len(QUESTIONS)
    killed = tmp_path / "killed.jsonl"
    with pytest.raises(Killed):
        answers(killed, after)
    assert answers(killed, None) == (whole, asked - after)
    assert answers(killed, None) == (whole, 0)
