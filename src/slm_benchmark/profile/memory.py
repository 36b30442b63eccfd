"""Peak memory of this process, as the kernel counts it.

Resident pages are counted: anonymous memory, and the pages of mapped files that this process has
touched. So the weights of a memory-mapped GGUF file count once, as part of the process; copies of
the same pages in the page cache are the same pages, and what the cache holds beyond them is not
counted.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Peak resident memory above the level at the time of making.

    On Linux the kernel's own high-water mark is read, so no peak is missed between samples. The
    mark is reset first where the kernel allows it; otherwise, and on other systems, it is the
    peak since the process began, which a fresh process has not passed by much.
    """

    def __init__(self) -> None:
        self.was_reset = _reset_mark()
        self._before_bytes = status_bytes("VmRSS") if self.was_reset else _mark_bytes()

    def grown_bytes(self) -> int:
        """Peak minus the level before."""
        return max(0, _mark_bytes() - self._before_bytes)

    def details(self) -> dict[str, int | bool | None]:
        """The numbers behind it, in bytes: the level before, the peak, and what is resident now."""
        linux = _STATUS.exists()
        return {
            "before_bytes": self._before_bytes,
            "peak_bytes": _mark_bytes(),
            "mark_was_reset": self.was_reset,
            "resident_anonymous_bytes": status_bytes("RssAnon") if linux else None,
            "resident_files_bytes": status_bytes("RssFile") if linux else None,
        }


def status_bytes(field: str) -> int:
    """A size of /proc/self/status, such as ``VmRSS``, in bytes."""
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def _mark_bytes() -> int:
    if _STATUS.exists():
        return status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
