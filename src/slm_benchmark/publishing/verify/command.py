"""What ``slm-benchmark verify`` prints and how it ends."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json
from slm_benchmark.common.paths import RESULTS, relative
from slm_benchmark.publishing.verify.verdict import EXIT_CODES, Outcome, render

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def verify_one(options: argparse.Namespace) -> int:
    """Verify the record that the options name.

    Returns:
        The exit code of its verdict.

    Raises:
        UserError: when it cannot be run; with a report, that is what the report says.
    """
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.publishing.verify.cell import VerifyOptions, verify

    # A polite kill cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What the harness says while it loads tasks is for its own users.
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    verify_options = VerifyOptions(options.documents, options.seed, options.threads, options.keep)
    try:
        outcome = verify(options.path, load_catalogue(), verify_options)
    except UserError as error:
        if options.report is None:
            raise
        outcome = Outcome("not verified", str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    if options.report is not None:
        atomic_write_json(options.report, outcome.as_json())
    print(render(outcome, relative(options.path)), flush=True)
    return EXIT_CODES[outcome.verdict]


def verify_release(options: argparse.Namespace) -> int:
    """Verify all current cells of the folder that the options name.

    Returns:
        The highest exit code.

    Raises:
        UserError: when no score is there.
    """
    from slm_benchmark.publishing.verify.batch import (
        Row,
        find_cells,
        render_table,
        verify_all,
        worst,
    )

    folder: Path = RESULTS if options.path is None else options.path
    cells = find_cells(folder)
    rows: list[Row] = []
    arguments = [f"--seed={options.seed}"]
    for name in ("documents", "threads", "keep"):
        if (value := getattr(options, name)) is not None:
            arguments.append(f"--{name}={value}")
    try:
        rows.extend(verify_all(cells, arguments))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    if options.report is not None:
        atomic_write_json(options.report, [row.as_json() for row in rows])
    print(f"\n{render_table(rows)}")
    return worst(rows)
