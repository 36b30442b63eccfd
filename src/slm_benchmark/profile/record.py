"""The record of a profile: what was measured, with its evidence."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from slm_benchmark.config import Catalogue
from slm_benchmark.engines.identity import unknown_engine
from slm_benchmark.hardware import identity as hardware_identity
from slm_benchmark.manifest import read_manifest, verify_files
from slm_benchmark.profile.launch import ProfileFailed, profile
from slm_benchmark.provenance import (
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
from slm_benchmark.schemas import schema, write_record


def write_performance(
    catalogue: Catalogue,
    *,
    model_id: str,
    variant: str,
    hardware_id: str,
    protocol_id: str,
    weights: Path,
    base: Path,
    output: Path,
) -> dict[str, Any]:
    """Profile one variant on this machine and write its record.

    Args:
        catalogue: The catalogue of the checkout.
        model_id: Id of the model.
        variant: The weight format.
        hardware_id: Id of this machine in config/hardware.yaml.
        protocol_id: Protocol whose ``performance`` block says what to repeat.
        weights: Folder of the variant.
        base: Folder of the base model.
        output: File of the record.

    Returns:
        The record. A model that breaks leaves one with state ``failed``.

    Raises:
        UserError: for bad input, such as a machine that is not ``hardware_id``.
        EnvironmentFault: when memory ran out.
    """
    began, started = time.monotonic(), now()
    model = catalogue.models[model_id]
    hardware = catalogue.hardware[hardware_id]
    protocol = catalogue.protocols[protocol_id]
    machine = hardware_identity(hardware_id, hardware)
    verify_files(weights)
    verify_files(base, shallow=True)
    manifest = read_manifest(weights)
    threads = hardware["threads"] or os.cpu_count() or 1
    error = None
    try:
        measured = profile(
            variant,
            weights,
            base,
            protocol["performance"],
            hardware,
            threads,
            dtype=protocol["dtype"],
            trust_remote_code=model.trust_remote_code,
        )
    except ProfileFailed as failed:
        error = failed.record
        measured = _nothing(variant, threads, failed)
    record: dict[str, Any] = {
        "schema_version": 1,
        "kind": "performance",
        "state": "failed" if error else "ok",
        "error": error,
        "model": model_block(model, read_manifest(base)),
        "variant": variant_block(manifest),
        "protocol": protocol_block(
            protocol_id, protocol["version"], catalogue.profiling_choices(protocol_id)
        ),
        "engine": measured["engine"],
        "environment": environment_identity(RECORDED_PACKAGES),
        "hardware": machine,
        "workflow": workflow_identity(model.file),
        "host": measured["host"],
        "metrics": measured["metrics"],
        "raw": measured["raw"],
        "result_sha256": "",
        "started": started,
        "duration_s": round(time.monotonic() - began, 3),
        "command": command_for([output], protocol_id, hardware_id),
    }
    record["result_sha256"] = result_digest(record)
    write_record(output, record, "performance")
    return record


def _nothing(variant: str, threads: int, failed: ProfileFailed) -> dict[str, Any]:
    """Blocks of a record whose profile broke: every quantity missing, with the reason."""
    quantity = {"value": None, "ci95": None, "n": 0, "reason": str(failed)}
    return {
        "engine": unknown_engine(variant, threads),
        "metrics": dict.fromkeys(
            schema("performance")["properties"]["metrics"]["properties"], quantity
        ),
        "raw": {},
        "host": {},
    }
