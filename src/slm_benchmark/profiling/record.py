"""The record of a session, and the records of its variants that follow from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import unknown_engine
from slm_benchmark.profiling.energy.carbon import emissions, grid_factor
from slm_benchmark.profiling.job import Job
from slm_benchmark.profiling.roofline import own_cpus
from slm_benchmark.profiling.session import points_of, profile
from slm_benchmark.profiling.summary import summarise
from slm_benchmark.records.hardware import FILE
from slm_benchmark.records.hardware import identity as hardware_identity
from slm_benchmark.records.provenance import (
    RECORDED_PACKAGES,
    command_for,
    environment_identity,
    model_block,
    now,
    protocol_block,
    result_digest,
    variant_block,
    workflow_identity,
)

_CARRIED = ("model", "protocol", "environment", "hardware", "workflow", "started")
"""Blocks that a variant's record has from its session unchanged."""


def write_session(
    catalogue: Catalogue,
    *,
    model_id: str,
    hardware_id: str,
    protocol_id: str,
    weights: Mapping[str, Path],
    base: Path,
    output: Path,
) -> None:
    """Profile some variants of a model on this machine and write the session's record.

    Args:
        catalogue: The catalogue of the checkout.
        model_id: Id of the model.
        hardware_id: Id of this machine in config/hardware.yaml.
        protocol_id: Protocol that names the profiling plan.
        weights: Folder of each variant.
        base: Folder of the base model.
        output: File of the record.

    Raises:
        UserError: for bad input, such as a machine that is not ``hardware_id``.
        RunEnvironmentError: when the machine is too busy, memory ran out or a process was killed.
    """
    began, started = time.monotonic(), now()
    model, hardware = catalogue.models[model_id], catalogue.hardware[hardware_id]
    protocol, plan = catalogue.protocols[protocol_id], catalogue.profiling_plan(protocol_id)
    chosen = catalogue.profiling[protocol["performance"]]
    machine = hardware_identity(hardware_id, hardware)
    for folder in weights.values():
        verify_files(folder)
    verify_files(base, shallow=True)
    points = points_of(plan)
    country = hardware.get("country")
    grid = None if country is None else {"country": country, **grid_factor(country)}
    jobs = [
        Job(
            variant=variant,
            weights=str(folder),
            base=str(base),
            device=hardware["device"],
            threads=_threads(hardware),
            dtype=protocol["dtype"],
            trust_remote_code=model.trust_remote_code,
            points=points,
            repetitions=chosen["repetitions"],
            min_duration_s=chosen["min_duration_s"],
            max_warmups=chosen["max_warmups"],
            warmup_bound=chosen["warmup_bound"],
            memory_limit_bytes=hardware.get("memory_limit_bytes"),
            energy=hardware.get("energy"),
        )
        for variant, folder in weights.items()
    ]
    session = profile(jobs, plan)
    for variant, folder in weights.items():
        session["variants"][variant]["variant"] = variant_block(read_manifest(folder))
    record = {
        "schema_version": 1,
        "kind": "session",
        "model": model_block(model, read_manifest(base)),
        "protocol": protocol_block(
            protocol_id, protocol["version"], catalogue.profiling_choices(protocol_id)
        ),
        "plan": plan,
        "threads": _threads(hardware),
        "grid": grid,
        "environment": environment_identity(RECORDED_PACKAGES),
        "hardware": machine,
        "workflow": workflow_identity(model.file),
        **session,
        "started": started,
        "duration_s": round(time.monotonic() - began, 3),
    }
    write_record(output, record, "session")


def write_performance(session_file: Path, variant: str, output: Path) -> dict[str, Any]:
    """Write the record of one variant of a session. Measures nothing.

    Args:
        session_file: Record of the session.
        variant: The weight format.
        output: File of the record.

    Returns:
        The record. A model that broke leaves one with state ``failed``.

    Raises:
        UserError: when the session did not measure this variant.
    """
    session = read_record(session_file, "session")
    if variant not in session["variants"]:
        raise UserError(
            f"the session measured no {variant}",
            file=session_file,
            field="variants",
            value=sorted(session["variants"]),
            fix="name it among the variants: --config 'variants=[…]'",
        )
    found = session["variants"][variant]
    device, processes = found["device"], found["processes"]
    protocol_id, hardware_id = session["protocol"]["id"], session["hardware"]["id"]
    ran = list(session["variants"])
    record: dict[str, Any] = {
        "schema_version": 2,
        "kind": "performance",
        "state": "failed" if found["error"] else "ok",
        "error": found["error"],
        **{block: session[block] for block in _CARRIED},
        "variant": found["variant"],
        "engine": _engine(session, variant),
        "limits": processes[-1]["limits"] if processes else {},
        "session": {
            "id": digest([session["started"], session["hardware"]["fingerprint"], ran]),
            "variants": ran,
            "order": session["order"],
            "processes": session["plan"]["processes"],
        },
        "host": {
            "before": session["host"],
            "processes": [process["host"] for process in processes],
            "warnings": _warnings(session["host"], processes),
        },
        "roofline": session["roofline"][device],
        **summarise(
            session["plan"],
            processes,
            session["roofline"][device],
            session["idle"][device],
            found["error"],
        ),
        "raw": {"processes": [_raw(process) for process in processes]},
        "result_sha256": "",
        "duration_s": round(sum(process["duration_s"] for process in processes), 3),
        "command": command_for([session_file, output], protocol_id, hardware_id, variants=ran),
    }
    if session["grid"]:
        record["energy"]["grid"] = emissions(session["grid"], record["metrics"])
    record["result_sha256"] = result_digest(record)
    write_record(output, record, "performance")
    return record


def _engine(session: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The engine of the last process, with the work it did in words."""
    processes = session["variants"][variant]["processes"]
    if not processes:
        return unknown_engine(variant, session["threads"])
    engine: dict[str, Any] = dict(processes[-1]["engine"])
    reference = processes[-1]["points"][0]
    engine["schedule"] += (
        f"; prompts of {reference['prompt_tokens']} tokens of English text, "
        f"{reference['output_tokens']} tokens generated greedily, end of sequence ignored; "
        "cache emptied between repetitions"
    )
    return engine


def _warnings(before: Mapping[str, Any], processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each thing that may have disturbed a variant, with the processes it was seen in."""
    seen: dict[str, list[str]] = {}
    for number, process in enumerate(processes, start=1):
        for warning in process["host"]["warnings"]:
            seen.setdefault(warning, []).append(str(number))
    return [*before["warnings"]] + [
        f"process {', '.join(numbers)}: {warning}" for warning, numbers in seen.items()
    ]


def _raw(process: Mapping[str, Any]) -> dict[str, Any]:
    """What a process found, without what the record says in a block of its own."""
    return {key: value for key, value in process.items() if key not in ("host", "limits")}


def _threads(hardware: Mapping[str, Any]) -> int:
    """Threads of the matrix products.

    Raises:
        UserError: when the entry asks for more than this process may use CPUs.
    """
    cores = len(own_cpus())
    threads: int = hardware["threads"] or cores
    if threads > cores:
        raise UserError(
            f"more threads than this process may use CPUs ({cores})",
            file=FILE,
            field="threads",
            value=threads,
            fix=f"use {cores} or fewer",
        )
    return threads
