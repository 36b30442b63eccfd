"""The comparison with other clocks: equal work, fair turns, honest verdicts. Nothing is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agreement, llama_bench
from benchmarks.llama_bench import Work
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.profiling.process import repeat
from slm_benchmark.profiling.prompts import Prompt
from tools.install import llama_cmake

WORK = Work(prompt_tokens=12, output_tokens=5, threads=1)

STUB = """#!{python}
import json, os, pathlib, sys
first = pathlib.Path(os.environ["LD_LIBRARY_PATH"].split(os.pathsep)[0])
assert list(first.glob("libllama.*")), "not on the libraries of the bindings"
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if not given["-m"].endswith(".gguf"):
    sys.exit("no such model")
answer = {{
    "n_prompt": int(given["-p"]), "n_gen": int(given["-n"]), "n_depth": int(given["-d"]),
    "n_threads": int(given["-t"]), "n_batch": int(given["-b"]), "n_ubatch": int(given["-ub"]),
    "n_gpu_layers": int(given["-ngl"]), "type_k": given["-ctk"], "type_v": given["-ctv"],
    "flash_attn": int(given["-fa"]), "load_mode": given["-lm"], "repack": given["--repack"] == "1",
    "samples_ns": [2000000 + n for n in range(int(given["-r"]))],
}}
assert given["-o"] == "json" and len(given) == 15, given
print(json.dumps([answer]))
"""
"""Stands in for llama-bench: says what it was asked for, and that each repetition took 2 ms."""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    return script(tmp_path / "llama-bench", STUB.format(python=sys.executable))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class CountingRunner:
    """Counts tokens and generates token 7."""

    def __init__(self) -> None:
        self.prompted: list[int] = []
        self.depths: list[int] = []

    def reset(self) -> None:
        self.cached = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        self.prompted.append(len(tokens))
        self.cached += len(tokens)

    def decode(self, tokens: Sequence[int]) -> None:
        self.depths.append(self.cached)
        self.cached += len(tokens)

    def greedy(self) -> list[int]:
        return [7]


class OneToken:
    def encode(self, text: str) -> list[int]:
        return list(range(len(text)))

    def decode(self, ids: Sequence[int]) -> str:
        return "x" * len(ids)


def bench(rounds: int = 1) -> agreement.Bench:
    prompt = Prompt("x" * WORK.prompt_tokens, list(range(WORK.prompt_tokens)), OneToken())
    return agreement.Bench(prompt, WORK, Path("base"), rounds, repetitions=1)


def test_the_profiler_and_llama_bench_do_the_same_work() -> None:
    runner, ours = CountingRunner(), bench()
    made = repeat(runner, ours.prompt, ours.point, "no meter")  # type: ignore[arg-type]
    prompt, generation = WORK.settings("prompt"), WORK.settings("generation")
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]) == (*runner.prompted, 0, 0)
    assert generation["n_prompt"] == 0
    assert generation["n_gen"] == len(runner.depths) == len(made.latencies_s)
    assert generation["n_depth"] == runner.depths[0]
    job = ours.job("gguf", Path("weights"))
    assert job.points == (ours.point,)
    assert generation["n_threads"] == prompt["n_threads"] == job.threads


def test_both_engines_take_batches_of_one_size() -> None:
    from slm_benchmark.profiling import llamacpp

    assert (llama_bench.BATCH, llama_bench.FORWARD) == (llamacpp.BATCH, llamacpp.FORWARD)


@pytest.mark.parametrize("phase", ["prompt", "generation"])
def test_llama_bench_is_asked_and_read(stub: Path, tmp_path: Path, phase: str) -> None:
    seconds = llama_bench.run(stub, tmp_path / "x.gguf", WORK, phase, 3)
    assert seconds == pytest.approx([0.002, 0.002, 0.002], rel=1e-5)


def test_a_failing_llama_bench_is_told(stub: Path, tmp_path: Path) -> None:
    with pytest.raises(RunEnvironmentError, match=r"exit code 1: no such model\. Fix: delete"):
        llama_bench.run(stub, tmp_path / "x.bin", WORK, "prompt", 3)


@pytest.mark.parametrize(
    "change",
    [{"n_depth": 0}, {"n_threads": 2}, {"n_ubatch": 128}, {"flash_attn": 0}, {"samples_ns": [1]}],
)
def test_other_work_is_refused(change: dict[str, Any]) -> None:
    answer = {**WORK.settings("generation"), "samples_ns": [1, 2]}
    assert llama_bench.parse(json.dumps([answer]), WORK, "generation", 2) == [1e-9, 2e-9]
    with pytest.raises(RuntimeError, match=r"other work|repeated 1 times"):
        llama_bench.parse(json.dumps([{**answer, **change}]), WORK, "generation", 2)


def test_turns_alternate_and_every_second_round_is_reversed() -> None:
    order, told = [], []

    def contender(name: str) -> agreement.Rates:
        order.append(name)
        return {"prompt": float(len(order))}

    turns = agreement.alternate(
        {name: lambda name=name: contender(name) for name in "ab"},  # type: ignore[misc]
        3,
        lambda done, last: told.append((done, last)),
    )
    assert "".join(order) == "abbaab"
    assert [turn["prompt"] for turn in turns["a"]] == [1, 4, 5]
    assert [turn["prompt"] for turn in turns["b"]] == [2, 3, 6]
    assert [done for done, _ in told] == [1, 2, 3]
    assert told[1][1] == {"a": {"prompt": 4}, "b": {"prompt": 3}}


def test_a_drift_of_the_machine_is_no_difference() -> None:
    theirs = [100.0 * 0.9**n for n in range(8)]
    found = agreement.compare([1.02 * rate for rate in theirs], theirs, bound=0.03)
    assert found["ratio"] == pytest.approx(1.02)
    assert found["ci95"] == pytest.approx([1.02, 1.02])
    assert found["passed"] is True


@pytest.mark.parametrize(
    ("factor", "bound", "passed"), [(1.04, 0.03, False), (0.96, 0.03, False), (0.5, None, None)]
)
def test_the_verdict_is_of_the_median_ratio(
    factor: float, bound: float | None, passed: bool | None
) -> None:
    noise = [1.0, 1.1, 0.9, 2.0, 1.05, 0.5, 0.95]
    found = agreement.compare([100 * factor * n for n in noise], [100.0] * 7, bound)
    assert found["ratio"] == pytest.approx(factor)
    low, high = found["ci95"]
    assert low <= factor <= high
    assert low < high
    assert found["passed"] is passed


def test_rates_count_the_tokens_that_were_timed() -> None:
    made = [{"prefill_s": 2.0, "first_token_s": 2.5, "latencies_s": [0.5] * 5}] * 3
    assert agreement.measured_rates(WORK, made) == {
        "prompt": 12 / 2.0,
        "generation": 5 / 2.5,
        "whole": 17 / 5.0,
    }


def test_everything_runs(
    tiny_model: Path,
    tiny_gguf_f16: Path,
    stub: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The bare loop must generate the very tokens of the profiler's repetition, or this raises."""
    base, results = tmp_path / "base", tmp_path / "results.json"
    base.symlink_to(tiny_model)
    places = ["--base", base, "--folders", base, "--files", tiny_gguf_f16, "--llama-bench", stub]
    sizes = ["--prompt-tokens", 12, "--output-tokens", 5, "--threads", 1]
    counts = ["--rounds", 2, "--repetitions", 2]
    times = [*counts, "--json", results]
    code = agreement.main([str(value) for value in (*places, *sizes, *times)])
    shown, progress = capfd.readouterr()
    assert results.exists(), progress
    written = read_json(results)
    rows = {(row["engine"], row["against"], row["phase"]): row for row in written["rows"]}
    assert list(rows) == [
        ("llama.cpp", "llama-bench", "prompt"),
        ("llama.cpp", "llama-bench", "generation"),
        ("Transformers", "bare loop", "prompt"),
        ("Transformers", "bare loop", "generation"),
        ("Transformers", "generate()", "whole"),
    ]
    stubbed = rows["llama.cpp", "llama-bench", "prompt"]
    assert stubbed["theirs_tokens_per_s"] == pytest.approx([12 / 0.002] * 2, rel=1e-5)
    for row in rows.values():
        assert len(row["ours_tokens_per_s"]) == len(row["theirs_tokens_per_s"]) == 2
        assert min(row["ours_tokens_per_s"]) > 0
        assert (row["passed"] is None) == (row["against"] == "generate()")
    assert code == int(any(row["passed"] is False for row in rows.values()))
    for overhead in written["overheads"]:
        token_us = 1000 * overhead["token_ms"]
        assert 0 < overhead["overhead_us_per_token"] < token_us
        assert overhead["share"] == pytest.approx(overhead["overhead_us_per_token"] / token_us)
    assert agreement.markdown(written) in shown
    assert f"{tiny_gguf_f16.stem}: round 2 of 2" in progress


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert agreement.main(["--base", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: there is no such file" in capsys.readouterr().err


def test_the_page_shows_the_record() -> None:
    if not agreement.RECORD.exists():
        pytest.skip("nothing was measured yet")
    assert agreement.markdown(read_json(agreement.RECORD)) in agreement.PAGE.read_text("utf-8"), (
        "run: python -m benchmarks.agreement --write-docs"
    )


CMAKE = """#!{python}
import pathlib, sys
log = pathlib.Path({log!r})
with log.open("a") as stream:
    print(*sys.argv[1:], file=stream)
if sys.argv[1] == "--build" and not pathlib.Path({log!r} + ".broken").exists():
    program = pathlib.Path(sys.argv[2], "bin", "llama-bench")
    program.parent.mkdir(parents=True)
    program.touch()
elif sys.argv[1] == "--build":
    sys.exit(2)
"""


def test_a_build_resumes_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, folder = tmp_path / "log", tmp_path / "build"
    script(tmp_path / "bin" / "cmake", CMAKE.format(python=sys.executable, log=str(log)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    source = folder / "source"
    source.mkdir(parents=True)
    broken = tmp_path / "log.broken"
    broken.touch()
    with pytest.raises(RunEnvironmentError, match="it resumes"):
        llama_bench.build(1, folder)
    assert not (folder / "manifest.json").exists()
    broken.unlink()
    program = llama_bench.build(1, folder)
    assert program.exists()
    calls = log.read_text().splitlines()
    assert len(calls) == 4
    for setting in llama_cmake("x86_64"):
        assert f"-D{setting}" in calls[2].split()
    assert calls[3].endswith("--target llama-bench --parallel 1")
    assert llama_bench.build(1, folder) == program
    assert log.read_text().splitlines() == calls  # nothing was done again
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    program.unlink()
    program.parent.rmdir()
    llama_bench.build(1, folder)
    assert len(log.read_text().splitlines()) == 6  # other settings are another build


def test_without_cmake_the_fix_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cmake is not installed\. Fix: pip install cmake"):
        llama_bench.build(1, tmp_path)
