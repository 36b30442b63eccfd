"""The manifest that only grows, what git keeps of it, and the index of what stands."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, read_json, sha256_file
from slm_benchmark.common.schemas import validate
from slm_benchmark.publishing.integrity import Report, check_integrity
from slm_benchmark.publishing.publish import publish, summarize_results
from slm_benchmark.records.provenance import commit_time
from slm_benchmark.records.release import INDEX, MANIFEST, committed_manifests, read_manifest
from slm_benchmark.records.store import documents_file, published_records
from tests.publishing.test_integrity import put, rescored, score, sealed
from tests.support.members import member

Record = dict[str, Any]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def run(checkout: Path, started: str, **changes: Any) -> Path:
    """A score under runs/, begun at a time of its own."""
    record, documents = score()
    sequence = TIMES.index(started) + 1
    # A commit that this repository does not know, so that its time is not looked at.
    workflow = {**record["workflow"], "commit": "c" * 40}
    record = {**record, "workflow": workflow, "started": started, "sequence": sequence}
    record = sealed({**record, **changes})
    del record["label"]
    folder = checkout / "runs" / started.replace(":", "")
    path = folder / "arc_challenge.json"
    atomic_write_json(documents_file(path), documents if record["state"] == "ok" else [])
    atomic_write_json(path, record)
    return path


FAILED: Record = {
    "state": "failed",
    "error": {"type": "RuntimeError", "message": "broke", "traceback": ""},
    "scores": [],
    "samples_sha256": None,
    "documents_sha256": None,
    "checks": dict.fromkeys(
        (
            "truncated_contexts",
            "truncated_generations",
            "empty_generations",
            "unparsed",
            "at_chance",
        )
    ),
}

TIMES = [f"2026-0{month}-01T00:00:00+00:00" for month in range(2, 7)]


def failed(checkout: Path, started: str) -> Path:
    dataset = {**score()[0]["dataset"], "documents": 0}
    return run(checkout, started, dataset=dataset, **FAILED)


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True)


def committed(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--message", message)


def told(report: Report) -> str:
    return "\n".join(map(str, report.findings))


# --- the manifest --------------------------------------------------------------------------------


def test_the_manifest_names_every_file_and_only_grows(results: Path, catalogue: Catalogue) -> None:
    checkout = results.parent
    publish(catalogue, [run(checkout, TIMES[0])], "demo", results)
    first = read_manifest(results / MANIFEST)
    assert len(first) == 2
    for name, entry in first.items():
        path = results / name
        assert entry == {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
    publish(catalogue, [failed(checkout, TIMES[1])], "demo", results)
    second = read_manifest(results / MANIFEST)
    assert len(second) == 4
    assert list(second) == sorted(second)
    assert {name: second[name] for name in first} == first
    assert not check_integrity(catalogue, results).findings


def test_publishing_never_takes_an_edit_into_the_manifest(
    results: Path, catalogue: Catalogue
) -> None:
    checkout = results.parent
    path = run(checkout, TIMES[0])
    publish(catalogue, [path], "demo", results)
    before = read_manifest(results / MANIFEST)
    (target,) = published_records(results)
    edited = read_json(target)
    edited["duration_s"] += 1
    atomic_write_json(target, edited)
    added = put(results, sealed({**edited, "started": TIMES[3], "sequence": 9}), score()[1])
    publish(catalogue, [path, run(checkout, TIMES[1])], "demo", results)
    after = read_manifest(results / MANIFEST)
    assert {name: after[name] for name in before} == before
    assert added.relative_to(results).as_posix() not in after
    text = told(check_integrity(catalogue, results))
    assert f"{target.name}: not the file that manifest.json names" in text
    assert f"{added.name}: not in manifest.json: nobody published it" in text


@pytest.mark.parametrize(
    "point", ["documents_file", "write_record", "extend_manifest", "summarize_results"]
)
def test_a_killed_publish_is_completed_by_the_same_command(
    point: str, results: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = results.parent
    publish(catalogue, [run(checkout, TIMES[0])], "demo", results)
    paths = [run(checkout, started) for started in TIMES[1:3]]

    class Killed(BaseException):
        pass

    from slm_benchmark.publishing import publish as module

    calls = []
    known = getattr(module, point)

    def kill(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        # The first record is copied already, and the second one is being copied.
        if len(calls) > {"documents_file": 2, "write_record": 1}.get(point, 0):
            raise Killed
        return known(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, point, kill)
        with pytest.raises(Killed):
            publish(catalogue, paths, "demo", results)
    assert check_integrity(catalogue, results).findings
    publish(catalogue, paths, "demo", results)
    assert len(published_records(results)) == 3
    assert not check_integrity(catalogue, results).findings


# --- what git keeps ------------------------------------------------------------------------------


@pytest.fixture
def released(results: Path, catalogue: Catalogue) -> Path:
    """Results of two commits, the first one tagged."""
    checkout = results.parent
    (checkout / ".gitignore").write_text("runs/\n")
    git(checkout, "init", "--initial-branch=main")
    publish(catalogue, [run(checkout, TIMES[0])], "demo", results)
    committed(checkout, "First")
    git(checkout, "tag", "v1")
    publish(catalogue, [run(checkout, TIMES[1])], "demo", results)
    committed(checkout, "Second")
    report = check_integrity(catalogue, results)
    assert (told(report), report.notes) == ("", [])
    return results


def forge(results: Path, catalogue: Catalogue, started: str) -> None:
    """Turn answers of a published record to right ones, with everything that follows from them."""
    (path,) = [p for p in published_records(results) if read_json(p)["started"] == started]
    record, documents = read_json(path), read_json(documents_file(path))
    for row in documents:
        row["values"] = dict.fromkeys(row["values"], 1.0)
        row["margin"] = abs(row["margin"])
    for file in (path, documents_file(path), results / MANIFEST):
        file.unlink()
    put(results, rescored(record, documents), documents)
    publish(catalogue, [], None, results)


def test_a_consistent_edit_is_found_by_the_committed_manifest(
    released: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    archived = tmp_path / "archived.json"
    archived.write_bytes((released / MANIFEST).read_bytes())
    forge(released, catalogue, TIMES[0])
    text = told(check_integrity(catalogue, released))
    assert "its entry of HEAD is gone: a published file never changes" in text

    # Committed, it is found by the tag and by the commits before.
    committed(released.parent, "Nothing to see")
    text = told(check_integrity(catalogue, released))
    assert "its entry of HEAD" not in text
    assert "its entry of v1 is gone" in text
    git(released.parent, "tag", "--delete", "v1")
    assert "is gone: a published file never changes" in told(check_integrity(catalogue, released))

    # With the history written anew, only what was kept elsewhere tells.
    git(released.parent, "checkout", "--orphan", "other")
    committed(released.parent, "All of it")
    git(released.parent, "branch", "--delete", "--force", "main")
    assert not check_integrity(catalogue, released).findings
    report = check_integrity(catalogue, released, archived)
    assert f"its entry of {archived} is gone" in told(report)


def test_an_edit_of_what_no_digest_covers_is_found_by_the_committed_manifest(
    released: Path, catalogue: Catalogue
) -> None:
    """Such as the machine, with its fingerprint, and a new manifest."""
    path = published_records(released)[0]
    record = read_json(path)
    record["environment"]["packages"]["torch"] = "9.9"
    atomic_write_json(path, record)
    (released / MANIFEST).unlink()
    publish(catalogue, [], None, released)
    text = told(check_integrity(catalogue, released))
    assert f"{path.name}: its entry of HEAD was changed" in text


def test_deletions_are_found_by_the_committed_manifest(
    released: Path, catalogue: Catalogue
) -> None:
    path = published_records(released)[0]
    for file in (path, documents_file(path), released / MANIFEST):
        file.unlink()
    publish(catalogue, [], None, released)
    assert f"{path.name}: its entry of HEAD is gone" in told(check_integrity(catalogue, released))


def test_a_deleted_manifest_is_found(released: Path, catalogue: Catalogue) -> None:
    (released / MANIFEST).unlink()
    text = told(check_integrity(catalogue, released))
    assert "manifest.json: missing" in text
    assert "its entry of HEAD is gone" in text


def test_without_git_the_manifest_is_compared_with_nothing(
    results: Path, catalogue: Catalogue
) -> None:
    publish(catalogue, [run(results.parent, TIMES[0])], "demo", results)
    report = check_integrity(catalogue, results)
    assert not report.findings
    assert report.notes == ["not compared with committed manifests: there is no git history here"]
    git(results.parent, "init", "--initial-branch=main")
    (results.parent / "other").write_text("x")
    git(results.parent, "add", "other")
    git(results.parent, "commit", "--message", "Other")
    assert committed_manifests(results) == (
        [],
        ["not compared with committed manifests: no commit has one"],
    )


def test_a_shallow_clone_says_so(released: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--depth", "1", f"file://{released.parent}", str(clone))
    found, notes = committed_manifests(clone / "results")
    assert [place for place, _ in found] == ["HEAD"]
    assert notes == ["compared with few committed manifests: this clone is shallow"]


def test_an_archived_manifest_that_is_none(results: Path, catalogue: Catalogue) -> None:
    path = results.parent / "archived.json"
    path.write_text('{"files": {}}')
    with pytest.raises(UserError, match="schema_version"):
        check_integrity(catalogue, results, path)


# --- the index -----------------------------------------------------------------------------------


def index_of(results: Path) -> Record:
    index: Record = read_json(results / INDEX)
    validate(index, "index", "index.json")
    return index


def test_the_index_names_what_stands_and_why(results: Path, catalogue: Catalogue) -> None:
    checkout = results.parent
    publish(catalogue, [run(checkout, TIMES[1])], "demo", results)
    (cell,) = index_of(results)["cells"]
    assert (cell["why"], cell["older"]) == ("only run", [])
    assert (results / cell["current"]).parent == results / cell["cell"]
    first = cell["current"]

    publish(catalogue, [run(checkout, TIMES[2]), run(checkout, TIMES[0])], "demo", results)
    (cell,) = index_of(results)["cells"]
    assert (cell["started"], cell["why"]) == (TIMES[2], "newest of 3")
    assert [older["started"] for older in cell["older"]] == [TIMES[1], TIMES[0]]
    assert cell["older"][0]["record"] == first
    well = cell["current"]

    publish(catalogue, [failed(checkout, TIMES[3])], "demo", results)
    (cell,) = index_of(results)["cells"]
    assert cell["state"] == "failed"
    assert cell["why"] == f"newest of 4; its state is failed, and an older run is ok: {well}"

    publish(catalogue, [run(checkout, TIMES[4])], "demo", results)
    (cell,) = index_of(results)["cells"]
    assert (cell["state"], cell["why"]) == ("ok", "newest of 5")
    assert [older["state"] for older in cell["older"]] == ["failed", "ok", "ok", "ok"]
    assert len(published_records(results)) == 5, "a failure is kept"


def test_the_index_follows_from_the_records_alone(results: Path, catalogue: Catalogue) -> None:
    checkout = results.parent
    publish(catalogue, [run(checkout, started) for started in TIMES[:3]], "demo", results)
    before = (results / INDEX).read_bytes()
    (results / INDEX).unlink()
    summarize_results(catalogue, results)
    assert (results / INDEX).read_bytes() == before


# --- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "commit", "why"),
    [
        pytest.param(
            "2031-01-01T00:00:00+00:00",
            None,
            "in the future",
            marks=member(
                "places", "a record from 2031", "`publish` refuses it, as its clock was wrong"
            ),
        ),
        pytest.param(
            "1970-01-01T00:00:09+00:00",
            None,
            "before the project began",
            marks=member(
                "places", "a record from 1970", "`publish` refuses it, as its clock was wrong"
            ),
        ),
        pytest.param(
            "2026-02-01T00:00:00+00:00",
            "published",
            "before the commit that it was measured with",
            marks=member(
                "places",
                "a record that is older than the commit it names",
                "`publish` refuses it, as its clock was wrong",
            ),
        ),
    ],
)
def test_what_a_wrong_clock_dated_is_not_published(
    started: str, commit: str | None, why: str, results: Path, catalogue: Catalogue
) -> None:
    path = run(results.parent, TIMES[0])
    record = read_json(path)
    record["started"] = started
    if commit:
        record["workflow"]["commit"] = score()[0]["workflow"]["commit"]
        if commit_time(record["workflow"]["commit"]) is None:
            pytest.skip("this clone is shallow: it does not have the commit")
    atomic_write_json(path, sealed(record))
    with pytest.raises(UserError, match=rf"started: measured with a clock .*{why}.* Fix: set the"):
        publish(catalogue, [path], "demo", results)
    assert published_records(results) == []


@member(
    "places",
    "a record that was measured without git",
    "`publish` refuses it: no commit says which files decided it",
)
def test_a_record_without_a_commit_is_not_published(results: Path, catalogue: Catalogue) -> None:
    path = run(results.parent, TIMES[0])
    record = read_json(path)
    record["workflow"] |= {"commit": None, "dirty": None}
    atomic_write_json(path, sealed(record))
    with pytest.raises(UserError, match=r"workflow.commit: no commit.* Fix: clone the repository"):
        publish(catalogue, [path], "demo", results)


@member(
    "places",
    "published files with CRLF, as some archives have them",
    "`integrity` says so in one line, and calls no record edited",
)
def test_published_files_with_crlf_are_named(results: Path, catalogue: Catalogue) -> None:
    publish(catalogue, [run(results.parent, TIMES[0])], "demo", results)
    for file in (file for file in results.rglob("*") if file.is_file()):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(UserError, match=r"manifest.json: its lines end with CRLF.* Fix: clone"):
        check_integrity(catalogue, results)
