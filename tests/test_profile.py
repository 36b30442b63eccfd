"""Profiling: real counts, intervals that cover, counters that turn over, clear failures."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.errors import EnvironmentFault, UserError
from slm_benchmark.profile import ProfileFailed, profile
from slm_benchmark.profile.energy import Domain, EnergyCounter, find_counter, rapl
from slm_benchmark.profile.runner import Job
from slm_benchmark.profile.session import Repetition, measure, repeat, settled
from slm_benchmark.schemas import schema, validate
from slm_benchmark.statistics.median import median_coverage, median_interval

PERFORMANCE = {"prompt_tokens": 24, "output_tokens": 9, "repetitions": 6, "max_warmups": 2}
CPU = {"device": "cpu", "memory_limit_bytes": None}
METRICS = schema("performance")["properties"]["metrics"]["required"]


# --- the median and its interval ------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 10, 25])
def test_the_median_interval_covers_as_often_as_it_says(n: int) -> None:
    draw = random.Random(n)
    trials = 4000
    hits = 0
    for _ in range(trials):
        low, high = median_interval([draw.expovariate(1) for _ in range(n)])
        hits += low <= 0.6931471805599453 <= high
    assert median_coverage(n) >= 0.95
    assert hits / trials == pytest.approx(median_coverage(n), abs=0.015)


def test_the_median_interval_is_the_narrowest_that_covers() -> None:
    # Tabulated ranks for 95 %: the 2nd and 9th of 10, the 6th and 15th of 20.
    assert median_interval(list(range(1, 11))) == (2, 9)
    assert median_interval(list(range(20, 0, -1))) == (6, 15)


def test_few_values_give_their_range_and_admit_it() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_coverage(3) == 0.75
    with pytest.raises(ValueError, match="two values"):
        median_interval([1.0])


# --- energy ---------------------------------------------------------------------------------


def powercap(folder: Path, *domains: tuple[str, str, int]) -> Path:
    """A simulated /sys/class/powercap with (folder, name, µJ) domains of range 1000 mJ."""
    for place, name, value_uj in domains:
        (folder / place).mkdir()
        (folder / place / "name").write_text(f"{name}\n")
        (folder / place / "energy_uj").write_text(f"{value_uj}\n")
        (folder / place / "max_energy_range_uj").write_text("1000000\n")
    return folder


def test_rapl_counts_packages_once_and_corrects_a_turn(tmp_path: Path) -> None:
    root = powercap(
        tmp_path,
        ("intel-rapl:0", "package-0", 900_000),
        ("intel-rapl:0:0", "core", 5),
        ("intel-rapl:1", "package-1", 100),
        ("intel-rapl:2", "psys", 7),
    )
    counter = rapl(root)
    assert isinstance(counter, EnergyCounter)
    assert [domain.name for domain in counter.domains] == ["package-0", "package-1"]
    before = counter.read()
    (root / "intel-rapl:0" / "energy_uj").write_text("200000\n")  # past its range: 300 000 µJ
    (root / "intel-rapl:1" / "energy_uj").write_text("50100\n")
    assert counter.joules(before, counter.read()) == pytest.approx(0.35)


def test_no_counter_gives_a_reason(tmp_path: Path) -> None:
    assert "has no CPU package" in str(rapl(tmp_path))
    powercap(tmp_path, ("intel-rapl:0", "package-0", 1))
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("not a number\n")
    assert "cannot be read" in str(rapl(tmp_path))


def test_a_counter_for_root_only_gives_that_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powercap(tmp_path, ("intel-rapl:0", "package-0", 1))
    read_text = Path.read_text

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "root only" in str(rapl(tmp_path))


# --- one repetition, with an engine whose times are known --------------------------------------


class SlowRunner:
    """Takes 20 ms for a prompt and 5 ms for a token; answers with the last token plus one."""

    device = "cpu"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.last = 0

    def load(self) -> None:
        self.calls.append(("load", 0))

    def reset(self) -> None:
        self.calls.append(("reset", 0))

    def prefill(self, tokens: Sequence[int]) -> None:
        time.sleep(0.02)
        self.calls.append(("prefill", len(tokens)))
        self.last = tokens[-1]

    def decode(self, token: int) -> None:
        time.sleep(0.005)
        self.calls.append(("decode", token))
        self.last = token

    def greedy(self) -> int:
        return self.last + 1

    def engine(self) -> dict[str, Any]:
        names = ("name", "version", "kernel", "dtype", "schedule")
        return dict.fromkeys(names, "simulated")

    def device_memory_bytes(self) -> int | None:
        return None


def test_a_repetition_times_each_phase_and_reads_the_counter_around_generation() -> None:
    readings = iter([1_000_000, 4_600_000])
    counter = EnergyCounter("simulated", [Domain("x", lambda: next(readings), None)])
    runner = SlowRunner()
    done = repeat(runner, [7, 8], 5, counter)
    assert runner.calls == [
        ("reset", 0),
        ("prefill", 2),
        ("decode", 9),
        ("decode", 10),
        ("decode", 11),
        ("decode", 12),
    ]
    assert done.first_token_s >= done.prefill_s >= 0.02
    assert len(done.latencies_s) == 4
    assert all(latency >= 0.005 for latency in done.latencies_s)
    assert done.energy_j == pytest.approx(3.6)


def test_quantities_have_their_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 50}')
    (tmp_path / "model.safetensors").write_bytes(bytes(1234))
    used_uj = iter(range(0, 10**9, 7_200_000))  # 7.2 J between two readings
    counter = EnergyCounter("simulated", [Domain("x", lambda: next(used_uj), None)])
    monkeypatch.setattr("slm_benchmark.profile.session.find_counter", lambda device: counter)
    job = Job(
        variant="base",
        weights=str(tmp_path),
        base=str(tmp_path),
        device="cpu",
        threads=1,
        dtype="float32",
        trust_remote_code=False,
        prompt_tokens=40,
        output_tokens=5,
        repetitions=3,
        max_warmups=3,
    )
    runner = SlowRunner()
    found = measure(job, runner)
    metrics = {name: quantity["value"] for name, quantity in found["metrics"].items()}
    assert sorted(metrics) == sorted(METRICS)
    # Sleeps overshoot on a busy machine and never fall short: one side of each bound is exact.
    assert 0 < metrics["prompt_throughput_tokens_per_s"] <= 40 / 0.02
    assert 0 < metrics["generation_throughput_tokens_per_s"] <= 1 / 0.005
    assert metrics["ttft_ms"] >= 20
    assert metrics["inter_token_latency_p99_ms"] >= metrics["inter_token_latency_ms"] >= 5
    assert metrics["energy_mwh_per_token"] == pytest.approx(7.2 / 3.6 / 4)
    assert metrics["size_bytes"] == 1234
    assert [len(r["latencies_s"]) for r in found["raw"]["repetitions"]] == [4, 4, 4]
    prompts = len(found["raw"]["warmups"]) + 3
    assert sum(kind == "prefill" and n == 40 for kind, n in runner.calls) == prompts


def timed(prefill_s: float, token_s: float) -> Repetition:
    """A repetition of known times."""
    return Repetition(prefill_s, prefill_s, [token_s] * 4, None, "")


def test_the_warm_up_ends_when_three_agree_in_both_phases() -> None:
    cold, warm, near = timed(9.0, 1.0), timed(1.0, 0.100), timed(1.04, 0.104)
    assert not settled([])
    assert not settled([warm, warm])
    assert not settled([cold, warm, near])
    assert settled([cold, warm, near, warm])
    assert not settled([warm, timed(1.0, 0.106), warm])
    assert not settled([warm, timed(1.06, 0.1), warm])


def test_peak_memory_sees_what_was_freed_again() -> None:
    # In a process of its own, as in a profile: here other threads free memory at any moment.
    program = """
from slm_benchmark.profile.memory import PeakMemory
memory = PeakMemory()
block = bytearray(64 * 2**20)
block[:: 2**12] = b"x" * len(block[:: 2**12])
del block
print(memory.grown_bytes())
"""
    grown = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert 60 * 2**20 <= int(grown) <= 96 * 2**20


# --- a whole session, in its own process -------------------------------------------------------


def record_with(found: dict[str, Any]) -> dict[str, Any]:
    """A performance record whose other blocks are of the right shape."""
    sha256, name = "0" * 64, "example"
    return {
        **found,
        "schema_version": 1,
        "kind": "performance",
        "state": "ok",
        "error": None,
        "model": {
            "id": name,
            "name": name,
            "repo": "example/example",
            "revision": None,
            "source": {},
            "sha256": sha256,
        },
        "variant": {
            "id": "base",
            "sha256": sha256,
            "method": "download",
            "nominal_bits_per_weight": 32,
            "effective_bits_per_weight": 32,
            "size_bytes": 1,
        },
        "protocol": {"id": "demo", "version": 1, "sha256": sha256},
        "environment": {"python": "3", "packages": {}, "lock_sha256": sha256, "locked": False},
        "hardware": {"id": "local", "fingerprint": sha256, "description": {}},
        "workflow": {"sha256": sha256, "commit": None, "dirty": None},
        "result_sha256": sha256,
        "started": "2026-01-01T00:00:00+00:00",
        "duration_s": 1,
        "command": "example",
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 130 thousand parameters; the prompt is made of ids, so no tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=300,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_session_measures_everything(tiny: Path) -> None:
    found = profile("base", tiny, tiny, PERFORMANCE, CPU, threads=1)
    validate(record_with(found), "performance", "performance.json")
    metrics, raw = found["metrics"], found["raw"]

    repeated = [
        "prompt_throughput_tokens_per_s",
        "generation_throughput_tokens_per_s",
        "ttft_ms",
        "inter_token_latency_ms",
        "inter_token_latency_p99_ms",
    ]
    for name in repeated:
        low, high = metrics[name]["ci95"]
        assert metrics[name]["n"] == 6
        assert 0 < low <= metrics[name]["value"] <= high
    for name in ("peak_memory_bytes", "load_time_s", "size_bytes"):
        assert metrics[name]["n"] == 1
        assert metrics[name]["value"] > 0
    assert metrics["size_bytes"]["value"] == (tiny / "model.safetensors").stat().st_size

    assert len(raw["repetitions"]) == 6
    assert len(raw["warmups"]) == 2
    assert raw["prompt_tokens"] == 24
    everything = [*raw["warmups"], *raw["repetitions"]]
    assert {len(r["latencies_s"]) for r in everything} == {8}
    assert len({r["tokens_sha256"] for r in everything}) == 1

    throughput = [24 / r["prefill_s"] for r in raw["repetitions"]]
    low, high = sorted(throughput)[2:4]
    assert metrics["prompt_throughput_tokens_per_s"]["value"] == pytest.approx((low + high) / 2)

    engine = found["engine"]
    assert engine["name"] == "transformers"
    assert engine["threads"] == 1
    assert engine["dtype"] == "float32"
    assert "torch.nn.Linear" in engine["kernel"]
    assert isinstance(found["host"]["warnings"], list)
    if not isinstance(find_counter("cpu"), EnergyCounter):
        assert metrics["energy_mwh_per_token"]["value"] is None
        assert metrics["energy_mwh_per_token"]["reason"]


def test_a_damaged_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"model\.gguf: llama\.cpp cannot load .* Fix: ") as caught:
        profile("gguf-q8_0", tmp_path, tmp_path, PERFORMANCE, CPU, threads=1)
    assert not isinstance(caught.value, EnvironmentFault)


def test_missing_weights_and_too_many_threads_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    with pytest.raises(UserError, match=r"no weights of the variant gguf-f16: no \*\.gguf"):
        profile("gguf-f16", tmp_path, tmp_path, PERFORMANCE, CPU, threads=1)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UserError, match=r"config\.json: vocab_size: cannot read"):
        profile("gguf-f16", tmp_path, tmp_path / "base", PERFORMANCE, CPU, threads=1)
    with pytest.raises(UserError, match=r"config/hardware\.yaml: threads: .*got 4096"):
        profile("gguf-f16", tmp_path, tmp_path, PERFORMANCE, CPU, threads=4096)


def answer_with(script: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a shell script in the place of the measured process; ``$4`` is its result file."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ("kill -KILL $$", EnvironmentFault, "killed by SIGKILL"),
        ("exit 3", EnvironmentFault, "exit code 3"),
        ("kill -SEGV $$", ProfileFailed, "died of SIGSEGV"),
        (
            """echo '{"kind": "memory", "message": "no room"}' > "$4" """,
            EnvironmentFault,
            "memory ran out while profiling base: no room",
        ),
        (
            """echo '{"kind": "failed", "type": "ValueError", "message": "bad shape", """
            """"traceback": "line 1"}' > "$4" """,
            ProfileFailed,
            "ValueError: bad shape",
        ),
        (
            """echo '{"kind": "measured", "result": {"raw": {"memory": {"peak_bytes": 4097}}}}' """
            """> "$4" """,
            ProfileFailed,
            "held 4097 bytes at its peak; the declared machine gives it 4096",
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
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    (tmp_path / "model.safetensors").touch()
    answer_with(script, monkeypatch, tmp_path)
    entry = CPU | {"memory_limit_bytes": 4096}
    with pytest.raises(kind, match=text) as caught:
        profile("base", tmp_path, tmp_path, PERFORMANCE, entry, threads=1)
    if isinstance(caught.value, ProfileFailed):
        assert set(caught.value.record) == {"type", "message", "traceback"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_the_measured_process_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    (tmp_path / "job.json").write_text("{}")
    measured = (
        "import os, pathlib, time\n"
        "from slm_benchmark.profile import __main__ as entry\n"
        "def wait(**job):\n"
        f"    pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "entry.Job = wait\n"
        f"entry.main({str(tmp_path / 'job.json')!r}, {str(tmp_path / 'result.json')!r})\n"
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
