"""What a process sets right about where it runs, before it works: its terminal and its proxy."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import MutableMapping

OWN_ADDRESSES = ("localhost", "127.0.0.1", "::1")
"""Names of this machine, for which no proxy is asked."""


def settle() -> None:
    """Let any terminal show any text, and reach this machine's own servers without a proxy."""
    show_any_text()
    bypass_proxy()


def show_any_text() -> None:
    """Write what a terminal cannot show, such as an ellipsis on an ASCII one, as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def bypass_proxy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Ask no proxy for an address of this machine: a judge, or a stand-in for the hub.

    Libraries read one spelling or the other; the lower case wins where both are there.
    """
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if "*" in names:
        return
    missing = [address for address in OWN_ADDRESSES if address not in names]
    for variable in ("no_proxy", "NO_PROXY"):
        environment[variable] = ",".join([*names, *missing])
