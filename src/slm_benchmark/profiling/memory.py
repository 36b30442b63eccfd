"""Peak memory of this process above what it held before, without counting a weight twice.

Resident pages are counted, as the kernel does: anonymous memory, and the pages of mapped files that
this process has touched. So weights that are used where the file is mapped count once. Weights that
an engine copies into a layout or number format of its own would count twice, as the file's pages
stay resident beside the copies. They belong to the page cache, which gives them up at any time, so
`release_mappings` lets go of them after loading, and those that the engine needs come back with
its first forward.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.profiling.types import ProcessMemory

_PROCESS = Path("/proc/self")
_DONT_NEED = 4  # MADV_DONTNEED of sys/mman.h; the module mmap advises on its own maps only
_NOT_RESET = (
    "the kernel's high-water mark cannot be reset here: peaks are those since the process began"
)


class PeakMemory:
    """Peak resident memory, minus the level at the time of making.

    Make it before the weights are loaded, and call `loaded` after: the two peaks, while loading and
    in use, are then separate. The kernel's own high-water mark is read, so no peak is missed
    between samples; where the kernel does not let it be reset, as outside Linux, `details` says so.
    """

    def __init__(self) -> None:
        _trim_heap()
        self._resets = _reset_mark()
        self._baseline_bytes = _mark_bytes()
        self._load_peak_bytes = self._baseline_bytes

    def loaded(self) -> None:
        """Begin to measure memory in use."""
        self._load_peak_bytes = _mark_bytes()
        self._resets = _reset_mark() and self._resets

    def used_bytes(self) -> int:
        """Peak in use minus the baseline."""
        return max(0, _mark_bytes() - self._baseline_bytes)

    def details(self) -> ProcessMemory:
        """The numbers, all in bytes.

        Returns:
            ``peak_memory_bytes`` in use and ``load_peak_memory_bytes`` with loading, both minus
            ``baseline_bytes``; what is resident now, as ``resident_anonymous_bytes``,
            ``resident_file_bytes`` and ``resident_shared_bytes``; ``proportional_bytes``, where
            each page counts by how many processes share it; a ``note`` where the peaks are not what
            they should be. None where the system does not say.
        """
        used_bytes = self.used_bytes()
        load_peak_bytes = max(0, self._load_peak_bytes - self._baseline_bytes)
        return {
            "peak_memory_bytes": used_bytes,
            "load_peak_memory_bytes": max(load_peak_bytes, used_bytes),
            "baseline_bytes": self._baseline_bytes,
            "resident_anonymous_bytes": _field_bytes("status", "RssAnon"),
            "resident_file_bytes": _field_bytes("status", "RssFile"),
            "resident_shared_bytes": _field_bytes("status", "RssShmem"),
            "proportional_bytes": _field_bytes("smaps_rollup", "Pss"),
            "note": None if self._resets else _NOT_RESET,
        }


def release_mappings(files: Sequence[Path]) -> int:
    """Let go of the resident pages of mapped files; a page that is needed comes back by itself.

    A private mapping that was written to is left as it is, since its changes would be lost.

    Returns:
        Bytes of the mappings that were released; 0 on systems without /proc.
    """
    if not (_PROCESS / "smaps").exists():
        return 0
    paths = {os.path.realpath(file) for file in files}
    libc = ctypes.CDLL(None, use_errno=True)
    released = 0
    for mapping in list(_mappings()):
        if mapping.path not in paths or mapping.changed:
            continue
        start, size = ctypes.c_void_p(mapping.start), ctypes.c_size_t(mapping.size_bytes)
        # A mapping that is locked in memory refuses: then its pages are in use, and count.
        if libc.madvise(start, size, _DONT_NEED) == 0:
            released += mapping.size_bytes
    return released


@dataclass
class _Mapping:
    """A mapping of this process; ``changed``: it holds pages that differ from the file's."""

    start: int
    size_bytes: int
    path: str
    changed: bool = False


def _mappings() -> Iterator[_Mapping]:
    """Mappings of files, in the order of their addresses."""
    header = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)")
    mapping: _Mapping | None = None
    for line in (_PROCESS / "smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if match := header.fullmatch(line):
            if mapping:
                yield mapping
            start, end = int(match[1], 16), int(match[2], 16)
            mapping = _Mapping(start, end - start, match[3]) if match[3] else None
        elif mapping and line.startswith("Anonymous:"):
            mapping.changed = int(line.split()[1]) > 0
    if mapping:
        yield mapping


def _field_bytes(file: str, field: str) -> int | None:
    """A size from a file of /proc/self, such as ``VmHWM`` of ``status``."""
    try:
        lines = (_PROCESS / file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) * 1024 if values else None


def _mark_bytes() -> int:
    """The most that was resident since the mark was reset, or else since the process began."""
    mark_bytes = _field_bytes("status", "VmHWM")
    if mark_bytes is not None:
        return mark_bytes
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def _trim_heap() -> None:
    """Give back what was freed: a model that moves into it would not be seen to grow."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU library alone
    if trim:
        trim(ctypes.c_size_t(0))


def _reset_mark() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
