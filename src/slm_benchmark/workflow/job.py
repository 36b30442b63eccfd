"""Between Snakemake and the library: where a job's output goes and how its errors look."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from slm_benchmark.common import progress
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.machine import JOBS_AT_ONCE, usable_cpus, usable_memory_bytes
from slm_benchmark.common.process_environment import settle

if TYPE_CHECKING:
    from slm_benchmark.catalog.catalog import Catalogue
    from slm_benchmark.catalog.run_config import Cell, RunConfig
    from slm_benchmark.evaluation.runner import Folders

_RUN = "SLM_BENCHMARK_RUN_PID"
_WATCH_INTERVAL_S = 1.0

_held: list[TextIO] = []


def restart_with(**environment: str) -> None:
    """Start this script anew where it lacks variables that are only read at a process's start."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.environ.update(environment)
        os.execv(sys.executable, [sys.executable, *sys.argv])


@contextlib.contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Run the body of a script: its output goes to ``log``, its progress to the terminal too.

    Bad input and environment errors end as one line on the terminal and exit code 1;
    anything else is a bug and leaves its traceback in the log as well.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    settle()
    _end_with_the_run()
    progress.terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        yield
    except UserError as error:
        progress.say(f"error: {error}")
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        progress.say(f"error: {type(error).__name__}: {error} (traceback in {log})")
        sys.exit(1)


def prepare_jobs() -> None:
    """Tell the jobs of this process where the package is and whose run they belong to."""
    settle()
    _quote_interpreter()
    source = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, inherited]))
    os.environ[_RUN] = str(os.getpid())


def _quote_interpreter() -> None:
    """Let Snakemake start scripts in a folder whose name has a space or an apostrophe.

    Snakemake 9 writes the interpreter's path into a shell command as it is; it quotes all others.
    """
    from snakemake.script import PythonScript

    execute = PythonScript._execute_cmd

    def execute_quoted(script: PythonScript, command: str, **values: Any) -> Any:
        return execute(script, command.replace("{py_exec}", "{py_exec:q}"), **values)

    PythonScript._execute_cmd = execute_quoted


def check_folder(root: Path, folder: Path = Path(".")) -> None:
    """Refuse to run where the workflow's files are not found, or none can be written.

    Args:
        root: The repository's.
        folder: The working directory.

    Raises:
        UserError: naming the folder, and where to run instead.
    """
    if not folder.resolve().samefile(root):
        raise UserError(
            "the workflow runs from the repository's root alone",
            file=folder.resolve(),
            fix=f"cd {shlex.quote(str(root.resolve()))}, then the same command",
        )
    if not os.access(folder, os.W_OK):
        raise RunEnvironmentError(
            "nothing can be written here",
            file=folder.resolve(),
            fix="make the folder writable, or clone the repository elsewhere",
        )


def share_memory(workflow: Any, threads: int) -> None:
    """Tell the jobs how many of them run at once, so that their caches fit into memory together.

    Args:
        workflow: Snakemake's.
        threads: Of one evaluation.
    """
    if workflow.is_main_process:
        cores = None if workflow.nodes is not None else workflow.cores
        os.environ[JOBS_AT_ONCE] = str(max(1, (cores or 1) // threads))


def share_machine(workflow: Any) -> None:
    """Take no more of this machine than may be used, where the user did not choose otherwise.

    Snakemake's ``--cores all`` knows of no CPU quota and no scheduler's allocation, and without
    ``--resources mem_mb=N`` it starts jobs until the cores are used up, whatever memory they need.
    On a cluster the cluster shares its machines.

    Args:
        workflow: Snakemake's.
    """
    from snakemake.utils import available_cpu_count

    if workflow.nodes is not None:
        return
    if workflow.cores == available_cpu_count():
        workflow.register_resource("_cores", min(workflow.cores, usable_cpus()))
    if "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", usable_memory_bytes() // 1_000_000)


def _end_with_the_run() -> None:
    """End this job when its run is killed: its successor would do the same work beside it."""
    run = int(os.environ.get(_RUN, "0"))
    if not run:
        return

    def watch() -> None:
        while os.path.exists(f"/proc/{run}") or not os.path.exists("/proc"):
            time.sleep(_WATCH_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Let bad input end Snakemake with one line; its own errors would add a traceback."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


class ByWildcards:
    """Gives the methods of an object to rules, as functions that Snakemake calls with wildcards.

    A method takes the wildcards that its parameters are named after. What is no method, such as a
    pattern, stays as it is.

    Args:
        values: The object.
    """

    def __init__(self, values: object) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._values, name)
        if not callable(method):
            return method
        names = list(inspect.signature(method).parameters)

        def by_wildcards(wildcards: Any) -> Any:
            with clean_errors():
                return method(*(wildcards[key] for key in names))

        return by_wildcards


def hold_the_only_run(folder: Path = Path(".snakemake")) -> None:
    """Take the lock of this checkout for as long as the process lives.

    Snakemake's own lock outlives a killed process; this one ends with it, so that the same command
    can go on.
    """
    from snakemake.exceptions import WorkflowError

    folder.mkdir(exist_ok=True)
    stream = open(folder / "slm-benchmark.lock", "w", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError(
            "another run is at work in this folder. Fix: wait for it, or use another clone"
        ) from None
    _held.append(stream)


def warn(lines: list[str]) -> None:
    """Print warnings once, before the first job."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def cell_from_wildcards(snakemake: Any) -> tuple[Cell, Folders]:
    """The cell that a job measures, and the folders of its inputs."""
    from slm_benchmark.catalog.run_config import Cell
    from slm_benchmark.evaluation.runner import Folders

    inputs = {name: Path(snakemake.input[name]).parent for name in ("weights", "base", "dataset")}
    return Cell(**snakemake.wildcards), Folders(**inputs)


def output_paths(snakemake: Any) -> dict[str, Path]:
    """The named outputs of a job."""
    return {name: Path(path) for name, path in snakemake.output.items()}


def configured(snakemake: Any) -> tuple[Catalogue, RunConfig]:
    """The catalogue and the run configuration that a job belongs to."""
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.catalog.run_config import RunConfig

    catalogue = load_catalogue()
    return catalogue, RunConfig.from_config(snakemake.config, catalogue)
