"""One cell, end to end on a tiny model; the path of a score, proven by one that knows it all."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.model import LM

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.model_cards import load_model
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.catalog.types import Protocol, Task
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import canonical_json, digest, read_json
from slm_benchmark.common.schemas import read_record, schema
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.evaluation import generation as generating
from slm_benchmark.evaluation.loglikelihood import Outputs, evaluate
from slm_benchmark.evaluation.rescoring import score
from slm_benchmark.evaluation.runner import Folders, raise_if_environment
from slm_benchmark.evaluation.scores import Measurement, Truncated, sanity_checks, summarize
from slm_benchmark.records.provenance import result_digest
from slm_benchmark.tasks import requests
from slm_benchmark.tasks.loader import TaskPart, load_task, task_digest
from slm_benchmark.tasks.subset import document_subset
from tests.leaderboard.test_aggregate import performance_record, score_record
from tests.profiling.test_runners import scaled
from tests.support.models import add_manifest, prepare_splits

Row = Any

N = 12
TASKS = ("arc_challenge", "hellaswag", "truthfulqa_mc1", "gsm8k")


# --- small datasets in the format of the stock tasks -------------------------------------------


def arc(i: int) -> Row:
    return {
        "id": str(i),
        "question": f"What is {i} + 1?",
        "choices": {"text": [str(i + 1), str(i + 2), "no", "Mars"], "label": list("BACD")},
        "answerKey": "BACD"[i % 4],
    }


def hellaswag(i: int) -> Row:
    return {
        "ind": i,
        "activity_label": "Writing",
        "ctx_a": f"A model reads text {i}.",
        "ctx_b": "it",
        "ctx": f"A model reads text {i}. it",
        "endings": ["writes a word.", "runs [title] away.", "jumps over the dog.", "is a planet."],
        "label": str(i % 4),
    }


def truthfulqa(i: int) -> Row:
    return {
        "question": f"Is {i} a planet?",
        "mc1_targets": {"choices": ["No.", "Yes.", "Of course."], "labels": [1, 0, 0]},
    }


def gsm8k(i: int) -> Row:
    return {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}


SPLITS: dict[str, dict[str, list[Row]]] = {
    "arc_challenge": {"test": [arc(i) for i in range(N)]},
    "hellaswag": {"validation": [hellaswag(i) for i in range(N)]},
    "truthfulqa_mc1": {"validation": [truthfulqa(i) for i in range(N)]},
    "gsm8k": {
        "train": [gsm8k(1000 + i) for i in range(6)],
        "test": [gsm8k(i) for i in range(N)],
    },
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared datasets, one for each task, from local files."""
    folder = tmp_path_factory.mktemp("datasets")
    return prepare_splits(folder, SPLITS)


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its manifest, as the download leaves it."""
    folder = tmp_path_factory.mktemp("models") / "base"
    return add_manifest(Path(shutil.copytree(tiny_model, folder)), "base")


CARD = {
    "name": "Tiny",
    "id": "tiny",
    "hf_model_id": "owner/tiny",
    "revision": None,
    "parameters": 98_176,
    "architecture": "LlamaForCausalLM",
    "context_length": 256,
    "languages": ["en"],
    "quantizations": [],
    "tags": [],
    "license": "Apache-2.0",
    "gated": False,
    "reference": False,
    "source": {"type": "local", "path": "tiny", "format": "transformers"},
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The shipped catalogue with a card of the tiny model; the demo asks few and short answers."""
    card = tmp_path_factory.mktemp("models") / "tiny.yaml"
    card.write_text(yaml.safe_dump(CARD))
    shipped = load_catalogue()
    demo: Protocol = {**shipped.protocols["demo"], "documents": {"default": 8, "gsm8k": 3}}
    demo["max_gen_toks"] = 12
    return dataclasses.replace(
        shipped,
        models={**shipped.models, "tiny": load_model(card)},
        protocols={**shipped.protocols, "demo": demo},
    )


Measure = Callable[..., Any]


@pytest.fixture
def measure(
    tmp_path: Path,
    base: Path,
    datasets: Path,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> Measure:
    """Evaluates the tiny model and returns the record."""
    monkeypatch.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", tmp_path / ".sequence")

    def run(task: str, catalogue: Catalogue = catalogue) -> Any:
        cell = Cell("tiny", "base", "local", "demo", task)
        folders = Folders(weights=base, base=base, dataset=datasets / task)
        if catalogue.tasks[task]["kind"] == "loglikelihood":
            return evaluate(cell, catalogue, folders, outputs(tmp_path, task), threads=1)
        kept = answers(tmp_path, task)
        generating.generate(cell, catalogue, folders, kept, threads=1)
        return score(task, catalogue, kept.record, folders.dataset, outputs(tmp_path, task), None)

    return run


def answers(folder: Path, task: str) -> generating.Outputs:
    return generating.Outputs(
        record=folder / f"{task}.answers.json", answers=folder / f"{task}.answers.parquet"
    )


def outputs(folder: Path, task: str) -> Outputs:
    return Outputs(
        record=folder / f"{task}.json",
        documents=folder / f"{task}.documents.json",
        samples=folder / f"{task}.samples.parquet",
    )


# --- a whole cell ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["arc_challenge", "gsm8k"])
def test_a_cell_end_to_end(
    task: str, measure: Measure, tmp_path: Path, catalogue: Catalogue
) -> None:
    record = measure(task)
    files = outputs(tmp_path, task)
    assert read_record(files.record, "cell") == record
    assert (record["state"], record["error"]) == ("ok", None)
    n = 8 if task == "arc_challenge" else 3
    assert record["dataset"]["documents"] == n
    assert record["dataset"]["documents_total"] == N
    assert record["result_sha256"] == result_digest(record)
    assert record["task"]["num_fewshot"] == catalogue.tasks[task]["num_fewshot"]
    (headline,) = [score for score in record["scores"] if score["headline"]]
    assert headline["metric"] == catalogue.tasks[task]["metric"]
    assert headline["n"] == n
    assert headline["chance"] == catalogue.tasks[task]["chance"]
    low, high = headline["ci95"]
    assert low <= headline["value"] <= high

    documents = read_json(files.documents)
    assert digest(documents) == record["documents_sha256"]
    filtered = [row for row in documents if row["filter"] == headline["filter"]]
    values = [row["values"][headline["metric"]] for row in filtered]
    assert sum(values) / n == pytest.approx(headline["value"])
    chosen = document_subset(N, n, catalogue.protocols["demo"]["seed"])
    assert [row["index"] for row in filtered] == chosen
    assert len({row["document"] for row in filtered}) == n

    table = pq.read_table(files.samples)
    samples = [json.loads(text) for text in table["sample"].to_pylist()]
    assert digest(samples) == record["samples_sha256"]
    assert [sample["index"] for sample in samples] == [row["index"] for row in documents]
    if task == "gsm8k":
        assert record["task"]["generation"]["max_gen_toks"] == 12
        assert [score["filter"] for score in record["scores"]] == [
            "flexible-extract",
            "strict-match",
        ]
        assert samples[0]["prompts"][0][0].count("Question:") == 6
        assert "1000 + 1" in samples[0]["prompts"][0][0]
    else:
        assert all(row["margin"] is not None for row in documents)


def test_measuring_again_gives_the_same_result(measure: Measure) -> None:
    first = measure("arc_challenge")
    second = measure("arc_challenge")
    assert second["sequence"] == first["sequence"] + 1
    for name in ("result_sha256", "samples_sha256", "documents_sha256", "scores"):
        assert second[name] == first[name]


def test_a_document_scores_the_same_in_any_subset(
    measure: Measure, tmp_path: Path, catalogue: Catalogue
) -> None:
    def values(n: int) -> dict[int, Row]:
        demo: Protocol = {**catalogue.protocols["demo"], "documents": {"default": n}}
        protocols = {**catalogue.protocols, "demo": demo}
        measure("arc_challenge", dataclasses.replace(catalogue, protocols=protocols))
        rows = read_json(outputs(tmp_path, "arc_challenge").documents)
        return {row["index"]: row for row in rows}

    everything, few = values(N), values(3)
    assert len(everything) == N
    assert few == {index: everything[index] for index in few}
    assert len(few) == 3


def test_an_input_that_was_changed_is_refused(measure: Measure, base: Path, tmp_path: Path) -> None:
    file = base / "tokenizer.json"
    good = file.read_bytes()
    file.write_bytes(good + b" ")
    try:
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            measure("arc_challenge")
    finally:
        file.write_bytes(good)
    assert not (tmp_path / "arc_challenge.json").exists()


# --- errors ------------------------------------------------------------------------------------


def break_model(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("slm_benchmark.engines.transformers.Transformers.score", fail)


def test_an_error_of_the_model_is_a_failed_record(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_model(monkeypatch, ValueError("this model broke"))
    record = measure("arc_challenge")
    assert read_record(outputs(tmp_path, "arc_challenge").record, "cell") == record
    assert record["state"] == "failed"
    assert record["error"]["type"] == "ValueError"
    assert record["error"]["message"] == "this model broke"
    assert "this model broke" in record["error"]["traceback"]
    assert (record["scores"], record["dataset"]["documents"]) == ([], 0)
    assert (record["samples_sha256"], record["documents_sha256"]) == (None, None)
    assert set(record["checks"].values()) == {None}
    assert read_json(outputs(tmp_path, "arc_challenge").documents) == []
    assert pq.read_table(outputs(tmp_path, "arc_challenge").samples).num_rows == 0


@pytest.mark.parametrize("task", ["arc_challenge", "gsm8k"])
def test_a_model_that_overflows_float16_fails_and_has_no_score(
    task: str, datasets: Path, catalogue: Catalogue, tiny_model: Path, tmp_path: Path
) -> None:
    folder = scaled(tiny_model, tmp_path / "scaled", "up_proj", 20000.0)
    (folder / "manifest.json").unlink(missing_ok=True)
    add_manifest(folder, "base")
    demo: Protocol = {**catalogue.protocols["demo"], "dtype": "float16"}
    narrow = dataclasses.replace(catalogue, protocols={**catalogue.protocols, "demo": demo})
    cell = Cell("tiny", "base", "local", "demo", task)
    folders = Folders(weights=folder, base=folder, dataset=datasets / task)
    if task == "gsm8k":
        generating.generate(cell, narrow, folders, answers(tmp_path, task), threads=1)
        record = read_json(answers(tmp_path, task).record)
    else:
        record = evaluate(cell, narrow, folders, outputs(tmp_path, task), threads=1)
    assert record["state"] == "failed"
    assert record["error"]["type"] == "ArithmeticError"
    assert "a value overflowed in float16" in record["error"]["message"]


ENVIRONMENT = [
    MemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    OSError(errno.ENOSPC, "No space left on device"),
    ConnectionResetError("by peer"),
    RunEnvironmentError("no memory for a cache"),
]


@pytest.mark.parametrize("error", ENVIRONMENT, ids=repr)
def test_an_environment_error_is_raised(
    error: Exception, measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_model(monkeypatch, error)
    with pytest.raises(RunEnvironmentError):
        measure("arc_challenge")
    assert [path.name for path in tmp_path.iterdir()] == [".sequence"]


@pytest.mark.parametrize("error", [UserError("bad input"), KeyboardInterrupt()], ids=repr)
def test_bad_input_and_an_interruption_are_raised_as_they_are(
    error: BaseException, measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_model(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        measure("arc_challenge")
    assert raised.value is error
    assert [path.name for path in tmp_path.iterdir()] == [".sequence"]


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), OSError(errno.ENOENT, "no such file"), IndexError(), RuntimeError("nan")],
    ids=repr,
)
def test_other_errors_are_the_model_s(error: Exception) -> None:
    raise_if_environment(error)


# --- the choice of documents -------------------------------------------------------------------

SIZES = st.tuples(st.integers(1, 400), st.integers(0, 500), st.integers(0, 500))


@given(SIZES, st.integers(0, 2**31))
def test_subsets_are_nested_ascending_and_seeded(sizes: tuple[int, int, int], seed: int) -> None:
    total, small, large = sizes[0], *sorted(sizes[1:])
    inner, outer = document_subset(total, small, seed), document_subset(total, large, seed)
    assert set(inner) <= set(outer) <= set(range(total))
    assert inner == sorted(set(inner))
    assert len(inner) == min(small, total)
    assert document_subset(total, small, seed) == inner
    assert document_subset(total, None, seed) == list(range(total))


def test_another_seed_gives_other_documents() -> None:
    assert document_subset(1000, 50, 0) != document_subset(1000, 50, 1)
    assert document_subset(1000, 50, 0) != list(range(50))


# --- the path of a score, by a model that knows every answer -------------------------------------


class Oracle(LM):  # type: ignore[misc]
    """Answers every document right, or every document wrong.

    Choices are identified by their index, not by the harness's words.
    """

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right
        self.truncated: set[int] = set()
        self.unfinished: set[int] = set()

    def gold(self, doc: Row) -> int:
        """Index of the right choice, from the fields of the dataset."""
        if "mc1_targets" in doc:
            return int(doc["mc1_targets"]["labels"].index(1))
        if "answerKey" in doc:
            return int(doc["choices"]["label"].index(doc["answerKey"]))
        return int(doc["label"])

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        chosen = [(request.idx == self.gold(request.doc)) == self.right for request in requests]
        return [(-1.0, True) if yes else (-1e4, False) for yes in chosen]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        wrong = " The answer is -77.\n#### -77"
        return [f" {r.doc['answer']}" if self.right else wrong for r in requests]


def measured(task_id: str, catalogue: Catalogue, datasets: Path, lm: Oracle) -> Measurement:
    entry, protocol = catalogue.tasks[task_id], catalogue.protocols["demo"]
    task = load_task(task_id, entry, datasets / task_id, protocol["fewshot_sampler"])
    parts = [TaskPart("", task)]
    samples = requests.measure(lm, parts, {"": range(N)}, protocol["seed"], chat=False)
    return summarize(samples, entry, parts, Truncated(len(lm.truncated), len(lm.unfinished)))


@pytest.mark.parametrize("task", TASKS)
def test_an_oracle_scores_one_and_its_wrong_twin_zero(
    task: str, catalogue: Catalogue, datasets: Path
) -> None:
    for right in (True, False):
        found: Any = measured(task, catalogue, datasets, Oracle(right))
        assert {score["value"] for score in found.scores} == {1.0 if right else 0.0}
        assert {score["n"] for score in found.scores} == {N}
        (headline,) = [score for score in found.scores if score["headline"]]
        assert headline["metric"] == catalogue.tasks[task]["metric"]
        low, high = headline["ci95"]
        assert found.checks["at_chance"] is (low <= headline["chance"] <= high)
        assert found.checks["truncated_contexts"] == 0
        margins = {document["margin"] for document in found.documents}
        if task == "gsm8k":
            assert margins == {None}
            assert found.checks["unparsed"] == 0
        else:
            assert min(margins) == max(margins) == pytest.approx(9999.0 if right else -9999.0)


def test_every_second_answer_right_is_half(catalogue: Catalogue, datasets: Path) -> None:
    class Half(Oracle):
        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            good = super().generate_until(requests)
            return [
                text if request.doc_id % 2 else "I do not know."
                for text, request in zip(good, requests, strict=True)
            ]

    found = measured("gsm8k", catalogue, datasets, Half(True))
    assert [score["value"] for score in found.scores] == [0.5, 0.5]
    assert found.checks["unparsed"] == N // 2
    values = [d["values"]["exact_match"] for d in found.documents if d["filter"] == "strict-match"]
    assert values == [float(i % 2) for i in range(N)]


def test_a_metric_that_the_task_lacks_is_named(catalogue: Catalogue, datasets: Path) -> None:
    entry: Task = {**catalogue.tasks["arc_challenge"], "metric": "accuracy"}
    odd = dataclasses.replace(catalogue, tasks={**catalogue.tasks, "arc_challenge": entry})
    with pytest.raises(UserError, match=r"config/tasks\.yaml: metric: .*acc_norm \(none\)"):
        measured("arc_challenge", odd, datasets, Oracle(True))


def test_unknown_tasks_and_missing_splits_are_named(
    catalogue: Catalogue, datasets: Path, tmp_path: Path
) -> None:
    entry = catalogue.tasks["arc_challenge"]
    with pytest.raises(UserError, match=r"arc_challenge\.harness_task: .*'arc_chalenge'"):
        load_task(
            "arc_challenge",
            {**entry, "harness_task": "arc_chalenge"},
            datasets / "gsm8k",
            "first_n",
        )
    for task, dataset, present, split in (
        ("arc_challenge", "hellaswag", "validation", "test"),
        ("gsm8k", "gsm8k", "test", "train"),
        ("gsm8k", "gsm8k", "train", "test"),
    ):
        file = str(datasets / f"{dataset}-{present}.jsonl")
        local: Any = {"source": "local", "files": {present: file}, "license": "CC0-1.0"}
        prepare_dataset("few", local, tmp_path / "few")
        # Whatever its columns are.
        entry = {**catalogue.tasks[task], "columns": []}
        with pytest.raises(UserError, match=rf"few\.splits: .*'{split}'.*\['{present}'\]"):
            load_task(task, entry, tmp_path / "few", "first_n")


def test_the_definition_s_digest_follows_what_is_measured(
    catalogue: Catalogue, datasets: Path
) -> None:
    entry: Any = catalogue.tasks["gsm8k"]

    def found(**changes: Any) -> str:
        changed: Any = {**entry, **changes}
        return task_digest(load_task("gsm8k", changed, datasets / "gsm8k", "first_n"))

    assert found() == found()
    assert found(title="another", note="another") == found()
    assert found(num_fewshot=2) != found()
    arc_entry = catalogue.tasks["arc_challenge"]
    arc_task = load_task("arc_challenge", arc_entry, datasets / "arc_challenge", "first_n")
    assert task_digest(arc_task) != found()


# --- checks ------------------------------------------------------------------------------------


def sample(arguments: list[tuple[Any, Any]], response: Any = None, filtered: Any = None) -> Row:
    return {
        "filter": "none",
        "arguments": arguments,
        "resps": [[response]],
        "filtered_resps": [filtered],
    }


def checks(samples: list[Row], kind: str, ci95: list[float] | None = None) -> Row:
    headline: Any = {"ci95": ci95, "chance": 0.25}
    entry: Any = {"kind": kind}
    return sanity_checks(samples, headline, entry, Truncated(1, 2))


def test_checks_of_generated_answers() -> None:
    ten = {"max_gen_toks": 10, "until": ["."]}
    samples = [
        sample([("x", ten)], "short", "5"),
        sample([("x", ten)], "y" * 10, "[invalid]"),
        sample([("x", ten)], "y" * 4, "6"),
        sample([("x", ten)], " \n", "[invalid]"),
        sample([("x", ten)], "", "[invalid]"),
    ]
    assert checks(samples, "generate", [0.0, 0.4]) == {
        "truncated_contexts": 1,
        "truncated_generations": 2,
        "empty_generations": 2,
        "unparsed": 3,
        "at_chance": True,
    }


def test_checks_of_choices() -> None:
    samples = [sample([("x", "y"), ("x", "z")]) for _ in range(3)]
    assert checks(samples, "loglikelihood", [0.3, 0.4]) == {
        "truncated_contexts": 1,
        "truncated_generations": None,
        "empty_generations": None,
        "unparsed": None,
        "at_chance": False,
    }
    assert checks(samples, "loglikelihood", None)["at_chance"] is None


def test_cut_contexts_are_counted_in_a_real_cell(measure: Measure, catalogue: Catalogue) -> None:
    demo: Protocol = {**catalogue.protocols["demo"], "max_context_tokens": 40}
    narrow = dataclasses.replace(catalogue, protocols={**catalogue.protocols, "demo": demo})
    assert measure("gsm8k", narrow)["checks"]["truncated_contexts"] == 3
    assert measure("arc_challenge", narrow)["checks"]["truncated_contexts"] == 0


# --- the digest of a result ----------------------------------------------------------------------

CIRCUMSTANCES = {
    "started": "2027-01-01T00:00:00+00:00",
    "duration_s": 1e6,
    "sequence": 77,
    "command": "another",
    "label": "demo",
    "environment": {"python": "3.12.0"},
    "hardware": {"id": "t4"},
    "host": {"load": 9},
    "workflow": {"commit": None},
    "result_sha256": "0" * 64,
}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all plain values inside."""
    if not isinstance(value, dict | list) or not value:
        return [path]
    keys = value if isinstance(value, dict) else range(len(value))
    return [leaf for key in keys for leaf in leaves(value[key], (*path, key))]


@pytest.mark.parametrize("kind", ["cell", "performance"])
def test_the_digest_covers_every_measured_field_and_no_circumstance(
    kind: str, catalogue: Catalogue
) -> None:
    record = score_record(catalogue) if kind == "cell" else performance_record()
    before = result_digest(record)
    assert before == record["result_sha256"]
    assert result_digest({**record, **CIRCUMSTANCES}) == before
    assert set(schema(kind)["properties"]) >= set(record) - {"host"} | {"label"}

    measured_leaves = [path for path in leaves(record) if path[0] not in CIRCUMSTANCES]
    assert len(measured_leaves) > 30
    for path in measured_leaves:
        changed = copy.deepcopy(record)
        inside = changed
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = {"type": "changed"}
        assert result_digest(changed) != before, path
    for name in record.keys() - CIRCUMSTANCES.keys():
        assert result_digest({k: v for k, v in record.items() if k != name}) != before


def test_an_error_s_text_is_no_result_but_its_kind_is(catalogue: Catalogue) -> None:
    record = score_record(catalogue, error="at 0x7f00")
    again = score_record(catalogue, error="at 0x7fff")
    assert result_digest(record) == result_digest(again)
    again["error"]["type"] = "KeyError"
    assert result_digest(record) != result_digest(again)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


NAMES = st.text().filter(lambda name: name != "error")  # whose shape the schema fixes


@given(st.dictionaries(NAMES, JSON, max_size=6), st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(record: Row, random: Any) -> None:
    names = list(record)
    random.shuffle(names)
    assert result_digest({name: record[name] for name in names}) == result_digest(record)
    kept = {k: v for k, v in record.items() if k not in CIRCUMSTANCES}
    assert result_digest(record) == digest(json.loads(canonical_json(kept)))
