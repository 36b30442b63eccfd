"""The processes of this machine, as /proc shows them: what a sandbox uses, and what is left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FRESH_S = 0.015


@dataclass(frozen=True)
class Process:
    """One row of the table.

    Attributes:
        parent: Id of the parent process.
        user: User id of the owner.
        cpu_s: Processor time of it and of the children that it has waited for.
        threads: How many threads it has.
        resident_bytes: Its memory, shared pages included.
    """

    parent: int
    user: int
    cpu_s: float
    threads: int
    resident_bytes: int


_lock = threading.Lock()
_last: tuple[float, dict[int, Process]] = (float("-inf"), {})


def process_table() -> dict[int, Process]:
    """All processes by id, at most 15 ms old: supervisors that look often share one reading."""
    global _last
    with _lock:
        if time.monotonic() - _last[0] > _FRESH_S:
            _last = (time.monotonic(), read_process_table())
        return _last[1]


def read_process_table() -> dict[int, Process]:
    """All processes by id, as they are now."""
    table = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                user = os.fstat(stream.fileno()).st_uid
                # The name of a program is in parentheses and may hold any byte.
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        ticks = sum(int(field) for field in fields[11:15])
        table[int(name)] = Process(
            parent=int(fields[1]),
            user=user,
            cpu_s=ticks / _TICKS_PER_S,
            threads=int(fields[17]),
            resident_bytes=int(fields[21]) * _PAGE_BYTES,
        )
    return table


def below(ancestor: int, table: Mapping[int, Process]) -> list[int]:
    """Ids of all descendants of a process, parents before their children."""
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    descendants = list(children.get(ancestor, []))
    for pid in descendants:
        descendants += children.get(pid, [])
    return descendants


def memory_bytes(pids: list[int], table: Mapping[int, Process]) -> int:
    """Memory of processes, shared pages counted once for each of them."""
    return sum(table[pid].resident_bytes for pid in pids)


def proportional_memory_bytes(pids: list[int], table: Mapping[int, Process]) -> int:
    """Memory of processes, shared pages counted once in all; dearer to read."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
                total += next(int(s.split()[1]) * 1024 for s in stream if s.startswith(b"Pss:"))
        except (OSError, StopIteration):
            total += table[pid].resident_bytes
    return total
