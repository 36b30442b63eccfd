"""The measured process: ``python -m slm_benchmark.profiling REQUEST RESULT``; see `launch`."""

from __future__ import annotations

import ctypes
import errno
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import atomic_write_json, read_json
from slm_benchmark.profiling.job import Job
from slm_benchmark.profiling.limits import apply_limits

_SET_PARENT_DEATH_SIGNAL = 1


def main(request_file: str, result_file: str) -> None:
    """Carry out the request of ``request_file`` and write the result to ``result_file``."""
    if sys.platform == "linux":
        # A killed workflow must not leave a process that disturbs the next measurement.
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    request = read_json(request_file)
    answer: dict[str, object]
    try:
        limits = apply_limits(request["threads"], request["memory_limit_bytes"])
        answer = {"kind": "done", "result": {**_answer(request), "limits": limits}}
    except RunEnvironmentError as error:
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


def _answer(request: Mapping[str, Any]) -> Mapping[str, object]:
    """The result of a request; heavy imports belong to what is requested."""
    if request["do"] == "roofline":
        from slm_benchmark.profiling.roofline import measure_roofline

        return measure_roofline(request["device"], request["threads"], request["dtype"])
    if request["do"] == "idle":
        from slm_benchmark.profiling.energy import measure_idle

        return measure_idle(request["device"], request["energy"], request["seconds"])
    from slm_benchmark.profiling.energy import find_meter
    from slm_benchmark.profiling.process import measure
    from slm_benchmark.profiling.runner import make_runner

    job = Job.from_json(request["job"])
    return measure(job, make_runner(job), find_meter(job.runs_on, job.energy))


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, for a GPU
        or "can't allocate memory" in str(error)  # torch's, for a CPU
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
