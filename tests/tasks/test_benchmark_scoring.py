"""Every benchmark from the hub to its score: who knows gets the highest, who errs the lowest."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.catalog.types import HubDataset
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.download.nltk_data import prepare_punkt
from slm_benchmark.sandbox import Unavailable, confinement
from slm_benchmark.tasks.loader import load_parts
from tests.support.answerers import (
    Guesser,
    Oracle,
    WrongTwin,
    best,
    columns,
    is_guessed,
    measure,
    prepare,
    worst,
)
from tests.support.benchmark_data import REPOSITORIES, write_hub, write_repository
from tests.support.hub import Hub

CATALOGUE = load_catalogue()


def hub_dataset(name: str) -> HubDataset:
    """The entry of a dataset of the hub."""
    entry = CATALOGUE.datasets[name]
    assert entry["source"] == "hub"
    return entry


SEVENTEEN = {
    "mmlu_pro",
    "arc_challenge",
    "hellaswag",
    "bbh",
    "gpqa_diamond",
    "gsm8k",
    "humaneval_plus",
    "mbpp",
    "codexglue",
    "flores_200",
    "xnli",
    "belebele",
    "ifeval",
    "mt_bench",
    "truthfulqa_mc1",
    "toxigen",
    "bold",
}
COLUMNS = columns(CATALOGUE)

STANDARD_ERRORS = 3
"""How far a guesser's score may lie from its expectation."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where datasets are prepared, each once."""
    return tmp_path_factory.mktemp("benchmarks")


def dataset(task: str, hub: Hub, folder: Path) -> Path:
    """The prepared dataset of a column."""
    name = CATALOGUE.tasks[task]["datasets"]["hub"]
    return prepare(name, CATALOGUE.datasets[name], hub, folder)


def some_parts(task: str) -> list[str] | None:
    """All parts of a column, or every sixth where there are more than thirty."""
    parts = list(CATALOGUE.tasks[task].get("parts", ("",)))
    return parts if len(parts) <= 30 else parts[::6]


def sentence_models(task: str, folder: Path) -> Path | None:
    """NLTK's models, for a column that needs them: from the package index, once."""
    if "nltk" not in CATALOGUE.tasks[task].get("resources", ()):
        return None
    if not (folder / "nltk").is_dir():
        prepare_punkt(folder / "nltk")
    return folder / "nltk"


def test_all_seventeen_are_here() -> None:
    assert set(COLUMNS) >= SEVENTEEN
    hosted = {task for task, entry in CATALOGUE.tasks.items() if "hub" in entry["datasets"]}
    # The same task as belebele, in more languages than there are sentences for.
    assert hosted - set(COLUMNS) == {"belebele_all"}


@pytest.mark.parametrize("task", COLUMNS)
def test_who_knows_gets_all_and_who_errs_nothing(task: str, hub: Hub, folder: Path) -> None:
    entry = CATALOGUE.tasks[task]
    if entry["runs_code"] and isinstance(found := confinement(), Unavailable):
        pytest.skip(found.reason)
    knowing, erring, guessing = measure(
        task,
        CATALOGUE,
        dataset(task, hub, folder),
        sentence_models(task, folder),
        [Oracle(), WrongTwin(), Guesser(seed=task)],
        some_parts(task),
    )
    documents = len(knowing.odds)
    # The harness ends an answer of BBH at a capital Q, so that "(Q)" cannot be given.
    assert bool(knowing.stopped) == (task == "bbh_cot")
    assert knowing.value == pytest.approx(best(entry) * (1 - knowing.stopped / documents))
    assert erring.value == pytest.approx(worst(entry))
    assert all(score["value"] is not None for score in knowing.scores + erring.scores)
    if is_guessed(entry):
        expected = statistics.mean(guessing.odds)
        if entry["chance"] == "options":
            assert guessing.headline["chance"] == pytest.approx(expected)
        error = math.sqrt(math.fsum(p * (1 - p) for p in guessing.odds)) / documents
        assert abs(guessing.value - expected) < STANDARD_ERRORS * error
        if not entry["runs_code"]:  # which takes too long for as many documents
            assert expected - STANDARD_ERRORS * error > worst(entry)
            assert expected + STANDARD_ERRORS * error < best(entry)
    elif task != "bold":  # where any friendly answer is as good as another
        assert worst(entry) < guessing.value < best(entry)


# ── datasets that are not what they should be ──

GATED = sorted(
    name for name, entry in CATALOGUE.datasets.items() if entry.get("gated") and "repo" in entry
)


@pytest.mark.parametrize("name", GATED)
def test_a_gated_benchmark_names_the_page(name: str, hub: Hub, tmp_path: Path) -> None:
    repository = hub_dataset(name)["repo"]
    hub.gated.add(repository)
    with pytest.raises(UserError, match=rf"{name}\.repo: this dataset is gated") as caught:
        prepare(name, CATALOGUE.datasets[name], hub, tmp_path)
    assert f"accept the license on https://huggingface.co/datasets/{repository}," in str(
        caught.value
    )
    assert not (tmp_path / name).exists()


def test_a_file_that_breaks_off_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's library waits a second before it resumes.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut["main/test-00000-of-00001.parquet"] = 100  # less than resuming could mend
    with pytest.raises(RunEnvironmentError, match=r"gsm8k\.repo: .*broke off"):
        prepare("gsm8k", CATALOGUE.datasets["gsm8k"], hub, tmp_path)
    assert not (tmp_path / "gsm8k").exists()


def test_a_file_that_is_cut_on_the_hub_is_refused(hub: Hub, tmp_path: Path) -> None:
    entry = hub_dataset("gsm8k")
    write_hub(hub.root, [entry["repo"]])
    file = hub.root / entry["repo"] / "main" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    pinned: Any = {**entry, "revision": hub.commit(entry["repo"])}
    with pytest.raises(UserError, match=r"gsm8k\.splits: this split cannot be loaded") as caught:
        prepare_dataset("gsm8k", pinned, tmp_path / "gsm8k", tmp_path / "downloads")
    assert not isinstance(caught.value, RunEnvironmentError)
    assert not (tmp_path / "gsm8k").exists()


def test_another_revision_is_refused(hub: Hub, tmp_path: Path) -> None:
    entry = hub_dataset("gsm8k")
    write_hub(hub.root, [entry["repo"]])
    pinned: Any = {**entry, "revision": hub.commit(entry["repo"])}
    configs = REPOSITORIES[entry["repo"]]["main"]
    write_repository(hub.root / entry["repo"], {"main": {**configs, "test": configs["test"][1:]}})
    with pytest.raises(UserError, match=r"gsm8k\.revision: openai/gsm8k has no such revision"):
        prepare_dataset("gsm8k", pinned, tmp_path / "gsm8k", tmp_path / "downloads")
    assert not (tmp_path / "gsm8k").exists()


@pytest.mark.parametrize("task", COLUMNS)
def test_a_missing_column_is_named(
    task: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CATALOGUE.tasks[task]
    prepared = dataset(task, hub, folder)
    part = next(iter(entry.get("parts", ("",))))
    assert entry["columns"]
    for column in entry["columns"]:

        def without(folder: Path, part: str = "", column: str = column) -> dict[str, Any]:
            splits = load_splits(folder, part)
            return {name: split.remove_columns([column]) for name, split in splits.items()}

        monkeypatch.setattr("slm_benchmark.tasks.loader.load_splits", without)
        with pytest.raises(UserError) as caught:
            load_parts(task, entry, prepared, "first_n", [part])
        message = str(caught.value)
        assert prepared.name in message
        assert repr(column) in message
        assert "Fix: " in message
        assert read_json(prepared / "manifest.json")["dataset"] == prepared.name
