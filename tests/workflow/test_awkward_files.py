"""Awkward weights, cards and rows, by the workflow as typed: one run over all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.download.test_model_facts import (
    change_json,
    change_tensor,
    only_shards,
    other_weights,
    store,
    tensors_of,
)
from tests.support.checkout import Checkout, Done, half_written, json_lines, make_checkout
from tests.support.members import member
from tests.workflow.test_workflow import (
    LOCAL_ARC,
    add_card,
    arc_rows,
    card,
    small_demo,
)

PARAMETERS = 98_176


def two_sets(folder: Path) -> None:
    """Other shards and a .bin beside the weights, whose tied head is stored a second time."""
    other_weights(folder)
    tensors = tensors_of(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    store(folder, tensors)
    (folder / "pytorch_model.bin").write_bytes(bytes(1000))


def without_a_shard(folder: Path) -> None:
    only_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def quantized(folder: Path) -> None:
    change_json(
        folder, "config.json", quantization_config={"quant_method": "hqq", "weight_bits": 4}
    )


def adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')


def gguf_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("a.Q4_K_M.gguf", "a.Q8_0.gguf"):
        (folder / name).write_bytes(b"GGUF")


def with_nan(folder: Path) -> None:
    change_tensor(folder, lambda tensor: tensor * float("nan"))


def as_it_is(folder: Path) -> None:
    pass


@dataclass(frozen=True)
class Awkward:
    """A model of the run.

    Attributes:
        change: What is done to a good model's files.
        said: Parts of the one line that refuses it.
        card: Fields of its card.
    """

    change: Callable[[Path], None]
    said: tuple[str, ...]
    card: dict[str, Any]


REFUSED = {
    "no-shard": Awkward(without_a_shard, ("model-00002-of-00002.safetensors",), {}),
    "quantized": Awkward(quantized, ("quantization_config", "hqq"), {}),
    "adapter": Awkward(adapter, ("adapter", "merge"), {}),
    "ggufs": Awkward(gguf_files, ("GGUF files", "a.Q4_K_M.gguf and 1 more"), {}),
    "nan": Awkward(with_nan, ("model.layers.0.mlp.up_proj.weight", "NaN"), {}),
    "tenfold": Awkward(
        as_it_is, ("parameters", "981760", "98176"), {"parameters": 10 * PARAMETERS}
    ),
    "long": Awkward(as_it_is, ("context_length", "4096", "256"), {"context_length": 4096}),
}
"""Id of a model that no file of is used → why."""

ROWS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nan-rows": (b'{"text": "a", "n": 1.0}\n{"text": "b", "n": NaN}\n', ("line 2", "nan in n")),
    "twice": (
        json_lines([{"id": "a", "text": "one"}, {"id": "a", "text": "two"}]).encode(),
        ("row 2", "id"),
    ),
    "cut-rows": (b'{"text": "a"}\n{"text": "b', ("line 2",)),
}
"""Id of a dataset that is refused → its bytes, and parts of the one line about it."""


@dataclass(frozen=True)
class Run:
    """A checkout and what a run over everything printed."""

    checkout: Checkout
    done: Done

    def error(self, name: str) -> str:
        """The one line about a model or dataset."""
        (line,) = {line for line in self.done.errors() if name in line}
        assert "Fix: " in line
        return line


def base(model: str) -> str:
    """What the workflow makes of a model's download."""
    return f"resources/models/{model}/base/weights.json"


def manifest(dataset: str) -> str:
    """What the workflow makes of a dataset."""
    return f"resources/datasets/{dataset}/manifest.json"


@pytest.fixture(scope="module")
def awkward(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("files")
    checkout = make_checkout(folder)
    small_demo(checkout, folder / "index", tiny_model)

    def add_model(model: str, change: Callable[[Path], None], **changes: Any) -> None:
        path = f"data/{model}"
        shutil.copytree(tiny_model, checkout.path(path))
        change(checkout.path(path))
        source = {"type": "local", "path": path, "format": "transformers"}
        add_card(checkout, card(model, source, **{"parameters": PARAMETERS, **changes}))

    add_model("two-sets", two_sets)
    for model, entry in REFUSED.items():
        add_model(model, entry.change, **entry.card)
    source = {"type": "local", "path": "data/nowhere", "format": "transformers"}
    add_card(checkout, card("nowhere", source))
    for dataset, (data, _) in ROWS.items():
        checkout.path(f"data/{dataset}.jsonl").write_bytes(data)
    marked = "\ufeff" + json_lines({"text": f"Text {n}."} for n in range(3)).replace("\n", "\r\n")
    checkout.path("data/marked.jsonl").write_bytes(marked.encode())

    def add_datasets(datasets: dict[str, Any]) -> None:
        for name in (*ROWS, "marked"):
            files = {"train": f"data/{name}.jsonl"}
            datasets[name] = {"source": "local", "files": files, "license": "CC0-1.0"}

    checkout.edit("config/datasets.yaml", add_datasets)
    broken = arc_rows()
    broken[4]["answerKey"] = "F"
    checkout.write("data/arc.jsonl", json_lines(broken))
    checkout.commit("Awkward files")
    targets = [
        *(base(model) for model in ("two-sets", "nowhere", *REFUSED)),
        *(manifest(dataset) for dataset in (*ROWS, "marked")),
        LOCAL_ARC,
    ]
    chosen = ("--config", 'models=["tiny-local"]', 'variants=["base"]')
    return Run(checkout, checkout.snakemake("--keep-going", *targets, *chosen))


@member(
    "weights",
    "by the workflow: three sets of weights, and a tied head stored twice",
    "one is used; size, bits and parameters count it once",
)
def test_the_right_set_is_used_and_counted(awkward: Run) -> None:
    made = awkward.checkout.record(base("two-sets"))
    names = [name for name in made["files"] if name.endswith((".safetensors", ".bin"))]
    assert names == ["model.safetensors"]
    assert 2 * PARAMETERS < made["files"]["model.safetensors"]["size_bytes"] < 2.1 * PARAMETERS
    described = awkward.checkout.record(base("two-sets").replace("weights.json", "manifest.json"))
    assert described["effective_bits_per_weight"] == 16
    assert described["counted"]["parameters"] == PARAMETERS
    assert described["source"]["left_out_tensors"] == ["lm_head.weight"]
    assert (
        "two-sets: the weights are those of model.safetensors; left out: "
        "model-00001-of-00002.safetensors" in awkward.done.output
    )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            "no-shard",
            marks=member("weights", "by the workflow: a shard is missing", "one line names it"),
        ),
        pytest.param(
            "quantized",
            marks=member(
                "weights", "by the workflow: a base quantized by HQQ", "one line names the method"
            ),
        ),
        pytest.param(
            "adapter",
            marks=member("weights", "by the workflow: a LoRA adapter", "one line: merge it first"),
        ),
        pytest.param(
            "ggufs",
            marks=member(
                "weights",
                "by the workflow: two GGUF files in a folder",
                "one line names one of two",
            ),
        ),
        pytest.param(
            "nan",
            marks=member(
                "weights", "by the workflow: NaN in a tensor", "one line names the tensor"
            ),
        ),
        pytest.param(
            "tenfold",
            marks=member(
                "card", "by the workflow: ten times the parameters", "one line with both numbers"
            ),
        ),
        pytest.param(
            "long",
            marks=member("card", "by the workflow: a longer context", "one line with both numbers"),
        ),
    ],
)
def test_a_model_is_refused_in_one_line(awkward: Run, model: str) -> None:
    line = awkward.error(f"models/{model}.yaml")
    assert all(part in line for part in REFUSED[model].said), line
    assert not awkward.checkout.path(base(model)).parent.exists()


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param(
            "nan-rows",
            marks=member("documents", "by the workflow: NaN in a row", "one line: line and field"),
        ),
        pytest.param(
            "twice",
            marks=member("documents", "by the workflow: an id twice", "one line: row and field"),
        ),
        pytest.param(
            "cut-rows",
            marks=member("documents", "by the workflow: half a row", "one line names the line"),
        ),
    ],
)
def test_a_dataset_is_refused_in_one_line(awkward: Run, dataset: str) -> None:
    line = awkward.error(f"{dataset}.jsonl") if dataset != "twice" else awkward.error(dataset)
    assert all(part in line for part in ROWS[dataset][1]), line
    assert not awkward.checkout.path(manifest(dataset)).parent.exists()


@member(
    "documents",
    "by the workflow: a byte-order mark and CRLF",
    "three rows, and neither is part of them",
)
def test_marks_and_ends_of_lines_are_no_text(awkward: Run) -> None:
    import pyarrow.parquet

    folder = awkward.checkout.path(manifest("marked")).parent
    (file,) = folder.rglob("*.parquet")
    assert pyarrow.parquet.read_table(file)["text"].to_pylist() == ["Text 0.", "Text 1.", "Text 2."]


@member(
    "documents",
    "by the workflow: a gold answer that is no option",
    "one line names row, field and value; no record",
)
def test_a_gold_answer_that_is_no_option(awkward: Run) -> None:
    line = awkward.error("tiny-arc")
    assert "row 5" in line
    assert "'F'" in line or '"F"' in line or "value F" in line, line
    assert not awkward.checkout.path(LOCAL_ARC).exists()


@member(
    "card",
    "by the workflow: a path that does not exist",
    "one line, and other models run",
)
def test_a_path_that_does_not_exist(awkward: Run) -> None:
    line = awkward.error("models/nowhere.yaml")
    assert "source.path: there is no such folder" in line
    assert "MissingInput" not in awkward.done.output


@member(
    "card",
    "by the workflow: a card that is changed after the download",
    "one line where a target needs the model, whatever `models` says; others are planned",
)
def test_a_card_that_is_changed_after_the_download(awkward: Run, tmp_path: Path) -> None:
    checkout = awkward.checkout.copy(tmp_path / "copy")
    checkout.edit("models/two-sets.yaml", lambda card: card.update(parameters=10 * PARAMETERS))
    for chosen in ('models=["tiny-local"]', 'models=["two-sets", "tiny"]'):
        refused = checkout.snakemake("-n", base("two-sets"), "--config", chosen)
        (line,) = refused.errors()
        assert refused.code == 1
        assert "models/two-sets.yaml: parameters: the model's files have 98176 (got 981760)" in line
        other = checkout.snakemake("-n", base("tiny"), "--config", chosen)
        assert (other.code, other.errors()) == (0, []), other.output


def test_what_is_refused_leaves_nothing_and_stops_no_other(awkward: Run) -> None:
    assert awkward.done.code == 1
    assert len(awkward.done.errors()) == len(REFUSED) + len(ROWS) + 2, awkward.done.errors()
    assert "Traceback" not in awkward.done.output
    assert half_written(awkward.checkout) == []


def test_validate_says_the_same(awkward: Run) -> None:
    """As a model's author sees it before a pull request; weights' values are not read."""
    for model in ("no-shard", "quantized", "tenfold", "adapter"):
        done = awkward.checkout.benchmark("validate", f"models/{model}.yaml")
        assert (done.code, len(done.errors())) == (1, 1), done.output
        assert all(part in done.output for part in REFUSED[model].said), done.output
