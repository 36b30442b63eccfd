"""All seventeen benchmarks in one run of the workflow, from a stand-in of the hub to the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.download.nltk_data import prepare_punkt
from slm_benchmark.sandbox import Unavailable, confinement
from tests.support.benchmark_data import write_hub
from tests.support.checkout import Checkout, Done, make_checkout
from tests.support.hub import Hub, serve
from tests.workflow.test_workflow import add_card, card, small_demo

pytestmark = pytest.mark.slow

CONFINES = not isinstance(confinement(), Unavailable)
TASKS = load_catalogue().protocol_tasks("quick")
FOLDER = "runs/tiny/base/local/quick"
RUN = ("--config", 'models=["tiny"]', 'variants=["base"]', "protocol=quick", "tasks=all")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A stand-in of the hub with a small set for each benchmark."""
    root = tmp_path_factory.mktemp("hub")
    write_hub(root)
    with serve(root) as served:
        yield served


@pytest.fixture(scope="module")
def measured(
    hub: Hub, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkout, Done]:
    """A checkout whose datasets were pinned by the real command, and a run of all benchmarks."""
    folder = tmp_path_factory.mktemp("seventeen")
    checkout = make_checkout(folder)
    checkout = Checkout(
        checkout.root,
        {**checkout.environment, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"},
    )
    small_demo(checkout, folder / "index", tiny_model)
    source = checkout.yaml("models/tiny.yaml")["source"]
    add_card(checkout, card("tiny", source, languages=["en", "de"]))

    def unpinned(datasets: dict[str, Any]) -> None:
        for entry in datasets.values():
            if entry["source"] == "hub":
                entry["revision"] = None

    def short(protocols: dict[str, Any]) -> None:
        protocols["quick"] |= {"documents": {"default": 2}, "max_gen_toks": 8}
        protocols["quick"]["performance"] = protocols["demo"]["performance"]

    checkout.edit("config/datasets.yaml", unpinned)
    checkout.edit("config/protocols.yaml", short)
    done = checkout.benchmark("pin", "config/datasets.yaml")
    assert done.code == 0, done.output
    prepare_punkt(checkout.path("resources/tools/nltk"))
    checkout.commit("Seventeen benchmarks on a tiny model")
    cells = [f"{FOLDER}/{task}.json" for task in TASKS]
    return checkout, checkout.snakemake(*cells, "--cores", "2", *RUN, timeout_s=1200)


def test_every_benchmark_has_a_record(measured: tuple[Checkout, Done]) -> None:
    checkout, done = measured
    assert done.code == 0, done.output
    records = {task: checkout.record(f"{FOLDER}/{task}.json") for task in TASKS}
    states = {task: record["state"] for task, record in records.items()}
    lacking = {"mt_bench"} if CONFINES else {"mt_bench", "humaneval_plus", "mbpp"}
    assert states == dict.fromkeys(TASKS, "ok") | dict.fromkeys(lacking, "not_run"), {
        task: record["error"] for task, record in records.items() if record["error"]
    }
    assert "no judge" in records["mt_bench"]["reason"]
    for task, record in records.items():
        if record["state"] == "ok":
            (headline,) = [score for score in record["scores"] if score["headline"]]
            assert headline["metric"] == record["task"]["metric"], task
            assert headline["n"] >= 1 or headline.get("missing"), task
            assert record["dataset"]["revision"], task


def test_records_say_which_parts_were_asked(measured: tuple[Checkout, Done]) -> None:
    checkout, _ = measured
    for task, parts in (
        ("xnli", ["de", "en"]),
        ("belebele", ["eng_Latn", "deu_Latn"]),
        ("flores_200", ["eng_Latn-deu_Latn", "deu_Latn-eng_Latn"]),
    ):
        record = checkout.record(f"{FOLDER}/{task}.json")
        assert sorted(record["task"]["parts"]) == sorted(parts)
        assert {score.get("part") for score in record["scores"]} == {None, *parts}


@pytest.mark.skipif(not CONFINES, reason="this machine cannot confine code")
def test_code_ran_confined_and_the_record_says_how(measured: tuple[Checkout, Done]) -> None:
    checkout, _ = measured
    for task in ("humaneval_plus", "mbpp"):
        record = checkout.record(f"{FOLDER}/{task}.json")
        assert record["scored"]["confinement"]
        assert sum(record["scored"]["programs"].values()) == record["dataset"]["documents"] == 2
        assert record["scoring"]["code"]["limits"]["wall_s"] >= 60


def test_stored_generations_are_rescored_without_the_model(measured: tuple[Checkout, Done]) -> None:
    """As on another machine: neither weights nor workflow, only runs/ and the catalogue."""
    checkout, _ = measured
    elsewhere = checkout.copy(checkout.root.with_name("elsewhere"))
    for folder in ("resources/models", "resources/datasets", ".snakemake"):
        elsewhere.run("rm", "-rf", folder)
    before = elsewhere.record(f"{FOLDER}/gsm8k.json")
    elsewhere.path(f"{FOLDER}/gsm8k.json").unlink()
    done = elsewhere.benchmark("score", f"{FOLDER}/gsm8k.answers.json")
    assert done.code == 0, done.output
    after = elsewhere.record(f"{FOLDER}/gsm8k.json")
    assert after["result_sha256"] == before["result_sha256"]
    assert after["environment"] == before["environment"]

    answers = elsewhere.path(f"{FOLDER}/gsm8k.answers.json")
    record = json.loads(answers.read_text())
    answers.write_text(json.dumps({**record, "truncated_contexts": 0, "answers_sha256": "0" * 64}))
    done = elsewhere.benchmark("score", str(answers))
    assert (done.code, len(done.errors())) == (1, 1), done.output
    assert "result_sha256" in done.output


def test_nothing_is_measured_twice(measured: tuple[Checkout, Done]) -> None:
    checkout, _ = measured
    cells = [f"{FOLDER}/{task}.json" for task in TASKS]
    assert checkout.plan(*cells, *RUN).measurements() == []


def test_the_pages_show_all_columns(measured: tuple[Checkout, Done]) -> None:
    checkout, _ = measured
    done = checkout.snakemake("build/preview/leaderboard.json", "--cores", "2", *RUN)
    assert done.code == 0, done.output
    board = checkout.record("build/preview/leaderboard.json")
    (row,) = [row for row in board["rows"] if row["protocol"] == "quick"]
    lacking = {"mt_bench"} if CONFINES else {"mt_bench", "humaneval_plus", "mbpp"}
    measured_here = {task for task, cell in row["scores"].items() if cell["state"] == "ok"}
    assert measured_here == set(TASKS) - lacking
