"""The record of a session, and the records of its variants that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.types import Hardware, ProfilingPlan
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest
from slm_benchmark.common.machine import usable_cpus, usable_memory_bytes
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import unknown_engine
from slm_benchmark.profiling.energy.carbon import emissions, grid_factor
from slm_benchmark.profiling.job import Job
from slm_benchmark.profiling.session import points_of, profile
from slm_benchmark.profiling.summary import summarize
from slm_benchmark.profiling.types import HostState, IdleBaseline, SessionProcess
from slm_benchmark.records.envelope import Envelope, write_sealed
from slm_benchmark.records.hardware import FILE
from slm_benchmark.records.provenance import (
    command_for,
    model_block,
    protocol_block,
    variant_block,
)
from slm_benchmark.records.types import (
    Freeform,
    GridCarbon,
    PerformanceEngine,
    PerformanceRecord,
    SessionRecord,
    SessionVariant,
)


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

    The parameters are the wildcards, inputs and output of one rule, so each stands alone.

    Raises:
        UserError: for bad input, such as a machine that is not ``hardware_id``.
        RunEnvironmentError: when the machine is too busy, memory ran out or a process was killed.
    """
    model, hardware = catalogue.models[model_id], catalogue.hardware[hardware_id]
    envelope = Envelope(hardware_id, hardware, model.file)
    protocol = catalogue.protocols[protocol_id]
    plan = catalogue.profiling[protocol["performance"]]
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
            repetitions=plan["repetitions"],
            min_duration_s=plan["min_duration_s"],
            max_warmups=plan["max_warmups"],
            warmup_bound=plan["warmup_bound"],
            memory_limit_bytes=_memory_limit_bytes(hardware),
            energy=hardware.get("energy"),
        )
        for variant, folder in weights.items()
    ]
    session = profile(jobs, plan)
    variants = {
        variant: cast(
            SessionVariant,
            {**session["variants"][variant], "variant": variant_block(read_manifest(folder))},
        )
        for variant, folder in weights.items()
    }
    record: SessionRecord = {
        "schema_version": 1,
        "kind": "session",
        "model": model_block(model, read_manifest(base)),
        "protocol": protocol_block(
            protocol_id, protocol["version"], catalogue.profiling_choices(protocol_id)
        ),
        "plan": catalogue.profiling_plan(protocol_id),
        "threads": _threads(hardware),
        "grid": cast(Freeform, grid),
        **envelope.provenance(),
        "order": session["order"],
        "host": cast(Freeform, session["host"]),
        "idle": session["idle"],
        "roofline": session["roofline"],
        "variants": variants,
        **envelope.times(),
    }
    write_record(output, record, "session")


def write_performance(session_file: Path, variant: str, output: Path) -> PerformanceRecord:
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
    session: SessionRecord = read_record(session_file, "session")
    if variant not in session["variants"]:
        raise UserError(
            f"the session measured no {variant}",
            file=session_file,
            field="variants",
            value=sorted(session["variants"]),
            fix="name it among the variants: --config 'variants=[…]'",
        )
    result = session["variants"][variant]
    device, processes = result["device"], cast(list[SessionProcess], result["processes"])
    idle: list[IdleBaseline] = session["idle"][device]
    host = cast(HostState, session["host"])
    plan = cast(ProfilingPlan, session["plan"])
    protocol_id, hardware_id = session["protocol"]["id"], session["hardware"]["id"]
    ran = list(session["variants"])
    summary = summarize(
        points_of(plan), processes, session["roofline"][device], idle, result["error"]
    )
    if session["grid"]:
        grid = cast(GridCarbon, session["grid"])
        summary["energy"]["grid"] = emissions(grid, summary["metrics"])
    record: PerformanceRecord = {
        "schema_version": 2,
        "kind": "performance",
        "state": "failed" if result["error"] else "ok",
        "error": result["error"],
        "model": session["model"],
        "protocol": session["protocol"],
        "environment": session["environment"],
        "hardware": session["hardware"],
        "workflow": session["workflow"],
        "started": session["started"],
        "variant": result["variant"],
        "engine": _engine(session, variant),
        "limits": cast(Freeform, processes[-1]["limits"]) if processes else {},
        "session": {
            "id": digest([session["started"], session["hardware"]["fingerprint"], ran]),
            "variants": ran,
            "order": session["order"],
            "processes": plan["processes"],
        },
        "host": {
            "before": session["host"],
            "processes": [cast(Freeform, process["host"]) for process in processes],
            "warnings": _warnings(host, processes),
        },
        "roofline": session["roofline"][device],
        "metrics": summary["metrics"],
        "grid": summary["grid"],
        "latency_distribution_ms": summary["latency_distribution_ms"],
        "energy": summary["energy"],
        "raw": {"processes": [_raw(process) for process in processes]},
        "result_sha256": "",
        "duration_s": round(sum(process["duration_s"] for process in processes), 3),
        "command": command_for([session_file, output], protocol_id, hardware_id, variants=ran),
    }
    return write_sealed(output, record, "performance")


def _engine(session: SessionRecord, variant: str) -> PerformanceEngine:
    """The engine of the last process, with the work it did in words."""
    processes = cast(list[SessionProcess], session["variants"][variant]["processes"])
    if not processes:
        return cast(PerformanceEngine, unknown_engine(variant, session["threads"]))
    engine = processes[-1]["engine"].copy()
    reference = processes[-1]["points"][0]
    engine["schedule"] += (
        f"; prompts of {reference['prompt_tokens']} tokens of English text, "
        f"{reference['output_tokens']} tokens generated greedily, end of sequence ignored; "
        "cache emptied between repetitions"
    )
    return engine


def _warnings(before: HostState, processes: Sequence[SessionProcess]) -> list[str]:
    """Each thing that may have disturbed a variant, with the processes it was seen in."""
    seen: dict[str, list[str]] = {}
    for number, process in enumerate(processes, start=1):
        for warning in process["host"]["warnings"]:
            seen.setdefault(warning, []).append(str(number))
    return [*before["warnings"]] + [
        f"process {', '.join(numbers)}: {warning}" for warning, numbers in seen.items()
    ]


def _raw(process: SessionProcess) -> dict[str, object]:
    """What a process measured, without what the record says in a block of its own."""
    return {key: value for key, value in process.items() if key not in ("host", "limits")}


def _memory_limit_bytes(hardware: Hardware) -> int | None:
    """The declared limit of memory; None = none.

    Raises:
        UserError: when this process may not use so much.
    """
    declared, usable = hardware.get("memory_limit_bytes"), usable_memory_bytes()
    if declared is not None and declared > usable:
        raise UserError(
            f"more memory than this process may use ({usable} bytes)",
            file=FILE,
            field="memory_limit_bytes",
            value=declared,
            fix="allow it more memory, or run with --config hardware=local",
        )
    return declared


def _threads(hardware: Hardware) -> int:
    """Threads of the matrix products.

    Raises:
        UserError: when the entry has more than this process may use CPUs.
    """
    cores = usable_cpus()
    threads = hardware["threads"] or cores
    if threads > cores:
        raise UserError(
            f"more threads than this process may use CPUs ({cores})",
            file=FILE,
            field="threads",
            value=threads,
            fix=f"use {cores} or fewer",
        )
    return threads
