"""Work that several processes share: the same results and the same errors as in one."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.common import parallel
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_json
from slm_benchmark.common.parallel import parallel_map
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.common.schemas import schema
from slm_benchmark.leaderboard.aggregate import aggregate, build_leaderboard
from slm_benchmark.records.provenance import NOT_A_RESULT, result_digest
from slm_benchmark.records.store import (
    RECORD_SCHEMAS,
    SharedReader,
    Slim,
    current_records,
    documents_file,
    published_records,
    read_run,
)

Record = dict[str, Any]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes at work, however few things there are."""
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 3)
    monkeypatch.setattr(parallel, "BATCH", 2)
    monkeypatch.setattr(parallel, "FEWEST_BATCHES", 2)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


# --- parallel_map ---------------------------------------------------------------------------


def number_and_process(number: int) -> tuple[int, int]:
    time.sleep(random.random() / 100)
    return number, os.getpid()


def test_results_come_in_order_from_several_processes(processes: None) -> None:
    results = list(parallel_map(number_and_process, range(40)))
    assert [number for number, _ in results] == list(range(40))
    others = {process for _, process in results} - {os.getpid()}
    assert len(others) > 1
    assert os.getpid() not in {process for _, process in results}


def test_few_things_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 3)
    assert {process for _, process in parallel_map(number_and_process, range(40))} == {os.getpid()}


@pytest.mark.parametrize("several", [False, True])
def test_the_first_error_in_order_is_raised(several: bool, request: pytest.FixtureRequest) -> None:
    if several:
        request.getfixturevalue("processes")

    def work(number: int) -> int:
        if number == 7:
            time.sleep(0.2)
        if number in (7, 12, 30):
            raise UserError("bad", file=f"{number}.json", field="a", value=number, fix="mend it")
        return number

    seen: list[int] = []
    with pytest.raises(UserError) as caught:
        seen.extend(parallel_map(work, range(40)))
    assert seen == list(range(7))
    assert str(caught.value) == "7.json: a: bad (got 7). Fix: mend it"
    assert (caught.value.file, caught.value.field) == ("7.json", "a")


def test_an_environment_error_stays_one(processes: None) -> None:
    def work(number: int) -> int:
        raise RunEnvironmentError("no space left", file="disk")

    with pytest.raises(RunEnvironmentError, match="no space left"):
        list(parallel_map(work, range(10)))


def test_a_killed_process_is_an_environment_error(processes: None) -> None:
    def work(number: int) -> int:
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(RunEnvironmentError, match="ended before it was done"):
        list(parallel_map(work, range(20)))


def test_a_process_that_is_killed_while_it_sends_is_an_environment_error(processes: None) -> None:
    def work(number: int) -> tuple[int, bytes]:
        return os.getpid(), bytes(1 << 20)

    results = parallel_map(work, range(40))
    process, _ = next(results)
    time.sleep(0.5)  # by now it waits until the half of its next batch is read
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RunEnvironmentError, match="ended before it was done"):
        list(results)


def test_whoever_stops_listening_leaves_no_process(processes: None) -> None:
    answers = parallel_map(number_and_process, range(2000))
    _, process = next(answers)
    assert Path(f"/proc/{process}").exists()
    assert isinstance(answers, Iterator)
    answers.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{process}").exists()


_PARENT = """
import os, sys, time
from slm_benchmark.common import parallel
parallel.usable_cpus, parallel.BATCH = lambda: 3, 1
def work(number):
    time.sleep(0.05)
    return os.getpid()
for process in parallel.parallel_map(work, range(10_000)):
    print(process, flush=True)
"""


def test_processes_end_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = {int(parent.stdout.readline()) for _ in range(12)}
        parent.kill()
    assert len(children) > 1
    deadline = time.monotonic() + 20
    while alive := [child for child in children if _runs(child)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process lives; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- records ---------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.mark.model
def test_several_processes_make_the_same_files(
    catalogue: Catalogue, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    paths = published_records()

    def made(name: str) -> dict[str, str]:
        out = tmp_path / name
        files = out / "leaderboard.json", out / "leaderboard.csv", out / "models"
        aggregate(catalogue, paths, "published", *files)
        return files_of(out)

    one = made("one")
    request.getfixturevalue("processes")
    assert made("several") == one
    assert read_json(tmp_path / "one" / "leaderboard.json")["rows"]


def test_several_processes_choose_the_same_records(request: pytest.FixtureRequest) -> None:
    paths = published_records()
    one = current_records(paths, RECORD_SCHEMAS)
    assert {record["kind"] for _, record in one} >= {"score", "performance", "equivalence"}
    request.getfixturevalue("processes")
    assert current_records(paths, RECORD_SCHEMAS) == one


def test_an_edited_record_among_many_gives_its_own_error(processes: None, tmp_path: Path) -> None:
    source = next(path for path in published_records() if read_run(path)["kind"] == "score")
    paths = [tmp_path / f"{number:02}.json" for number in range(20)]
    for path in paths:
        path.write_bytes(source.read_bytes())
    for number in (9, 15):
        record = read_json(paths[number])
        atomic_write_json(paths[number], {**record, "result_sha256": "0" * 64})
    with pytest.raises(UserError) as alone:
        read_run(paths[9])
    with pytest.raises(UserError) as among:
        current_records(paths)
    assert str(among.value) == str(alone.value)
    assert relative(paths[9]) in str(among.value)


def test_lean_records_make_the_same_board(catalogue: Catalogue) -> None:
    paths = published_records()
    whole, lean = current_records(paths), current_records(paths, reduced=Slim())
    assert any(record["kind"] == "performance" for _, record in whole)
    boards = [build_leaderboard(catalogue, records, "published") for records in (whole, lean)]
    assert boards[0] == boards[1]
    sizes = [len(json.dumps([record for _, record in records])) for records in (whole, lean)]
    assert sizes[1] < sizes[0] / 2


def test_a_lean_record_leaves_its_record_as_it_was() -> None:
    lean = Slim()
    for path in published_records():
        record = read_run(path)
        before = digest(record)
        slim = lean(record)
        assert digest(record) == before
        assert result_digest(record) == record["result_sha256"]
        assert slim["result_sha256"] == record["result_sha256"]


def test_equal_blocks_of_lean_records_are_one_object() -> None:
    lean: Any = Slim()
    task = {"id": "t", "version": 1}
    made = [
        lean({"kind": "noise", "task": dict(block)})["task"]
        for block in (task, task, {**task, "version": 1.0}, {**task, "version": True})
    ]
    assert made[0] is made[1]
    # 1, 1.0 and true are equal, but not the same.
    assert [repr(block["version"]) for block in made] == ["1", "1", "1.0", "True"]


# --- what records have in common -------------------------------------------------------------


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """What reading a file gives, with 1, 1.0 and true distinct and keys in their order."""
    try:
        return repr(read(path))
    except UserError as error:
        return f"refused: {error}"


def score_text(skip: int = 0) -> str:
    """The file of a published score."""
    scores = (path for path in published_records() if read_run(path)["kind"] == "score")
    return next(itertools.islice(scores, skip, None)).read_text(encoding="utf-8")


def test_shared_reading_gives_the_same_records() -> None:
    shared, paths = SharedReader(), published_records()
    first, second = ([outcome(shared, path) for path in paths] for _ in range(2))
    assert first == second == [outcome(read_run, path) for path in paths]


def test_shared_reading_keeps_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedReader, "CACHED", 3)
    shared, paths = SharedReader(), published_records()
    assert [outcome(shared, path) for path in paths] == [outcome(read_run, p) for p in paths]
    assert len(shared._known) < 3 + 2 * len(schema("cell")["properties"])


def test_shared_reading_makes_one_object_of_equal_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "score.json"
    path.write_text(score_text(), encoding="utf-8")
    # Nothing of a score without fault is left to the other way.
    monkeypatch.setattr(
        "slm_benchmark.records.store.read_run", lambda path: pytest.fail("read again")
    )
    shared = SharedReader()
    first, second = shared(path), shared(path)
    assert first is not second
    assert first["environment"] is second["environment"]


def edits(good: Record) -> Iterator[Record]:
    """A record with one item replaced, taken out or put in, inside of a block too."""
    others: tuple[Any, ...] = (None, True, -1, "text", [], {}, {"type": "x"})
    yield {**good, "unheard_of": 1}
    for name, value in good.items():
        yield {key: item for key, item in good.items() if key != name}
        for edit in others:
            yield {**good, name: edit}
        if isinstance(value, dict):
            yield {**good, name: {**value, "unheard_of": 1}}
            for key in value:
                yield {**good, name: {**value, key: None}}


@pytest.mark.model
def test_shared_reading_refuses_every_edit_with_the_same_words(tmp_path: Path) -> None:
    """With the digest that was there and with its own; what was read before does not hide it."""
    path, shared, good = tmp_path / "score.json", SharedReader(), json.loads(score_text())
    refused = []
    for record in (good, *edits(good)):
        whole = record if isinstance(record.get("error"), dict | None) else {**record, "error": {}}
        for changed in (record, {**record, "result_sha256": result_digest(whole)}):
            atomic_write_json(path, changed)
            expected = outcome(read_run, path)
            assert outcome(shared, path) == expected
            refused.append(expected.startswith("refused"))
    assert 20 < refused.count(False) < len(refused) / 3


def test_shared_reading_learns_nothing_wrong(tmp_path: Path) -> None:
    path, shared, text = tmp_path / "score.json", SharedReader(), score_text()
    assert text.count('\n  "state": "ok",') == 1
    bad = json.loads(text) | {"state": "odd"}
    bad["result_sha256"] = result_digest(bad)
    # The last of equal keys counts, and the first one is no state.
    path.write_text(text.replace('\n  "state"', '\n  "state": "odd",\n  "state"'))
    assert shared(path)["state"] == "ok"
    atomic_write_json(path, bad)
    assert "unknown value (got 'odd')" in outcome(shared, path)


def test_shared_reading_takes_of_an_error_what_the_digest_does(tmp_path: Path) -> None:
    path, shared = tmp_path / "score.json", SharedReader()
    error = {"type": "ValueError", "message": "at 0x7f", "traceback": "line 1"}
    failed = json.loads(score_text()) | {"state": "failed", "error": error}
    whole = digest({key: failed[key] for key in failed if key not in NOT_A_RESULT})
    atomic_write_json(path, {**failed, "result_sha256": whole})
    assert "the result does not match its digest" in outcome(shared, path)
    atomic_write_json(path, {**failed, "result_sha256": result_digest(failed)})
    assert shared(path)["error"] == error


LAYOUTS: dict[str, Callable[[str], str]] = {
    "no newline at the end": lambda text: text.rstrip("\n"),
    "compact": lambda text: json.dumps(json.loads(text)),
    "four spaces": lambda text: json.dumps(json.loads(text), indent=4),
    "tabs": lambda text: json.dumps(json.loads(text), indent="\t"),
    "escapes": lambda text: json.dumps(json.loads(text), indent=2),
    "flat": lambda text: re.sub("\n +", "\n  ", text),
    "lines of another system": lambda text: text.replace("\n", "\r\n"),
    "byte order mark": lambda text: f"\ufeff{text}",
    "blank that JSON has not": lambda text: f"{text}\u00a0",
    "more at the end": lambda text: f"{text}{{}}",
    "a key twice": lambda text: text.replace('\n  "state"', '\n  "state": "ok",\n  "state"'),
    "a key twice on a line": lambda text: text.replace('"state": ', '"state": 1, "state": '),
    "two items on a line": lambda text: text.replace(',\n  "label"', ', "label"'),
    "a comma too much": lambda text: text.replace('\n  "state"', '\n  ,"state"'),
    "no number": lambda text: re.sub('"duration_s": .*', '"duration_s": NaN,', text),
    "half of a character": lambda text: text.replace('"command": "', '"command": "\\ud800'),
    "cut": lambda text: text[:-20],
    "the closing bracket only": lambda text: "\n}",
    "nothing": lambda text: "{\n}",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shared_reading_takes_every_layout_as_it_is(layout: str, tmp_path: Path) -> None:
    path, shared = tmp_path / "score.json", SharedReader()
    path.write_text(score_text(), encoding="utf-8")
    shared(path)
    path.write_text(LAYOUTS[layout](score_text()), encoding="utf-8", newline="")
    assert outcome(shared, path) == outcome(read_run, path)


def test_shared_reading_takes_any_bytes_as_they_are(tmp_path: Path) -> None:
    """Pieces of a record are taken out, put in again elsewhere and doubled."""
    draw, path, shared = random.Random(1), tmp_path / "score.json", SharedReader()
    texts = [score_text(skip) for skip in (0, 1)]
    for text in texts:
        path.write_text(text, encoding="utf-8")
        shared(path)
    accepted = 0
    for _ in range(400):
        lines = draw.choice(texts).splitlines(keepends=True)
        for _ in range(draw.randint(1, 2)):
            start = draw.randrange(1, len(lines))
            piece = lines[start : start + draw.choice((1, 1, 2, 14))]
            if draw.random() < 0.7:
                del lines[start : start + len(piece)]
            position = draw.randrange(1, len(lines))
            lines[position:position] = piece if draw.random() < 0.7 else []
        path.write_text("".join(lines), encoding="utf-8")
        expected = outcome(read_run, path)
        assert outcome(shared, path) == expected
        accepted += not expected.startswith("refused")
    assert 0 < accepted < 300


# --- lines -----------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.model
@given(VALUES, st.integers(0, 5))
def test_a_file_of_any_depth_reads_back(
    tmp_path_factory: pytest.TempPathFactory, value: Any, depth: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    atomic_write_json(path, value, depth)
    assert repr(read_json(path)) == repr(value)
    lines = path.read_text().splitlines()
    if value and isinstance(value, dict | list):
        deepest = max(len(line) - len(line.lstrip(" ")) for line in lines)
        assert deepest <= 2 * depth


@pytest.mark.model
@given(VALUES)
def test_all_levels_are_indented_as_without_a_depth(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    atomic_write_json(path, value)
    expected = path.read_bytes()
    atomic_write_json(path, value, 100)
    assert path.read_bytes() == expected


def test_a_score_of_the_leaderboard_is_one_line(catalogue: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "leaderboard.json", tmp_path / "leaderboard.csv", tmp_path / "models"
    aggregate(catalogue, published_records(), "published", *out)
    scores = sum(len(row["scores"]) for row in read_json(out[0])["rows"])
    lines = [line for line in out[0].read_text().splitlines() if '"dataset_sha256"' in line]
    assert scores
    assert len(lines) == scores
    for line in lines:
        assert json.loads("{" + line.strip().rstrip(",") + "}")


# --- paths -----------------------------------------------------------------------------------


def test_paths_read_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert relative(ROOT / "results" / "a.json") == "results/a.json"
    assert relative(ROOT / "results" / ".." / "models") == "models"
    assert relative(ROOT) == "."
    assert relative(tmp_path / "a") == str(tmp_path / "a")
    monkeypatch.chdir(ROOT / "results")
    assert relative("a.json") == "results/a.json"
    # A repository that is reached by a link.
    (tmp_path / "link").symlink_to(ROOT)
    assert relative(tmp_path / "link" / "results" / "a.json") == "results/a.json"


def test_records_are_found_at_every_depth_in_order(tmp_path: Path) -> None:
    names = ["m/v/h/p/t/b.json", "m/v-2/h/p/t/a.json", "m/equivalence/a.json"]
    beside = ["m/summary.json", "m/v/h/p/t/b.documents.json", "m/sessions/h/p.json", "x.json"]
    for name in [*names, *beside, "m/v/h/p/t/notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = published_records(tmp_path)
    assert paths == sorted(tmp_path / name for name in names)
    assert documents_file(paths[-1]).exists() == (paths[-1].name == "b.json")
