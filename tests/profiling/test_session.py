"""Profiling: real work in fresh processes, interleaved, flagged when disturbed, clear failures."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.profiling.energy.meter import Mark, Meter
from slm_benchmark.profiling.job import Job, Point
from slm_benchmark.profiling.launch import ProfileFailed, launch, run
from slm_benchmark.profiling.process import Repetition, overhead_us_per_token, repeat, settled
from slm_benchmark.profiling.prompts import make_prompt
from slm_benchmark.profiling.record import write_performance
from slm_benchmark.profiling.session import points_of, profile, rounds
from tests.leaderboard.test_aggregate import performance_record

BOUNDS: Any = {
    **load_catalogue().profiling["demo"]["host"],
    "before": "flag",
    "settle_s": 0.2,
    "wait_s": 0,
}
PLAN: Any = {
    "reference": {"prompt_tokens": 24, "output_tokens": 9},
    "prompt_tokens": [8, 24],
    "output_tokens": [9],
    "batch": {"sequences": 3, "prompt_tokens": 8, "output_tokens": 5},
    "processes": 3,
    "repetitions": 10,
    "min_duration_s": 0,
    "max_warmups": 5,
    "warmup_bound": 0.5,
    "idle_s": 0,
    "host": BOUNDS,
}


def job(variant: str, weights: Path, base: Path, **changes: Any) -> Job:
    """A job of PLAN on one thread."""
    made = Job(
        variant=variant,
        weights=str(weights),
        base=str(base),
        device="cpu",
        threads=1,
        dtype="float32",
        trust_remote_code=False,
        points=points_of(PLAN),
        repetitions=10,
        min_duration_s=0,
        max_warmups=5,
        warmup_bound=0.5,
        memory_limit_bytes=None,
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def gguf_folder(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the tiny GGUF file alone, as a variant's does."""
    folder = tmp_path_factory.mktemp("gguf")
    shutil.copy(tiny_gguf, folder)
    return folder


# --- what is measured, and in which order ---------------------------------------------------------


def test_a_plan_is_its_reference_point_the_grid_and_the_batch_each_once() -> None:
    assert points_of(PLAN) == (Point(24, 9), Point(8, 9), Point(8, 5, 3))
    assert points_of(PLAN | {"batch": None}) == (Point(24, 9), Point(8, 9))


def test_each_round_has_every_variant_and_starts_one_further_on() -> None:
    order = rounds(["a", "b", "c"], 4)
    assert order == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


# --- one repetition, with an engine whose times are known -----------------------------------------


class SlowRunner:
    """Takes 20 ms for a prompt and 5 ms for a step; answers with the last token plus one."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.last = [0]

    def reset(self) -> None:
        self.calls.append(("reset", None))

    def prefill(self, tokens: Sequence[int]) -> None:
        time.sleep(0.02)
        self.calls.append(("prefill", len(tokens)))
        self.last = [6]

    def decode(self, tokens: Sequence[int]) -> None:
        time.sleep(0.005)
        self.calls.append(("decode", list(tokens)))
        self.last = list(tokens)

    def greedy(self) -> list[int]:
        return [token + 1 for token in self.last]


def test_a_repetition_times_each_phase(tiny_model: Path) -> None:
    runner = SlowRunner()
    prompt = make_prompt(tiny_model, 24)
    done = repeat(runner, prompt, Point(24, 5), "no meter")  # type: ignore[arg-type]
    assert runner.calls == [
        ("reset", None),
        ("prefill", 24),
        ("decode", [7]),
        ("decode", [8]),
        ("decode", [9]),
        ("decode", [10]),
    ]
    assert (done.prompt_tokens, done.output_tokens) == (24, 5)
    assert done.client_first_token_s is not None
    assert done.client_first_token_s > done.first_token_s >= done.prefill_s >= 0.02
    assert len(done.latencies_s) == 4
    assert all(latency >= 0.005 for latency in done.latencies_s)
    assert done.generation_ended_unix_s - done.generation_started_unix_s >= 0.019
    assert done.prompt_energy_j is None
    assert done.generation_energy_j is None


class SteppedMeter(Meter):
    """Each mark is one joule, and the energy of a span the square of its first mark."""

    def __init__(self) -> None:
        super().__init__("measured", "simulated")
        self.marks = 0

    def mark(self) -> Mark:
        self.marks += 1
        return Mark(self.marks)

    def joules(self, start: Mark, end: Mark) -> float | None:
        assert end.value == start.value + 1
        return start.value**2


def test_energy_is_read_around_each_phase(tiny_model: Path) -> None:
    prompt = make_prompt(tiny_model, 8)
    done = repeat(SlowRunner(), prompt, Point(8, 3), SteppedMeter())  # type: ignore[arg-type]
    assert (done.prompt_energy_j, done.generation_energy_j) == (1, 9)


def timed(prefill_s: float, token_s: float) -> Repetition:
    """A repetition of known times."""
    return Repetition(0, 8, 5, prefill_s, prefill_s, None, [token_s] * 4, 0, 0, None, None, "")


def test_the_warm_up_ends_when_five_agree_in_both_phases() -> None:
    cold, warm, near = timed(9.0, 1.0), timed(1.0, 0.100), timed(1.04, 0.104)
    assert not settled([], 0.05)
    assert not settled([warm] * 4, 0.05)
    assert settled([warm] * 5, 0.05)
    assert not settled([cold, warm, near, warm, warm], 0.05)
    assert settled([cold, warm, near, warm, warm, near], 0.05)
    assert not settled([warm, near, timed(1.0, 0.106), warm, near], 0.05)
    assert not settled([warm, near, timed(1.06, 0.1), warm, near], 0.05)
    assert settled([warm, near, timed(1.06, 0.1), warm, near], 0.10)


def test_the_instrument_knows_its_own_time() -> None:
    assert 0 < overhead_us_per_token() < 1000  # a millisecond a token would be no instrument


# --- a whole session ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(tiny_model: Path, gguf_folder: Path) -> Any:
    """Two variants of the tiny model on their two engines, measured side by side."""
    jobs = [job("base", tiny_model, tiny_model), job("gguf-q8_0", gguf_folder, tiny_model)]
    return profile(jobs, PLAN)


def test_a_session_has_every_variant_in_fresh_processes(session: Any) -> None:
    assert session["order"] == [
        ["base", "gguf-q8_0"],
        ["gguf-q8_0", "base"],
        ["base", "gguf-q8_0"],
    ]
    began: dict[str, list[float]] = {}
    for variant, found in session["variants"].items():
        assert found["error"] is None
        assert [process["round"] for process in found["processes"]] == [1, 2, 3]
        for process in found["processes"]:
            first = process["points"][0]["warmups"][0]
            began.setdefault(variant, []).append(first["started_unix_s"])
    assert len(session["roofline"]["cpu"]["bandwidth_by_round_bytes_per_s"]) == 3
    base, gguf = began["base"], began["gguf-q8_0"]
    assert base[0] < gguf[0] < gguf[1] < base[1] < base[2] < gguf[2]


def test_a_process_keeps_all_that_it_did(session: Any) -> None:
    for found in session["variants"].values():
        for process in found["processes"]:
            assert [
                (p["prompt_tokens"], p["output_tokens"], p["sequences"]) for p in process["points"]
            ] == [(24, 9, 1), (8, 9, 1), (8, 5, 3)]
            assert process["load_s"] > 0
            assert process["size_bytes"] > 0
            assert process["overhead_us_per_token"] > 0
            assert process["limits"]
            for point in process["points"]:
                assert len(point["repetitions"]) >= 10
                assert len(point["warmups"]) == 5
                everything = [*point["warmups"], *point["repetitions"]]
                assert {r["output_tokens"] for r in everything} == {point["output_tokens"]}
                assert {len(r["latencies_s"]) for r in everything} == {point["output_tokens"] - 1}
                assert {r["prompt_tokens"] for r in everything} == {point["prompt_tokens"]}
                assert len({r["tokens_sha256"] for r in everything}) == 1


def test_the_kernel_is_named(session: Any) -> None:
    engines = {
        variant: found["processes"][0]["engine"] for variant, found in session["variants"].items()
    }
    assert "Linear" in engines["base"]["kernel"]
    assert engines["base"]["dtype"] == "float32"
    assert engines["gguf-q8_0"]["name"] == "llama.cpp"
    assert engines["gguf-q8_0"]["kernel"]
    assert {engine["threads"] for engine in engines.values()} == {1}


@pytest.fixture(scope="module")
def session_file(session: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the session's record, with changes to one variant's findings."""
    folder = tmp_path_factory.mktemp("session")
    carried = performance_record()

    def write(**changes: Any) -> Path:
        variants = {
            name: {**found, "variant": carried["variant"] | {"id": name}}
            for name, found in session["variants"].items()
        }
        variants["base"] |= changes
        record = {
            "schema_version": 1,
            "kind": "session",
            **{
                block: carried[block]
                for block in ("model", "protocol", "environment", "hardware", "workflow", "started")
            },
            "plan": PLAN,
            "threads": 1,
            "grid": {"country": "FRA", "g_co2e_per_kwh": 50.0, "source": "a table of 2020"},
            **session,
            "variants": variants,
            "duration_s": 1.0,
        }
        path = folder / f"{len(list(folder.iterdir()))}.json"
        write_record(path, record, "session")
        return path

    return write


def test_a_variant_gets_its_record_from_the_session(
    session_file: Callable[..., Path], tmp_path: Path
) -> None:
    record: Any = write_performance(session_file(), "gguf-q8_0", tmp_path / "performance.json")
    assert read_record(tmp_path / "performance.json", "performance") == record
    metrics = record["metrics"]
    for name in (
        "prompt_throughput_tokens_per_s",
        "generation_throughput_tokens_per_s",
        "batch_generation_throughput_tokens_per_s",
        "ttft_ms",
        "client_ttft_ms",
        "inter_token_latency_ms",
        "inter_token_latency_p90_ms",
        "inter_token_latency_p99_ms",
        "load_time_s",
        "mbu",
        "mfu",
    ):
        low, high = metrics[name]["ci95"]
        assert 0 < low <= metrics[name]["value"] <= high, name
        below, above = metrics[name]["pi95"]
        assert below <= metrics[name]["value"] <= above, name
        assert metrics[name]["n"] == 3
    assert metrics["peak_memory_bytes"]["value"] > 0
    assert metrics["client_ttft_ms"]["value"] > metrics["ttft_ms"]["value"]
    assert metrics["device_peak_memory_bytes"]["value"] is None
    assert metrics["device_peak_memory_bytes"]["reason"]
    assert [(p["prompt_tokens"], p["sequences"]) for p in record["grid"]] == [(8, 1), (8, 3)]
    assert '\'variants=["base", "gguf-q8_0"]\'' in record["command"]
    assert record["session"]["variants"] == ["base", "gguf-q8_0"]
    assert record["energy"]["grid"]["country"] == "FRA"
    if record["energy"]["label"] == "unavailable":
        assert "co2e_ug_per_token" not in record["energy"]["grid"]
        assert metrics["energy_mwh_per_token"]["value"] is None
        assert record["energy"]["reason"] == metrics["energy_mwh_per_token"]["reason"]


def test_a_variant_that_broke_has_a_record_without_numbers(
    session_file: Callable[..., Path], tmp_path: Path
) -> None:
    error = {"type": "ArithmeticError", "message": "not finite", "traceback": ""}
    record: Any = write_performance(
        session_file(error=error, processes=[]), "base", tmp_path / "performance.json"
    )
    assert record["state"] == "failed"
    assert record["error"] == error
    for quantity in record["metrics"].values():
        assert quantity["value"] is None
        assert "not finite" in quantity["reason"]


def test_a_variant_that_was_not_measured_is_named(
    session_file: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="measured no awq-4bit"):
        write_performance(session_file(), "awq-4bit", tmp_path / "performance.json")
    assert not (tmp_path / "performance.json").exists()


def test_one_variant_breaks_and_the_others_are_measured(
    tiny_model: Path, gguf_folder: Path, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def broken(job: Job, bounds: Any) -> Any:
        asked.append(job.variant)
        if job.variant == "base":
            raise ProfileFailed("ValueError", "bad shape", "line 1")
        return {"points": [], "host": {"warnings": []}}

    monkeypatch.setattr("slm_benchmark.profiling.session.launch", broken)
    # The machine's own rates were measured for the session before.
    rates = session["roofline"]["cpu"]
    monkeypatch.setattr("slm_benchmark.profiling.session._roofline", lambda _: rates)
    jobs = [job("base", tiny_model, tiny_model), job("gguf-q8_0", gguf_folder, tiny_model)]
    found: Any = profile(jobs, PLAN)["variants"]
    assert asked == ["base", "gguf-q8_0", "gguf-q8_0", "gguf-q8_0"]
    assert found["base"]["error"]["message"] == "bad shape"
    assert found["base"]["processes"] == []
    assert len(found["gguf-q8_0"]["processes"]) == 3


def test_work_beside_a_measurement_is_flagged_with_its_size(
    gguf_folder: Path, tiny_model: Path, stranger: int
) -> None:
    found = launch(job("gguf-q8_0", gguf_folder, tiny_model, min_duration_s=1), BOUNDS)
    assert any(f"(pid {stranger})" in warning for warning in found["host"]["warnings"])
    assert any("other work used" in warning for warning in found["host"]["warnings"])


# --- failures ---------------------------------------------------------------------------------


def test_a_damaged_gguf_file_is_named(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"model\.gguf: llama\.cpp cannot load .* Fix: ") as caught:
        launch(job("gguf-q8_0", tmp_path, tiny_model), BOUNDS)
    assert not isinstance(caught.value, RunEnvironmentError)


def test_missing_weights_are_named_before_anything_runs(tmp_path: Path, tiny_model: Path) -> None:
    jobs = [job("base", tiny_model, tiny_model), job("gguf-f16", tmp_path, tiny_model)]
    with pytest.raises(UserError, match=r"no weights of the variant gguf-f16: no \*\.gguf"):
        profile(jobs, PLAN | {"host": None})


def answer_with(script: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a shell script in the place of the measured process; ``$4`` is its result file."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ("kill -KILL $$", RunEnvironmentError, "killed by SIGKILL"),
        ("exit 3", RunEnvironmentError, "exit code 3"),
        ("kill -SEGV $$", ProfileFailed, "died of SIGSEGV"),
        (
            """echo '{"kind": "memory", "message": "no room"}' > "$4" """,
            RunEnvironmentError,
            "memory ran out while profiling base: no room",
        ),
        (
            """echo '{"kind": "failed", "type": "ValueError", "message": "bad shape", """
            """"traceback": "line 1"}' > "$4" """,
            ProfileFailed,
            "ValueError: bad shape",
        ),
    ],
)
def test_an_end_without_numbers_says_whose_fault_it_was(
    script: str,
    kind: type[Exception],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_with(script, monkeypatch, tmp_path)
    with pytest.raises(kind, match=text) as caught:
        run({"do": "measure", "job": {"variant": "base"}}, device="cpu", threads=1)
    if isinstance(caught.value, ProfileFailed):
        assert set(caught.value.record) == {"type", "message", "traceback"}


def test_a_variant_that_does_not_fit_the_declared_memory_fails(
    gguf_folder: Path, tiny_model: Path
) -> None:
    small = job("base", tiny_model, tiny_model, memory_limit_bytes=64 * 2**20)
    with pytest.raises(ProfileFailed, match="declared memory"):
        launch(small, BOUNDS)


def test_a_model_too_large_for_the_gpu_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = """{"kind": "memory", "type": "OutOfMemoryError", "message": "CUDA", "traceback": ""}"""
    answer_with(f"""echo '{said}' > "$4" """, monkeypatch, tmp_path)
    with pytest.raises(ProfileFailed, match="OutOfMemory: CUDA"):
        run({"do": "measure", "job": {"variant": "base"}}, device="cuda", threads=1)


def test_a_machine_that_cannot_be_measured_is_no_variant_s_fault(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = """{"kind": "failed", "type": "AssertionError", "message": "no CUDA", "traceback": ""}"""
    answer_with(f"""echo '{said}' > "$4" """, monkeypatch, tmp_path)
    with pytest.raises(RunEnvironmentError, match=r"cpu of this machine .* no CUDA\. Fix: "):
        profile([job("base", tiny_model, tiny_model)], PLAN)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_the_measured_process_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    (tmp_path / "request.json").write_text('{"threads": 1, "memory_limit_bytes": null}')
    measured = (
        "import os, pathlib, time\n"
        "from slm_benchmark.profiling import __main__ as entry\n"
        "def wait(request):\n"
        f"    pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "entry._answer = wait\n"
        f"entry.main({str(tmp_path / 'request.json')!r}, {str(tmp_path / 'result.json')!r})\n"
    )
    starts_it = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {measured!r}])"
    parent = subprocess.Popen([sys.executable, "-c", starts_it])
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
        child = Path("/proc", pid_file.read_text())
        assert running(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: not running(child))
    finally:
        parent.kill()
        parent.wait()


def running(process: Path) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    """Poll until ``condition`` holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
