"""Energy: counters that turn over, samples that add up, reasons in place of guesses."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_benchmark.catalog.types import PowerModel
from slm_benchmark.cli import main
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import sha256_file
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import schema, validate
from slm_benchmark.profiling.energy import (
    Meter,
    carbon,
    describe_meter,
    energy_metrics,
    find,
    find_meter,
    idle_drift,
    idle_power_w,
    measure_idle,
    net_joules,
    nvml,
    rapl,
    resting_power_w,
    sensors,
)
from slm_benchmark.profiling.energy.integrate import Sample, integrate
from slm_benchmark.profiling.energy.meter import CounterMeter, Domain, PowerSource, SamplingMeter
from slm_benchmark.profiling.energy.wall_meter import import_power
from slm_benchmark.records.provenance import result_digest

RANGE_UJ = 1_000_000


class Counter:
    """A simulated counter of energy in µJ that a test moves; None = it cannot be read."""

    def __init__(self, value_uj: int | None = 0) -> None:
        self.value_uj = value_uj

    def read(self) -> int:
        if self.value_uj is None:
            raise PermissionError("simulated")
        return self.value_uj


def meter_of(*counters: Counter, range_uj: int | None = RANGE_UJ) -> CounterMeter:
    """A meter that nothing reads in the background while a test runs."""
    domains = [Domain(f"package-{n}", c.read, range_uj) for n, c in enumerate(counters)]
    return CounterMeter("measured", "simulated", domains, interval_s=3600)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any meter: its folders of /sys lie under the path, and PATH is empty."""
    for name in ("powercap", "power_supply", "hwmon", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(rapl, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(sensors, "POWER_SUPPLY", tmp_path / "power_supply")
    monkeypatch.setattr(sensors, "HWMON", tmp_path / "hwmon")
    monkeypatch.setattr(find, "STANDSTILL_S", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def add_domain(machine: Path, place: str, name: str, value_uj: int) -> Path:
    """A domain of the simulated RAPL; returns its counter's file."""
    folder = machine / "powercap" / place
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (folder / "energy_uj").write_text(f"{value_uj}\n")
    return folder / "energy_uj"


def files(folder: Path, **contents: object) -> Path:
    """A folder of small files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(f"{content}\n")
    return folder


# --- counters -----------------------------------------------------------------------------------


def test_packages_are_added_up_and_nothing_is_counted_twice(machine: Path) -> None:
    first = add_domain(machine, "intel-rapl:0", "package-0", 900_000)
    add_domain(machine, "intel-rapl:0:0", "core", 5)
    second = add_domain(machine, "intel-rapl:1", "package-1", 100)
    add_domain(machine, "intel-rapl:2", "psys", 7)
    add_domain(machine, "intel-rapl-mmio:0", "package-0", 900_000)
    meter = rapl.rapl()
    assert isinstance(meter, CounterMeter)
    assert (meter.label, meter.source) == ("measured", "RAPL: CPU packages (package-0, package-1)")
    with meter.span() as span:
        first.write_text("200000\n")  # past its range: 300 000 µJ
        second.write_text("50100\n")
        for other in machine.glob("powercap/*/energy_uj"):
            if other not in (first, second):
                other.write_text("90000\n")
    assert span.joules == pytest.approx(0.35)
    meter.close()


@given(
    st.lists(
        st.lists(st.integers(0, RANGE_UJ // 2 - 1), min_size=2, max_size=2), min_size=1, max_size=40
    )
)
def test_noisy_steps_add_up_over_any_number_of_turns(steps: list[list[int]]) -> None:
    counters = Counter(RANGE_UJ - 1), Counter(0)
    meter = meter_of(*counters)
    marks = [meter.mark()]
    for step in steps:
        for counter, used in zip(counters, step, strict=True):
            assert counter.value_uj is not None
            counter.value_uj = (counter.value_uj + used) % RANGE_UJ
        marks.append(meter.mark())
    expected_j = sum(map(sum, steps)) / 1e6
    assert meter.joules(marks[0], marks[-1]) == pytest.approx(expected_j, abs=1e-9)
    middle = len(marks) // 2
    parts = [meter.joules(marks[0], marks[middle]), meter.joules(marks[middle], marks[-1])]
    assert None not in parts
    assert sum(filter(None, parts)) == pytest.approx(expected_j, abs=1e-9)
    assert meter.faults == []
    meter.close()


@pytest.mark.parametrize(("interval_s", "whole"), [(0.02, True), (3600.0, False)])
def test_reading_in_the_background_saves_the_turns_within_a_span(
    interval_s: float, whole: bool
) -> None:
    # 1 W with a range of 1 J: it turns over each second, and no span may see only the remainder.
    began = time.perf_counter()
    read_uj: Callable[[], int] = lambda: int(1e6 * (time.perf_counter() - began)) % RANGE_UJ  # noqa: E731
    meter = CounterMeter("measured", "simulated", [Domain("x", read_uj, RANGE_UJ)], interval_s)
    with meter.span() as span:
        inner = time.perf_counter()
        time.sleep(2.3)
        inner_s = time.perf_counter() - inner
    meter.close()
    assert meter.faults == []
    assert span.joules is not None
    assert (span.joules >= inner_s - 1e-3) is whole
    assert span.joules <= time.perf_counter() - began


@pytest.mark.parametrize("range_uj", [RANGE_UJ, None])
def test_a_reset_loses_its_span_and_no_other(range_uj: int | None) -> None:
    counter = Counter(400_000)
    meter = meter_of(counter, range_uj=range_uj)
    with meter.span() as before:
        counter.value_uj = 410_000
    with meter.span() as lost:
        counter.value_uj = 3  # no turn: that would have been 590 003 µJ in no time
    with meter.span() as after:
        counter.value_uj = 20_003
    assert before.joules == pytest.approx(0.01)
    assert lost.joules is None
    assert after.joules == pytest.approx(0.02)
    assert describe_meter(meter) == {
        "label": "measured",
        "source": "simulated",
        "reason": None,
        "faults": ["the counter package-0 was reset"],
    }
    meter.close()


def test_a_counter_that_fails_for_a_while_loses_every_span_that_saw_it() -> None:
    counter = Counter(100)
    meter = meter_of(counter)
    with meter.span() as ends_inside:
        counter.value_uj = None
    with meter.span() as begins_inside:
        counter.value_uj = 500_100
    with meter.span() as after:
        counter.value_uj = 600_100
    assert ends_inside.joules is None
    assert begins_inside.joules is None
    assert after.joules == pytest.approx(0.1)
    assert "cannot be read: simulated" in meter.faults[0]
    meter.close()


# --- which meter a machine has ------------------------------------------------------------------


def test_a_machine_without_a_meter_says_what_it_lacks(machine: Path) -> None:
    found = find_meter("cpu")
    assert isinstance(found, str)
    for lack in ("has no CPU package", "no vcgencmd", "no battery", "no power sensor"):
        assert lack in found
    assert describe_meter(found) == {
        "label": "unavailable",
        "source": None,
        "reason": found,
        "faults": [],
    }


def test_a_counter_for_root_only_gives_that_reason(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_domain(machine, "intel-rapl:0", "package-0", 1)
    read_text = Path.read_text

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "intel-rapl:0/energy_uj can be read by root only" in str(find_meter("cpu"))


def test_a_damaged_counter_gives_that_reason(machine: Path) -> None:
    add_domain(machine, "intel-rapl:0", "package-0", 1).write_text("not a number\n")
    assert "intel-rapl:0 cannot be read" in str(find_meter("cpu"))


def test_a_counter_that_moves_is_found_and_one_that_stands_still_is_not(machine: Path) -> None:
    file = add_domain(machine, "intel-rapl:0", "package-0", 1)
    assert "stands still: RAPL" in str(find_meter("cpu"))
    stop = threading.Event()

    def tick() -> None:
        values = itertools.count(2)
        while not stop.wait(0.002):
            beside = file.with_name("beside")
            beside.write_text(f"{next(values)}\n")
            beside.replace(file)

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        meter = find_meter("cpu")
    finally:
        stop.set()
        ticking.join()
    assert isinstance(meter, Meter)
    assert meter.label == "measured"
    meter.close()


# --- an estimate --------------------------------------------------------------------------------


def test_an_estimate_is_off_until_asked_for_and_never_for_a_gpu(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", str(machine / "none.so"))
    model: PowerModel = {"idle_w": 2, "full_w": 10}
    assert isinstance(find_meter("cpu", {"estimate_w": None}), str)
    assert find_meter("cuda", {"estimate_w": model}) == "NVML is not installed"
    meter = find_meter("cpu", {"estimate_w": model})
    assert isinstance(meter, Meter)
    assert meter.label == "estimated"
    assert meter.source.startswith("model: 2 W at rest, 10 W with all ")


def test_an_estimate_grows_with_the_cpu_time_of_the_process() -> None:
    meter = find.estimate(2, 1000)
    with meter.span() as resting:
        time.sleep(0.2)
    with meter.span() as working:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    assert resting.joules is not None
    assert working.joules is not None
    assert resting.joules >= 2 * 0.2 * 0.999
    assert working.joules >= (1000 - 2) * 0.2 / (os.cpu_count() or 1)


# --- samples ------------------------------------------------------------------------------------

POWERS = st.floats(0, 500)
GAPS = st.lists(st.tuples(st.floats(0.01, 1), POWERS), min_size=2, max_size=30)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted)


def samples_of(gaps: list[tuple[float, float]]) -> list[Sample]:
    """Samples at growing times from (time since the one before, power)."""
    times = itertools.accumulate((gap_s for gap_s, _ in gaps), initial=1000.0)
    return [Sample(at_s, power_w) for at_s, (_, power_w) in zip(times, gaps, strict=False)]


@given(GAPS, POWERS, SHARES)
def test_constant_power_gives_power_times_time(
    gaps: list[tuple[float, float]], power_w: float, shares: list[float]
) -> None:
    samples = [Sample(sample.time_s, power_w) for sample in samples_of(gaps)]
    whole_s = samples[-1].time_s - samples[0].time_s
    start_s, _, end_s = (samples[0].time_s + share * whole_s for share in shares)
    end_s = min(end_s, samples[-1].time_s)
    found = integrate(samples, start_s, end_s, 2)
    assert found == pytest.approx(power_w * (end_s - start_s), rel=1e-9, abs=1e-9)


@given(GAPS, SHARES)
def test_adjacent_spans_add_up(gaps: list[tuple[float, float]], shares: list[float]) -> None:
    samples = samples_of(gaps)
    last_s = samples[-1].time_s
    whole_s = last_s - samples[0].time_s
    start_s, middle_s, end_s = (
        min(samples[0].time_s + share * whole_s, last_s) for share in shares
    )
    first = integrate(samples, start_s, middle_s, 2)
    second = integrate(samples, middle_s, end_s, 2)
    together = integrate(samples, start_s, end_s, 2)
    assert isinstance(first, float)
    assert isinstance(second, float)
    assert first + second == pytest.approx(together, rel=1e-9, abs=1e-6)


def test_power_that_changes_evenly_is_integrated_exactly() -> None:
    ramp = [Sample(t, 3 * t) for t in (0.0, 0.7, 1.9, 2.0, 5.0)]
    assert integrate(ramp, 0.5, 4.5, 10) == pytest.approx(1.5 * (4.5**2 - 0.5**2))


def test_noise_averages_out() -> None:
    draw = random.Random(1)
    noisy = [Sample(n / 10, draw.gauss(8, 2)) for n in range(10_001)]
    assert integrate(noisy, 0, 1000, 1) == pytest.approx(8000, rel=0.01)


def test_samples_that_do_not_tell_are_refused_with_the_reason() -> None:
    samples = [Sample(10, 5), Sample(11, 5), Sample(14, 5), Sample(15, 5)]
    assert integrate(samples, 10, 11, 1) == 5
    assert integrate(samples, 14, 15, 1) == 5  # the gap lies outside
    assert "first sample is 0.5 s late" in str(integrate(samples, 9.5, 11, 1))
    assert "last sample is 2.0 s early" in str(integrate(samples, 14, 17, 1))
    assert "3.0 s between two samples" in str(integrate(samples, 10, 15, 1))
    assert "no samples" in str(integrate([], 0, 1, 1))


def bounded(meter: Meter, power_w: float) -> None:
    """Assert that a span of constant power has its energy, whatever the clock did."""
    before = time.perf_counter()
    with meter.span() as span:
        inner = time.perf_counter()
        time.sleep(0.3)
        inner_s = time.perf_counter() - inner
    outer_s = time.perf_counter() - before
    assert span.joules is not None
    assert power_w * inner_s * 0.9999 <= span.joules <= power_w * outer_s * 1.0001


def test_a_sampler_takes_samples_meanwhile_and_one_past_the_end() -> None:
    taken: list[float] = []

    def read_w() -> float:
        taken.append(time.perf_counter())
        return 7.0

    meter = SamplingMeter(PowerSource("simulated", read_w, 0.02))
    bounded(meter, 7.0)
    meter.close()
    assert len(taken) >= 3
    assert (meter.label, meter.source) == ("sampled", "simulated, every 0.02 s")


def test_a_sensor_that_fails_in_between_loses_the_span() -> None:
    fails = threading.Event()

    def read_w() -> float:
        if fails.is_set():
            raise OSError("unplugged")
        return 7.0

    meter = SamplingMeter(PowerSource("simulated", read_w, 0.01))
    with meter.span() as span:
        fails.set()
        time.sleep(0.1)
    assert span.joules is None
    assert "unplugged" in meter.faults
    assert any("early" in fault for fault in meter.faults)
    fails.clear()
    meter.close()


# --- a Raspberry Pi, batteries, hwmon -----------------------------------------------------------

RAILS = """\
  3V3_SYS_A current(1)=0.10000000A
 VDD_CORE_A current(7)=2.00000000A
   NO_VOLT_A current(9)=5.00000000A
  3V3_SYS_V volt(9)=3.30000000V
 VDD_CORE_V volt(15)=0.80000000V
    EXT5V_V volt(24)=5.10000000V
     BATT_V volt(25)=0.00000000V
"""


def fake_vcgencmd(machine: Path, script: str) -> None:
    """Put a shell script in the place of the command."""
    program = machine / "bin" / "vcgencmd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_raspberry_pi_adds_up_the_rails_that_have_both(machine: Path) -> None:
    fake_vcgencmd(machine, f'[ "$*" = pmic_read_adc ] && printf "%s" "{RAILS}"')
    meter = find_meter("cpu")
    assert isinstance(meter, SamplingMeter)
    assert meter.label == "sampled"
    assert "Raspberry Pi PMIC" in meter.source
    bounded(meter, 0.1 * 3.3 + 2.0 * 0.8)
    meter.close()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 255", "vcgencmd pmic_read_adc failed"),
        ("echo 'error=2 error_msg=\"Invalid arguments\"'", "no pair of current and voltage"),
    ],
)
def test_an_older_raspberry_pi_has_no_such_chip(machine: Path, script: str, reason: str) -> None:
    fake_vcgencmd(machine, script)
    assert reason in str(find_meter("cpu"))


@pytest.mark.parametrize(
    "readings",
    [
        {"power_now": 12_500_000},
        {"power_now": -12_500_000},
        {"current_now": 1_000_000, "voltage_now": 12_500_000},
        {"current_now": -1_000_000, "voltage_now": 12_500_000},
    ],
)
def test_a_battery_tells_its_discharge(machine: Path, readings: dict[str, int]) -> None:
    files(machine / "power_supply" / "BAT0", status="Discharging", **readings)
    files(machine / "power_supply" / "BAT1", status="Full", power_now=0)
    files(machine / "power_supply" / "hidpp_battery_0", status="Discharging", power_now=99)
    meter = find_meter("cpu")
    assert isinstance(meter, SamplingMeter)
    assert "whole device" in meter.source
    bounded(meter, 12.5)
    meter.close()


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_on_mains_tells_nothing(machine: Path, status: str) -> None:
    files(machine / "power_supply" / "BAT0", status=status, power_now=12_500_000)
    assert f"the battery does not discharge ({status})" in str(find_meter("cpu"))


def test_plugging_in_loses_the_span(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "BATTERY_EVERY_S", 0.01)
    folder = files(machine / "power_supply" / "BAT0", status="Discharging", power_now=9_000_000)
    meter = find_meter("cpu")
    assert isinstance(meter, Meter)
    with meter.span() as span:
        files(folder, status="Charging")
        time.sleep(0.1)
    assert span.joules is None
    assert "the battery does not discharge (Charging)" in meter.faults
    meter.close()


def test_hwmon_is_asked_for_the_machine_and_not_for_its_gpu(machine: Path) -> None:
    files(machine / "hwmon" / "hwmon0", name="amdgpu", power1_average=99_000_000)
    assert "no power sensor of the CPU or the board" in str(find_meter("cpu"))
    files(machine / "hwmon" / "hwmon1", name="ina2xx", power1_input=6_000_000)
    files(machine / "hwmon" / "hwmon2", name="power_meter", power1_average=45_000_000)
    meter = find_meter("cpu")
    assert isinstance(meter, SamplingMeter)
    assert "whole machine" in meter.source
    bounded(meter, 45)
    meter.close()
    files(machine / "hwmon" / "hwmon3", name="power_meter", power1_average=1)
    assert "several power sensors power_meter" in str(find_meter("cpu"))


# --- NVML ---------------------------------------------------------------------------------------

NVML_STAND_IN = r"""
#include <string.h>
static int gpus[2] = {1, 2};
static unsigned long long used_mj[2];
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index > 1) return 2;
    *device = &gpus[index];
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    if (length < 96) return 7;
    strcpy(text, *(int *)device == 1 ? "GPU-aaaa-1" : "GPU-bbbb-2");
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *value) {
    int gpu = *(int *)device;
    if (NO_COUNTER) return 3;
    /* The fifth reading of the second GPU is the first that 32 bits do not hold. */
    *value = (1ULL << 32) - 13500 + (used_mj[gpu - 1] += 1500 * gpu);
    return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *value) {
    *value = 42500 * *(int *)device;
    return 0;
}
"""


@pytest.fixture(scope="module")
def nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """A stand-in for NVML with two GPUs, with and without an energy counter."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML_STAND_IN)
    built = {}
    for counter in (True, False):
        target = folder / f"nvml-{counter}.so"
        flags = ["-shared", "-fPIC", f"-DNO_COUNTER={int(not counter)}"]
        subprocess.run([compiler, *flags, "-o", target, folder / "nvml.c"], check=True)
        built[counter] = str(target)
    return built


def test_the_counter_of_the_chosen_gpu_is_read(
    nvml_libraries: dict[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", nvml_libraries[True])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    meter = find_meter("cuda")
    assert isinstance(meter, Meter)
    assert (meter.label, meter.source) == ("measured", "NVML: GPU board")
    with meter.span() as span:
        pass
    assert span.joules == pytest.approx(3.0)  # the stand-in counts 3 J a reading on this GPU
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)  # gptqmodel's import sets it
    assert "which of 2 GPUs" in str(find_meter("cuda"))


def test_a_gpu_without_a_counter_is_sampled(
    nvml_libraries: dict[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", nvml_libraries[False])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa-1")
    meter = find_meter("cuda")
    assert isinstance(meter, SamplingMeter)
    assert meter.source == "NVML: GPU board, power draw, every 0.1 s"
    bounded(meter, 42.5)
    meter.close()


@pytest.mark.parametrize(
    ("uuids", "environment", "place"),
    [
        (["GPU-a"], {}, 0),
        (["GPU-a"], {"CUDA_VISIBLE_DEVICES": "0"}, 0),
        (["GPU-a", "GPU-b"], {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}, 1),
        (["GPU-a", "GPU-b"], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 0),
        (
            ["GPU-a", "GPU-b"],
            {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"},
            1,
        ),
        (["GPU-a", "GPU-b"], {"CUDA_VISIBLE_DEVICES": "1"}, None),
        (["GPU-a", "GPU-b"], {"CUDA_VISIBLE_DEVICES": "GPU-"}, None),
        (["GPU-a"], {"CUDA_VISIBLE_DEVICES": "1"}, None),
        (["GPU-a"], {"CUDA_VISIBLE_DEVICES": "MIG-1"}, None),
        ([], {}, None),
    ],
)
def test_cuda_s_first_gpu_is_found_or_it_says_so(
    uuids: list[str], environment: dict[str, str], place: int | None
) -> None:
    if place is None:
        with pytest.raises(OSError, match="set CUDA_VISIBLE_DEVICES to its UUID"):
            nvml.visible_gpu(uuids, environment)
    else:
        assert nvml.visible_gpu(uuids, environment) == place


# --- idle, gross and net ------------------------------------------------------------------------


def test_idle_power_is_energy_over_time() -> None:
    meter = SamplingMeter(PowerSource("simulated", lambda: 4.0, 0.02))
    assert idle_power_w(meter, 0.2) == pytest.approx(4.0, rel=0.2)
    meter.close()
    broken = meter_of(Counter(5), range_uj=None)
    broken._domains = [Domain("x", Counter(None).read)]
    assert idle_power_w(broken, 0) is None


def test_a_baseline_keeps_its_times_with_a_meter_or_without(machine: Path) -> None:
    before = time.time()
    none = measure_idle("cpu", None, 0.1)
    assert none["ended_unix_s"] - none["started_unix_s"] >= 0.099
    assert before - 0.001 <= none["started_unix_s"] <= time.time()
    assert none["power_w"] is None
    assert none["label"] == "unavailable"
    assert "no battery" in (none["reason"] or "")
    modelled = measure_idle("cpu", {"estimate_w": {"idle_w": 5, "full_w": 5}}, 0.1)
    assert modelled["label"] == "estimated"
    assert modelled["power_w"] == pytest.approx(5, rel=0.01)


def test_net_may_be_negative_and_drift_is_flagged() -> None:
    assert net_joules(10, 2, 3) == 4
    assert net_joules(5, 2, 3) == -1
    assert idle_drift(10, 11) is None
    assert idle_drift(10, None) is None
    flag = idle_drift(10, 11.2)
    assert flag is not None
    assert "10.00 W before and 11.20 W after" in flag


def test_the_baseline_of_another_meter_does_not_count() -> None:
    idle: list[Any] = [
        {"power_w": 3.0, "source": "RAPL"},
        {"power_w": 5.0, "source": "RAPL"},
        {"power_w": 90.0, "source": "battery"},
        {"power_w": None, "source": "RAPL"},
    ]
    assert resting_power_w(idle, "RAPL") == 4.0
    assert resting_power_w(idle, "NVML") is None
    assert resting_power_w([], None) is None


def repetition(
    joules: float | None, duration_s: float, steps: int, started_unix_s: float = 0.0
) -> Any:
    """As much of a repetition as energy needs: ``steps`` tokens after the first."""
    return {
        "latencies_s": [duration_s / steps] * steps,
        "generation_energy_j": joules,
        "generation_started_unix_s": started_unix_s,
        "generation_ended_unix_s": started_unix_s + duration_s,
    }


def test_quantities_have_their_units() -> None:
    points: list[Any] = [
        {"sequences": 2, "repetitions": [repetition(j, 5.0, 10) for j in (72.0, 72.0, None)]}
        for _ in range(3)
    ]
    found: Any = energy_metrics(points, 4.0, None)
    assert {q["n"] for q in found.values()} == {3}
    assert found["power_w"]["value"] == pytest.approx(14.4)
    assert found["energy_mwh_per_token"]["value"] == pytest.approx(1.0)  # 72 J, 20 tokens
    assert found["energy_net_mwh_per_token"]["value"] == pytest.approx((72 - 20) / 3.6 / 20)
    assert {q["reason"] for q in found.values()} == {None}


def test_missing_quantities_say_why() -> None:
    lost: list[Any] = [{"sequences": 1, "repetitions": [repetition(None, 5.0, 10)]}]
    for reason, told in (("no RAPL", "no RAPL"), (None, "every repetition was lost")):
        metrics: Any = energy_metrics(lost, 4.0, reason)
        for quantity in metrics.values():
            assert (quantity["value"], quantity["n"]) == (None, 0)
            assert told in quantity["reason"]
    kept: list[Any] = [{"sequences": 1, "repetitions": [repetition(36.0, 5.0, 10)]}]
    found: Any = energy_metrics([*kept, *lost], None, None)
    assert found["energy_mwh_per_token"]["value"] == pytest.approx(1.0)
    assert found["energy_mwh_per_token"]["n"] == 1
    assert found["energy_net_mwh_per_token"]["value"] is None
    assert "idle baseline" in found["energy_net_mwh_per_token"]["reason"]


# --- a wall meter -------------------------------------------------------------------------------

STARTED = 1_769_860_800.0  # 2026-01-31 12:00:00 UTC


def record_of(windows: list[list[tuple[float, float]]], idle: list[tuple[float, float]]) -> Any:
    """A valid performance record: processes of (start, end) windows, seconds after STARTED."""
    sha256, name = "0" * 64, "example"
    missing = {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": "simulated"}
    metrics = schema("performance")["then"]["properties"]["metrics"]["required"]
    processes = [
        {
            "points": [
                {
                    "prompt_tokens": 8,
                    "output_tokens": 11,
                    "sequences": 1,
                    "warmups": [],
                    "settled": True,
                    "repetitions": [
                        repetition(None, end - start, 10, STARTED + start) for start, end in process
                    ],
                }
            ]
        }
        for process in windows
    ]
    record: Any = {
        "schema_version": 2,
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
        "engine": {
            "name": "transformers",
            "version": "0",
            "kernel": None,
            "dtype": "float32",
            "threads": 1,
            "schedule": name,
        },
        "environment": {"python": "3", "packages": {}, "lock_sha256": sha256, "locked": False},
        "hardware": {"id": "local", "fingerprint": sha256, "description": {}},
        "workflow": {"sha256": sha256, "commit": None, "dirty": None},
        "host": {"before": None, "processes": [], "warnings": []},
        "limits": {},
        "session": {"id": name, "variants": ["base"], "order": [["base"]], "processes": 1},
        "roofline": {
            "bandwidth_bytes_per_s": None,
            "matrix_flops_per_s": None,
            "reason": "simulated",
        },
        "energy": {
            **describe_meter("simulated"),
            "idle": [
                {"started_unix_s": STARTED + start, "ended_unix_s": STARTED + end, "power_w": None}
                for start, end in idle
            ],
            "idle_before_w": None,
            "idle_after_w": None,
        },
        "metrics": dict.fromkeys(metrics, missing),
        "grid": [],
        "latency_distribution_ms": None,
        "raw": {"processes": processes},
        "result_sha256": sha256,
        "started": "2026-01-31T12:00:00+00:00",
        "duration_s": 1,
        "command": name,
    }
    validate(record, "performance", "simulated")
    return record


def write_record_of(folder: Path, *args: Any) -> Path:
    """A record in a file of its own."""
    path = folder / "performance.json"
    path.write_text(json.dumps(record_of(*args)))
    return path


def write_csv(folder: Path, readings: list[tuple[float, float]], column: str = "unix_s") -> Path:
    """Readings of (seconds after STARTED, watts)."""
    path = folder / "readings.csv"
    lines = [f"{STARTED + at_s},{power_w}" for at_s, power_w in readings]
    path.write_text("\n".join([f"{column},power_w", *lines]) + "\n")
    return path


def test_the_documented_example_gives_what_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "methods" / "energy.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```csv\n(.*?)```", page, re.S)
    readings = tmp_path / "readings.csv"
    readings.write_text(example)
    record = write_record_of(tmp_path, [[(2, 6)]], [])
    assert "generated from 12:00:02 to 12:00:06, these readings give 27.8 J and 6.95 W" in page
    assert main(["import-power", str(readings), str(record), "--name", "Meter X, 1 Hz"]) == 0
    assert "6.95 W, 0.772 mWh/token from 8 readings" in capsys.readouterr().out
    filled = json.loads(record.read_text())
    assert filled["metrics"]["power_w"]["value"] == pytest.approx(6.95)
    assert filled["metrics"]["energy_mwh_per_token"]["value"] == pytest.approx(27.8 / 3.6 / 10)
    assert "idle baseline" in filled["metrics"]["energy_net_mwh_per_token"]["reason"]
    energy = filled["energy"]
    assert (energy["label"], energy["source"]) == ("sampled", "wall meter: Meter X, 1 Hz")
    assert energy["readings_sha256"] == sha256_file(readings)
    assert filled["result_sha256"] == result_digest(filled)


def test_gross_and_net_over_processes_and_idle_windows(tmp_path: Path) -> None:
    # 3 W at rest before, 5 W after, 20 W in between: jumps lie outside of every window.
    readings = [(t / 2, 3.0 if t < 30 else 20.0 if t < 100 else 5.0) for t in range(160)]
    windows = [[(20, 24), (25, 29)], [(30, 34), (36, 40)]]
    record = write_record_of(tmp_path, windows, [(1, 11), (60, 70)])
    assert main(["import-power", str(write_csv(tmp_path, readings)), str(record)]) == 0
    filled = json.loads(record.read_text())
    validate(filled, "performance", record)
    metrics, energy = filled["metrics"], filled["energy"]
    assert metrics["power_w"]["value"] == pytest.approx(20)
    assert metrics["power_w"]["n"] == 2
    assert metrics["energy_mwh_per_token"]["value"] == pytest.approx(80 / 3.6 / 10)
    assert metrics["energy_net_mwh_per_token"]["value"] == pytest.approx((80 - 16) / 3.6 / 10)
    assert (energy["idle_before_w"], energy["idle_after_w"]) == pytest.approx((3, 5))
    assert ["before and" in warning for warning in energy["warnings"]] == [True]
    assert metrics["ttft_ms"]["reason"] == "simulated"  # nothing else changed


def test_a_baseline_without_readings_leaves_net_empty(tmp_path: Path) -> None:
    readings = write_csv(tmp_path, [(t, 9.0) for t in range(40)])
    record = write_record_of(tmp_path, [[(5, 9)]], [(0, 4), (60, 70)])
    assert main(["import-power", str(readings), str(record)]) == 0
    filled = json.loads(record.read_text())
    assert filled["metrics"]["power_w"]["value"] == pytest.approx(9)
    assert filled["metrics"]["energy_net_mwh_per_token"]["value"] is None
    assert [baseline["power_w"] for baseline in filled["energy"]["idle"]] == [9.0, None]
    assert "early" in filled["energy"]["idle"][1]["reason"]


def test_points_of_the_grid_take_the_readings_or_say_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_record_of(tmp_path, [[(5, 9)]], [])
    kept = json.loads(record.read_text())
    points = kept["raw"]["processes"][0]["points"]
    lengths = {"prompt_tokens": 4, "output_tokens": 11, "sequences": 1}
    for start, end in ((10, 16), (17, 18)):  # readings each second tell the first of the two
        one = repetition(99.0, end - start, 10, STARTED + start)
        points.append({**points[0], **lengths, "repetitions": [one]})
        old = {"value": 1.0, "ci95": None, "pi95": None, "n": 1, "reason": None}
        names = ("power_w", "energy_mwh_per_token", "energy_net_mwh_per_token", "ttft_ms")
        kept["grid"].append({**lengths, "metrics": dict.fromkeys(names, old)})
    kept["energy"] |= {"label": "measured", "source": "RAPL: CPU packages", "reason": None}
    record.write_text(json.dumps(kept))
    readings = write_csv(tmp_path, [(t, 9.0) for t in range(30)])
    assert main(["import-power", str(readings), str(record)]) == 0
    assert capsys.readouterr().out.endswith("; in place of RAPL: CPU packages\n")
    long, short = (other["metrics"] for other in json.loads(record.read_text())["grid"])
    assert long["power_w"]["value"] == pytest.approx(9)
    assert short["power_w"]["value"] is None
    assert "too sparse for answers so short" in short["power_w"]["reason"]
    assert long["ttft_ms"]["value"] == short["ttft_ms"]["value"] == 1.0


@pytest.mark.parametrize(
    ("readings", "told"),
    [
        ([(t, 9.0) for t in range(6)], "the last sample is 4.0 s early"),
        ([(t, 9.0) for t in range(6, 20)], "the first sample is 1.0 s late"),
        ([(0, 9.0), (6, 9.0), (9, 9.0)], "6.0 s between two samples"),
        ([(0, 9.0), (3, 9.0), (6, 9.0), (9, 9.0)], "at least every 2.0 s"),
    ],
)
def test_readings_that_do_not_tell_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    readings: list[tuple[float, float]],
    told: str,
) -> None:
    record = write_record_of(tmp_path, [[(5, 9)]], [])
    before = record.read_bytes()
    assert main(["import-power", str(write_csv(tmp_path, readings)), str(record)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert "generated in 4.0 s from 2026-01-31 12:00:05+00:00" in line
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("when,power_w\n1,2\n", "must name power_w and one of unix_s and time"),
        ("", "must name power_w and one of unix_s and time"),
        ("time,power_w\n2026-01-31T12:00:00,2\n", "line 2: time: not a time"),
        ("unix_s,power_w\n1,2\nnan,2\n", "line 3: unix_s: not a time"),
        ("unix_s,power_w\n1,2\n2,-3\n", "line 3: power_w: not a power"),
        ("unix_s,power_w\n1,two\n", "line 2: power_w: not a power"),
        ("unix_s,power_w\n1\n", "line 2: power_w: not a power"),
        ("unix_s,power_w\n1,2\n1,3\n", "line 3: unix_s: not later than the reading before"),
    ],
)
def test_malformed_readings_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    record, readings = write_record_of(tmp_path, [[(5, 9)]], []), tmp_path / "readings.csv"
    readings.write_text(text)
    assert main(["import-power", str(readings), str(record)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert "readings.csv" in line


def test_records_that_cannot_take_readings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = write_csv(tmp_path, [(t, 9.0) for t in range(20)])
    record = write_record_of(tmp_path, [[(5, 9)]], [])
    with pytest.raises(UserError, match=r"absent\.csv: there is no such file"):
        import_power(tmp_path / "absent.csv", record, "x")
    kept = json.loads(record.read_text())
    kept["raw"]["processes"][0]["points"][0]["repetitions"][0]["generation_ended_unix_s"] += 3600
    record.write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"clock was set meanwhile: in truth it took 4\.0 s"):
        import_power(readings, record, "x")
    failed = {"type": "ValueError", "message": "x", "traceback": ""}
    record.write_text(json.dumps({**kept, "state": "failed", "error": failed}))
    with pytest.raises(UserError, match=r"state: this record has no times .* 'failed'"):
        import_power(readings, record, "x")
    monkeypatch.setattr("slm_benchmark.profiling.energy.wall_meter.RESULTS", tmp_path)
    with pytest.raises(UserError, match="a published record never changes"):
        import_power(readings, record, "x")


# --- grid factors -------------------------------------------------------------------------------


def test_grid_factors_come_from_codecarbon_s_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "codecarbon-9.9.dist-info"
    files(info, METADATA="Metadata-Version: 2.1\nName: codecarbon\nVersion: 9.9")
    table = {"DEU": {"carbon_intensity": 380.0, "country_name": "Germany", "year": 2023}}
    files((tmp_path / carbon.TABLE).parent, **{Path(carbon.TABLE).name: json.dumps(table)})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert carbon.grid_factor("DEU") == {
        "g_co2e_per_kwh": 380.0,
        "source": "codecarbon 9.9: Germany, 2023",
    }
    with pytest.raises(UserError, match=r"no grid factor for this country \(got 'XYZ'\)"):
        carbon.grid_factor("XYZ")
    grid: Any = {"country": "DEU", "g_co2e_per_kwh": 380.0, "source": "a table"}
    known: Any = {"energy_mwh_per_token": {"value": 0.5}}
    unknown: Any = {"energy_mwh_per_token": {"value": None}}
    assert carbon.emissions(grid, known) == {**grid, "co2e_ug_per_token": 190.0}
    assert carbon.emissions(grid, unknown) == grid
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match="pip install codecarbon"):
        carbon.grid_factor("DEU")
