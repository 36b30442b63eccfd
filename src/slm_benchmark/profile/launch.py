"""Starts the measured process, watches the machine meanwhile, and brings the numbers back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import slm_benchmark
from slm_benchmark.errors import EnvironmentFault, UserError
from slm_benchmark.files import atomic_write_json, read_json
from slm_benchmark.hardware import FILE
from slm_benchmark.profile.host import HostWatch
from slm_benchmark.profile.runner import Job


class ProfileFailed(Exception):
    """The model broke, or does not fit the declared machine: a ``failed`` record, not a retry.

    Attributes:
        record: The record's ``error`` block: type, message and traceback.
    """

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        self.record = {"type": kind, "message": message, "traceback": trace}
        super().__init__(f"{kind}: {message}")


def profile(
    variant: str,
    weights: Path,
    base: Path,
    protocol_performance: Mapping[str, int],
    hardware_entry: Mapping[str, Any],
    threads: int,
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measure one variant of one model in a fresh process.

    The caller sees to it that nothing else runs; what ran all the same is reported under
    ``host.warnings`` and refuses nothing.

    Args:
        variant: Such as ``base`` or ``gguf-q8_0``.
        weights: Folder of the variant's files.
        base: Folder of the base model; its vocabulary makes the prompt.
        protocol_performance: The protocol's ``performance`` block.
        hardware_entry: Entry of config/hardware.yaml; its device and memory limit are used.
        threads: Threads for the matrix products.
        dtype: The protocol's ``dtype``, for what runs on Transformers.
        trust_remote_code: Whether the model's own code may run.

    Returns:
        ``engine``, ``metrics``, ``raw`` and ``host`` blocks of the performance record.

    Raises:
        UserError: for missing or damaged weights, or more threads than the machine has cores.
        EnvironmentFault: when memory ran out or the process was killed.
        ProfileFailed: when the model broke, or needed more memory than the declared limit.
    """
    cores = os.cpu_count() or 1
    if threads > cores:
        raise UserError(
            f"more threads than this machine has cores ({cores})",
            file=FILE,
            field="threads",
            value=threads,
            fix=f"use {cores} or fewer",
        )
    job = Job(
        variant=variant,
        weights=str(weights),
        base=str(base),
        device=hardware_entry["device"],
        threads=threads,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        **protocol_performance,
    )
    # Missing files are told at once, not after an engine has started.
    job.weight_files(), job.vocabulary_size()
    watch = HostWatch()
    result = _run(job, hardware_entry["memory_limit_bytes"])
    result["host"] = watch.finish()
    if not result["raw"]["warmups_settled"]:
        result["host"]["warnings"].append("the warm-up ended before the times had settled")
    return result


def _run(job: Job, memory_limit_bytes: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="slm-benchmark-profile-") as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        atomic_write_json(job_file, asdict(job))
        done = subprocess.run(
            [sys.executable, "-m", "slm_benchmark.profile", str(job_file), str(result_file)],
            env=os.environ | _environment(job),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what the libraries print belongs to the log
            check=False,
        )
        if not result_file.exists():
            raise _ended_early(done.returncode)
        answer = read_json(result_file)
    if answer["kind"] == "user":
        raise UserError(answer["message"])
    if answer["kind"] == "environment":
        raise EnvironmentFault(answer["message"])
    if answer["kind"] == "memory":
        raise EnvironmentFault(
            f"memory ran out while profiling {job.variant}: {answer['message']}",
            fix="free memory and run the same command again",
        )
    if answer["kind"] == "failed":
        raise ProfileFailed(answer["type"], answer["message"], answer["traceback"])
    result: dict[str, Any] = answer["result"]
    peak_bytes = result["raw"]["memory"]["peak_bytes"]
    if memory_limit_bytes is not None and peak_bytes > memory_limit_bytes:
        raise ProfileFailed(
            "MemoryLimitExceeded",
            f"the process held {peak_bytes} bytes at its peak; "
            f"the declared machine gives it {memory_limit_bytes}",
        )
    return result


def _environment(job: Job) -> dict[str, str]:
    """What must be set before the measured process imports its libraries."""
    source = str(Path(slm_benchmark.__file__).parents[1])
    threads = str(job.threads)
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        # gptqmodel crashes at import on machines of one or two cores without it.
        "GPTQMODEL_CPU_WORKERS": "2",
    }
    if job.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def _ended_early(code: int) -> Exception:
    """The error for a process that left no answer."""
    if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        name = signal.Signals(-code).name
        return EnvironmentFault(
            f"the profiled process was killed by {name}",
            fix="if nobody killed it, memory ran out: free some; then run the same command again",
        )
    if code < 0:
        name = signal.Signals(-code).name
        return ProfileFailed("Crash", f"the profiled process died of {name}")
    return EnvironmentFault(
        f"the profiled process could not work: exit code {code}", fix="see its messages above"
    )
