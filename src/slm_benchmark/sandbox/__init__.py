"""Generated programs are executed here and nowhere else: confined, or not at all."""

from slm_benchmark.sandbox.limits import Limits, read_limits
from slm_benchmark.sandbox.run import (
    CannotConfine,
    Unavailable,
    confinement,
    find_confinement,
    require_confinement,
    run_program,
)
from slm_benchmark.sandbox.supervisor import Outcome, State

__all__ = [
    "CannotConfine",
    "Limits",
    "Outcome",
    "State",
    "Unavailable",
    "confinement",
    "find_confinement",
    "read_limits",
    "require_confinement",
    "run_program",
]
