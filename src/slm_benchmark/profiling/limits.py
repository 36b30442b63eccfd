"""The declared limits of a machine, enforced: a number of CPUs, and a cap on memory.

The parent makes a control group with `memory_group`, starts the measured process with the group's
``environment``, and that process calls `apply_limits` before it does anything else.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.machine import control_groups
from slm_benchmark.profiling.types import Limits, MemoryLimit
from slm_benchmark.records.hardware import FILE, read_text

PROC = Path("/proc/self")
CPUS = Path("/sys/devices/system/cpu")

_VARIABLE = "SLM_BENCHMARK_MEMORY_GROUP"
_PREFIX = "slm-benchmark-"
_REMOVAL_S = 2.0
"""How long the removal of a group is tried: the kernel lets go of a dead process a little later."""


@dataclass(frozen=True)
class MemoryGroup:
    """A control group with a cap on memory and without swap.

    Attributes:
        folder: Where the kernel shows it.
        version: 1 or 2: which of the kernel's two interfaces it has.
    """

    folder: Path
    version: int

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment for `apply_limits` to join the group."""
        return {_VARIABLE: f"{self.version}:{self.folder}"}

    def oom_kills(self) -> int:
        """Processes of the group that the kernel has killed at the cap."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _counts(self.folder / name).get("oom_kill", 0)

    def reread_bytes(self) -> int | None:
        """Bytes of files that were dropped for the cap and read from disk again.

        Weights that are mapped from a file never break the cap: the kernel drops their pages. Such
        a model runs at the speed of the disk. None where the kernel does not count it.
        """
        pages = _counts(self.folder / "memory.stat").get("workingset_refault_file")
        return None if pages is None else pages * resource.getpagesize()


@contextlib.contextmanager
def memory_group(limit_bytes: int | None) -> Iterator[MemoryGroup | None]:
    """A control group for one process, removed at the end; the process must have ended by then.

    Args:
        limit_bytes: Cap on its memory; None = no group.

    Yields:
        None where there is no limit, or no group can be made: that takes the right to make one
        below this process's group or a group around it, as root has, or a user under systemd.
    """
    group = None if limit_bytes is None else _make_group(limit_bytes)
    try:
        yield group
    finally:
        if group:
            _remove(group.folder)


def exceeded(group: MemoryGroup | None) -> bool:
    """Whether a process of the group was killed at the cap, and not by somebody else."""
    return group is not None and group.oom_kills() > 0


def apply_limits(threads: int, memory_limit_bytes: int | None) -> Limits:
    """Hold this process, and what it will start, to the declared limits.

    Must come before the libraries that start threads: a running thread keeps its CPUs.

    Args:
        threads: CPUs that it may use.
        memory_limit_bytes: Cap on its memory; None = none.

    Returns:
        ``threads``; ``affinity``, the CPUs (null where the system cannot bind a process); and
        ``memory`` {``limit_bytes``, ``enforced_by``: ``cgroup v2``, ``cgroup v1``,
        ``RLIMIT_DATA`` or ``none``, ``reason``: why not by a group, or null}.

    Raises:
        UserError: when this process may not use so many CPUs.
    """
    return {
        "threads": threads,
        "affinity": _bind(threads),
        "memory": _cap(memory_limit_bytes),
    }


def drop_cached(files: Iterable[Path]) -> None:
    """Take files out of the page cache, so that whoever reads them next is charged for them.

    Pages belong to the group that read them first. Weights that another process left in the cache
    would not count against the cap of this one.
    """
    for file in files:
        with open(file, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bind(threads: int) -> list[int] | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    if threads > len(allowed):
        raise UserError(
            f"more threads than CPUs that this process may use ({len(allowed)})",
            file=FILE,
            field="threads",
            value=threads,
            fix=f"use {len(allowed)} or fewer, or allow it more CPUs",
        )
    chosen = _in_order(allowed)[:threads]
    os.sched_setaffinity(0, chosen)
    return sorted(chosen)


def _in_order(cpus: Iterable[int]) -> list[int]:
    """The fastest kind of core first, then one CPU of each physical core before the second."""
    used: Counter[str] = Counter()
    ranks = []
    for cpu in sorted(cpus):
        folder = CPUS / f"cpu{cpu}"
        core = read_text(folder / "topology" / "thread_siblings_list") or str(cpu)
        ranks.append((-int(read_text(folder / "cpu_capacity") or 0), used[core], cpu))
        used[core] += 1
    return [cpu for *_, cpu in sorted(ranks)]


def _cap(limit_bytes: int | None) -> MemoryLimit:
    def limit(enforced_by: str, reason: str | None = None) -> MemoryLimit:
        return {"limit_bytes": limit_bytes, "enforced_by": enforced_by, "reason": reason}

    if limit_bytes is None:
        return limit("none")
    reason = "no control group could be made"
    if _VARIABLE in os.environ:
        version, _, folder = os.environ[_VARIABLE].partition(":")
        try:
            Path(folder, "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        except OSError as error:
            reason = f"the control group could not be joined: {error.strerror}"
        else:
            return limit(f"cgroup v{version}")
    if sys.platform != "linux":
        return limit("none", f"{sys.platform} has no cap that holds")
    # Not RLIMIT_AS: it counts addresses, and allocators and GPU libraries reserve many times what
    # they use. RLIMIT_DATA counts private writable memory. It leaves out mapped files.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    capped = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (capped, capped))
    return limit("RLIMIT_DATA", f"{reason}; mapped files are not counted")


def _make_group(limit_bytes: int) -> MemoryGroup | None:
    for version, parent in _parents():
        for left in parent.glob(f"{_PREFIX}[0-9]*"):
            if not psutil.pid_exists(int(left.name.removeprefix(_PREFIX))):
                _remove(left)
        folder = parent / f"{_PREFIX}{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            _write_cap(folder, version, limit_bytes)
        except OSError:
            folder.rmdir()
        else:
            return MemoryGroup(folder, version)
    return None


def _write_cap(folder: Path, version: int, limit_bytes: int) -> None:
    memory, swap = {
        2: ("memory.max", "memory.swap.max"),
        1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    }[version]
    (folder / memory).write_text(str(limit_bytes), encoding="ascii")
    if (folder / swap).exists():  # not where the kernel does not count swap
        # Version 1 counts memory and swap together.
        text = "0" if version == 2 else str(limit_bytes)
        (folder / swap).write_text(text, encoding="ascii")


def _parents() -> Iterator[tuple[int, Path]]:
    """(version, group) of this process's group that caps memory, then of those around it.

    In version 2 a group that holds processes cannot have capped groups below it, so there the
    parent is usually one of those around.
    """
    yield from control_groups("memory", process=str(PROC))


def _remove(folder: Path) -> None:
    """Remove a group; one that still holds a process is left for a later run."""
    deadline = time.monotonic() + _REMOVAL_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)


def _counts(file: Path) -> dict[str, int]:
    """The numbers of a file whose lines are a name and a number."""
    pairs = (line.split() for line in (read_text(file) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
