"""The noise floor on a tiny model: named perturbations really perturb, and nothing else does."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.model_cards import load_model
from slm_benchmark.catalog.run_config import Cell, RunConfig
from slm_benchmark.catalog.types import ChoiceColumn, NoisePlan, Task
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.paths import ROOT
from slm_benchmark.evaluation import noise_floor
from slm_benchmark.evaluation.noise_floor import (
    Answered,
    Run,
    compare,
    describe_noise,
    floor,
    measure_noise,
    noise_plan,
    permuted,
    redrawn,
    reordered,
)
from slm_benchmark.evaluation.runner import Folders
from slm_benchmark.records.store import read_run
from slm_benchmark.statistics.proportion import exact_interval
from slm_benchmark.tasks.loader import load_parts
from slm_benchmark.tasks.requests import ask, build_requests, score_documents
from slm_benchmark.workflow.rule_inputs import RuleInputs
from tests.evaluation.test_loglikelihood import CARD, Row, arc, hellaswag
from tests.support.answerers import Answerer
from tests.support.models import add_manifest, prepare_splits

Record = Any
Measure = Callable[..., Record]

N = 14
DOCUMENTS = 8
SEEDS = [1, 2, 3]
LETTERS: ChoiceColumn = {"options": "options", "answer": "answer", "labels": "letters"}


def mmlu_pro(i: int) -> Row:
    """A question with four options, shown with letters; long enough for whole chunks."""
    options = [str(i + 1), str(i + 2), f"no {i}", "Mars"]
    turn = i % 4
    turned = options[turn:] + options[:turn]
    return {
        "question": f"The quick brown fox reads a short text, {i} times. What is {i} + 1?",
        "options": turned,
        "answer": "ABCD"[turned.index(str(i + 1))],
    }


SPLITS: dict[str, dict[str, list[Row]]] = {
    "mmlu_pro": {
        "validation": [mmlu_pro(100 + i) for i in range(9)],
        "test": [mmlu_pro(i) for i in range(N)],
    },
    "arc_challenge": {"test": [arc(i) for i in range(N)]},
    "hellaswag": {"validation": [hellaswag(i) for i in range(N)]},
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    return prepare_splits(folder, SPLITS)


@pytest.fixture(scope="module")
def variants(
    tiny_model: Path, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("variants")
    ignored = shutil.ignore_patterns("manifest.json", "weights.json")
    shutil.copytree(tiny_model, folder / "base", ignore=ignored)
    (folder / "gguf-q8_0").mkdir()
    shutil.copy(tiny_gguf, folder / "gguf-q8_0")
    return {name: add_manifest(folder / name, name) for name in ("base", "gguf-q8_0")}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """The shipped catalogue with a card of the tiny model, and MMLU-Pro with two examples.

    Its plan is the shipped one for few documents and draws; a test may change it.
    """
    card = tmp_path / "tiny.yaml"
    card.write_text(yaml.safe_dump({**CARD, "quantizations": ["gguf-f16", "gguf-q8_0"]}))
    shipped = load_catalogue()
    mmlu_pro: Task = {**shipped.tasks["mmlu_pro"], "num_fewshot": 1}
    plan = shipped.noise["plans"]["default"]
    plan["documents"] = DOCUMENTS
    plan["prompt"] = {"fewshot_draw": SEEDS, "choice_order": SEEDS}
    return dataclasses.replace(
        shipped,
        models={**shipped.models, "tiny": load_model(card)},
        tasks={**shipped.tasks, "mmlu_pro": mmlu_pro},
    )


@pytest.fixture
def plan(catalogue: Catalogue) -> NoisePlan:
    """The plan of the catalogue, which a test may change."""
    return catalogue.noise["plans"]["default"]


@pytest.fixture
def measure(
    tmp_path: Path,
    variants: dict[str, Path],
    datasets: Path,
    catalogue: Catalogue,
    plan: NoisePlan,
    monkeypatch: pytest.MonkeyPatch,
) -> Measure:
    """Measures the noise of the tiny model, and returns the record as read back."""
    monkeypatch.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", tmp_path / ".sequence")

    def run(task: str, variant: str) -> Record:
        cell = Cell("tiny", variant, "local", "demo", task)
        folders = Folders(variants[variant], variants["base"], datasets / task)
        output = output_of(tmp_path, task)
        measured = measure_noise(cell, catalogue, folders, output, threads=1)
        record: Record = read_run(output)
        assert record == measured
        return record

    return run


def output_of(folder: Path, task: str) -> Path:
    return folder / "noise" / f"{task}.json"


def named(record: Record) -> dict[str, Record]:
    return {entry["name"]: entry for entry in record["perturbations"]}


# ── whole records ──


def test_a_gguf_variant_with_letters_and_examples(
    measure: Measure, tmp_path: Path, plan: NoisePlan
) -> None:
    record = measure("mmlu_pro", "gguf-q8_0")
    assert (record["kind"], record["state"], record["error"]) == ("noise", "ok", None)
    assert record["dataset"]["documents"] == record["reference"]["n"] == DOCUMENTS
    settings = {"chunk": 64, "threads": 1, "flash_attention": True, "cache": "float16"}
    assert record["reference"]["settings"] == settings
    found = named(record)
    ran = {name for name, entry in found.items() if entry["state"] == "ok"}
    numerical = {"chunk-32", "chunk-128", "threads-2", "flash-attention-off", "cache-float32"}
    draws = {f"{family}-{seed}" for family in ("fewshot_draw", "choice_order") for seed in SEEDS}
    assert ran == numerical | draws
    for name in numerical:
        entry = found[name]
        # The setting took effect: the engine says so.
        assert entry["engine"] != record["engine"]
        assert entry["n"] == DOCUMENTS
        assert entry["delta"] == entry["value"] - record["reference"]["value"]
        flips = entry["flips_to_right"] - entry["flips_to_wrong"]
        assert flips / DOCUMENTS == pytest.approx(entry["delta"])
    assert "chunks of 32 " in found["chunk-32"]["engine"]["schedule"]
    assert found["threads-2"]["engine"]["threads"] == 2
    assert "without flash attention" in found["flash-attention-off"]["engine"]["schedule"]
    assert "float32 cache" in found["cache-float32"]["engine"]["dtype"]
    # Numbers move where they are rounded otherwise, and only a little.
    for name in ("flash-attention-off", "cache-float32"):
        assert found[name]["documents_changed"] > 0
        assert 0 < found[name]["mean_abs_delta_nats"] <= found[name]["max_abs_delta_nats"] < 0.5
    for name in draws:
        assert found[name]["documents_changed"] > 0
        assert found[name]["max_abs_delta_nats"] is None
        assert found[name]["engine"] == record["engine"]
    reasons = {name: found[name]["reason"] for name in found if found[name]["state"] != "ok"}
    assert {name: found[name]["state"] for name in reasons} == dict.fromkeys(
        reasons, "not_applicable"
    )
    assert reasons["threads-1"] == "the reference runs with threads 1"
    assert reasons["attention-eager"] == "llama.cpp has no setting attention"
    # The heads of the tiny model are shorter than a block of q8_0.
    assert "does not run this model with" in reasons["cache-q8_0"]
    assert record["floor"]["prompt"]["families"]["fewshot_draw"]["draws"] == len(SEEDS)
    assert record["floor"]["numerical"]["max_abs_delta"] == max(
        abs(found[name]["delta"]) for name in numerical
    )
    assert not list(tmp_path.rglob("*.jsonl"))
    assert "numerical ±" in describe_noise(record)


def test_a_base_model_on_a_task_that_shows_no_options(measure: Measure) -> None:
    record = measure("arc_challenge", "base")
    found = named(record)
    assert record["reference"]["settings"]["dtype"] == "float32"
    assert record["reference"]["settings"]["attention"] == "sdpa"
    ran = {name for name, entry in found.items() if entry["state"] == "ok"}
    assert ran == {"chunk-32", "chunk-128", "threads-2", "attention-eager", "dtype-bfloat16"}
    assert found["attention-eager"]["documents_changed"] > 0
    assert "eager attention" in found["attention-eager"]["engine"]["schedule"]
    narrow, eager = found["dtype-bfloat16"], found["attention-eager"]
    assert narrow["engine"]["dtype"] == "bfloat16"
    assert narrow["max_abs_delta_nats"] > 10 * eager["max_abs_delta_nats"] > 0
    # Prompts shorter than a chunk are computed alike with every larger one: exactly.
    assert found["chunk-128"]["max_abs_delta_nats"] == 0
    assert found["chunk-128"]["documents_changed"] == 0
    assert found["fewshot_draw"]["reason"] == "the task draws no few-shot examples"
    assert found["choice_order"]["reason"] == "the order of the options is not in the prompt"
    prompt = record["floor"]["prompt"]
    assert (prompt["sd"], prompt["max_abs_delta"]) == (None, None)
    assert prompt["reason"]


def test_the_reference_against_itself_is_exactly_zero(
    measure: Measure, plan: NoisePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan["numerical"] = {"nothing": {"chunk": 64}}
    monkeypatch.setattr(noise_floor.Perturber, "_check", lambda *_: None)
    for variant in ("base", "gguf-q8_0"):
        (entry, *_) = measure("mmlu_pro", variant)["perturbations"]
        assert (entry["name"], entry["state"], entry["n"]) == ("nothing", "ok", DOCUMENTS)
        assert (entry["delta"], entry["documents_changed"]) == (0, 0)
        assert (entry["max_abs_delta_nats"], entry["mean_abs_delta_nats"]) == (0, 0)
        assert (entry["flips_to_right"], entry["flips_to_wrong"]) == (0, 0)


def test_measuring_again_gives_the_same_result(measure: Measure) -> None:
    first = measure("arc_challenge", "gguf-q8_0")
    assert measure("arc_challenge", "gguf-q8_0")["result_sha256"] == first["result_sha256"]


def test_options_in_the_prompt_that_nobody_described(
    measure: Measure, catalogue: Catalogue, plan: NoisePlan
) -> None:
    catalogue.noise["choice_columns"].pop("mmlu_pro")
    plan["numerical"] = {}
    entry = named(measure("mmlu_pro", "base"))["choice_order"]
    assert entry["state"] == "not_applicable"
    assert "config/noise.yaml does not say" in entry["reason"]


# ── faults ──


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception, chunk: int) -> None:
    """Let scoring with chunks of this size fail."""
    from slm_benchmark.engines.llamacpp import LlamaCpp

    score = LlamaCpp.score

    def fail(self: LlamaCpp, part: Any) -> Any:
        if self.chunk == chunk:
            raise error
        return score(self, part)

    monkeypatch.setattr(LlamaCpp, "score", fail)


def test_a_model_that_breaks_is_a_failed_record(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, ValueError("this model broke"), chunk=64)
    record = measure("arc_challenge", "gguf-q8_0")
    assert (record["state"], record["error"]["message"]) == ("failed", "this model broke")
    assert (record["reference"], record["perturbations"]) == (None, [])
    assert record["floor"]["numerical"]["reason"] == "no numerical perturbation gave a score"
    assert "failed: ValueError" in describe_noise(record)


def test_a_perturbation_that_breaks_leaves_the_others(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, ValueError("this chunk broke"), chunk=32)
    record = measure("arc_challenge", "gguf-q8_0")
    found = named(record)
    assert record["state"] == "ok"
    assert (found["chunk-32"]["state"], found["chunk-32"]["value"]) == ("failed", None)
    assert found["chunk-32"]["reason"] == "ValueError: this chunk broke"
    assert found["chunk-128"]["state"] == "ok"
    assert record["floor"]["numerical"]["max_abs_delta"] is not None


def test_a_job_that_was_stopped_goes_on_where_it_was(
    measure: Measure, tmp_path: Path, plan: NoisePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slm_benchmark.engines.llamacpp import LlamaCpp

    plan["numerical"] = {"chunk-32": {"chunk": 32}, "chunk-128": {"chunk": 128}}
    whole = measure("arc_challenge", "gguf-q8_0")
    score, scored = LlamaCpp.score, [0]

    def counted(limit: float) -> None:
        scored[0] = 0

        def count(self: LlamaCpp, part: Any) -> Any:
            if scored[0] == limit:
                raise RunEnvironmentError("no memory")
            scored[0] += 1
            return score(self, part)

        monkeypatch.setattr(LlamaCpp, "score", count)

    counted(2 * DOCUMENTS + 3)
    output_of(tmp_path, "arc_challenge").unlink()
    with pytest.raises(RunEnvironmentError, match="no memory"):
        measure("arc_challenge", "gguf-q8_0")
    assert not output_of(tmp_path, "arc_challenge").exists()
    counted(float("inf"))
    assert measure("arc_challenge", "gguf-q8_0")["result_sha256"] == whole["result_sha256"]
    assert scored[0] == DOCUMENTS - 3


# ── prompts ──


def prompts_of(parts: list[Any], chosen: dict[str, list[int]]) -> list[str]:
    build_requests(parts, chosen, seed=0)
    return [instance.args[0] for part in parts for instance in part.task.instances]


class Reader(Answerer):
    """Knows the sum, and finds the letter beside it by reading the prompt."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        return [(0.0, True) if self._is_right(*r.args) else (-9.0, False) for r in requests]

    def _is_right(self, context: str, letter: str) -> bool:
        question = context.rsplit("\n\n", 1)[1]
        number = re.search(r"What is (\d+)", question)
        assert number is not None
        return f"\n{letter.strip()}. {int(number[1]) + 1}\n" in question


def test_draws_of_examples_differ_and_leave_the_question(
    datasets: Path, catalogue: Catalogue
) -> None:
    parts = load_parts("mmlu_pro", catalogue.tasks["mmlu_pro"], datasets / "mmlu_pro", "first_n")
    chosen = {"": list(range(N))}
    before = prompts_of(parts, chosen)
    seen = {json.dumps(before)}
    for seed in range(5):
        found = prompts_of([redrawn(part, seed) for part in parts], chosen)
        assert [text.rsplit("\n\n", 1)[1] for text in found] == [
            text.rsplit("\n\n", 1)[1] for text in before
        ]
        assert len({text.rsplit("\n\n", 1)[0] for text in found}) == 1  # the same for all
        seen.add(json.dumps(found))
    assert len(seen) > 3
    assert prompts_of(parts, chosen) == before


def test_an_oracle_is_right_in_every_order(datasets: Path, catalogue: Catalogue) -> None:
    entry = catalogue.tasks["mmlu_pro"]
    parts = load_parts("mmlu_pro", entry, datasets / "mmlu_pro", "first_n")
    chosen = {"": list(range(N))}
    before, orders = prompts_of(parts, chosen), set()
    for seed in SEEDS:
        turned = [reordered(part, LETTERS, seed) for part in parts]
        assert prompts_of(turned, chosen) != before
        ask(Reader(), turned)
        samples = score_documents(turned, chosen)
        assert [sample["values"]["acc"] for sample in samples] == [1.0] * N
        orders.add("".join(str(sample["target"]) for sample in samples))
    assert len(orders) == len(SEEDS)
    assert prompts_of(parts, chosen) == before


LABELLED = {
    "letters": "ABCDEFGHIJ",
    "bracketed": [f"({letter})" for letter in "ABCDEFGHIJ"],
    "numbers": [str(place + 1) for place in range(10)],
    "index": list(range(10)),
}


@given(
    st.lists(st.text(), min_size=2, max_size=10, unique=True),
    st.sampled_from(sorted(LABELLED)),
    st.booleans(),
    st.integers(0, 99),
    st.data(),
)
def test_the_answer_goes_with_its_option(
    options: list[str], labels: str, columned: bool, seed: int, data: st.DataObject
) -> None:
    right = data.draw(st.integers(0, len(options) - 1))
    names = [f"option{place}" for place in range(len(options))]
    shown = dict(zip(names, options, strict=True)) if columned else {"options": options}
    doc = {"question": "?", **shown, "answer": LABELLED[labels][right]}
    columns: Any = {
        "options": names if columned else "options",
        "answer": "answer",
        "labels": labels,
    }
    found = permuted(doc, columns, seed)
    moved = [found[name] for name in names] if columned else found["options"]
    assert sorted(moved) == sorted(options)
    assert moved[list(LABELLED[labels]).index(found["answer"])] == options[right]
    assert found["question"] == "?"
    assert permuted(doc, columns, seed) == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": "numbers"}, "names no option"),
        ({"options": "choices"}, "lacks a column"),
        ({"answer": "gold"}, "lacks a column"),
    ],
)
def test_columns_that_do_not_fit_are_an_error(change: Record, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        permuted(mmlu_pro(1), {**LETTERS, **change}, seed=1)
    assert "noise.yaml" in str(raised.value)


# ── numbers ──


def run_of(values: list[float | None], shift: float = 0.0) -> Run:
    documents = {
        ("", place): Answered(value, (-1.0 - shift, -2.0), ((f"q{place}", " a"),))
        for place, value in enumerate(values)
    }
    present = [value for value in values if value is not None]
    return Run(sum(present) / len(present), documents)


def test_flips_by_hand() -> None:
    found = compare(run_of([1, 0, 0, 1, None]), run_of([0, 1, 1, 1, 1], 0.25), "numerical")
    assert (found["n"], found["flips_to_right"], found["flips_to_wrong"]) == (4, 2, 1)
    assert found["delta"] == pytest.approx(0.8 - 0.5)
    assert (found["max_abs_delta_nats"], found["mean_abs_delta_nats"]) == (0.25, 0.125)
    assert found["documents_changed"] == 5


def test_values_that_are_not_right_or_wrong_have_no_flips() -> None:
    found = compare(run_of([0.5, 0.25]), run_of([0.5, 0.75]), "numerical")
    assert (found["flips_to_right"], found["flips_to_wrong"]) == (None, None)
    assert found["delta"] == pytest.approx(0.25)


def entry_of(name: str, kind: str, delta: float, flips: tuple[int, int], **setting: Any) -> Record:
    right, wrong = flips
    return {
        "name": name,
        "kind": kind,
        "state": "ok",
        "setting": setting,
        "n": 50,
        "value": 0.5 + delta,
        "delta": delta,
        "flips_to_right": right,
        "flips_to_wrong": wrong,
    }


def test_the_floor_by_hand() -> None:
    found = floor(
        [
            entry_of("a", "numerical", 0.0, (0, 0), chunk=32),
            entry_of("b", "numerical", -0.02, (1, 2), threads=2),
            entry_of("fewshot_draw-1", "prompt", 0.1, (5, 0), fewshot_draw=1),
            entry_of("fewshot_draw-2", "prompt", -0.1, (0, 5), fewshot_draw=2),
        ],
        {"fewshot_draw": SEEDS, "choice_order": SEEDS},
    )
    assert found["numerical"] == {
        "max_abs_delta": 0.02,
        "by": "b",
        "max_flip_rate": 3 / 50,
        "flip_rate_upper95": exact_interval(3, 50)[1],
        "reason": None,
    }
    prompt = found["prompt"]
    assert prompt["sd"] == pytest.approx(0.2 / 2**0.5)
    assert prompt["max_abs_delta"] == 0.1
    assert prompt["families"]["choice_order"] == {"draws": 0, "sd": None, "max_abs_delta": None}


def test_no_flip_of_some_is_not_never() -> None:
    found = floor([entry_of("a", "numerical", 0.0, (0, 0), chunk=32)], {})["numerical"]
    assert (found["max_flip_rate"], found["max_abs_delta"], found["by"]) == (0, 0, None)
    assert found["flip_rate_upper95"] == pytest.approx(1 - 0.025 ** (1 / 50))


# ── plans ──


def planned(catalogue: Catalogue, **choices: Any) -> RuleInputs:
    config = read_yaml(ROOT / "config" / "config.yaml") | {"protocol": "demo", **choices}
    return RuleInputs(RunConfig.from_config(config, catalogue))


def test_the_plan_names_likelihood_tasks_of_some_variants(
    catalogue: Catalogue, plan: NoisePlan
) -> None:
    rules = planned(catalogue, models=["tiny"])
    cells = [path.split("/") for path in rules.noise()]
    assert {cell[2] for cell in cells} == {"base", "gguf-q8_0"}
    kinds = {catalogue.tasks[cell[-1].removesuffix(".json")]["kind"] for cell in cells}
    assert kinds == {"loglikelihood"}
    assert {cell[-2] for cell in cells} == {"noise"}
    assert rules.noise_with_all() == []
    plan["with_all"] = True
    assert rules.noise_with_all() == rules.noise()
    plan["tasks"], plan["variants"] = ["hellaswag"], ["base", "gguf-q4_k_m"]
    assert rules.noise() == ["runs/tiny/base/local/demo/noise/hellaswag.json"]


def test_a_protocol_may_have_a_plan_of_its_own(catalogue: Catalogue, plan: NoisePlan) -> None:
    catalogue.noise["plans"]["demo"] = {**plan, "documents": 3}
    assert noise_plan(catalogue, "demo")["documents"] == 3
    assert noise_plan(catalogue, "full")["documents"] == DOCUMENTS


@pytest.mark.parametrize("task", ["gsm8k", "hellaswg"])
def test_a_task_without_likelihoods_is_refused(
    task: str, catalogue: Catalogue, plan: NoisePlan
) -> None:
    plan["tasks"] = [task]
    with pytest.raises(UserError, match=re.escape(task)):
        planned(catalogue, models=["tiny"]).noise()


def test_the_shipped_columns_are_those_of_known_tasks(catalogue: Catalogue) -> None:
    for task in catalogue.noise["choice_columns"]:
        assert catalogue.tasks[task]["kind"] == "loglikelihood"
