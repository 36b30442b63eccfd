"""What of the machine this process may use, which can be less than what can be seen of it.

A container, a scheduler, an administrator or a user may give a process a part of the CPUs and of
the memory. Threads, budgets of memory and numbers of jobs follow that part. The kernel's files are
read anew at each call, as a limit can change while a process runs.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

JOBS_AT_ONCE = "SLM_BENCHMARK_JOBS_AT_ONCE"
"""Variable in which a run of the workflow tells its jobs how many of them share the memory."""

_UNLIMITED_BYTES = 1 << 60
"""Version 1 of control groups writes a number near 2^63 where there is no limit."""

_ADDRESS_LIMITS = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
"""Limits of a process (ulimit -v and -d), and what the kernel calls that which counts for them."""


class Limit(TypedDict):
    """A limit that leaves less than the machine has.

    ``of`` is ``cpus`` or ``memory_bytes``, ``value`` in that unit, ``source`` what sets it.
    """

    of: str
    value: float
    source: str


class Usable(TypedDict):
    """What this process may use: whole CPUs, bytes of memory, and the limits that make it so."""

    cpus: int
    memory_bytes: int
    limits: list[Limit]


@dataclass(frozen=True)
class System:
    """Where limits are looked up.

    Attributes:
        root: Folder in which the kernel's files lie.
        environment: Variables, in which a scheduler tells what it has allocated.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def text(self, path: str | Path) -> str:
        """The text of a file of the kernel; empty where it is not there."""
        return _text(self.root / str(path).lstrip("/"))


HERE = System()


def usable(system: System = HERE) -> Usable:
    """What this process may use, with the limits that are below what can be seen."""
    cpus, memory_bytes = visible_cpus(), visible_memory_bytes()
    limits: list[Limit] = [
        {"of": of, "value": value, "source": source}
        for of, seen, sources in (
            ("cpus", cpus, cpu_limits(system)),
            ("memory_bytes", memory_bytes, memory_limits(system)),
        )
        for source, value in sources.items()
        if value < seen
    ]
    return {
        "cpus": usable_cpus(system),
        "memory_bytes": usable_memory_bytes(system),
        "limits": limits,
    }


def visible_cpus() -> int:
    """Logical CPUs of the machine."""
    return os.cpu_count() or 1


def visible_memory_bytes() -> int:
    """Memory of the machine."""
    import psutil

    return int(psutil.virtual_memory().total)


def usable_cpus(system: System = HERE) -> int:
    """CPUs that this process may keep busy, at least one.

    A share of a CPU is left out: one more thread than whole CPUs would be stopped again and again.
    """
    return max(1, int(min([visible_cpus(), *cpu_limits(system).values()])))


def usable_memory_bytes(system: System = HERE) -> int:
    """Memory that this process may fill when nothing else does."""
    return min([visible_memory_bytes(), *memory_limits(system).values()])


def free_memory_bytes(system: System = HERE) -> int:
    """Memory that this process could still take: the least that the machine and a limit leave."""
    import psutil

    left = [int(psutil.virtual_memory().available)]
    for version, folder, limit in _capped_groups(system):
        left.append(limit - _used_bytes(system, version, folder))
    status = system.text("proc/self/status")
    for name, limit in _process_limits().items():
        used = re.search(rf"(?m)^{_ADDRESS_LIMITS[name]}:\s*(\d+) kB", status)
        left.append(limit - (1024 * int(used[1]) if used else 0))
    left += _allocated_bytes(system.environment).values()
    return max(0, min(left))


def default_threads(system: System = HERE) -> int:
    """Threads where nobody chose a number: the usable CPUs, fewer where OMP_NUM_THREADS says so."""
    chosen = _first_number(system.environment.get("OMP_NUM_THREADS"))
    return min(filter(None, (usable_cpus(system), chosen)))


def cpu_limits(system: System = HERE) -> dict[str, float]:
    """Source → CPUs, for each limit on CPUs that holds for this process."""
    limits: dict[str, float] = {}
    if hasattr(os, "sched_getaffinity"):
        limits["affinity"] = len(os.sched_getaffinity(0))
    for version, folder in control_groups("cpu", system):
        if version == 2:
            quota, _, period = system.text(folder / "cpu.max").partition(" ")
        else:
            quota = system.text(folder / "cpu.cfs_quota_us")
            period = system.text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            limits[f"CPU quota of the control group {folder}"] = int(quota) / int(period)
    return limits | _allocated_cpus(system.environment)


def memory_limits(system: System = HERE) -> dict[str, int]:
    """Source → bytes, for each limit on memory that holds for this process."""
    limits = {
        f"memory limit of the control group {folder}": limit
        for _, folder, limit in _capped_groups(system)
    }
    return limits | _process_limits() | _allocated_bytes(system.environment)


def throttled_s(system: System = HERE) -> float | None:
    """Seconds for which a CPU quota has stopped this process's group; None = they are not counted.

    Of nested groups the one that was stopped longest counts.
    """
    seconds = []
    for version, folder in control_groups("cpu", system):
        name, unit_s = ("throttled_usec", 1e-6) if version == 2 else ("throttled_time", 1e-9)
        if counted := re.search(rf"(?m)^{name} (\d+)", system.text(folder / "cpu.stat")):
            seconds.append(unit_s * int(counted[1]))
    return max(seconds, default=None)


def control_groups(
    controller: str, system: System = HERE, process: str = "proc/self"
) -> Iterator[tuple[int, Path]]:
    """(version, folder) of this process's group under a controller, then of those around it.

    Args:
        controller: Such as ``memory``.
        system: Where to look; the folders are as its root shows them.
        process: Folder of the process below the root.
    """
    paths: dict[str, str] = {}
    for line in system.text(f"{process}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = path
    for line in system.text(f"{process}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if kind not in paths or (kind == "cgroup" and controller not in options.split(",")):
            continue
        inside = paths[kind].removeprefix(root if root != "/" else "").lstrip("/")
        top = Path(mount)
        there = (system.root / str(top / inside).lstrip("/")).is_dir()
        innermost = top / inside if there else top
        for group in [innermost, *innermost.parents]:
            yield (1 if kind == "cgroup" else 2), group
            if group == top:
                break


def _capped_groups(system: System) -> Iterator[tuple[int, Path, int]]:
    """(version, folder, bytes) of each group around this process that has a limit on memory."""
    for version, folder in control_groups("memory", system):
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        texts = [system.text(folder / name) for name in names]
        limits = [int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED_BYTES]
        if limits:
            yield version, folder, min(limits)


def _used_bytes(system: System, version: int, folder: Path) -> int:
    """Memory of a group, without pages of files that the kernel would drop for others."""
    used, dropped = {
        2: ("memory.current", "inactive_file"),
        1: ("memory.usage_in_bytes", "total_inactive_file"),
    }[version]
    text = system.text(folder / used)
    droppable = re.search(rf"(?m)^{dropped} (\d+)", system.text(folder / "memory.stat"))
    return max(0, (int(text) if text.isdigit() else 0) - (int(droppable[1]) if droppable else 0))


def _process_limits() -> dict[str, int]:
    """Name → bytes, for each limit of this process (ulimit) that is set."""
    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in _ADDRESS_LIMITS}
    return {name: limit for name, limit in limits.items() if limit != resource.RLIM_INFINITY}


def _allocated_cpus(environment: Mapping[str, str]) -> dict[str, float]:
    """Variable → CPUs that a scheduler has allocated on this machine."""
    per_task = _first_number(environment.get("SLURM_CPUS_PER_TASK"))
    tasks = _first_number(environment.get("SLURM_TASKS_PER_NODE")) or 1
    in_pbs = any(name.startswith("PBS_") for name in environment)
    allocated = {
        "SLURM_CPUS_PER_TASK": per_task and per_task * tasks,
        "SLURM_CPUS_ON_NODE": _first_number(environment.get("SLURM_CPUS_ON_NODE")),
        "SLURM_JOB_CPUS_PER_NODE": _first_number(environment.get("SLURM_JOB_CPUS_PER_NODE")),
        "PBS_NUM_PPN": _first_number(environment.get("PBS_NUM_PPN")),
        "NCPUS": _first_number(environment.get("NCPUS")) if in_pbs else None,
        "LSB_DJOB_NUMPROC": _first_number(environment.get("LSB_DJOB_NUMPROC")),
        "NSLOTS": _first_number(environment.get("NSLOTS")),
    }
    return {name: float(cpus) for name, cpus in allocated.items() if cpus}


def _allocated_bytes(environment: Mapping[str, str]) -> dict[str, int]:
    """Variable → bytes that SLURM has allocated on this machine; it writes MiB, 0 for all."""
    per_node = _first_number(environment.get("SLURM_MEM_PER_NODE"))
    per_cpu = _first_number(environment.get("SLURM_MEM_PER_CPU"))
    cpus = _allocated_cpus(environment)
    on_node = int(cpus.get("SLURM_CPUS_ON_NODE") or cpus.get("SLURM_CPUS_PER_TASK") or 1)
    allocated = {
        "SLURM_MEM_PER_NODE": per_node,
        "SLURM_MEM_PER_CPU": per_cpu and per_cpu * on_node,
    }
    return {name: mib << 20 for name, mib in allocated.items() if mib}


def _first_number(text: str | None) -> int | None:
    """The number that a variable begins with, as in ``16(x2),4``; None for none, and for zero."""
    match = re.match(r"\s*(\d+)", text or "")
    return int(match[1]) or None if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
