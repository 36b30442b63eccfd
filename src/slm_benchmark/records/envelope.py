"""What every record says around its results: when, where and with what it was measured."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TypedDict, TypeVar

from slm_benchmark.catalog.types import Hardware
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import write_record
from slm_benchmark.records.hardware import identity as hardware_identity
from slm_benchmark.records.provenance import (
    RECORDED_PACKAGES,
    environment_identity,
    next_sequence,
    now,
    result_digest,
    workflow_identity,
)
from slm_benchmark.records.types import (
    AnswersRecord,
    Environment,
    EquivalenceRecord,
    FidelityRecord,
    HardwareBlock,
    NoiseRecord,
    PerformanceRecord,
    ScoreRecord,
    WorkflowBlock,
)

SEQUENCE_COUNTER = ROOT / "runs" / ".sequence"
"""Counts the evaluations of a checkout."""

Sealed = TypeVar(
    "Sealed",
    ScoreRecord,
    AnswersRecord,
    PerformanceRecord,
    EquivalenceRecord,
    FidelityRecord,
    NoiseRecord,
)
"""A record with a digest of its result."""


class Provenance(TypedDict):
    """The blocks of a record about the machine and the software."""

    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock


class Times(TypedDict):
    """When a measurement began, and how long it took."""

    started: str
    duration_s: float


class Closing(TypedDict):
    """The end of a record; `write_sealed` fills in the digest."""

    result_sha256: str
    sequence: int
    started: str
    duration_s: float
    command: str


class Clock:
    """The time since a measurement began, which is when the clock is made."""

    def __init__(self) -> None:
        self._began, self._started = time.monotonic(), now()

    def times(self) -> Times:
        """When the measurement began, and the seconds since then."""
        return {
            "started": self._started,
            "duration_s": round(time.monotonic() - self._began, 3),
        }


class Envelope:
    """One measurement on this machine, from its begin to the record on disk.

    A writer makes it first, calls `count` once its inputs are verified, and puts `provenance` and
    `closing` into its record.

    Args:
        hardware_id: Id of this machine in config/hardware.yaml.
        entry: Its entry.
        card: Path of the model's card, from the repository's root.

    Raises:
        UserError: when this machine is not ``hardware_id``.
    """

    def __init__(self, hardware_id: str, entry: Hardware, card: str) -> None:
        self._clock = Clock()
        self.hardware = hardware_identity(hardware_id, entry)
        self._card = card
        self._sequence = 0

    def count(self, counter: Path | None = None) -> None:
        """Count the measurement among those of its checkout.

        Args:
            counter: The file that counts; None = that of runs/.
        """
        self._sequence = next_sequence(counter or SEQUENCE_COUNTER)

    @functools.cached_property
    def environment(self) -> Environment:
        """Versions of the recorded packages, as they were when first asked for."""
        return environment_identity(RECORDED_PACKAGES)

    def provenance(self) -> Provenance:
        """The blocks about the machine and the software."""
        return {
            "environment": self.environment,
            "hardware": self.hardware,
            "workflow": workflow_identity(self._card),
        }

    def times(self) -> Times:
        """When the measurement began, and the seconds since then."""
        return self._clock.times()

    def closing(self, command: str) -> Closing:
        """The end of the record.

        Args:
            command: Measures it again; see `command_for`.
        """
        return {
            "result_sha256": "",
            "sequence": self._sequence,
            **self.times(),
            "command": command,
        }


def write_sealed(path: Path, record: Sealed, name: str) -> Sealed:
    """Put the digest of its result into a record, validate it, and write it atomically.

    Args:
        path: The file.
        record: Complete but for ``result_sha256``, which it has, in its position.
        name: Of its schema.
    """
    record["result_sha256"] = result_digest(record)
    write_record(path, record, name)
    return record
