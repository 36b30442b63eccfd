"""Verifying published cells: the same again, changed inputs, forgeries, and other machines."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.model_cards import load_model
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.catalog.types import Protocol
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_json
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.evaluation.generation import Outputs as Kept
from slm_benchmark.evaluation.generation import generate
from slm_benchmark.evaluation.loglikelihood import Outputs, evaluate
from slm_benchmark.evaluation.rescoring import score
from slm_benchmark.evaluation.runner import Folders
from slm_benchmark.publishing.recompute import recompute
from slm_benchmark.publishing.verify.batch import find_cells
from slm_benchmark.publishing.verify.cell import REPORT, VerifyOptions, choose_documents, verify
from slm_benchmark.publishing.verify.verdict import (
    EXIT_CODES,
    Outcome,
    hidden_share,
    render,
    slack_nats,
)
from slm_benchmark.records.provenance import result_digest
from tests.evaluation.test_loglikelihood import CARD, arc, gsm8k
from tests.support.checkout import Checkout, make_checkout
from tests.support.models import add_manifest
from tests.workflow.test_workflow import ARC, GSM8K, RUN, small_demo

Record = Any
Rows = list[Any]

ASKED = {"arc_challenge": 80, "gsm8k": 4}
"""Documents of the cells."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A place with inputs of a tiny model and the records of two cells."""

    root: Path
    catalogue: Catalogue
    arc: Path
    gsm8k: Path

    @property
    def weights(self) -> Path:
        return self.root / "resources/models/tiny/base"

    def dataset(self, task: str) -> Path:
        return self.root / "resources/datasets" / dataset_id(self.catalogue, task)

    def verify(self, path: Path, **wishes: Any) -> Outcome:
        return verify(path, self.catalogue, VerifyOptions(**wishes))


def dataset_id(catalogue: Catalogue, task: str) -> str:
    return str(catalogue.dataset_id(task, "demo"))


@pytest.fixture(scope="module")
def measured(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The cells as they were published, and nobody touched them."""
    root = tmp_path_factory.mktemp("release")
    base = root / "resources/models/tiny/base"
    shutil.copytree(tiny_model, base)
    (base / "manifest.json").unlink(missing_ok=True)
    (base / "weights.json").unlink(missing_ok=True)
    add_manifest(base, "base")
    card = root / "tiny.yaml"
    card.write_text(yaml.safe_dump(CARD))
    shipped = load_catalogue()
    demo: Protocol = {**shipped.protocols["demo"], "documents": {"default": 80, "gsm8k": 4}}
    demo["max_gen_toks"] = 12
    catalogue = dataclasses.replace(
        shipped,
        models={**shipped.models, "tiny": load_model(card)},
        protocols={**shipped.protocols, "demo": demo},
    )
    splits: dict[str, dict[str, Rows]] = {
        "arc_challenge": {"test": [arc(i) for i in range(100)]},
        "gsm8k": {
            "train": [gsm8k(1000 + i) for i in range(6)],
            "test": [gsm8k(i) for i in range(6)],
        },
    }
    for task, by_name in splits.items():
        files = {}
        for name, rows in by_name.items():
            files[name] = str(root / f"{task}-{name}.jsonl")
            Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry: Any = {"source": "local", "files": files, "license": "CC0-1.0"}
        dataset = dataset_id(catalogue, task)
        prepare_dataset(dataset, entry, root / "resources/datasets" / dataset)
    release = Release(root, catalogue, root / "results/arc.json", root / "results/gsm8k.json")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", root / ".sequence")
        cell = Cell("tiny", "base", "local", "demo", "arc_challenge")
        outputs = Outputs(
            release.arc, root / "results/arc.documents.json", root / "arc.samples.parquet"
        )
        evaluate(cell, catalogue, Folders(base, base, release.dataset(cell.task)), outputs, 1)
        cell = dataclasses.replace(cell, task="gsm8k")
        kept = Kept(root / "gsm8k.answers.json", root / "gsm8k.answers.parquet")
        folders = Folders(base, base, release.dataset("gsm8k"))
        generate(cell, catalogue, folders, kept, 1)
        outputs = Outputs(
            release.gsm8k, root / "results/gsm8k.documents.json", root / "gsm8k.samples.parquet"
        )
        score("gsm8k", catalogue, kept.record, folders.dataset, outputs, None)
    for path in (release.arc, release.gsm8k):
        assert read_json(path)["state"] == "ok"
    return release


@pytest.fixture
def release(
    measured: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Release]:
    """A copy of it, to change; nothing may count an evaluation of the checkout's."""
    root = tmp_path / "release"
    shutil.copytree(measured.root, root)
    monkeypatch.setattr("slm_benchmark.publishing.verify.inputs.ROOT", root)
    counter = tmp_path / "runs.sequence"
    monkeypatch.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", counter)
    before = contents(root / "results")
    copy = dataclasses.replace(
        measured, root=root, arc=root / "results/arc.json", gsm8k=root / "results/gsm8k.json"
    )
    yield copy
    assert not counter.exists()
    assert before.keys() == contents(root / "results").keys()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may load a model, and nothing may start the workflow."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr("slm_benchmark.engines.load.load_engine", fail)
    monkeypatch.setattr("slm_benchmark.publishing.verify.inputs.subprocess.run", fail)


def forge(path: Path, change: Callable[[Record, Rows], None]) -> None:
    """Change a record and its documents, and make scores and digests fit."""
    record = read_json(path)
    file = path.with_name(f"{path.stem}.documents.json")
    documents = read_json(file)
    change(record, documents)
    found = {(r["metric"], r["filter"], r.get("part", "")): r for r in recompute(record, documents)}
    for row in record["scores"]:
        row |= found[row["metric"], row["filter"], row.get("part", "")]
        if row["headline"] and row["chance"] is not None and row["ci95"]:
            low, high = row["ci95"]
            record["checks"]["at_chance"] = low <= row["chance"] <= high
    record["documents_sha256"] = digest(documents)
    record["result_sha256"] = result_digest(record)
    atomic_write_json(file, documents)
    atomic_write_json(path, record)


def elsewhere(record: Record, documents: Rows) -> None:
    """The record of another machine."""
    record["hardware"]["fingerprint"] = "0" * 64


# --- on the same machine -------------------------------------------------------------------------


def test_all_documents_are_identical_on_the_same_machine(release: Release) -> None:
    outcome = release.verify(release.arc)
    assert (outcome.verdict, outcome.rerun, outcome.total) == ("identical", 80, 80)
    assert (outcome.deviations, outcome.differences) == ([], [])
    assert "unseen" not in outcome.reason


def test_a_seeded_part_is_identical_too(release: Release, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    outcome = release.verify(release.arc, documents=9, seed=3, keep=keep)
    assert (outcome.verdict, outcome.rerun, outcome.total) == ("identical", 9, 80)
    assert "could be wrong unseen" in outcome.reason
    (folder,) = [path.parent for path in keep.rglob(REPORT)]
    asked = read_json(folder / "arc_challenge.documents.json")
    published = read_json(release.root / "results/arc.documents.json")
    indices = [row["index"] for row in asked]
    assert indices == choose_documents(published, 9, 3)[""]
    assert asked == [row for row in published if row["index"] in indices]
    assert read_json(folder / REPORT)["exit_code"] == 0
    assert read_json(folder / "arc_challenge.json")["kind"] == "score"


def test_generated_answers_are_identical_on_the_same_machine(release: Release) -> None:
    for documents in (None, 2):
        outcome = release.verify(release.gsm8k, documents=documents)
        assert (outcome.verdict, outcome.rerun) == ("identical", documents or 4), outcome
        assert outcome.total == 4


def test_without_a_wish_nothing_of_the_repetition_stays(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    release.verify(release.gsm8k, documents=1)
    assert list(temporary.iterdir()) == []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slm_benchmark.engines.transformers.Transformers.score", stop)
    with pytest.raises(KeyboardInterrupt):
        release.verify(release.arc, documents=2)
    assert list(temporary.iterdir()) == []


# --- changed inputs ------------------------------------------------------------------------------


def flip_byte(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.usefixtures("no_engine")
def test_one_byte_of_the_weights_is_named_before_anything_is_computed(release: Release) -> None:
    flip_byte(release.weights / "model.safetensors")
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input"
    assert EXIT_CODES[outcome.verdict] == 6
    assert "model.safetensors: sha256: the manifest says" in outcome.reason
    assert "Fix: delete" in outcome.reason
    assert "\n" not in outcome.reason


@pytest.mark.usefixtures("no_engine")
def test_weights_with_another_manifest_are_named(release: Release) -> None:
    """Such as after quantizing anew: every file fits its manifest, which is not the record's."""
    flip_byte(release.weights / "model.safetensors")
    for name in ("manifest.json", "weights.json"):
        (release.weights / name).unlink()
    add_manifest(release.weights, "base")
    outcome = release.verify(release.arc)
    expected = read_json(release.arc)["model"]["sha256"]
    assert outcome.verdict == "changed input"
    assert f"manifest.json: model.sha256: changed: the record has '{expected}'" in outcome.reason


@pytest.mark.usefixtures("no_engine")
def test_a_file_beside_the_weights_is_named(release: Release) -> None:
    (release.weights / "adapter_config.json").write_text("{}")
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input"
    assert "adapter_config.json: the manifest does not list this file" in outcome.reason


@pytest.mark.usefixtures("no_engine")
def test_an_altered_dataset_is_named(release: Release) -> None:
    import pyarrow.parquet as pq

    path = release.dataset("arc_challenge") / "test.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[7]["question"] = rows[7]["question"].replace("What", "Who")
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input"
    assert "test.parquet: sha256: the rows changed: the manifest says" in outcome.reason


@pytest.mark.usefixtures("no_engine")
def test_one_byte_of_a_dataset_is_named(release: Release) -> None:
    flip_byte(release.dataset("arc_challenge") / "test.parquet", 200)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input"
    assert "test.parquet" in outcome.reason


def edit(path: Path, change: Callable[[Any], None]) -> None:
    data = read_json(path)
    change(data)
    atomic_write_json(path, data)


def better_score(record: Record) -> None:
    record["scores"][-1]["value"] = 0.9


def signed_better_score(record: Record) -> None:
    better_score(record)
    record["result_sha256"] = result_digest(record)


def better_document(documents: Rows) -> None:
    documents[0]["values"]["acc"] = 1 - documents[0]["values"]["acc"]


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("arc.json", better_score, "result_sha256"),
        ("arc.json", signed_better_score, "contradicts itself"),
        ("arc.documents.json", better_document, "documents_sha256"),
        ("arc.json", lambda record: record.pop("scores"), "scores"),
    ],
)
def test_an_edited_record_is_named(
    release: Release, file: str, change: Callable[[Any], None], named: str
) -> None:
    edit(release.root / "results" / file, change)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input"
    assert named in outcome.reason


@pytest.mark.usefixtures("no_engine")
def test_documents_that_are_gone_are_named(release: Release) -> None:
    aside = release.root / "arc.documents.json"
    shutil.move(release.root / "results/arc.documents.json", aside)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input"
    assert "arc.documents.json: there is no such file" in outcome.reason
    shutil.move(aside, release.root / "results")


def other_engine(record: Record, documents: Rows) -> None:
    record["engine"]["version"] = record["engine"]["version"].replace("engine ", "engine 9")


def other_choices(record: Record, documents: Rows) -> None:
    record["protocol"]["sha256"] = "1" * 64


def other_task(record: Record, documents: Rows) -> None:
    record["task"]["config_sha256"] = "2" * 64


def other_harness(record: Record, documents: Rows) -> None:
    record["environment"]["packages"]["lm-eval"] = "0.3.0"


def other_model(record: Record, documents: Rows) -> None:
    record["model"]["id"] = "nobodys"


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_engine, "engine.version"),
        (other_choices, "protocol.sha256"),
        (other_task, "task.config_sha256"),
        (other_harness, "environment.packages.lm-eval"),
        (other_model, "model.id"),
    ],
)
def test_other_software_and_choices_are_named(
    release: Release, change: Callable[[Record, Rows], None], field: str
) -> None:
    forge(release.arc, change)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "changed input", outcome
    assert f": {field}: " in outcome.reason


@pytest.mark.usefixtures("no_engine")
def test_what_scores_answers_is_compared_before_they_are_given(release: Release) -> None:
    def other_limits(record: Record, documents: Rows) -> None:
        record["scoring"] = {"code": {"version": 99}}

    forge(release.gsm8k, other_limits)
    outcome = release.verify(release.gsm8k)
    assert (outcome.verdict, "scoring.code" in outcome.reason) == ("changed input", True)


# --- forgeries and other machines ----------------------------------------------------------------


def improve(record: Record, documents: Rows) -> None:
    """Turn three wrong answers into right ones, with margins that fit."""
    wrong = [row for row in documents if row["values"]["acc"] == 0 == row["values"]["acc_norm"]]
    for row in wrong[:3]:
        row["values"] = dict.fromkeys(row["values"], 1.0)
        row["margin"] = -row["margin"]


def test_a_consistent_forgery_disagrees_and_its_documents_are_named(release: Release) -> None:
    before = read_json(release.root / "results/arc.documents.json")
    honest = read_json(release.arc)["scores"][-1]["value"]
    forge(release.arc, improve)
    assert read_json(release.arc)["scores"][-1]["value"] == pytest.approx(honest + 3 / 80)
    after = read_json(release.root / "results/arc.documents.json")
    changed = {row["index"] for row, old in zip(after, before, strict=True) if row != old}
    outcome = release.verify(release.arc)
    assert outcome.verdict == "disagrees"
    assert EXIT_CODES[outcome.verdict] == 7
    assert {found.index for found in outcome.deviations} == changed
    assert len(changed) == 3
    told = render(outcome, "arc.json")
    for row in after:
        if row["index"] in changed:
            hash_and_values = (
                f"document {row['index']} {row['document'][:12]} none: acc_norm 1.0 → 0"
            )
            assert hash_and_values in told
            assert f"margin {row['margin']:+.6f} nats" in told


def test_another_machine_does_not_excuse_a_forgery(release: Release) -> None:
    def change(record: Record, documents: Rows) -> None:
        elsewhere(record, documents)
        for row in [row for row in documents if row["margin"] < -1][:3]:
            row["values"] = dict.fromkeys(row["values"], 1.0)
            row["margin"] = -row["margin"]

    forge(release.arc, change)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "disagrees"
    assert "more than another machine or kernel explains" in outcome.reason


def noise(nats: float) -> Callable[[Record, Rows], None]:
    def change(record: Record, documents: Rows) -> None:
        elsewhere(record, documents)
        for place, row in enumerate(documents):
            # Across zero the answer would have to change too.
            if abs(row["margin"]) > 2 * nats:
                row["margin"] = round(row["margin"] + nats * (-1) ** place, 6)

    return change


def test_small_noise_of_another_machine_agrees(release: Release) -> None:
    forge(release.arc, noise(0.0005))
    outcome = release.verify(release.arc)
    assert outcome.verdict == "agrees", outcome
    assert EXIT_CODES[outcome.verdict] == 3
    assert [found.name for found in outcome.differences] == ["hardware.fingerprint"]
    assert "hardware.fingerprint" in render(outcome, "arc.json")


def test_a_part_of_another_machine_is_too_little(release: Release) -> None:
    forge(release.arc, noise(0.0005))
    outcome = release.verify(release.arc, documents=10)
    assert outcome.verdict == "underpowered", outcome
    assert EXIT_CODES[outcome.verdict] == 4
    assert "verify more documents" in outcome.reason
    assert release.verify(release.arc, documents=60).verdict == "agrees"


def test_large_noise_disagrees_on_any_machine(release: Release) -> None:
    forge(release.arc, noise(0.006))  # each within the bound of one document, not of the mean
    outcome = release.verify(release.arc)
    assert (outcome.verdict, "on average" in outcome.reason) == ("disagrees", True), outcome


def test_small_noise_on_the_same_machine_disagrees(release: Release) -> None:
    def change(record: Record, documents: Rows) -> None:
        documents[5]["margin"] = round(documents[5]["margin"] * 1.0001, 6)

    forge(release.arc, change)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "disagrees"
    assert len(outcome.deviations) == 1


def test_other_threads_are_listed(release: Release) -> None:
    outcome = release.verify(release.arc, threads=2)
    assert outcome.verdict in ("identical", "agrees")
    assert [(d.name, d.published, d.here) for d in outcome.differences] == [
        ("engine.threads", 1, 2)
    ]


def test_few_texts_of_another_machine_are_underpowered(release: Release) -> None:
    def change(record: Record, documents: Rows) -> None:
        elsewhere(record, documents)
        record["answers_sha256"] = "3" * 64

    forge(release.gsm8k, change)
    outcome = release.verify(release.gsm8k)
    assert outcome.verdict == "underpowered"
    assert "could not be excluded" in outcome.reason


def test_a_forged_answer_of_a_text_disagrees(release: Release) -> None:
    def change(record: Record, documents: Rows) -> None:
        documents[0]["values"] = {name: 1 - value for name, value in documents[0]["values"].items()}

    forge(release.gsm8k, change)
    outcome = release.verify(release.gsm8k)
    assert outcome.verdict == "disagrees"
    assert [found.index for found in outcome.deviations] == [
        read_json(release.root / "results/gsm8k.documents.json")[0]["index"]
    ]


def test_chosen_documents_are_not_the_protocols(release: Release) -> None:
    def change(record: Record, documents: Rows) -> None:
        del documents[0]
        record["dataset"]["documents"] -= 1

    forge(release.arc, change)
    outcome = release.verify(release.arc)
    assert outcome.verdict == "disagrees"
    assert "1 of them are missing, and 0 others" in outcome.reason


# --- records without a score ---------------------------------------------------------------------


def test_a_failure_that_comes_again_is_identical(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: Record, documents: Rows) -> None:
        record |= {
            "state": "failed",
            "error": {"type": "ValueError", "message": "it broke", "traceback": ""},
            "scores": [],
            "samples_sha256": None,
            "checks": dict.fromkeys(record["checks"]),
        }
        record["dataset"]["documents"] = 0
        documents.clear()

    edit_failed(release.arc, fail)
    assert release.verify(release.arc).verdict == "disagrees"

    def break_model(*_: object) -> None:
        raise ValueError("it broke again")

    monkeypatch.setattr("slm_benchmark.engines.transformers.Transformers.score", break_model)
    assert release.verify(release.arc).verdict == "identical"


def edit_failed(path: Path, change: Callable[[Record, Rows], None]) -> None:
    record = read_json(path)
    documents: Rows = []
    change(record, documents)
    record["documents_sha256"] = None
    record["result_sha256"] = result_digest(record)
    atomic_write_json(path.with_name(f"{path.stem}.documents.json"), documents)
    atomic_write_json(path, record)


@pytest.mark.usefixtures("no_engine")
def test_what_was_not_run_cannot_be_verified(release: Release) -> None:
    def lacking(record: Record, documents: Rows) -> None:
        record |= {
            "state": "not_run",
            "reason": "no judge is configured",
            "scores": [],
            "samples_sha256": None,
            "checks": dict.fromkeys(record["checks"]),
        }
        record["dataset"]["documents"] = 0

    edit_failed(release.gsm8k, lacking)
    outcome = release.verify(release.gsm8k)
    assert (outcome.verdict, EXIT_CODES[outcome.verdict]) == ("not verified", 5)
    assert "no judge is configured" in outcome.reason


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "there is no such file"),
        ("{", "malformed JSON"),
        ("[]", "no record of a measurement"),
        ('{"kind": "holiday"}', "no record of a measurement"),
        ('{"kind": "performance"}', "compare-performance"),
    ],
)
def test_what_is_no_score_is_refused(
    tmp_path: Path, measured: Release, content: str | None, named: str
) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=named):
        measured.verify(path)


@pytest.mark.parametrize(
    ("wishes", "named"),
    [({"documents": 0}, "--documents"), ({"threads": -1}, "--threads")],
)
def test_bad_wishes_are_refused(release: Release, wishes: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        release.verify(release.arc, **wishes)


def test_repetitions_never_go_to_results(release: Release) -> None:
    from slm_benchmark.common.paths import RESULTS

    with pytest.raises(UserError, match="not for repetitions"):
        release.verify(release.arc, keep=RESULTS / "again")


def test_the_documents_of_a_release_are_the_current_ones(release: Release) -> None:
    found = find_cells(release.root / "results")
    assert found == [release.arc, release.gsm8k]
    later = read_json(release.arc)
    later["started"] = "2099-01-01T00:00:00+00:00"
    place = release.root / "later"
    shutil.copytree(release.root / "results", place)
    atomic_write_json(place / "arc_later.json", later)
    (place / "broken.json").write_text("{")
    assert [path.name for path in find_cells(place)] == [
        "arc_later.json",
        "broken.json",
        "gsm8k.json",
    ]
    with pytest.raises(UserError, match="no record of a score"):
        find_cells(release.root / "resources")


# --- the statistics ------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**32))
def test_a_hidden_share_is_the_largest_that_a_draw_may_miss(
    asked: int, more: int, seed: int
) -> None:
    from scipy.stats import hypergeom

    total = asked + more
    wrong = round(hidden_share(asked, total) * total)
    assert hypergeom.pmf(0, total, wrong, asked) > 0.05
    if wrong < total:
        assert hypergeom.pmf(0, total, wrong + 1, asked) <= 0.05 + 1e-12


def test_all_documents_hide_nothing() -> None:
    assert [hidden_share(n, n) for n in (1, 7, 500)] == [0, 0, 0]
    assert hidden_share(59, 10**6) < 0.05 < hidden_share(58, 10**6)


def test_the_slack_of_a_choice_counts_characters_where_the_metric_does() -> None:
    sample = {
        "answers": [[-4.0, False], [-6.0, False]],
        "prompts": [["Q:", " ab"], ["Q:", " abcdef"]],
    }
    plain: Any = {"kind": "loglikelihood", "metric": "acc"}
    assert slack_nats(sample, plain) == pytest.approx(2.0)
    # −2 and −1 a character: the second wins, until the first, of two characters, gains 2 nats.
    assert slack_nats(sample, plain | {"metric": "acc_norm"}) == pytest.approx(2.0)
    assert slack_nats(sample, plain | {"kind": "generate"}) is None


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with published records of two cells, and nothing else that was made."""
    folder = tmp_path_factory.mktemp("verify")
    made = make_checkout(folder)
    small_demo(made, folder / "index", tiny_model)
    made.commit("The repository with a tiny model")
    done = made.snakemake(ARC, GSM8K, *RUN)
    assert done.code == 0, done.output
    for name in (ARC, GSM8K):
        source = made.path(name)
        target = made.path(f"results/tiny/base/local/demo/{source.stem}")
        target.mkdir(parents=True)
        shutil.copy(source, target / "20260101T000000Z-00000000.json")
        documents = source.with_suffix(".documents.json")
        shutil.copy(documents, target / "20260101T000000Z-00000000.documents.json")
    shutil.rmtree(made.path("runs"))
    shutil.rmtree(made.path("resources"))
    return made


RECORD = "results/tiny/base/local/demo/arc_challenge/20260101T000000Z-00000000.json"


@pytest.mark.slow
def test_one_command_makes_what_is_missing_and_verifies(checkout: Checkout) -> None:
    before = contents(checkout.path("results"))
    done = checkout.benchmark("verify", RECORD, "--documents", "5")
    assert done.code == 0, done.output
    assert f"{RECORD}: identical" in done.output
    assert "run again: 5 of 12 documents" in done.output
    assert contents(checkout.path("results")) == before
    assert not checkout.path("runs").exists()


@pytest.mark.slow
def test_a_release_is_verified_to_its_end(checkout: Checkout, tmp_path: Path) -> None:
    copy = checkout.copy(tmp_path / "copy")
    folder = copy.path("results/tiny/base/local/demo")
    forge(folder / "gsm8k/20260101T000000Z-00000000.json", lie)
    (folder / "broken").mkdir()
    (folder / "broken/20260101T000000Z-00000000.json").write_text("{")
    done = copy.benchmark("verify", "--all", "--report", str(tmp_path / "report.json"))
    assert done.code == EXIT_CODES["disagrees"], done.output
    assert "3 records: 1 identical, 1 not verified, 1 disagrees" in done.output
    rows = {Path(row["path"]).parent.name: row for row in read_json(tmp_path / "report.json")}
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    assert verdicts == {
        "arc_challenge": "identical",
        "gsm8k": "disagrees",
        "broken": "not verified",
    }
    assert "malformed JSON" in rows["broken"]["reason"]
    flip_byte(copy.path("resources/models/tiny/base/model.safetensors"))
    done = copy.benchmark("verify", RECORD)
    assert done.code == EXIT_CODES["changed input"], done.output
    assert "model.safetensors" in done.output
    assert not copy.path("runs").exists()


def lie(record: Record, documents: Rows) -> None:
    for row in documents:
        row["values"] = {name: 1 - value for name, value in row["values"].items()}
