"""The benchmark of the engines runs, and its numbers mean what they say."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import engine, report
from benchmarks.ours import Phases
from benchmarks.timing import ratio
from benchmarks.work import ARC, GSM8K, HELLASWAG, unique_tokens
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.download.datasets import prepare_dataset

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "reads"]


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sentence(number: int, length: int = 5) -> str:
    return " ".join(itertools.islice(itertools.cycle(WORDS), number, number + length))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared datasets with the demo's names and fields, and short made-up documents."""
    folder = tmp_path_factory.mktemp("datasets")
    hellaswag = [
        {
            "ind": n,
            "activity_label": WORDS[n % len(WORDS)],
            "ctx_a": f"{sentence(n)}.",
            "ctx_b": "they",
            "ctx": f"{sentence(n)}. they",
            "endings": [sentence(n + k, 3 + k) for k in range(4)],
            "label": str(n % 4),
        }
        for n in range(12)
    ]
    arc = [
        {
            "id": str(n),
            "question": f"{sentence(n)}?",
            "choices": {
                "text": [sentence(n + k, 2) for k in range(options)],
                "label": list("ABCD")[:options],
            },
            "answerKey": "ABC"[n % 3],
        }
        for n, options in enumerate((4, 3, 4, 4, 4, 4, 4, 4))
    ]
    gsm8k = [{"question": f"{sentence(n)}?", "answer": f"so\n#### {n}"} for n in range(7)]
    prepared: dict[str, dict[str, list[dict[str, Any]]]] = {
        HELLASWAG: {"validation": hellaswag},
        ARC: {"test": arc},
        GSM8K: {"train": gsm8k[2:], "test": gsm8k[:2]},
    }
    for name, splits in prepared.items():
        files = {}
        for split, rows in splits.items():
            files[split] = str(folder / f"{name}.{split}.jsonl")
            Path(files[split]).write_text("\n".join(json.dumps(row) for row in rows))
        entry: Any = {"source": "local", "files": files, "license": "none"}
        prepare_dataset(name, entry, folder / name)
    return folder


def test_it_runs(
    tiny_model: Path,
    tiny_gguf_f16: Path,
    datasets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but the server: every baseline answers as ours does, or this raises."""
    results = tmp_path / "results.json"
    places = ["--base", tiny_model, "--q8", tiny_gguf_f16, "--datasets", datasets]
    small = ["--documents", "2", "--repetitions", "1", "--threads", "1"]
    baselines = [name for name in engine.BASELINES if name != "gguf-server"]
    given = [*map(str, places), *small, "--against", *baselines, "--json", str(results)]
    assert engine.main([*given, "--markdown"]) == 0
    written = read_json(results)
    rows = written["rows"]
    assert {(row["work"], row["against"]) for row in rows} == {
        (group.work, name) for group in engine.GROUPS for name in group.targets if name in baselines
    }
    for row in rows:
        assert row["repeatable"]
        assert row["ratio"]["median"] > 0
        assert row["profile"]["forwarding"] > 0
        assert sum(row["profile"].values()) == pytest.approx(1)
        if row["unique_tokens"] is not None:
            ours = row["tokens"]
            assert ours["unique_tokens"] == row["unique_tokens"]  # counted in two ways
            assert ours["forwarded_tokens"] - ours["chunk_rounding_tokens"] == row["unique_tokens"]
            assert ours["forwarded_tokens"] <= row["baseline_tokens"]["forwarded_tokens"]
        else:
            assert row["tokens"]["generated_tokens"] > 0
            assert row["baseline_tokens"]["generated_tokens"] > 0
    assert report.markdown(written, engine.BASELINES) in capsys.readouterr().out


def test_the_page_shows_the_record(tmp_path: Path) -> None:
    copy = tmp_path / "engine.md"
    copy.write_text(engine.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    if not engine.RECORD.exists():
        pytest.skip("nothing was measured yet")
    assert not report.write_page(copy, read_json(engine.RECORD), engine.BASELINES), (
        "run: python -m benchmarks.engine --write-docs"
    )


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "engine.md"
    page.write_text("no markers")
    results: dict[str, Any] = {
        "machine": {"cpu": {"model": "x", "logical_cores": 1}, "memory_bytes": 1}
    }
    results |= {"versions": {}, "measured": "", "threads": 1, "repetitions": 1, "command": ""}
    results |= {"rows": []}
    with pytest.raises(UserError, match="marker"):
        report.write_page(page, results, {})


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.main(["--base", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: --base" in capsys.readouterr().err


def test_unique_tokens_are_the_distinct_prefixes() -> None:
    sequences = [[1, 2, 3], [1, 2], [1, 2, 4, 5], [2], [1, 2, 3], []]
    prefixes = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
    assert unique_tokens(sequences) == len(prefixes) == 6


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    found = ratio([10.0, 20.0, 60.0], [5.0, 4.0, 6.0])
    assert found["median"] == 20 / 5
    assert (found["low"], found["high"]) == (2.0, 10.0)
    assert ratio([3.0], [2.0]) == {"median": 1.5, "low": None, "high": None, "coverage": None}


@pytest.mark.parametrize(("tolerance", "fits"), [((0.2, True), True), ((0.2, False), False)])
def test_answers_that_differ_are_refused(tolerance: tuple[float, bool], fits: bool) -> None:
    requests = [SimpleNamespace(doc_id=0), SimpleNamespace(doc_id=0)]
    pairs: list[engine.Pair] = [([1], [2, 3]), ([1], [4, 5])]
    ours, theirs = [(-1.0, False), (-2.0, False)], [(-1.3, False), (-2.0, False)]
    if fits:
        found = engine.compare(tolerance, ours, theirs, requests, pairs)
        assert found is not None
        assert found["max_difference_nats"] == pytest.approx(0.3)
        assert (found["same_decisions"], found["decisions"]) == (1, 1)
    else:
        with pytest.raises(RuntimeError, match="request 0 differs by"):
            engine.compare(tolerance, ours, theirs, requests, pairs)
    with pytest.raises(RuntimeError):
        engine.compare(tolerance, ours, [(float("nan"), False)] * 2, requests, pairs)


def test_phases_count_inner_time_once() -> None:
    owner: Any = SimpleNamespace(inner=lambda: time.sleep(0.04))

    def outer() -> None:
        time.sleep(0.02)
        owner.inner()

    owner.outer = outer
    phases = Phases()
    with phases.timing("inner", owner, "inner"), phases.timing("outer", owner, "outer"):
        owner.outer()
    assert phases.seconds["inner"] >= 0.04
    assert 0.02 <= phases.seconds["outer"] < phases.seconds["inner"]
    assert phases.shares()["inner"] > 0.5
    owner.outer()
    assert sum(phases.shares().values()) == pytest.approx(1)
