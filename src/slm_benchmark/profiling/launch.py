"""Starts a measured process, watches the machine meanwhile, and brings its numbers back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import slm_benchmark
from slm_benchmark.catalog.types import EnergySettings, HostBounds
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import atomic_write_json, read_json
from slm_benchmark.profiling.host import HostWatch
from slm_benchmark.profiling.job import Job
from slm_benchmark.profiling.limits import drop_cached, exceeded, memory_group
from slm_benchmark.profiling.types import Launched, Limits, Measured
from slm_benchmark.records.types import ErrorBlock


class Request(TypedDict):
    """What a measured process is to do; `run` adds the limits."""

    do: Literal["measure", "roofline", "idle"]
    job: NotRequired[Mapping[str, Any]]
    device: NotRequired[str]
    dtype: NotRequired[str]
    energy: NotRequired[EnergySettings | None]
    seconds: NotRequired[float]


class Finished(Measured):
    """What a measured process wrote, with the limits that it was held to."""

    limits: Limits


class ProfileFailed(Exception):
    """The model broke, or does not fit the declared machine: a ``failed`` record, not a retry.

    Attributes:
        record: The record's ``error`` block: type, message and traceback.
    """

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        self.record: ErrorBlock = {"type": kind, "message": message, "traceback": trace}
        super().__init__(f"{kind}: {message}")


def launch(job: Job, bounds: HostBounds) -> Launched:
    """Measure one variant once, in a fresh process.

    Args:
        job: What to do.
        bounds: The plan's ``host``, for what else may go on meanwhile.

    Returns:
        What `process.measure` gives, with ``limits`` and ``host``.

    Raises:
        UserError: for missing or damaged weights.
        RunEnvironmentError: when memory ran out or the process was killed.
        ProfileFailed: when the model broke, or needed more memory than the declared limit.
    """
    if job.memory_limit_bytes is not None:
        drop_cached(job.weight_files())
    watch = HostWatch(bounds, gpu=job.runs_on == "cuda")
    try:
        result = cast(
            Finished,
            run(
                {"do": "measure", "job": asdict(job)},
                device=job.runs_on,
                threads=job.threads,
                memory_limit_bytes=job.memory_limit_bytes,
            ),
        )
    finally:
        host = watch.finish()
    host["warnings"] += [
        f"times of {p['sequences']} × ({p['prompt_tokens']} + {p['output_tokens']}) tokens had "
        f"not settled after {len(p['warmups'])} warm-ups"
        for p in result["points"]
        if not p["settled"]
    ]
    if note := result["memory"]["note"]:
        host["warnings"].append(note)
    _check_peak(result)
    if reread_bytes := result["limits"]["memory"].get("reread_bytes"):
        host["warnings"].append(
            f"{reread_bytes} bytes of files were dropped for the memory cap and read again"
        )
    return {**result, "host": host}


def run(
    request: Request, *, device: str, threads: int, memory_limit_bytes: int | None = None
) -> Mapping[str, object]:
    """Put one request to a fresh process.

    Args:
        request: What to do, and what that needs.
        device: Where it works; GPUs are hidden from what works on the CPU.
        threads: CPUs that it may use.
        memory_limit_bytes: Cap on its memory; None = none.

    Raises:
        As `launch`.
    """
    limits = {"threads": threads, "memory_limit_bytes": memory_limit_bytes}
    with tempfile.TemporaryDirectory(prefix="slm-benchmark-profile-") as folder:
        request_file, result_file = Path(folder, "request.json"), Path(folder, "result.json")
        atomic_write_json(request_file, {**request, **limits})
        with memory_group(memory_limit_bytes) as group:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "slm_benchmark.profiling",
                    str(request_file),
                    str(result_file),
                ],
                env=os.environ
                | environment(device, threads)
                | (group.environment if group else {}),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what the libraries print belongs to the log
                check=False,
            )
            if exceeded(group):
                raise _does_not_fit(f"killed at {memory_limit_bytes} bytes", memory_limit_bytes)
            reread_bytes = group.reread_bytes() if group else None
        if not result_file.exists():
            if memory_limit_bytes is not None and done.returncode == -signal.SIGABRT:
                raise _does_not_fit("it gave up for want of memory", memory_limit_bytes)
            raise _ended_early(_what(request), done.returncode)
        answer = read_json(result_file)
    if answer["kind"] == "user":
        raise UserError(answer["message"])
    if answer["kind"] == "environment":
        raise RunEnvironmentError(answer["message"])
    if answer["kind"] == "memory":
        if memory_limit_bytes is not None:
            raise _does_not_fit(answer["message"], memory_limit_bytes)
        if device == "cuda":  # nothing else uses it: the model is too large for it
            raise ProfileFailed("OutOfMemory", answer["message"], answer["traceback"])
        raise RunEnvironmentError(
            f"memory ran out while profiling {_what(request)}: {answer['message']}",
            fix="free memory and run the same command again, or leave the variant out with "
            "--config 'variants=[…]'",
        )
    if answer["kind"] == "failed":
        raise ProfileFailed(answer["type"], answer["message"], answer["traceback"])
    result: dict[str, Any] = answer["result"]
    result["limits"]["memory"]["reread_bytes"] = reread_bytes
    return result


def environment(device: str, threads: int) -> dict[str, str]:
    """What must be set before the measured process imports its libraries."""
    source = str(Path(slm_benchmark.__file__).parents[1])
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # gptqmodel crashes at import on machines of one or two cores without it.
        "GPTQMODEL_CPU_WORKERS": "2",
    }
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def _check_peak(result: Finished) -> None:
    """Where no control group holds the cap, see that the whole process stayed below it."""
    limit_bytes = result["limits"]["memory"]["limit_bytes"]
    if limit_bytes is None or result["limits"]["memory"]["enforced_by"].startswith("cgroup"):
        return
    memory = result["memory"]
    peak_bytes = memory["baseline_bytes"] + memory["load_peak_memory_bytes"]
    if peak_bytes > limit_bytes:
        raise _does_not_fit(f"the process held {peak_bytes} at its peak", limit_bytes)


def _does_not_fit(what: str, limit_bytes: int | None) -> ProfileFailed:
    return ProfileFailed(
        "MemoryLimitExceeded", f"it does not fit the declared memory of {limit_bytes} bytes: {what}"
    )


def _what(request: Request) -> str:
    """What a process was to measure: a variant, the roofline or the idle machine."""
    return str(request["job"]["variant"] if "job" in request else request["do"])


def _ended_early(what: str, code: int) -> Exception:
    """The error for a process that left no answer."""
    if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        name = signal.Signals(-code).name
        return RunEnvironmentError(
            f"the process that profiled {what} was killed by {name}",
            fix="if nobody killed it, memory ran out: free some and run the same command again, or "
            "leave the variant out with --config 'variants=[…]'",
        )
    if code < 0:
        name = signal.Signals(-code).name
        return ProfileFailed("Crash", f"the process that profiled {what} died of {name}")
    return RunEnvironmentError(
        f"the process for {what} could not work: exit code {code}", fix="see its messages above"
    )
