"""The synthetic tasks: exact difficulty, nothing twice, the same everywhere, and honest scores."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from slm_benchmark.common.files import digest, read_yaml
from slm_benchmark.common.paths import CUSTOM
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.tasks.loader import load_parts

FOLDER = CUSTOM / "synthetic"
LANGUAGES = ("en", "de", "es", "fr")
LEVELS = (1, 2, 3, 4)

Row = dict[str, Any]


def module(name: str) -> ModuleType:
    """A module of the folder, loaded as the workflow does: from its file."""
    spec = importlib.util.spec_from_file_location(f"synthetic_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


generate, checks = module("generate"), module("checks")
FUNCTIONS: list[Callable[..., dict[str, list[Row]]]] = [
    generate.arithmetic,
    generate.retrieval,
    generate.instructions,
]


def drawn(function: Callable[..., Any], level: int, language: str = "en", seed: int = 1) -> Any:
    """The splits of one part, in the size of benchmark.yaml."""
    return function(language=language, level=level, documents=80, examples=8, seed=seed)


# --- difficulty ---------------------------------------------------------------------------------


def carries_by_hand(operation: str, first: int, second: int) -> int:
    """Columns that carry, digit by digit as at school."""
    carry = count = 0
    others = str(second)[::-1] if operation == "sum" else None
    for place, digit in enumerate(str(first)[::-1]):
        if others is None:
            done = int(digit) * second + carry
        else:
            done = int(digit) + int(others[place]) + carry
        carry = done // 10
        count += carry > 0
    return count


@settings(deadline=None, max_examples=150)
@given(
    operation=st.sampled_from(["sum", "product"]),
    digits=st.integers(1, 6),
    seed=st.integers(0, 10**9),
    data=st.data(),
)
def test_operands_have_exactly_the_digits_and_carries(
    operation: str, digits: int, seed: int, data: st.DataObject
) -> None:
    carries = data.draw(st.integers(0, digits))
    first, second = generate.operands(random.Random(seed), operation, digits, carries)
    assert len(str(first)) == digits
    assert len(str(second)) == (digits if operation == "sum" else 1)
    assert carries_by_hand(operation, first, second) == carries
    if operation == "sum":  # each carry turns ten units of a column into one of the next

        def digit_sum(number: int) -> int:
            return sum(map(int, str(number)))

        assert digit_sum(first) + digit_sum(second) - digit_sum(first + second) == 9 * carries


def test_more_carries_than_columns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "ATTEMPTS", 100)
    with pytest.raises(ValueError, match="no sum of 2 digits with 3 carries"):
        generate.operands(random.Random(1), "sum", 2, 3)


@pytest.mark.parametrize("level", LEVELS)
def test_arithmetic_is_what_its_level_says(level: int) -> None:
    size = generate.ARITHMETIC_LEVELS[level]
    rows = drawn(generate.arithmetic, level)["test"]
    for row in rows:
        first, second = map(int, re.findall(r"\d+", row["prompt"]))
        right = first + second if row["operation"] == "sum" else first * second
        assert row["answer"] == str(right)
        assert len(str(first)) == row["digits"] == size["digits"]
        assert carries_by_hand(row["operation"], first, second) == size["carries"]
    counts = Counter(row["operation"] for row in rows)
    assert counts == dict.fromkeys(size["operations"], 80 // len(size["operations"]))


@pytest.mark.parametrize("level", LEVELS)
def test_retrieval_is_what_its_level_says(level: int) -> None:
    pairs = generate.RETRIEVAL_LEVELS[level]["pairs"]
    rows = drawn(generate.retrieval, level)["test"]
    for row in rows:
        context, question = row["prompt"].split("\n\n")
        stated = re.findall(r"(\w+) lives in (\w+) and has the number (\d+)\.", context)
        numbers = {(name, city): number for name, city, number in stated}
        assert len(numbers) == len(set(numbers.values())) == row["pairs"] == pairs
        (asked,) = re.findall(r": (\w+) lives in (\w+) and has the number$", question)
        assert numbers[asked] == row["answer"]
        assert list(numbers).index(asked) == row["position"]
        assert row["depth"] == row["position"] / (pairs - 1)
        assert set(row["options"]) <= set(numbers.values())
        people = {number: person for person, number in numbers.items()}
        alike = [n for n, p in people.items() if (p[0] == asked[0]) != (p[1] == asked[1])]
        assert len(set(row["options"]) & set(alike)) == min(3, len(alike))
    depths = Counter(row["position"] for row in rows)
    assert max(depths.values()) - min(depths[place] for place in range(pairs)) <= 1


@pytest.mark.parametrize("level", LEVELS)
def test_instructions_are_what_their_level_says(level: int) -> None:
    rows = drawn(generate.instructions, level)["test"]
    kinds = [[c["kind"] for c in json.loads(row["constraints"])] for row in rows]
    wanted = generate.INSTRUCTION_LEVELS[level]["constraints"]
    assert all(len(set(found)) == len(found) == wanted for found in kinds)
    assert Counter(found[0] for found in kinds) == dict.fromkeys(generate.CONSTRAINTS, 10)


@pytest.mark.parametrize(
    "levels",
    [generate.ARITHMETIC_LEVELS, generate.RETRIEVAL_LEVELS, generate.INSTRUCTION_LEVELS],
)
def test_no_level_is_easier_than_the_one_before(levels: dict[int, dict[str, Any]]) -> None:
    assert tuple(levels) == LEVELS
    for level in LEVELS[1:]:
        before, now = levels[level - 1], levels[level]
        numbers = [key for key in now if isinstance(now[key], int)]
        assert all(now[key] >= before[key] for key in numbers)
        assert any(now[key] > before[key] for key in numbers)
        if "operations" in now:
            assert set(now["operations"]) >= set(before["operations"])


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS[:2])
@pytest.mark.parametrize("level", LEVELS)
def test_four_different_options_with_the_answer_at_each_place(
    function: Callable[..., Any], level: int
) -> None:
    rows = drawn(function, level)["test"]
    for row in rows:
        assert len(set(row["options"])) == 4
        assert len({len(option) for option in row["options"]}) == 1  # length tells nothing
        assert row["options"][row["label"]] == row["answer"]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(range(4), 20)


@pytest.mark.parametrize("function", FUNCTIONS[:2])
@pytest.mark.parametrize("level", LEVELS)
def test_the_options_alone_do_not_give_the_answer_away(
    function: Callable[..., Any], level: int
) -> None:
    rows = [row for seed in range(5) for row in drawn(function, level, seed=seed)["test"]]
    ranks = Counter(sorted(map(int, r["options"])).index(int(r["answer"])) for r in rows)
    assert max(ranks.values()) / len(rows) < 0.33  # 0.25, give or take 3.7 standard errors


# --- sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_nothing_comes_twice_and_no_example_is_scored(
    function: Callable[..., Any], level: int
) -> None:
    for language in LANGUAGES:
        splits = drawn(function, level, language)
        prompts = [row["prompt"] for split in splits.values() for row in split]
        assert len(prompts) == len(set(prompts)) == 88


@pytest.mark.parametrize("function", FUNCTIONS[:2])
def test_languages_differ_in_words_alone(function: Callable[..., Any]) -> None:
    english = drawn(function, 2)["test"]
    for language in LANGUAGES[1:]:
        rows = drawn(function, 2, language)["test"]
        for row, twin in zip(rows, english, strict=True):
            assert row["prompt"] != twin["prompt"]
            words = ("language", "prompt")
            assert {k: v for k, v in row.items() if k not in words} == {
                k: v for k, v in twin.items() if k not in words
            }
            assert re.findall(r"\d+", row["prompt"]) == re.findall(r"\d+", twin["prompt"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_seed_gives_other_documents(function: Callable[..., Any]) -> None:
    first = {row["prompt"] for row in drawn(function, 2, seed=1)["test"]}
    second = {row["prompt"] for row in drawn(function, 2, seed=2)["test"]}
    assert len(first & second) < len(first) / 4
    if function is generate.retrieval:  # elsewhere so few documents exist that some come again
        assert not first & second


def test_the_same_rows_in_every_process() -> None:
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('g', sys.argv[1])\n"
        "g = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(g)\n"
        "print(json.dumps([f('fr', 3, 40, 4, 7) for f in (g.arithmetic, g.retrieval, "
        "g.instructions)]))\n"
    )
    found = set()
    for hash_seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", code, str(FOLDER / "generate.py")],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(digest(json.loads(child.stdout)))
    assert found == {digest([f("fr", 3, 40, 4, 7) for f in FUNCTIONS])}


# --- constraints --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_example_answer_meets_all_its_constraints(level: int, language: str) -> None:
    for seed in range(3):
        for row in drawn(generate.instructions, level, language, seed)["test"]:
            scores = checks.process_results(row, [row["answer"]])
            assert scores == {"all_met": 1.0, "share_met": 1.0}, row


@pytest.mark.parametrize(
    ("constraint", "met", "unmet"),
    [
        ({"kind": "words", "low": 2, "high": 3}, "one two, 3 it's", "one"),
        ({"kind": "words", "low": 2, "high": 3}, "1. one\n2. two", "one two three four"),
        ({"kind": "contains", "word": "Brücke"}, "die brücke.", "Brücken"),
        ({"kind": "forbids", "word": "and"}, "sand", "this And that"),
        ({"kind": "lower_case"}, "is 3 ok?", "No"),
        ({"kind": "numbered_list", "count": 2}, "Here:\n1. a\n 2. b", "1. a\n2. b\n3. c"),
        ({"kind": "numbered_list", "count": 2}, "1. a\n2. b", "1. a\n1. b"),
        ({"kind": "ends_with", "phrase": "that is all"}, "So. That is all.", "that is all, no?"),
        ({"kind": "json_keys", "keys": ["b", "a"]}, '```json\n{"a": 1, "b": 2}\n```', '{"a": 1}'),
        ({"kind": "json_keys", "keys": ["a"]}, '{"a": "b"}', 'Sure: {"a": "b"}'),
        ({"kind": "language", "language": "de"}, "das ist der Fluss", "this is the river"),
        ({"kind": "language", "language": "fr"}, "il est dans la ville", "la de un"),
    ],
)
def test_a_constraint_is_decided(constraint: Row, met: str, unmet: str) -> None:
    assert checks.is_met(constraint, met)
    assert not checks.is_met(constraint, unmet)


def test_silence_meets_no_constraint() -> None:
    row = {"constraints": json.dumps([{"kind": "forbids", "word": "and"}, {"kind": "lower_case"}])}
    assert checks.process_results(row, [" 1. \n"]) == {"all_met": 0.0, "share_met": 0.0}
    assert checks.process_results(row, ["Yes."]) == {"all_met": 0.0, "share_met": 0.5}


# --- scores through the harness -------------------------------------------------------------------

TASKS = read_yaml(FOLDER / "benchmark.yaml")["tasks"]
DATASETS = read_yaml(FOLDER / "benchmark.yaml")["datasets"]


class Answering(LM):  # type: ignore[misc]
    """A model that gives the text that ``choose`` picks for a document."""

    def __init__(self, choose: Callable[[Row], str]) -> None:
        super().__init__()
        self.choose = choose
        self.prompts: list[str] = []

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.prompts += [request.args[0] for request in requests]
        chosen = {id(request.doc): self.choose(request.doc) for request in requests}
        right = [request.args[1] == f" {chosen[id(request.doc)]}" for request in requests]
        return [(0.0 if found else -9.0, found) for found in right]

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [f" {self.choose(request.doc)}" for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError


def right(doc: Row) -> str:
    return str(doc["answer"])


def wrong(doc: Row) -> str:
    if "options" not in doc:
        return "42"
    return next(str(option) for option in doc["options"] if option != doc["answer"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets of benchmark.yaml, prepared as the workflow does."""
    folder = tmp_path_factory.mktemp("datasets")
    for name, entry in DATASETS.items():
        prepare_dataset(name, entry, folder / name)
    return folder


def scored(task_id: str, prepared: Path, lm: Answering, parts: list[str]) -> dict[str, list[Any]]:
    """Values by metric over the documents of some parts, as the harness scores them."""
    entry = TASKS[task_id]
    values: dict[str, list[Any]] = {}
    dataset = prepared / entry["datasets"]["own"]
    for part in load_parts(task_id, entry, dataset, "first_n", parts):
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=[part.task],
            bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),
        )
        (samples,) = results["samples"].values()
        for sample in samples:
            assert sample["filter"] == entry.get("filter", "none")
            for metric in sample["metrics"]:
                values.setdefault(metric, []).append(sample[metric])
    return values


@pytest.mark.parametrize("task_id", TASKS)
def test_all_right_is_one_and_all_wrong_is_zero(task_id: str, prepared: Path) -> None:
    metric = TASKS[task_id]["metric"]
    parts = [f"{language}_{level}" for language, level in zip(LANGUAGES, LEVELS, strict=True)]
    best = scored(task_id, prepared, Answering(right), parts)[metric]
    assert len(best) >= 4 * 80
    assert set(best) == {1.0}
    assert set(scored(task_id, prepared, Answering(wrong), parts)[metric]) == {0.0}


@pytest.mark.parametrize("task_id", ["synthetic_arithmetic", "synthetic_retrieval"])
def test_a_guesser_is_at_the_chance_level(task_id: str, prepared: Path) -> None:
    entry, rng = TASKS[task_id], random.Random(3)
    guesser = Answering(lambda doc: str(rng.choice(doc["options"])))
    parts = [f"{language}_{level}" for language in ("en", "es") for level in LEVELS]
    values = scored(task_id, prepared, guesser, parts)[entry["metric"]]
    error = (entry["chance"] * (1 - entry["chance"]) / len(values)) ** 0.5
    assert abs(sum(values) / len(values) - entry["chance"]) < 3 * error


@pytest.mark.parametrize(
    "wording",
    [
        lambda doc: f"{int(doc['answer']):,}",
        lambda doc: f"{int(doc['answer']):,}.".replace(",", "\u202f"),
        lambda doc: f"16 + 71 = {doc['answer']}.",
    ],
)
def test_a_number_counts_however_it_is_written(
    wording: Callable[[Row], str], prepared: Path
) -> None:
    values = scored("synthetic_arithmetic_written", prepared, Answering(wording), ["en_4"])
    assert set(values["exact_match"]) == {1.0}


def test_examples_come_from_the_other_split(prepared: Path) -> None:
    lm = Answering(right)
    scored("synthetic_instructions", prepared, lm, ["de_2"])
    test = drawn(generate.instructions, 2, "de")["test"]
    train = drawn(generate.instructions, 2, "de")["train"]
    assert len(lm.prompts) == len(test)
    for prompt, row in zip(lm.prompts, test, strict=True):
        assert prompt == f"{train[0]['prompt']} {train[0]['answer']}\n\n{row['prompt']}"


def test_every_part_says_its_language(prepared: Path) -> None:
    for entry in TASKS.values():
        own = DATASETS[entry["datasets"]["own"]]["parts"]
        assert {part: cell["language"] for part, cell in own.items()} == entry["parts"]
        assert {(cell["language"], cell["level"]) for cell in own.values()} == {
            (language, level) for language in LANGUAGES for level in LEVELS
        }
