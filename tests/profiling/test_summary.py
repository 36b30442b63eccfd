"""The quantities of a record, from processes whose every number is known."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from slm_benchmark.common.schemas import schema, validate
from slm_benchmark.profiling.session import points_of
from slm_benchmark.profiling.summary import latency_distribution, latency_quantiles_ms, summarize
from tests.profiling.test_compare_performance import fail, profile

Values = Any
"""A dict of a shape that mypy need not know."""

PERFORMANCE = schema("performance")
METRICS = set(PERFORMANCE["then"]["properties"]["metrics"]["required"])
ONCE = {name for name in METRICS if name.endswith("_bytes")} | {"load_time_s"}
BATCH = "batch_generation_throughput_tokens_per_s"

PLAN: Values = {
    "reference": {"prompt_tokens": 100, "output_tokens": 5},
    "prompt_tokens": [100, 200],
    "output_tokens": [5],
    "batch": {"sequences": 4, "prompt_tokens": 100, "output_tokens": 5},
}
POINTS = ((100, 1), (200, 1), (100, 4))
NO_METER: Values = {"label": "unavailable", "source": None, "reason": "no meter", "faults": []}
METER: Values = {"label": "measured", "source": "counter", "reason": None, "faults": []}
TRAFFIC = {
    "weight_bytes_per_token": 100_000_000,
    "kv_bytes_per_position": 10_000,
    "flops_per_token": 200_000_000,
    "head_flops_per_token": 0,
    "attention_flops_per_token_and_position": 0,
    "notes": [],
}
ROOFLINE = {"bandwidth_bytes_per_s": 2e10, "matrix_flops_per_s": 1e12, "reason": None}
UNKNOWN: Values = {
    "bandwidth_bytes_per_s": None,
    "matrix_flops_per_s": None,
    "reason": "not measured",
}


def repetition(prompt_tokens: int, latencies_ms: Sequence[float], sequences: int) -> Values:
    """A prompt of 1 ms per token, a first token 2 ms later, at the client 5 ms later still."""
    prefill_s = prompt_tokens / 1000
    return {
        "started_unix_s": 0.0,
        "prompt_tokens": prompt_tokens,
        "output_tokens": len(latencies_ms) + 1,
        "prefill_s": prefill_s,
        "first_token_s": prefill_s + 0.002,
        "client_first_token_s": prefill_s + 0.007 if sequences == 1 else None,
        "latencies_s": [ms / 1000 for ms in latencies_ms],
        "generation_started_unix_s": 0.0,
        "generation_ended_unix_s": 0.0,
        "prompt_energy_j": None,
        "generation_energy_j": None,
        "tokens_sha256": "",
    }


def process(factor: float = 1.0, latencies_ms: Sequence[float] = (10, 10, 10, 10)) -> Values:
    """What one process wrote: three points, two repetitions each; times are ``factor`` longer."""

    def point(prompt_tokens: int, sequences: int) -> Values:
        latencies = [factor * ms for ms in latencies_ms]
        one = repetition(prompt_tokens, latencies, sequences)
        for key in ("prefill_s", "first_token_s", "client_first_token_s"):
            one[key] = one[key] and factor * one[key]
        return {
            "prompt_tokens": prompt_tokens,
            "output_tokens": 5,
            "sequences": sequences,
            "warmups": [],
            "settled": True,
            "repetitions": [one, copy.deepcopy(one)],
        }

    return {
        "load_s": 0.5 * factor,
        "size_bytes": 270_885_792,
        "memory": {"peak_memory_bytes": 3e8 * factor, "device": None},
        "traffic": TRAFFIC,
        "energy": NO_METER,
        "points": [point(*at) for at in POINTS],
    }


def summary(
    processes: Sequence[Values], roofline: Values = UNKNOWN, idle_w: float | None = None
) -> Values:
    meter = processes[0]["energy"]
    idle: Values = [{"power_w": idle_w, **meter}, {"power_w": idle_w, **meter}]
    return summarize(points_of(PLAN), processes, roofline, idle, None)


def metered(one: Values, joules: float) -> Values:
    """The process with a meter that counted so much in each generation."""
    for point in one["points"]:
        for found in point["repetitions"]:
            found["generation_energy_j"] = joules
    return one | {"energy": METER}


def values(metrics: Values) -> dict[str, Any]:
    return {name: quantity["value"] for name, quantity in metrics.items()}


def test_every_quantity_is_there_and_what_is_null_has_a_reason() -> None:
    found = summary([process()] * 3)
    assert set(found) == {"metrics", "grid", "latency_distribution_ms", "energy"}
    assert set(found["metrics"]) == METRICS
    for point in found["grid"]:
        assert set(point["metrics"]) == METRICS - ONCE - {BATCH}
    for metrics in (found["metrics"], *(point["metrics"] for point in found["grid"])):
        for name, quantity in metrics.items():
            assert set(quantity) == {"value", "ci95", "pi95", "n", "reason"}, name
            assert (quantity["value"] is None) == bool(quantity["reason"]), name
            assert quantity["n"] == (0 if quantity["reason"] else 3), name
    json.dumps(found, allow_nan=False)


def test_a_record_may_hold_it() -> None:
    measured = [metered(process(factor), 0.36) for factor in (1.0, 1.01, 1.02)]
    validate(profile() | summary(measured, ROOFLINE, idle_w=3), "performance", "record")


def test_the_reference_point_by_hand() -> None:
    found = values(summary([process(), process(2), process(4)])["metrics"])
    known = {name: value for name, value in found.items() if value is not None}
    assert known == pytest.approx(
        {
            "prompt_throughput_tokens_per_s": 500,
            "generation_throughput_tokens_per_s": 50,
            BATCH: 200,
            "ttft_ms": 204,
            "client_ttft_ms": 214,
            "inter_token_latency_ms": 20,
            "inter_token_latency_p90_ms": 20,
            "inter_token_latency_p99_ms": 20,
            "peak_memory_bytes": 6e8,
            "load_time_s": 1,
            "size_bytes": 270_885_792,
        }
    )


def test_the_grid_has_the_other_points() -> None:
    long, batch = summary([process()] * 3)["grid"]
    assert (long["prompt_tokens"], long["output_tokens"], long["sequences"]) == (200, 5, 1)
    assert long["metrics"]["ttft_ms"]["value"] == pytest.approx(202)
    assert (batch["prompt_tokens"], batch["output_tokens"], batch["sequences"]) == (100, 5, 4)
    found = values(batch["metrics"])
    assert found["prompt_throughput_tokens_per_s"] == pytest.approx(4000)
    assert found["generation_throughput_tokens_per_s"] == pytest.approx(400)
    assert found["inter_token_latency_ms"] == pytest.approx(10)
    assert "several start together" in batch["metrics"]["client_ttft_ms"]["reason"]


def test_a_plan_without_a_batch_says_so() -> None:
    short = [one | {"points": one["points"][:2]} for one in (process(), process())]
    idle: Values = [{"power_w": None, **NO_METER}]
    found: Values = summarize(points_of(PLAN | {"batch": None}), short, UNKNOWN, idle, None)
    assert found["metrics"][BATCH]["reason"] == "the plan has no point with several sequences"
    assert len(found["grid"]) == 1


def test_only_the_size_has_no_width() -> None:
    metrics = summary([process()] * 3)["metrics"]
    size = metrics.pop("size_bytes")
    assert size["pi95"] == size["ci95"] == [270_885_792] * 2
    for name, quantity in metrics.items():
        if quantity["value"] is not None:
            low, high = quantity["pi95"]
            assert low < quantity["value"] < high, name


def test_one_process_has_values_and_no_intervals() -> None:
    found = summary([process()])["metrics"]["ttft_ms"]
    assert found["value"] == pytest.approx(102)
    assert (found["ci95"], found["pi95"], found["n"]) == (None, None, 1)


# --- latency -------------------------------------------------------------------------------------


def test_quantiles_are_over_tokens_not_over_repetitions() -> None:
    """One slow token in five is in the p90; a mean of each repetition would hide it."""
    metrics = values(summary([process(latencies_ms=[10, 11, 12, 13, 50])] * 3)["metrics"])
    assert metrics["inter_token_latency_ms"] == pytest.approx(12)
    assert metrics["inter_token_latency_p90_ms"] == pytest.approx(50)
    assert metrics["inter_token_latency_p99_ms"] == pytest.approx(50)


def test_a_quantile_is_a_latency_that_was_measured() -> None:
    """The ⌈q·n⌉-th smallest, for every number of tokens."""
    random = np.random.default_rng(0)
    for n in (1, 2, 9, 10, 11, 100, 127):
        latencies_s = random.random(n).round(4)
        point: Values = {
            "repetitions": [
                {"latencies_s": part.tolist()} for part in np.split(latencies_s, [n // 3])
            ]
        }
        ordered = sorted(1000 * latencies_s)
        expected = [ordered[max(0, -(-percent * n // 100) - 1)] for percent in (0, 50, 90, 99, 100)]
        assert latency_quantiles_ms([point], [0, 50, 90, 99, 100]) == pytest.approx(expected)


def test_the_distribution_says_what_is_behind_it() -> None:
    found = latency_distribution([process(latencies_ms=[1, 2, 3]), process(latencies_ms=[4, 5])])
    assert found["tokens"] == [6, 4]
    assert len(found["percent"]) == len(found["latency_ms"])
    by_percent = dict(zip(found["percent"], found["latency_ms"], strict=True))
    assert (by_percent[0], by_percent[50], by_percent[100]) == pytest.approx((1, 3, 5))
    assert found["latency_ms"] == sorted(found["latency_ms"])


# --- memory, energy ------------------------------------------------------------------------------


def test_memory_of_a_device() -> None:
    one = process()
    one["memory"]["device"] = {"device_peak_bytes": 5e8, "allocator_peak_bytes": 4e8}
    metrics = summary([one] * 3)["metrics"]
    assert metrics["device_peak_memory_bytes"]["value"] == 5e8
    assert metrics["allocator_peak_memory_bytes"]["value"] == 4e8
    assert summary([process()])["metrics"]["device_peak_memory_bytes"]["reason"] == (
        "it runs on the CPU"
    )


def test_energy_gross_and_net() -> None:
    """0.36 J in 40 ms, 9 W, make 4 tokens, or 16 of four sequences; the idle machine needs 3 W."""
    found = summary([metered(process(), 0.36)] * 3, idle_w=3)
    metrics, batch = values(found["metrics"]), values(found["grid"][-1]["metrics"])
    assert metrics["power_w"] == pytest.approx(9)
    assert metrics["energy_mwh_per_token"] == pytest.approx(0.025)
    assert metrics["energy_net_mwh_per_token"] == pytest.approx(0.025 * 6 / 9)
    assert batch["energy_mwh_per_token"] == pytest.approx(0.025 / 4)
    assert found["energy"]["label"] == "measured"
    assert (found["energy"]["idle_before_w"], found["energy"]["idle_after_w"]) == (3, 3)


def test_without_a_meter_energy_has_the_meter_s_reason() -> None:
    found = summary([process()] * 3)
    for name in ("power_w", "energy_mwh_per_token", "energy_net_mwh_per_token"):
        assert found["metrics"][name]["reason"] == "no meter"
    assert found["energy"]["reason"] == "no meter"


# --- the machine's limits ------------------------------------------------------------------------


def test_shares_of_bandwidth_and_matrix_rate_by_hand() -> None:
    """100 tokens/s read the weights and 102.5 positions each; 1000 prompt tokens/s compute."""
    found = summary([process()] * 3, ROOFLINE)
    metrics, batch = values(found["metrics"]), values(found["grid"][-1]["metrics"])
    assert metrics["mbu"] == pytest.approx(100 * (1e8 + 102.5e4) / 2e10)
    assert metrics["mfu"] == pytest.approx(1000 * 2e8 / 1e12)
    # Four sequences share the weights and have their own positions.
    assert batch["mbu"] == pytest.approx(400 * (1e8 / 4 + 102.5e4) / 2e10)
    assert batch["mfu"] == pytest.approx(4000 * 2e8 / 1e12)


def test_a_share_is_less_certain_than_the_rate_in_it() -> None:
    """What it is divided by was measured too."""
    metrics = summary([process()] * 3, ROOFLINE)["metrics"]

    def width(name: str) -> float:
        low, high = metrics[name]["pi95"]
        return float((high - low) / metrics[name]["value"])

    assert width("mbu") > 1.3 * width("generation_throughput_tokens_per_s")


def test_an_unknown_limit_has_its_reason() -> None:
    metrics = summary([process()] * 3, ROOFLINE | {"matrix_flops_per_s": None, "reason": "no BLAS"})
    assert metrics["metrics"]["mfu"]["reason"] == "no BLAS"
    assert metrics["metrics"]["mbu"]["value"] is not None


# --- a model that broke --------------------------------------------------------------------------


def test_a_model_that_broke_has_the_reason_everywhere() -> None:
    error: Values = {
        "type": "ArithmeticError",
        "message": "a logit is not finite",
        "traceback": "…",
    }
    idle: Values = [{"power_w": None, **NO_METER}]
    found: Values = summarize(
        points_of(PLAN), [], UNKNOWN | {"bandwidth_bytes_per_s": 1e10}, idle, error
    )
    assert found["latency_distribution_ms"] is None
    assert [point["prompt_tokens"] for point in found["grid"]] == [200, 100]
    assert set(found["metrics"]) == METRICS
    for name, quantity in found["metrics"].items():
        assert quantity["value"] is None
        assert quantity["reason"] == "ArithmeticError: a logit is not finite", name
    record = profile()
    fail(record)
    validate(record | found, "performance", "record")
