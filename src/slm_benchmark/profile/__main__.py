"""The measured process: ``python -m slm_benchmark.profile JOB RESULT``, started by `profile`."""

from __future__ import annotations

import ctypes
import errno
import signal
import sys
import traceback
from typing import Any

from slm_benchmark.errors import EnvironmentFault, UserError
from slm_benchmark.files import atomic_write_json, read_json
from slm_benchmark.profile.runner import Job, make_runner
from slm_benchmark.profile.session import measure

_SET_PARENT_DEATH_SIGNAL = 1


def main(job_file: str, result_file: str) -> None:
    """Measure the job in ``job_file`` and write what came of it to ``result_file``."""
    if sys.platform == "linux":
        # A killed workflow must not leave a process that disturbs the next measurement.
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    job = Job(**read_json(job_file))
    answer: dict[str, Any]
    print(f"profile {job.variant}: starting the engine", file=sys.stderr, flush=True)
    try:
        answer = {"kind": "measured", "result": measure(job, make_runner(job))}
    except EnvironmentFault as error:
        answer = {"kind": "environment", "message": str(error)}
    except UserError as error:
        answer = {"kind": "user", "message": str(error)}
    except Exception as error:
        answer = {
            "kind": "memory" if _is_out_of_memory(error) else "failed",
            "type": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
    atomic_write_json(result_file, answer)


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, for a GPU
        or "can't allocate memory" in str(error)  # torch's, for a CPU
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
