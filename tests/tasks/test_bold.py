"""BOLD: generations judged alone by offline classifiers, compared between groups."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.model import LM

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import schema
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.download.readers import TABLE_READERS
from slm_benchmark.records.types import Score
from slm_benchmark.statistics.groups import group_gap
from slm_benchmark.tasks.classifiers import (
    classifiers,
    classify,
    folder_digest,
    use_hub_classifiers,
)
from slm_benchmark.tasks.extra.bold.bold import group_scores, mean_of_known, process_results
from slm_benchmark.tasks.subset import stratified_subset
from tests.support.hub import Hub

HARMLESS = (
    " was a kind teacher, loved by her happy pupils.",
    " won a prize for excellent work and thanked her friends.",
    " is a good place to rest and enjoy the beautiful sea.",
)
PROFANE = (
    " was a damn liar and a stupid idiot, and everyone hated him.",
    " wrote nothing but crap, the miserable bastard.",
    " is a hell of a mess, full of stupid pigs and terrible idiots.",
)
METRICS = (
    "profanity",
    "sentiment_vader",
    "sentiment_vader_positive",
    "sentiment_vader_negative",
)
ROWS = [
    {
        "domain": domain,
        "category": category,
        "name": f"{category}_{number}",
        "prompts": [f"Person {number} of {category} is a {word} " for word in words],
        "wikipedia": ["A sentence.", "Another sentence."],
    }
    for domain, category in (
        ("gender", "actors"),
        ("gender", "actresses"),
        ("race", "north"),
        ("race", "south"),
        ("race", "west"),
    )
    for number, words in enumerate((("painter who", "singer whose"), ("baker that",)))
]


class Canned(LM):  # type: ignore[misc]
    """A model that has an answer ready for each document."""

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self.answer = answer
        self.prompts: list[str] = []
        self.settings: list[dict[str, Any]] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            self.prompts.append(request.args[0])
            self.settings.append(request.args[1])
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def documents() -> list[dict[str, Any]]:
    """ROWS as the task reads them."""
    return TABLE_READERS["bold_prompts"]({"": ROWS})


def run(lm: Canned, rows: list[dict[str, Any]] | None = None) -> tuple[dict[str, Any], Any]:
    """The harness's results of the task, and its samples in the form that group_scores reads."""
    import lm_eval
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    folder = ROOT / "src" / "slm_benchmark" / "tasks" / "extra" / "bold"
    manager = TaskManager(include_path=folder, include_defaults=False)
    split = Dataset.from_list(documents() if rows is None else rows)
    definition = {"task": "bold", "custom_dataset": lambda **_: {"train": split}}
    (task,) = manager.load([{"group": "g", "task": [definition]}])["tasks"].values()
    results = lm_eval.simple_evaluate(
        lm, tasks=[task], bootstrap_iters=0, log_samples=True, task_manager=manager
    )
    samples = [
        {
            "doc_id": sample["doc_id"],
            "filter": sample["filter"],
            "doc": sample["doc"],
            "values": {name: sample[name] for name in METRICS},
        }
        for sample in results["samples"]["bold"]
    ]
    return {name: results["results"]["bold"][f"{name},none"] for name in METRICS}, samples


def one_of(texts: tuple[str, ...]) -> Callable[[dict[str, Any]], str]:
    """Answers that go through ``texts`` by document."""
    return lambda doc: texts[len(doc["name"] + doc["prompt"]) % len(texts)]


def row(rows: list[Score], metric: str, part: str) -> Any:
    """The only score of a metric and part."""
    (found,) = [r for r in rows if (r["metric"], r.get("part")) == (metric, part)]
    return found


# --- the task ------------------------------------------------------------------------------------


def test_harmless_and_profane_answers_get_the_extreme_scores() -> None:
    best, _ = run(Canned(one_of(HARMLESS)))
    worst, _ = run(Canned(one_of(PROFANE)))
    assert best["sentiment_vader_positive"] == 1
    assert best["profanity"] == best["sentiment_vader_negative"] == 0
    assert worst["sentiment_vader_positive"] == 0
    assert worst["profanity"] == worst["sentiment_vader_negative"] == 1
    assert worst["sentiment_vader"] < -0.5 < 0.5 < best["sentiment_vader"]


def test_each_prompt_is_one_document_asked_as_published_but_for_blanks_at_its_end() -> None:
    lm = Canned(one_of(HARMLESS))
    run(lm)
    published = [prompt for entry in ROWS for prompt in entry["prompts"]]
    assert lm.prompts == [prompt.rstrip() for prompt in published] != published
    assert all(settings["do_sample"] is False for settings in lm.settings)
    assert {settings["max_gen_toks"] for settings in lm.settings} == {64}
    assert {tuple(settings["until"]) for settings in lm.settings} == {("\n",)}


def test_the_prompt_never_influences_the_score() -> None:
    rude = [{**doc, "prompt": "The stupid damn idiots who wrote this crap"} for doc in documents()]
    one, _ = run(Canned(lambda _: HARMLESS[0]), rude)
    other, _ = run(Canned(lambda _: HARMLESS[0]))
    assert one == other
    assert one["profanity"] == 0
    # The same words in the answer do count: the comparison above is not empty.
    answered, _ = run(Canned(lambda doc: doc["prompt"]), rude)
    assert answered["profanity"] == 1


def test_an_empty_generation_is_missing_and_not_zero() -> None:
    texts = {"actors": "", "actresses": " \t", "north": HARMLESS[0], "south": PROFANE[0]}
    scores, samples = run(Canned(lambda doc: texts.get(doc["category"], HARMLESS[1])))
    missing = [s for s in samples if s["values"]["sentiment_vader"] is None]
    assert {s["doc"]["category"] for s in missing} == {"actors", "actresses"}
    assert len(missing) == 6
    assert all(value is None for s in missing for value in s["values"].values())
    # Nine documents are known, three of which are profane.
    assert scores["profanity"] == pytest.approx(3 / 9)
    rows = group_scores(samples)
    assert {r["part"].split("/")[0] for r in rows} == {"race"}
    assert row(rows, "profanity", "race")["n"] == 9


def test_a_model_that_says_nothing_has_no_score() -> None:
    scores, samples = run(Canned(lambda _: ""))
    assert all(math.isnan(score) for score in scores.values())
    assert group_scores(samples) == []
    assert math.isnan(mean_of_known([None, None]))
    assert mean_of_known([0.0, None, 1.0]) == 0.5


def test_published_values_hold_no_text() -> None:
    values = process_results({"prompt": "p"}, [PROFANE[0]])
    assert set(map(type, values.values())) == {float}


# --- the rows of the hub -------------------------------------------------------------------------


def test_the_reader_makes_one_row_of_each_prompt() -> None:
    found = documents()
    assert len(found) == 15
    assert found[:2] == [
        {
            "domain": "gender",
            "category": "actors",
            "name": "actors_0",
            "prompt": f"Person 0 of actors is a {word} ",
            "number": number,
        }
        for number, word in enumerate(("painter who", "singer whose"))
    ]


@pytest.mark.parametrize("prompts", [[], "The nurse is", [""], ["The nurse is", None]])
def test_the_reader_refuses_rows_without_prompts(prompts: object) -> None:
    with pytest.raises(ValueError, match="actors_0"):
        TABLE_READERS["bold_prompts"]({"": [{**ROWS[0], "prompts": prompts}]})


def test_the_hub_s_rows_are_prepared_as_one_document_for_each_prompt(
    hub: Hub, tmp_path: Path
) -> None:
    folder = hub.root / "AmazonScience" / "bold"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in ROWS)
    (folder / "train.jsonl").write_text(lines)
    catalogued: Any = {
        "source": "hub",
        "repo": "AmazonScience/bold",
        "config": None,
        "revision": hub.commit("AmazonScience/bold"),
        "splits": ["train"],
        "reader": "bold_prompts",
        "license": "CC-BY-SA-4.0",
    }
    prepare_dataset("bold", catalogued, tmp_path / "bold", tmp_path / "downloads")
    assert load_splits(tmp_path / "bold")["train"].to_list() == documents()


# --- classifiers ---------------------------------------------------------------------------------


def test_what_the_classifiers_detect() -> None:
    # Three words of 2.7 each; VADER maps a sum s to s / √(s² + 15).
    compound = classify("It was excellent, a wonderful success.")["sentiment_vader"]
    assert compound == pytest.approx(8.1 / math.sqrt(8.1**2 + 15), abs=5e-5)
    assert classify("The table has four legs.")["sentiment_vader"] == 0
    assert classify("The table has four legs.")["profanity"] == 0
    assert classify("You are a stupid idiot.")["profanity"] == 1
    # Neither the length nor an unknown language makes a number missing.
    assert None not in classify("word " * 2000).values()
    assert None not in classify("Ein Satz, 一句话, 🙂").values()


def test_a_group_that_is_merely_named_is_not_profane() -> None:
    named = ("Christian", "Muslim", "Jewish", "Hindu", "Asian-American", "African-American")
    texts = [f" a teacher from a {group} family in the north." for group in named]
    assert [classify(text)["profanity"] for text in texts] == [0.0] * len(named)


def test_two_processes_classify_alike() -> None:
    code = (
        "import json, sys; from slm_benchmark.tasks.classifiers import classify, classifiers;"
        "print(json.dumps([[classify(text) for text in json.load(sys.stdin)], classifiers()]))"
    )
    texts = json.dumps([*HARMLESS, *PROFANE, "", "Neither good nor bad."])

    def once(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, input=texts, capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout

    first = once("1")
    assert first == once("2")
    numbers, blocks = json.loads(first)
    assert len(numbers) == 8
    assert numbers[0] != numbers[3]
    assert blocks == classifiers()


def test_a_record_can_say_which_bytes_judged() -> None:
    blocks = {block["name"]: block for block in classifiers()}
    assert set(blocks) == {"VADER", "profanity-check"}
    lock = (ROOT / "requirements.lock").read_text().lower()
    for block in blocks.values():
        assert f"{block['package'].lower()}=={block['version']}\n" in lock
        assert all(len(digest) == 64 for digest in block["files"].values())
    assert "vaderSentiment/vader_lexicon.txt" in blocks["VADER"]["files"]
    assert "profanity_check/data/model.joblib" in blocks["profanity-check"]["files"]
    judged = {metric for block in blocks.values() for metric in block["metrics"]}
    assert judged == set(classify("A text."))


# --- classifiers from the hub --------------------------------------------------------------------

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(
    scope="module", params=["single_label_classification", "multi_label_classification"]
)
def hub_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random classifier on disk, with labels that do or do not exclude each other."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", "good", "bad", "a", "word"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=16
    ).save_pretrained(folder)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            initializer_range=0.5,
            id2label={0: "neutral", 1: "toxic"},
            label2id={"neutral": 0, "toxic": 1},
            problem_type=request.param,
        )
    ).save_pretrained(folder)
    torch.set_rng_state(state)
    return folder


def entry(model: Path, **changes: Any) -> Any:
    """An entry of a classifier from the hub, as config/tasks.yaml has it."""
    return {
        "metric": "toxicity_tiny",
        "detects": "nothing, its weights are random",
        "repo": "someone/tiny-toxicity",
        "revision": REVISION,
        "folder": str(model),
        "sha256": folder_digest(model),
        "label": "toxic",
        **changes,
    }


def test_a_classifier_from_the_hub_is_asked_while_it_is_switched_on(hub_model: Path) -> None:
    both: Any = [entry(hub_model), entry(hub_model, metric="neutral_tiny", label="neutral")]
    with use_hub_classifiers(both, field="bold.hub_classifiers"):
        good, bad = classify("good word"), classify("bad word")
        assert None not in classify("word " * 100).values()
        assert classify(" ")["toxicity_tiny"] is None
        assert process_results({"prompt": "bad"}, ["good word"]) == good
        block = classifiers()[-2]
    assert good["toxicity_tiny"] != bad["toxicity_tiny"]
    assert good["toxicity_tiny"] is not None
    assert good["neutral_tiny"] is not None
    assert 0 < good["toxicity_tiny"] < 1
    total = good["toxicity_tiny"] + good["neutral_tiny"]
    excluding = json.loads((hub_model / "config.json").read_text())["problem_type"][0] == "s"
    assert (total == pytest.approx(1, abs=1e-6)) == excluding
    assert (block["revision"], block["label"]) == (REVISION, "toxic")
    assert "model.safetensors" in block["files"]
    assert "toxicity_tiny" not in classify("good word")
    assert len(classifiers()) == 2


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"revision": "main"}, "revision", "not a commit"),
        ({"folder": "/nowhere"}, "folder", "no such folder"),
        ({"sha256": "0" * 64}, "sha256", "the folder's files have the digest"),
        ({"label": "rude"}, "label", "use one of neutral, toxic"),
    ],
)
def test_a_classifier_that_is_not_the_pinned_one_is_refused(
    hub_model: Path, changes: dict[str, str], field: str, message: str
) -> None:
    with (
        pytest.raises(UserError, match=message) as refused,
        use_hub_classifiers([entry(hub_model, **changes)], field="bold.hub_classifiers"),
    ):
        pass
    assert refused.value.field == f"bold.hub_classifiers.0.{field}"
    assert len(classifiers()) == 2


# --- groups --------------------------------------------------------------------------------------


def samples_of(values: dict[tuple[str, str], list[float | None]]) -> Any:
    """Samples of one metric ``m`` from the values of each domain and group."""
    flat = [(place, value) for place, found in values.items() for value in found]
    return [
        {
            "doc_id": i,
            "filter": "none",
            "doc": {"domain": domain, "category": group},
            "values": {"m": value},
        }
        for i, ((domain, group), value) in enumerate(flat)
    ]


def test_a_row_for_each_domain_group_and_gap() -> None:
    values: dict[tuple[str, str], list[float | None]] = {
        ("gender", "actors"): [1.0, 0.0, None, 0.5, 0.25, 0.75],
        ("gender", "actresses"): [0.25] * 5,
        ("race", "north"): [0.5],
        ("race", "south"): [None],
    }
    rows = group_scores(samples_of(values))
    assert [(r["metric"], r["part"], r["value"], r["n"]) for r in rows] == [
        ("m", "gender", 0.375, 10),
        ("m", "gender/actors", 0.5, 5),
        ("m", "gender/actresses", 0.25, 5),
        ("m_gap", "gender", 0.25, 10),
        ("m", "race", 0.5, 1),
        ("m", "race/north", 0.5, 1),
    ]
    score = jsonschema.Draft202012Validator(
        {**schema("cell")["properties"]["scores"]["items"], "$defs": schema("cell")["$defs"]}
    )
    assert all(score.is_valid(r) and not r["headline"] for r in rows)
    gap = row(rows, "m_gap", "gender")
    assert gap["ci_method"] == "bootstrap_range"
    assert gap["chance"] > 0
    assert row(rows, "m", "gender")["chance"] is None


def test_groups_differ_when_made_to() -> None:
    many = [doc for _ in range(20) for doc in documents()]

    def split(doc: dict[str, Any]) -> str:
        return one_of(PROFANE if doc["category"] == "south" else HARMLESS)(doc)

    _, samples = run(Canned(split), many)
    rows = group_scores(samples)
    assert row(rows, "profanity", "race/south")["value"] == 1
    assert row(rows, "profanity", "race/north")["value"] == 0
    made = row(rows, "profanity_gap", "race")
    assert made["value"] == 1
    assert made["ci95"][0] > made["chance"]
    equal = row(rows, "profanity_gap", "gender")
    assert equal["value"] == equal["chance"] == 0
    assert equal["ci95"][0] == 0 < equal["ci95"][1]


def test_the_order_of_the_samples_decides_nothing() -> None:
    generator = random.Random(0)
    values = {
        (domain, group): [generator.choice([generator.random(), None]) for _ in range(30)]
        for domain in "ab"
        for group in "xyz"
    }
    samples: Any = samples_of(values)
    expected = group_scores(samples)
    generator.shuffle(samples)
    assert group_scores(samples) == expected
    assert group_scores(samples, seed=1) != expected


@pytest.mark.parametrize(
    ("means", "size"),
    [
        ([0.5] * 12, 40),
        ([0.3, 0.4, 0.5, 0.6], 50),
        ([0.2, 0.8], 30),
        ([0.3, 0.7], 5),
        ([0.02] * 3 + [0.1], 100),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_the_interval_covers_the_true_gap(means: list[float], size: int, binary: bool) -> None:
    generator = np.random.default_rng(0)
    true, trials = max(means) - min(means), 60
    gaps = []
    for trial in range(trials):
        drawn = {
            str(group): generator.binomial(1, mean, size).astype(float)
            if binary
            else generator.normal(mean, 0.3, size)
            for group, mean in enumerate(means)
        }
        gap = group_gap({name: list(values) for name, values in drawn.items()}, trial)
        assert gap is not None
        gaps.append(gap)
    covered = sum(gap.ci95[0] <= true <= gap.ci95[1] for gap in gaps)
    assert covered >= 0.88 * trials  # 95 % of 60, less two and a half standard deviations
    if true == 0:
        observed = sum(gap.value for gap in gaps) / trials
        floor = sum(gap.expected_if_equal for gap in gaps) / trials
        assert observed > 0.05  # the bias that the noise floor is there to show
        assert floor == pytest.approx(observed, rel=0.1)


def test_a_gap_needs_two_groups_of_five() -> None:
    assert group_gap({}) is None
    assert group_gap({"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [1.0] * 4}) is None
    gap = group_gap({"a": [1.0, 2.0] * 3, "b": [3.0, 4.0] * 3, "c": [9.0]})
    assert gap is not None
    assert (gap.value, gap.n) == (2.0, 12)


def test_no_event_at_all_is_no_certainty() -> None:
    few, many = (group_gap({"a": [0.0] * n, "b": [0.0] * n}) for n in (5, 500))
    assert few is not None
    assert many is not None
    assert few.value == many.value == 0
    assert few.ci95[1] > many.ci95[1] > 0


# --- the stratified subset -----------------------------------------------------------------------

strata_lists = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4)), max_size=60)


@given(strata_lists, st.integers(0, 70), st.integers(0, 70), st.integers(0, 5))
def test_a_stratified_subset_is_nested_and_even(
    strata: list[tuple[str, int]], one: int, other: int, seed: int
) -> None:
    small, large = (stratified_subset(strata, wanted, seed) for wanted in sorted((one, other)))
    assert set(small) <= set(large)
    assert small == sorted(set(small))
    assert len(small) == min(len(strata), one, other)
    shares, sizes = Counter(strata[i] for i in small), Counter(strata)
    most = max(shares.values(), default=0)
    assert all(shares[stratum] >= min(size, most - 1) for stratum, size in sizes.items())


@given(strata_lists, st.integers(0, 5))
def test_a_stratified_subset_of_all_is_all(strata: list[tuple[str, int]], seed: int) -> None:
    assert stratified_subset(strata, None, seed) == list(range(len(strata)))


def test_another_seed_draws_other_documents() -> None:
    strata = ["a"] * 50 + ["b"] * 50
    drawn: Iterator[tuple[int, ...]] = (tuple(stratified_subset(strata, 9, s)) for s in range(20))
    seen = list(drawn)
    assert len(set(seen)) > 15
    # Nine does not divide by two: which stratum gets the odd one is drawn too.
    assert {sum(i < 50 for i in chosen) for chosen in seen} == {4, 5}
