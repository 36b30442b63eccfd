"""NVML: energy and power of the board of one NVIDIA GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

from slm_benchmark.profiling.energy.meter import (
    CounterMeter,
    Domain,
    Meter,
    PowerSource,
    SamplingMeter,
)

LIBRARY = "libnvidia-ml.so.1"

POWER_EVERY_S = 0.1

_UUID_BYTES = 96


def nvml() -> Meter | str:
    """The energy counter of the GPU that CUDA uses first; without one, its power draw, sampled.

    CUDA is not started: a process that only looks must not wake the GPU.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return "NVML is not installed"
    try:
        return _meter(library)
    except OSError as error:
        return str(error)


def visible_gpu(uuids: Sequence[str], environment: Mapping[str, str]) -> int:
    """Which of NVML's GPUs is CUDA's first one.

    NVML counts by place on the bus; CUDA by speed, unless CUDA_DEVICE_ORDER is PCI_BUS_ID. So an
    index names the same GPU for both only then, or where there is one GPU.

    Args:
        uuids: Of all GPUs, in NVML's order.
        environment: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER count.

    Raises:
        OSError: when the two do not determine it.
    """
    chosen = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if chosen.startswith("GPU-"):
        matches = [i for i, uuid in enumerate(uuids) if uuid.startswith(chosen)]
        if len(matches) == 1:
            return matches[0]
    same_order = len(uuids) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if same_order and chosen.isdecimal() and int(chosen) < len(uuids):
        return int(chosen)
    raise OSError(
        f"cannot tell which of {len(uuids)} GPUs CUDA uses: set CUDA_VISIBLE_DEVICES to its UUID"
    )


def _meter(library: ctypes.CDLL) -> Meter:
    """The meter of the chosen GPU.

    Raises:
        OSError: when NVML answers with an error.
    """
    count = ctypes.c_uint()
    _check(library.nvmlInit_v2())
    _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    devices = [ctypes.c_void_p() for _ in range(count.value)]
    uuids = []
    for number, device in enumerate(devices):
        text = ctypes.create_string_buffer(_UUID_BYTES)
        index = ctypes.c_uint(number)
        _check(library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)))
        _check(library.nvmlDeviceGetUUID(device, text, ctypes.c_uint(_UUID_BYTES)))
        uuids.append(text.value.decode())
    device, name = devices[visible_gpu(uuids, os.environ)], "NVML: GPU board"

    def energy_uj() -> int:
        value_mj = ctypes.c_ulonglong()
        _check(library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value_mj)))
        return value_mj.value * 1000

    def power_w() -> float:
        value_mw = ctypes.c_uint()
        _check(library.nvmlDeviceGetPowerUsage(device, ctypes.byref(value_mw)))
        return value_mw.value / 1000

    try:
        return CounterMeter("measured", name, [Domain("GPU board", energy_uj)])
    except OSError:  # older than Volta
        power_w()
        return SamplingMeter(PowerSource(f"{name}, power draw", power_w, POWER_EVERY_S))


def _check(code: int) -> None:
    if code:
        raise OSError(f"NVML answered with code {code}")
