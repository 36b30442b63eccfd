"""What one generated program may use: config/sandbox.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.common.paths import CONFIG
from slm_benchmark.common.schemas import read_config


@dataclass(frozen=True)
class Limits:
    """Bounds for a program and everything that it starts, together.

    Attributes:
        cpu_s: Processor time.
        wall_s: Time on the clock, from the moment the program is handed over.
        memory_bytes: Resident memory; also the address space of each process.
        processes: Processes and threads at a time.
        scratch_bytes: Size of the one folder that can be written; also of one file.
        output_bytes: What may be printed.
    """

    cpu_s: float
    wall_s: float
    memory_bytes: int
    processes: int
    scratch_bytes: int
    output_bytes: int


def read_limits(config: Path = CONFIG) -> Limits:
    """The limits of ``config``/sandbox.yaml.

    Raises:
        UserError: when the file is missing or not valid.
    """
    return Limits(**read_config(config / "sandbox.yaml", "sandbox")["limits"])
