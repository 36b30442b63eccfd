"""Stored generations and their scoring, in another job or on another machine; none is mixed up."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.evaluation.generation import Outputs as Kept
from slm_benchmark.evaluation.generation import generate
from slm_benchmark.evaluation.loglikelihood import Outputs
from slm_benchmark.evaluation.rescoring import score, score_stored
from slm_benchmark.evaluation.runner import Folders
from tests.evaluation.test_loglikelihood import base, catalogue, datasets  # noqa: F401 (fixtures)

Rows = list[dict[str, Any]]

CONVERSATIONS: Rows = [
    {
        "category": category,
        "prompt": [f"What is {n} more than {n}?", "And one more than that?"],
        "reference": [str(2 * n), str(2 * n + 1)] if category == "math" else [],
        "prompt_id": n,
    }
    for n, category in enumerate(("math", "writing"), start=3)
]


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    """A prepared dataset of two conversations, one with reference answers."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS))
    entry: Any = {"source": "local", "files": {"train": str(file)}, "license": "CC0-1.0"}
    prepare_dataset("dialogues", entry, tmp_path / "dialogues")
    return tmp_path / "dialogues"


@dataclasses.dataclass(frozen=True)
class Bench:
    """The tiny model's answers to one task, and their scoring."""

    catalogue: Catalogue
    base: Path
    folder: Path

    def generate(self, task: str, dataset: Path) -> Any:
        cell = Cell("tiny", "base", "local", "demo", task)
        folders = Folders(weights=self.base, base=self.base, dataset=dataset)
        return generate(cell, self.catalogue, folders, self.kept(task), threads=1)

    def kept(self, task: str) -> Kept:
        record = self.folder / f"{task}.answers.json"
        return Kept(record=record, answers=record.with_suffix(".parquet"))

    def score(self, task: str, dataset: Path, of: str | None = None, **changed: Any) -> Any:
        outputs = Outputs(
            record=self.folder / f"{task}.json",
            documents=self.folder / f"{task}.documents.json",
            samples=self.folder / f"{task}.samples.parquet",
        )
        kept = self.kept(of or task).record
        known = changed.get("catalogue", self.catalogue)
        return score(task, known, kept, dataset, outputs, judge=None)


@pytest.fixture
def bench(
    catalogue: Catalogue,  # noqa: F811
    base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Bench]:
    monkeypatch.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", tmp_path / ".sequence")

    def make(**protocol: Any) -> Bench:
        demo: Any = {**catalogue.protocols["demo"], **protocol}
        chat = dataclasses.replace(catalogue.models["tiny"], chat=True)
        chosen = dataclasses.replace(
            catalogue,
            models={**catalogue.models, "tiny": chat},
            protocols={**catalogue.protocols, "demo": demo},
        )
        return Bench(chosen, base, tmp_path)

    return make


def headline(record: dict[str, Any]) -> dict[str, Any]:
    (found,) = [row for row in record["scores"] if row["headline"]]
    return dict(found)


@pytest.mark.parametrize("template", ["never", "chat_models"])
def test_conversations_stand_in_the_template_once(
    template: str, bench: Callable[..., Bench], dialogues: Path
) -> None:
    made = bench(chat_template=template)
    answers = made.generate("mt_bench", dialogues)
    assert (answers["state"], answers["error"]) == ("ok", None)
    assert answers["task"]["chat_template_sha256"]

    judged = made.score("mt_bench", dialogues)
    assert judged["state"] == "not_run"
    assert "no judge is configured" in judged["reason"]
    assert (judged["scores"], judged["dataset"]["documents"]) == ([], 0)

    likeness = made.score("mt_bench_reference", dialogues, of="mt_bench")
    assert likeness["state"] == "ok"
    assert (headline(likeness)["metric"], headline(likeness)["n"]) == ("reference_chrf", 1)
    assert likeness["answers_sha256"] == answers["answers_sha256"]


def test_prompts_in_a_template_are_scored_later(
    bench: Callable[..., Bench],
    datasets: Path,  # noqa: F811
) -> None:
    made = bench(chat_template="chat_models")
    answers = made.generate("gsm8k", datasets / "gsm8k")
    assert answers["task"]["chat_template_sha256"]
    assert made.score("gsm8k", datasets / "gsm8k")["state"] == "ok"


def test_a_subset_without_references_has_no_value(
    bench: Callable[..., Bench], dialogues: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bare.jsonl"
    file.write_text(json.dumps(CONVERSATIONS[1]) + "\n")
    entry: Any = {"source": "local", "files": {"train": str(file)}, "license": "CC0-1.0"}
    prepare_dataset("bare", entry, tmp_path / "bare")
    made = bench()
    made.generate("mt_bench", tmp_path / "bare")
    record = made.score("mt_bench_reference", tmp_path / "bare", of="mt_bench")
    assert record["state"] == "ok"
    assert (headline(record)["value"], headline(record)["n"]) == (None, 0)
    assert headline(record)["missing"] == 1


def test_answers_of_other_choices_or_an_unknown_card_are_refused(
    bench: Callable[..., Bench],
    datasets: Path,  # noqa: F811
) -> None:
    made = bench()
    made.generate("gsm8k", datasets / "gsm8k")
    other = bench(max_gen_toks=11).catalogue
    with pytest.raises(UserError, match=r"answers\.json: protocol\.sha256: .*generate again"):
        made.score("gsm8k", datasets / "gsm8k", catalogue=other)
    bare = dataclasses.replace(made.catalogue, models={})
    with pytest.raises(UserError, match=r"model\.id: .*\(got 'tiny'\)"):
        made.score("gsm8k", datasets / "gsm8k", catalogue=bare)
    with pytest.raises(UserError, match="other documents"):
        made.score("gsm8k", datasets / "arc_challenge")
    assert not (made.folder / "gsm8k.json").exists()


def test_a_score_is_not_lost_to_a_machine_that_cannot_make_it(
    bench: Callable[..., Bench], dialogues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench()
    made.generate("mt_bench", dialogues)
    made.score("mt_bench", dialogues)
    path = made.folder / "mt_bench.json"
    judged = {**read_json(path), "state": "ok"}
    del judged["reason"]
    path.write_text(json.dumps(judged))
    monkeypatch.setattr(
        "slm_benchmark.evaluation.requirements.prepare_tools", lambda *_, **__: dialogues
    )
    lines = list(score_stored(made.catalogue, made.kept("mt_bench").record, None, 1))
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == ["kept", "reference_chrf"]
    assert read_json(path)["state"] == "ok"


def test_a_metric_without_a_finite_value_is_a_failed_record(
    bench: Callable[..., Bench],
    datasets: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = bench()
    made.generate("gsm8k", datasets / "gsm8k")
    monkeypatch.setattr(
        "lm_eval.api.task.ConfigurableTask.process_results",
        lambda *_: {"exact_match": math.nan},
    )
    record = made.score("gsm8k", datasets / "gsm8k")
    assert (record["state"], record["error"]["type"]) == ("failed", "ValueError")
    assert "nan" in record["error"]["message"]
