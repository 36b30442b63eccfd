"""How fast this machine reads memory and multiplies matrices: what MBU and MFU divide by.

Bandwidth is measured as STREAM does (McCalpin 1995): arrays far larger than the last-level cache,
several trials, and the best of them counts, as a disturbance can only slow a trial down. Unlike
STREAM's kernels these only read, because generating a token reads weights and writes next to
nothing. A ceiling must not depend on one loop being fast, so several operations are timed and the
fastest counts.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.common.machine import free_memory_bytes
from slm_benchmark.profiling.types import Bandwidth, DeviceRates, MatrixRates, RooflinePass
from slm_benchmark.records.provenance import now

TRIALS = 10
MATRIX_TRIALS = 5
TRIAL_S = 0.1
"""A trial repeats its operation for about so long, so that its rate is a sustained one."""

WORKING_SET_BYTES = 512 * 2**20
CACHES = 4
"""The arrays are so many times as large as the last-level cache, or `WORKING_SET_BYTES` if more."""

IN_CACHE_BYTES = 256 * 2**10
"""Fits any L2 cache in use today: shows how fast an operation is without memory."""

CPU_SIZES = (1024, 2048, 3072)
CUDA_SIZES = (4096, 8192)
"""Rows of the square matrices; which is fastest depends on caches and the number of cores."""

CPUS = Path("/sys/devices/system/cpu")

Array = np.ndarray[Any, np.dtype[np.int64]]

_ABSENT_BYTE = 0xFF
_WITHOUT_ABSENT_BYTE = 0x7F7F7F7F7F7F7F7F


@dataclass(frozen=True)
class Operation:
    """Something to find the rate of.

    Attributes:
        name: What it is, in words.
        work: Bytes or floating-point operations of one pass.
        seconds: Time of so many passes in a row.
    """

    name: str
    work: float
    seconds: Callable[[int], float]


@dataclass(frozen=True)
class Fastest:
    """The operation with the best trial, among some.

    Attributes:
        name: Which one.
        trials: Rates of each operation's trials, in units of work per second.
    """

    name: str
    trials: dict[str, list[float]]

    @property
    def rate(self) -> float:
        """The best trial."""
        return max(self.trials[self.name])

    @property
    def method(self) -> str:
        """How the rate was found, in words."""
        return f"{self.name}; best of {len(self.trials[self.name])} trials of {TRIAL_S} s"


def measure_roofline(device: str, threads: int, dtype: str) -> RooflinePass:
    """Measure memory bandwidth and matrix rate. Wants a fresh process on a quiet machine.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: Threads that work on a CPU. OMP_NUM_THREADS and OPENBLAS_NUM_THREADS have to say
            the same since before numpy was imported.
        dtype: Number format that models compute in, as a protocol states it: its matrix rate is
            measured beside that of float32.

    Returns:
        ``bandwidth_bytes_per_s``: the best trial of the fastest operation, which
        ``bandwidth_method`` names; its median is ``bandwidth_median_bytes_per_s``, and
        ``bandwidth_trials`` has all trials of all operations.
        ``bandwidth_in_cache_bytes_per_s``: what one thread reaches when the data lie in its cache,
        null on a GPU. The bandwidth divided by ``threads`` has to lie clearly below it, or
        instructions were the limit and not memory.
        ``matrix_flops_per_s``: the rate in ``matrix_dtype``, the format that models compute in;
        ``matrix_flops_per_s_by_dtype`` has all that were measured.
        ``working_set_bytes``: what one pass reads. ``cache_bytes``: the size of the last-level
        caches, null where unknown. ``reason``: null, as nothing is missing.

    Raises:
        RunEnvironmentError: when there is too little free memory to get out of the caches.
    """
    started, began = now(), time.monotonic()
    rates = _measure_cuda(dtype) if device == "cuda" else _measure_cpu(threads, dtype)
    return {
        "device": device,
        "threads": threads,
        **rates,
        "reason": None,
        "started": started,
        "duration_s": round(time.monotonic() - began, 3),
    }


def compute_dtype(device: str, dtype: str) -> str:
    """The number format that a protocol's ``dtype`` means on a device."""
    if dtype != "auto":
        return dtype
    return "float16" if device == "cuda" else "float32"


def last_level_cache_bytes(folder: Path = CPUS) -> int | None:
    """Size of all last-level caches that this process's CPUs share, or None where unknown."""
    sizes: dict[tuple[int, str], int] = {}
    for cpu in allowed_cpus():
        for index in (folder / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                level, size, shared = (
                    (index / name).read_text(encoding="ascii").strip()
                    for name in ("level", "size", "shared_cpu_list")
                )
                sizes[int(level), shared] = int(size.removesuffix("K")) * 1024
            except (OSError, ValueError):
                continue
    last = max((level for level, _ in sizes), default=0)
    return sum(size for (level, _), size in sizes.items() if level == last) or None


def working_set_bytes(cache_bytes: int | None, free_bytes: int) -> int:
    """How much to read in one pass: enough to leave the caches, at most half of what is free.

    Raises:
        RunEnvironmentError: when that is less than `CACHES` times the cache.
    """
    needed = CACHES * (cache_bytes or 0)
    size = min(max(WORKING_SET_BYTES, needed), free_bytes // 2)
    if size < max(needed, 1):
        raise RunEnvironmentError(
            f"too little free memory to measure its bandwidth: {free_bytes} bytes are free, and "
            f"the arrays must have {needed}, {CACHES} times the last-level cache",
            fix="free memory and run again",
        )
    return size


def trials(operation: Operation, count: int, trial_s: float) -> list[float]:
    """Rates of ``count`` trials, in units of work per second.

    The first pass is not timed: it touches the memory, starts the threads and chooses the kernels.
    """
    operation.seconds(1)
    passes = max(1, math.ceil(trial_s / operation.seconds(1)))
    return [passes * operation.work / operation.seconds(passes) for _ in range(count)]


def _fastest(operations: Iterable[Operation], count: int = TRIALS) -> Fastest:
    """The operation that had the best of ``count`` trials."""
    measured = {operation.name: trials(operation, count, TRIAL_S) for operation in operations}
    return Fastest(max(measured, key=lambda name: max(measured[name])), measured)


def _bandwidth(streams: Iterable[Operation]) -> Bandwidth:
    """What the result says of bandwidth."""
    fastest = _fastest(streams)
    return {
        "bandwidth_bytes_per_s": fastest.rate,
        "bandwidth_median_bytes_per_s": statistics.median(fastest.trials[fastest.name]),
        "bandwidth_method": fastest.method,
        "bandwidth_trials": fastest.trials,
    }


def _matrix_rates(products: Mapping[str, Iterable[Operation]], chosen: str) -> MatrixRates:
    """What the result says of matrix products.

    Args:
        products: Matrix products by number format.
        chosen: The format that models compute in.
    """
    fastest = {dtype: _fastest(operations, MATRIX_TRIALS) for dtype, operations in products.items()}
    return {
        "matrix_flops_per_s": fastest[chosen].rate,
        "matrix_dtype": chosen,
        "matrix_flops_per_s_by_dtype": {name: one.rate for name, one in fastest.items()},
        "matrix_method": {name: one.method for name, one in fastest.items()},
    }


def _product(size: int) -> int:
    """Floating-point operations of the product of two square matrices."""
    return 2 * size**3


# CPU


def _measure_cpu(threads: int, dtype: str) -> DeviceRates:
    cache_bytes = last_level_cache_bytes()
    size_bytes = working_set_bytes(cache_bytes, free_memory_bytes()) // threads
    bandwidth = _bandwidth(_cpu_streams(threads, size_bytes))
    in_cache = _fastest(_cpu_streams(1, IN_CACHE_BYTES))
    has_torch = importlib.util.find_spec("torch") is not None
    # Without torch nothing but llama.cpp computes here, and float32 is what it is compared with.
    model_dtype = compute_dtype("cpu", dtype) if has_torch else "float32"
    products = {"float32": _cpu_products(threads, has_torch)}
    if model_dtype != "float32":
        products[model_dtype] = _torch_products("cpu", model_dtype, CPU_SIZES, _wall_seconds)
    return {
        **bandwidth,
        "bandwidth_in_cache_bytes_per_s": in_cache.rate,
        **_matrix_rates(products, model_dtype),
        "working_set_bytes": size_bytes * threads,
        "cache_bytes": cache_bytes,
    }


def _cpu_streams(threads: int, size_bytes: int) -> Iterator[Operation]:
    """Ways to read ``size_bytes`` in each of some threads, all at once.

    Both let go of Python's lock while they read. The one is numpy's vector loop, the other the C
    library's search for a byte that is not there.
    """
    library = ctypes.CDLL(None)
    library.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    library.memchr.restype = ctypes.c_void_p
    reads: dict[str, Callable[[Array], object]] = {
        "numpy.bitwise_or.reduce over int64": np.bitwise_or.reduce,
        "memchr of the C library": lambda array: library.memchr(
            array.ctypes.data, _ABSENT_BYTE, array.nbytes
        ),
    }
    barrier = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        arrays = list(pool.map(_numbers, [size_bytes // 8] * threads))

        def seconds(read: Callable[[Array], object], passes: int) -> float:
            spans = list(pool.map(lambda array: _span(barrier, read, array, passes), arrays))
            return max(end for _, end in spans) - min(start for start, _ in spans)

        for name, read in reads.items():
            work = sum(array.nbytes for array in arrays)
            yield Operation(name, work, functools.partial(seconds, read))


def _numbers(count: int) -> Array:
    """Numbers that differ, so that no two pages are alike and none can stand for another."""
    numbers = np.arange(count, dtype=np.int64)
    numbers &= _WITHOUT_ABSENT_BYTE
    return numbers


def _span(
    barrier: threading.Barrier, read: Callable[[Array], object], array: Array, passes: int
) -> tuple[float, float]:
    """When a thread began to read and when it ended; the barrier gives each array its thread."""
    barrier.wait()
    started = time.perf_counter()
    for _ in range(passes):
        read(array)
    return started, time.perf_counter()


def _cpu_products(threads: int, has_torch: bool) -> Iterator[Operation]:
    """float32 matrix products of each library that is here: none is fastest on every CPU."""
    for size in CPU_SIZES:
        a, b = np.ones((2, size, size), dtype=np.float32)
        multiply = functools.partial(np.matmul, a, b, out=np.empty_like(a))
        yield Operation(
            f"numpy.matmul of {size} × {size}",
            _product(size),
            functools.partial(_wall_seconds, multiply),
        )
    if has_torch:
        import torch

        torch.set_num_threads(threads)
        yield from _torch_products("cpu", "float32", CPU_SIZES, _wall_seconds)


def _wall_seconds(run: Callable[[], object], passes: int) -> float:
    started = time.perf_counter()
    for _ in range(passes):
        run()
    return time.perf_counter() - started


def allowed_cpus() -> list[int]:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


# CUDA


def _measure_cuda(dtype: str) -> DeviceRates:
    import torch

    model_dtype = compute_dtype("cuda", dtype)
    cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    size_bytes = working_set_bytes(cache_bytes, torch.cuda.mem_get_info()[0])
    products = {
        name: _torch_products("cuda", name, CUDA_SIZES, _cuda_seconds)
        for name in dict.fromkeys(("float32", "float16", model_dtype))
    }
    return {
        **_bandwidth(_cuda_streams(size_bytes)),
        "bandwidth_in_cache_bytes_per_s": None,
        **_matrix_rates(products, model_dtype),
        "working_set_bytes": size_bytes,
        "cache_bytes": cache_bytes,
    }


def _cuda_streams(size_bytes: int) -> Iterator[Operation]:
    """Ways to read the device's memory. The copy counts what it reads and what it writes."""
    import torch

    numbers = torch.ones(size_bytes // 8, 2, dtype=torch.float32, device="cuda")
    source, target = numbers.view(2, -1)
    ways: dict[str, Callable[[], object]] = {
        "torch.sum over float32 (reads)": numbers.sum,
        "torch.amax over float32 (reads)": numbers.amax,
        "copy within device memory (reads and writes)": functools.partial(target.copy_, source),
    }
    for name, run in ways.items():
        yield Operation(name, numbers.nbytes, functools.partial(_cuda_seconds, run))


def _cuda_seconds(run: Callable[[], object], passes: int) -> float:
    """Time between two events on the device's stream: launching from Python is no part of it."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(passes):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


# Both


def _torch_products(
    device: str,
    dtype: str,
    sizes: Iterable[int],
    seconds: Callable[[Callable[[], object], int], float],
) -> Iterator[Operation]:
    """Matrix products of torch, with its own defaults: float32 is not shortened to TF32."""
    import torch

    for size in sizes:
        a, b = torch.ones(2, size, size, dtype=getattr(torch, dtype), device=device)
        multiply = functools.partial(torch.mm, a, b, out=torch.empty_like(a))
        yield Operation(
            f"torch.mm of {size} × {size}", _product(size), functools.partial(seconds, multiply)
        )
