"""Whether edits of published records are found: each leaf in turn, digests made to fit or not."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.cli import main
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_json
from slm_benchmark.common.paths import RESULTS
from slm_benchmark.common.schemas import write_record
from slm_benchmark.publishing.integrity import Report, check_integrity, describe_report
from slm_benchmark.publishing.publish import publish
from slm_benchmark.records.provenance import NOT_A_RESULT, result_digest
from slm_benchmark.records.release import MANIFEST, destination
from slm_benchmark.records.store import RECORD_SCHEMAS, documents_file, published_records

Record = Any
Leaf = tuple[str | int, ...]
"""The way to a value inside a file: keys, and places in lists."""

MACHINE = {
    "machine": "x86_64",
    "cpu": {"model": "some"},
    "memory_bytes": 2**33,
    "os": "Linux",
    "virtualisation": None,
    "gpus": [],
}


@functools.cache
def shipped() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return shipped()


# --- honest records ------------------------------------------------------------------------------


def published(wanted: Callable[[Record], bool]) -> tuple[Record, list[Record]]:
    """The first published record that is wanted, with its documents."""
    for path in published_records(RESULTS):
        record = read_json(path)
        if wanted(record):
            beside = documents_file(path)
            return record, read_json(beside) if beside.exists() else []
    pytest.skip("results/ has no such record yet")


def score() -> tuple[Record, list[Record]]:
    """A score of ten documents with margins."""
    record, documents = published(
        lambda r: r["kind"] == "score" and r["task"]["id"] == "arc_challenge"
    )
    documents = documents[:10]
    record["dataset"]["documents"] = len(documents)
    choices = shipped().scoring_choices(record["task"]["id"], record["protocol"]["id"])
    record["protocol"]["sha256"] = digest(choices)
    record["scores"] = [row for row in record["scores"] if row["headline"]]
    record["documents_sha256"] = digest(documents)
    for row in documents:
        del row["values"]["acc_norm" if record["task"]["metric"] == "acc" else "acc"]
    return rescored(record, documents), documents


def rescored(record: Record, documents: list[Record]) -> Record:
    """The record with the scores and the digests of these documents."""
    from slm_benchmark.publishing.recompute import recompute

    record["documents_sha256"] = digest(documents) if documents else None
    record["scores"] = recompute(record, documents)
    (row,) = [row for row in record["scores"] if row["headline"]]
    record["checks"]["at_chance"] = row["ci95"][0] <= row["chance"] <= row["ci95"][1]
    return sealed(record)


def sealed(record: Record) -> Record:
    record["result_sha256"] = result_digest(record)
    return record


def put(results: Path, record: Record, documents: list[Record] | None = None) -> Path:
    path = destination(record, results)
    if record["kind"] == "score":
        atomic_write_json(documents_file(path), documents)
    write_record(path, record, RECORD_SCHEMAS[record["kind"]])
    return path


def copies(results: Path, number: int, *made: Record | list[Record]) -> list[Path]:
    """As many honest copies of one record, each measured on a machine of its own."""
    record, documents = made or score()
    paths = []
    for place in range(number):
        assert isinstance(record, dict)
        again = copy.deepcopy(record)
        again["hardware"]["id"] = f"machine{place}"
        if "sequence" in again:
            again["sequence"] = place + 1
        paths.append(put(results, again, copy.deepcopy(documents)))
    return paths


def found(report: Report) -> dict[str, set[str]]:
    """File → the fields with findings."""
    fields: dict[str, set[str]] = {}
    for finding in report.findings:
        assert finding.fix
        fields.setdefault(str(finding.file), set()).add(str(finding.field))
    return fields


def name(path: Path, results: Path) -> str:
    return f"results/{path.relative_to(results).as_posix()}"


# --- edits ---------------------------------------------------------------------------------------


def leaves(value: Any, way: Leaf = ()) -> Iterator[Leaf]:
    """The way to every value that holds no other."""
    inner: Any = value.items() if isinstance(value, dict) else None
    inner = enumerate(value) if isinstance(value, list) else inner
    if not value or inner is None:
        yield way
        return
    for key, held in inner:
        yield from leaves(held, (*way, key))


def holder(value: Any, way: Leaf) -> Any:
    for key in way[:-1]:
        value = value[key]
    return value


def change(value: Any, way: Leaf) -> None:
    """Another value of the same type, where it has one."""
    inside = holder(value, way)
    old = inside[way[-1]]
    others: dict[type, Callable[[Any], Any]] = {
        bool: lambda v: not v,
        int: lambda v: v + 1,
        float: lambda v: 1.01 * v + 0.01,
        str: lambda v: ("0" if v[:1] != "0" else "1") + v[1:],
        list: lambda v: [0.5],
        dict: lambda v: {"other": 1},
    }
    inside[way[-1]] = others[type(old)](old) if old is not None else 0


def delete(value: Any, way: Leaf) -> None:
    del holder(value, way)[way[-1]]


def retype(value: Any, way: Leaf) -> None:
    inside = holder(value, way)
    inside[way[-1]] = 7 if isinstance(inside[way[-1]], str) else "7"


def double(value: Any, way: Leaf) -> None:
    """The item of a list, or the list that holds the leaf, once more."""
    for depth in range(len(way), 0, -1):
        if isinstance(way[depth - 1], int):
            inside = holder(value, way[:depth])
            inside.insert(way[depth - 1], copy.deepcopy(inside[way[depth - 1]]))
            return
    holder(value, way)[f"{way[-1]}_2"] = holder(value, way)[way[-1]]


EDITS = (change, delete, retype, double)


def all_edits(value: Any) -> list[tuple[Leaf, Callable[[Any, Leaf], None]]]:
    return [(leaf, edit) for leaf in leaves(value) for edit in EDITS]


@pytest.mark.model
def test_every_edit_of_a_record_is_found(results: Path, catalogue: Catalogue) -> None:
    record, _ = score()
    edits = all_edits(record)
    paths = copies(results, len(edits))
    publish(catalogue, [], None, results)
    assert not check_integrity(catalogue, results).findings

    for path, (leaf, edit) in zip(paths, edits, strict=True):
        edited = read_json(path)
        edit(edited, leaf)
        atomic_write_json(path, edited)
    reported = found(check_integrity(catalogue, results))
    assert {name(path, results) for path in paths} <= reported.keys()

    # Without a manifest, all but what is no result; the record itself tells of some of that too.
    (results / MANIFEST).unlink()
    reported = found(check_integrity(catalogue, results))
    unseen = {
        leaf
        for path, (leaf, _) in zip(paths, edits, strict=True)
        if name(path, results) not in reported
    }
    assert {leaf[0] for leaf in unseen} <= set(NOT_A_RESULT)
    assert {("hardware", "fingerprint"), ("environment", "locked")}.isdisjoint(unseen)


def test_every_edit_of_documents_is_found(results: Path, catalogue: Catalogue) -> None:
    _, documents = score()
    edits = all_edits(documents)
    paths = copies(results, len(edits))
    publish(catalogue, [], None, results)
    for path, (leaf, edit) in zip(paths, edits, strict=True):
        edited = read_json(documents_file(path))
        edit(edited, leaf)
        atomic_write_json(documents_file(path), edited)
    for manifest in (True, False):
        if not manifest:
            (results / MANIFEST).unlink()
        reported = found(check_integrity(catalogue, results))
        for path, (leaf, edit) in zip(paths, edits, strict=True):
            assert "documents_sha256" in reported[name(path, results)], (leaf, edit)


FOLLOWS = (
    ("scores",),
    ("documents_sha256",),
    ("dataset", "documents"),
    ("checks", "at_chance"),
    ("state",),
    ("model", "id"),
    ("model", "sha256"),
    ("variant", "id"),
    ("hardware", "id"),
    ("hardware", "fingerprint"),
    ("protocol", "id"),
    ("task", "id"),
    ("task", "metric"),
    ("task", "filter"),
    ("environment", "locked"),
    ("workflow", "dirty"),
)
"""What follows from other parts of a record, from its documents, or from where it lies."""


def moved(results: Path, path: Path, edited: Record) -> Path:
    """Write an edited record under the name that its digest gives, with its documents."""
    sealed(edited)
    blocks = ("model", "variant", "hardware", "protocol", "task")
    whole = all(isinstance(edited[block].get("id"), str) for block in blocks)
    target = path.with_name(destination(edited, results).name) if whole else path
    atomic_write_json(documents_file(target), read_json(documents_file(path)))
    atomic_write_json(target, edited)
    if target != path:
        path.unlink()
        documents_file(path).unlink()
    return target


def test_an_edit_is_found_although_digest_name_and_manifest_fit(
    results: Path, catalogue: Catalogue
) -> None:
    record, _ = score()
    # A list that is longer is another list; a doubled row of scores is one of the edits.
    edits = [
        (leaf, edit)
        for leaf, edit in all_edits(record)
        if any(leaf[: len(start)] == start for start in FOLLOWS)
    ]
    assert len(edits) > 60
    paths = copies(results, len(edits))
    for place, (path, (leaf, edit)) in enumerate(zip(paths, edits, strict=True)):
        edited = read_json(path)
        edit(edited, leaf)
        paths[place] = moved(results, path, edited)
    publish_by_hand(results)
    reported = found(check_integrity(catalogue, results))
    for path, (leaf, edit) in zip(paths, edits, strict=True):
        assert name(path, results) in reported, (leaf, edit)


def publish_by_hand(results: Path) -> None:
    """A new manifest of what lies there now, as one who edits would write it."""
    from slm_benchmark.records.release import extend_manifest

    (results / MANIFEST).unlink(missing_ok=True)
    extend_manifest(results, [])


def test_documents_edited_with_all_digests_are_found_by_the_score_that_was_left(
    results: Path, catalogue: Catalogue
) -> None:
    record, documents = score()
    metric = record["task"]["metric"]
    (path, other) = copies(results, 2)
    before = read_json(path)
    documents[0]["values"][metric] = 1 - documents[0]["values"][metric]
    atomic_write_json(documents_file(path), documents)
    before["documents_sha256"] = digest(documents)
    path = moved(results, path, before)
    publish_by_hand(results)
    reported = found(check_integrity(catalogue, results))
    place = next(i for i, row in enumerate(before["scores"]) if row["headline"])
    assert f"scores.{place}.value" in reported[name(path, results)]
    assert name(other, results) not in reported


def test_a_score_edited_with_all_digests_is_found_by_the_documents_that_were_left(
    results: Path, catalogue: Catalogue
) -> None:
    (path,) = copies(results, 1)
    record = read_json(path)
    (row,) = record["scores"]
    row["value"] += 0.1
    path = moved(results, path, record)
    publish_by_hand(results)
    assert "scores.0.value" in found(check_integrity(catalogue, results))[name(path, results)]


@pytest.mark.parametrize("field", ["document", "margin", "index"])
def test_a_document_edited_consistently_contradicts_others(
    field: str, results: Path, catalogue: Catalogue
) -> None:
    """Another record has another text in that row; the margin says which choice is right."""
    record, documents = score()
    metric = "acc"
    record["task"]["metric"] = record["scores"][0]["metric"] = metric
    for row in documents:
        row["margin"] = abs(row["margin"])
        row["values"] = {metric: 1.0}
    copies(results, 1, rescored(record, documents), documents)
    edited = copy.deepcopy(documents)
    edited[3][field] = {
        "document": digest("other"),
        "margin": -documents[3]["margin"],
        "index": documents[4]["index"],
    }[field]
    record["hardware"]["id"] = "another"
    record["sequence"] += 1
    path = put(results, rescored(record, edited), edited)
    publish_by_hand(results)
    told = [str(finding) for finding in check_integrity(catalogue, results).findings]
    # Of two records that disagree either may be wrong, so one is told with the other's name.
    assert any("documents." in line and path.stem in line for line in told)


# --- other kinds ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile() -> Record:
    record, _ = published(lambda r: r["kind"] == "performance" and r["schema_version"] == 2)
    return record


def quantities(record: Record) -> Iterator[Leaf]:
    """The way to every number of a metric."""
    for start, metrics in [
        (("metrics",), record["metrics"]),
        *(
            (("grid", i, "metrics"), point["metrics"])
            for i, point in enumerate(record.get("grid", ()))
        ),
    ]:
        yield from ((*start, *leaf) for leaf in leaves(metrics))


@pytest.mark.model
@pytest.mark.parametrize("version", [1, 2])
def test_a_metric_that_does_not_follow_from_its_repetitions_is_found(
    version: int, results: Path, catalogue: Catalogue
) -> None:
    record, _ = published(lambda r: r["kind"] == "performance" and r["schema_version"] == version)
    ways = [
        way
        for way in quantities(record)
        if version == 2 or not {"load_time_s", "peak_memory_bytes"} & set(way)
    ]
    ways = [way for way in ways if way[-1] != "reason" and holder(record, way)[way[-1]] is not None]
    ways = ways[:: max(1, len(ways) // 12)]
    assert len(ways) > 8
    for place, way in enumerate(ways):
        edited = copy.deepcopy(record)
        edited["started"] = f"2026-03-01T00:00:{place:02}+00:00"
        if version == 2:
            session = [edited["started"], edited["hardware"]["fingerprint"]]
            edited["session"]["id"] = digest([*session, edited["session"]["variants"]])
        change(edited, way)
        put(results, sealed(edited))
    publish_by_hand(results)
    report = check_integrity(catalogue, results)
    for place, way in enumerate(ways):
        field = ".".join(map(str, way[: way.index("metrics") + 2]))
        assert any(
            finding.field == field and f"T0000{place:02}Z" in str(finding.file)
            for finding in report.findings
        ), way


RAW_EDITS: dict[str, Callable[[Record], Any]] = {
    "a repetition": lambda r: r["raw"]["processes"][0]["points"][0]["repetitions"].pop(),
    "a latency": lambda r: change(
        r, ("raw", "processes", 0, "points", 0, "repetitions", 0, "latencies_s", 0)
    ),
    "the roofline": lambda r: change(r, ("roofline", "bandwidth_bytes_per_s")),
    "the order": lambda r: r["session"]["order"].reverse(),
    "the session": lambda r: r["session"]["variants"].pop(),
    "the engine": lambda r: r["engine"].update(version="0"),
    "the size": lambda r: r["variant"].update(size_bytes=r["variant"]["size_bytes"] + 1),
    "a negative time": lambda r: r["raw"]["processes"][0]["points"][0]["warmups"][0].update(
        prefill_s=-1.0
    ),
    "the distribution": lambda r: r["latency_distribution_ms"]["latency_ms"].pop(),
    "a process": lambda r: r["raw"]["processes"].pop(),
    "the shape": lambda r: r["raw"]["processes"][0].pop("memory"),
    "utilization": lambda r: r["metrics"]["mbu"].update(value=1.2),
}


@pytest.mark.model
@pytest.mark.parametrize("what", RAW_EDITS)
def test_raw_data_that_a_profile_contradicts_are_found(
    what: str, results: Path, catalogue: Catalogue, profile: Record
) -> None:
    path = put(results, copy.deepcopy(profile))
    publish_by_hand(results)
    assert name(path, results) not in found(check_integrity(catalogue, results))
    shutil.rmtree(path.parent)
    edited = copy.deepcopy(profile)
    RAW_EDITS[what](edited)
    path = put(results, sealed(edited))
    publish_by_hand(results)
    assert name(path, results) in found(check_integrity(catalogue, results))


EQUIVALENCE_EDITS: dict[str, Callable[[Record], Any]] = {
    "passed": lambda r: r.update(passed=False),
    "reasons": lambda r: r.update(passed=False, reasons=["it seems so"]),
    "reasons of a bound": lambda r: r["bounds"].update(max_delta_nats=1e-6),
    "tasks.0.max_delta_nats": lambda r: change(r, ("tasks", 0, "max_delta_nats")),
    "tasks.0.decision_agreement": lambda r: r["tasks"][0].update(decision_agreement=0.991),
    "tasks.0.mean_delta_nats": lambda r: r["tasks"][0].update(mean_delta_nats=0.4),
    "variants.base.id": lambda r: r["variants"]["base"].update(id="gguf-f16"),
    "variants.base.sha256": lambda r: change(r, ("variants", "base", "sha256")),
}


@pytest.mark.parametrize("field", EQUIVALENCE_EDITS)
def test_an_equivalence_record_that_contradicts_itself_is_found(
    field: str, results: Path, catalogue: Catalogue
) -> None:
    record, _ = published(lambda r: r["kind"] == "equivalence")
    EQUIVALENCE_EDITS[field](record)
    path = put(results, sealed(record))
    publish_by_hand(results)
    assert field.split(" ")[0] in found(check_integrity(catalogue, results))[name(path, results)]


# --- what is impossible --------------------------------------------------------------------------


IMPOSSIBLE: dict[str, Callable[[Record], Any]] = {
    "started": lambda r: r.update(started="2999-01-01T00:00:00+00:00"),
    "started (before)": lambda r: r.update(started="2009-01-01T00:00:00+00:00"),
    "started (zone)": lambda r: r.update(started="2026-03-01T00:00:00"),
    "started (text)": lambda r: r.update(started="yesterday"),
    "variant.size_bytes": lambda r: r["variant"].update(size_bytes=10**12),
    "dataset.documents": lambda r: r["dataset"].update(documents_total=3),
    "hardware.fingerprint": lambda r: r["hardware"]["description"].update(os="BeOS"),
    "workflow.commit": lambda r: r["workflow"].update(commit="none"),
    "workflow.dirty": lambda r: r["workflow"].update(dirty=True),
    "environment.locked": lambda r: r["environment"].update(locked=False),
    "checks.truncated_contexts": lambda r: r["checks"].update(truncated_contexts=11),
    "scores.0.chance": lambda r: r["scores"][0].update(chance=1.5),
    "scores.0.ci95": lambda r: r["scores"][0].update(ci95=[0.9, 0.1]),
    "scores": lambda r: r["scores"].append(r["scores"][0]),
    "reason": lambda r: r.update(reason="none"),
    "samples_sha256": lambda r: r.update(samples_sha256=None),
    "scored.started": lambda r: r.update(
        scored={
            **{key: r[key] for key in ("environment", "hardware", "workflow")},
            "started": "2026-01-02T00:00:00+00:00",
            "duration_s": 1,
        }
    ),
}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_the_impossible_is_found_with_all_digests_right(
    field: str, results: Path, catalogue: Catalogue
) -> None:
    record, documents = score()
    IMPOSSIBLE[field](record)
    path = put(results, sealed(record), documents)
    publish_by_hand(results)
    assert field.split(" ")[0] in found(check_integrity(catalogue, results))[name(path, results)]


def test_what_cannot_be_measured_twice_is_found(results: Path, catalogue: Catalogue) -> None:
    record, documents = score()
    first = put(results, record, documents)
    record["started"] = "2026-03-01T00:00:00+00:00"
    copied = put(results, record, documents)
    publish_by_hand(results)
    assert found(check_integrity(catalogue, results))[name(max(first, copied), results)] == {
        "result_sha256"
    }
    record["sequence"] += 1
    copied.unlink()
    documents_file(copied).unlink()
    put(results, record, documents)
    publish_by_hand(results)
    report = check_integrity(catalogue, results)
    assert not [f for f in report.findings if f.field == "result_sha256"], "an honest repeat"
    record["engine"]["threads"] += 1
    again = put(results, sealed(record), documents)
    publish_by_hand(results)
    fields = found(check_integrity(catalogue, results))
    assert any("started" in fields.get(name(path, results), ()) for path in again.parent.iterdir())


def test_weights_have_one_size(results: Path, catalogue: Catalogue) -> None:
    record, documents = score()
    put(results, record, documents)
    record["variant"]["size_bytes"] += 1
    record["sequence"] += 1
    record["hardware"]["id"] = "another"
    put(results, sealed(record), documents)
    publish_by_hand(results)
    assert {"variant"} in found(check_integrity(catalogue, results)).values()


# --- files ---------------------------------------------------------------------------------------


MALFORMED: dict[str, Callable[[str], str]] = {
    "no JSON": lambda text: text[:-9],
    "a key twice": lambda text: text.replace('"sequence"', '"sequence": 1, "sequence"'),
    "no number": lambda text: text.replace('"duration_s": ', '"duration_s": NaN, "x": '),
    "no finite number": lambda text: text.replace('"duration_s": ', '"duration_s": 1e999, "x": '),
    "a list": lambda text: f"[{text}]",
    "nothing": lambda text: "",
    "another kind": lambda text: text.replace('"kind": "score"', '"kind": "opinion"'),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_file_that_is_no_record_is_told_and_hides_nothing_else(
    how: str, results: Path, catalogue: Catalogue
) -> None:
    broken, other = copies(results, 2)
    text = broken.read_text()
    changed = MALFORMED[how](text)
    assert changed != text
    broken.write_text(changed)
    record = read_json(other)
    record["scores"][0]["n"] = 3
    atomic_write_json(other, record)
    publish_by_hand(results)
    report = check_integrity(catalogue, results)
    assert {name(broken, results), name(other, results)} <= found(report).keys()
    assert any("generated files were not compared" in note for note in report.notes)


def test_deleted_added_and_misplaced_files_are_found(results: Path, catalogue: Catalogue) -> None:
    deleted, kept, elsewhere, renamed, bare = copies(results, 5)
    publish(catalogue, [], None, results)
    assert not check_integrity(catalogue, results).findings
    deleted.unlink()
    documents_file(bare).unlink()
    for path, target in (
        (elsewhere, elsewhere.parents[4] / "base" / "m" / "demo" / "hellaswag" / elsewhere.name),
        (renamed, renamed.with_name("20260301T000000Z-00000000.json")),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        documents_file(path).rename(documents_file(target))
        path.rename(target)
    stray = results / "notes.txt"
    stray.write_text("x")
    reported = found(check_integrity(catalogue, results))
    assert name(deleted, results) in reported
    assert name(documents_file(deleted), results) in reported
    assert name(documents_file(bare), results) in reported
    assert name(stray, results) in reported
    assert any("(place)" in fields for fields in reported.values())
    assert any("(name)" in fields for fields in reported.values())
    assert name(kept, results) not in reported


@pytest.mark.parametrize("file", ["leaderboard.json", "leaderboard.csv", "index.json", "report.md"])
def test_generated_files_follow_from_the_records(
    file: str, results: Path, catalogue: Catalogue
) -> None:
    record, documents = score()
    put(results, record, documents)
    publish(catalogue, [], None, results)
    assert not check_integrity(catalogue, results).findings
    path = next(results.rglob(file))
    text = path.read_text()
    path.write_text(text + " ")
    assert list(found(check_integrity(catalogue, results))) == [name(path, results)]
    path.unlink()
    assert list(found(check_integrity(catalogue, results))) == [name(path, results)]
    publish(catalogue, [], None, results)
    assert path.read_text() == text
    assert not check_integrity(catalogue, results).findings


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_byte_that_is_changed_is_found(
    data: st.DataObject, results: Path, catalogue: Catalogue
) -> None:
    if not (results / MANIFEST).exists():
        copies(results, 1)
        publish(catalogue, [], None, results)
    path = data.draw(st.sampled_from(sorted(results.rglob("*.json"))))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    after = bytearray(before)
    after[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(after))
    try:
        assert check_integrity(catalogue, results).findings
    finally:
        path.write_bytes(before)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_tells_all_findings_and_ends_with_one(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = copies(results, 2)
    publish(load_catalogue(), [], None, results)
    assert main(["integrity", str(results)]) == 0
    assert "2 records and 2 files of documents: no findings" in capsys.readouterr().out
    for path in (first, second):
        record = read_json(path)
        record["scores"][0]["value"] = 1.5
        path.write_text(json.dumps(record))
    assert main(["integrity", str(results)]) == 1
    out = capsys.readouterr().out
    for path in (first, second):
        for field in ("result_sha256", "scores.0.value"):
            assert f"{name(path, results)}: {field}: " in out
    assert all("Fix: " in line for line in out.splitlines() if line.startswith("results/"))


def test_a_folder_that_is_not_there(tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(UserError, match="no such folder"):
        check_integrity(catalogue, tmp_path / "nothing")


def test_an_empty_folder_has_no_findings_but_its_summaries(
    results: Path, catalogue: Catalogue
) -> None:
    publish(catalogue, [], None, results)
    report = check_integrity(catalogue, results)
    assert describe_report(report).endswith("0 records and 0 files of documents: no findings")


@pytest.mark.model
def test_the_committed_results_have_no_findings(catalogue: Catalogue) -> None:
    report = check_integrity(catalogue, RESULTS)
    assert report.records == len(published_records(RESULTS)) > 0
    assert not report.findings, describe_report(report)
