"""Resuming: finished requests on disk, and a real evaluation that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.engines.journal import Journal

IDENTITY = {"weights": "a", "engine": {"name": "x", "threads": 2}}


def test_answers_are_found_again_exactly(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    first = Journal(path, IDENTITY)
    answers = {"a": [[-1.1e-300, True], [0.1 + 0.2, False]], "b": [[5, 6], False], "ü": "é\n"}
    for key, answer in answers.items():
        first.put(key, answer)
    second = Journal(path, dict(reversed(IDENTITY.items())))
    assert {key: second.get(key) for key in answers} == answers
    assert second.get("c") is None
    assert len(second) == 3


def test_a_journal_without_answers_leaves_no_file(tmp_path: Path) -> None:
    Journal(tmp_path / "deep" / "answers.jsonl", IDENTITY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed", [{"weights": "b"}, {"engine": {"name": "x", "threads": 1}}, {"more": None}], ids=str
)
def test_another_identity_starts_anew(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path, IDENTITY).put("a", 1)
    other = Journal(path, IDENTITY | changed)
    assert other.get("a") is None
    other.put("b", 2)
    assert Journal(path, IDENTITY).get("b") is None


def test_a_cut_file_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path, IDENTITY)
    journal.put("a", [1.5])
    journal.put("b", [2.5])
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = Journal(path, IDENTITY)
        assert again.get("a") in (None, [1.5])
        assert again.get("b") in (None, [2.5])
        if cut == len(whole):
            assert again.get("b") == [2.5]
        again.put("c", [3.5])
        assert Journal(path, IDENTITY).get("c") == [3.5]
        assert Journal(path, IDENTITY).get("a") == again.get("a")


SCRIPT = textwrap.dedent(
    """
    import json, sys, time
    from pathlib import Path
    from lm_eval.api.instance import Instance
    from slm_benchmark.engines.load import load_engine
    from slm_benchmark.engines.settings import Settings
    from slm_benchmark.engines.journal import Journal

    name, weights, tokenizer, journal, output, pause, seed = sys.argv[1:]
    done = []
    engine = load_engine(
        name, Path(weights), Path(tokenizer), Settings(256, 1, dtype="float32", seed=int(seed)),
        progress=lambda *counts: (done.append(counts), time.sleep(float(pause))),
        journal=lambda identity: Journal(Path(journal), {**identity, "seed": seed}),
    )
    kept = len(Journal(Path(journal), {**engine.identity, "seed": seed}))
    shots = "A small model reads a short text and writes the next word. " * 3
    scored = [
        Instance("loglikelihood", {}, (f"{shots} Question {i}?", f" {choice}"), n, ("t", i, 1))
        for i in range(30) for n, choice in enumerate(["Mars", "the Moon", f"{i} dogs"])
    ]
    written = [
        Instance("generate_until", {}, (f"{shots} Say {i}",
                 {"until": [], "max_gen_toks": 5 + i, "do_sample": i % 2 > 0, "temperature": 1.0}),
                 0, ("g", i, 1))
        for i in range(20)
    ]
    before = engine.lm.model.forwarded_tokens
    result = [engine.lm.loglikelihood(scored), engine.lm.generate_until(written)]
    forwarded = engine.lm.model.forwarded_tokens - before
    tokens = engine.lm.tokens()
    Path(output).write_text(json.dumps(
        {"result": result, "kept": kept, "forwarded": forwarded, "tokens": tokens}
    ))
    """
)


@pytest.mark.parametrize("name", ["transformers", "llama.cpp"])
def test_a_killed_evaluation_goes_on_where_it_was(
    name: str, tiny_model: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    weights = tiny_model if name == "transformers" else tiny_gguf

    def command(journal: str, output: str, pause: float = 0, seed: int = 0) -> list[str]:
        files = [str(tmp_path / file) for file in (journal, output)]
        model = [name, str(weights), str(tiny_model)]
        return [sys.executable, "-c", SCRIPT, *model, *files, str(pause), str(seed)]

    def run(*arguments: Any) -> dict[str, Any]:
        subprocess.run(command(*arguments), check=True, capture_output=True)
        found: dict[str, Any] = json.loads((tmp_path / arguments[1]).read_text())
        return found

    whole = run("whole.jsonl", "whole.json")
    assert whole["kept"] == 0

    journal = tmp_path / "killed.jsonl"
    for least in (8, 35):  # first while scoring, then while generating
        killed = subprocess.Popen(
            command("killed.jsonl", "killed.json", 0.2),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not journal.exists() or len(journal.read_text().splitlines()) < least:
            assert killed.poll() is None
            time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not (tmp_path / "killed.json").exists()

    resumed = run("killed.jsonl", "killed.json")
    assert resumed["kept"] > 30
    assert resumed["result"] == whole["result"]
    assert resumed["tokens"] == whole["tokens"]
    assert 0 < resumed["forwarded"] < whole["forwarded"] / 2

    other = run("killed.jsonl", "other.json", 0, 1)
    assert other["kept"] == 0
    assert other["forwarded"] > whole["forwarded"] / 2
    assert other["result"][0] == whole["result"][0]
    assert other["result"][1][::2] == whole["result"][1][::2]
    assert other["result"][1] != whole["result"][1]
