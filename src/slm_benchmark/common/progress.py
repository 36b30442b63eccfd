"""Plain progress lines: to the log, and to the person who watches the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

INTERVAL_S = 10.0
"""Least time between two lines of one job."""

terminal: TextIO | None = None
"""Set by the adapter of a job, whose own output goes to its log."""


def say(line: str) -> None:
    """Print a line to standard error and, in a job of the workflow, to the terminal too."""
    for stream in filter(None, (sys.stderr, terminal)):
        print(line, file=stream, flush=True)


def documents(label: str) -> Callable[[int, int], None]:
    """A callback that tells how many documents are done, of how many, and the time to go.

    Args:
        label: What is being measured.
    """
    began = printed = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed
        moment = time.monotonic()
        if done < total and moment - printed < INTERVAL_S:
            return
        printed = moment
        left_s = (moment - began) / done * (total - done)
        say(f"{label}: {done}/{total} documents, {left_s:.0f} s to go")

    return report
