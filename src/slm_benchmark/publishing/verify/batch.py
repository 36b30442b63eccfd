"""Verifying all current cells of a folder, each in a process of its own, as the workflow has it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.common.paths import relative
from slm_benchmark.publishing.verify.verdict import EXIT_CODES, Outcome
from slm_benchmark.records.store import current_records, is_record, read_run


@dataclass(frozen=True)
class Row:
    """What became of one record.

    Attributes:
        path: Its file.
        verdict: A key of `EXIT_CODES`.
        reason: A sentence.
        rerun: Documents that were run again.
        total: Documents of the record.
        duration_s: How long it took, loading of libraries and the model included.
    """

    path: Path
    verdict: str
    reason: str
    rerun: int
    total: int
    duration_s: float

    def as_json(self) -> dict[str, object]:
        """The row as JSON values."""
        return {
            "path": relative(self.path),
            "verdict": self.verdict,
            "reason": self.reason,
            "asked": self.rerun,
            "total": self.total,
            "duration_s": self.duration_s,
        }


def find_cells(folder: Path) -> list[Path]:
    """The records of scores that stand for their cells, and every one that cannot be read.

    Raises:
        UserError: when there is none.
    """
    if not folder.is_dir():
        raise UserError("not a folder", file=folder, fix="name a folder of records")
    readable, broken = [], []
    for path in sorted(filter(is_record, folder.rglob("*.json"))):
        try:
            content = read_json(path)
        except UserError:
            broken.append(path)
            continue
        if not isinstance(content, dict) or content.get("kind") != "score":
            continue
        try:
            read_run(path)
        except UserError:
            broken.append(path)
        else:
            readable.append(path)
    cells = sorted([*broken, *(path for path, _ in current_records(readable, ("score",)))])
    if not cells:
        raise UserError("no record of a score here", file=folder, fix="name another folder")
    return cells


def verify_all(cells: Sequence[Path], options: Sequence[str]) -> Iterator[Row]:
    """Verify records one after the other; one that cannot be run does not stop the others.

    Args:
        cells: Files of the records.
        options: Options of ``slm-benchmark verify`` for each of them.

    Yields:
        A row for each record, once it is verified.
    """
    # One folder for all, so that nothing is left of a process that was killed.
    with tempfile.TemporaryDirectory(prefix="slm-verify-") as name:
        for path in cells:
            began = time.monotonic()
            file = Path(name, "report.json")
            file.unlink(missing_ok=True)
            command = [sys.executable, "-m", "slm_benchmark.cli", "verify", str(path)]
            done = subprocess.run(
                [*command, "--report", str(file), *options],
                env={**os.environ, "TMPDIR": name},
                check=False,
            )
            outcome = _outcome(file, done.returncode)
            duration_s = round(time.monotonic() - began, 1)
            verdict, reason = outcome.verdict, outcome.reason
            yield Row(path, verdict, reason, outcome.rerun, outcome.total, duration_s)


def _outcome(file: Path, code: int) -> Outcome:
    """The outcome that a process reported; one that ended without a report verified nothing."""
    if not file.exists():
        reason = f"its process ended with code {code} before it came to a verdict"
        return Outcome("not verified", reason)
    report = read_json(file)
    return Outcome(report["verdict"], report["reason"], report["asked"], report["total"])


def worst(rows: Sequence[Row]) -> int:
    """The highest exit code of all rows."""
    return max(EXIT_CODES[row.verdict] for row in rows)


def render_table(rows: Sequence[Row]) -> str:
    """All rows as Markdown, and how many there are of each verdict."""
    lines = ["| Record | Verdict | Documents | Seconds | Why |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        why = row.reason.replace("|", "\\|")
        share = f"{row.rerun} of {row.total}" if row.total else "–"
        cells = (relative(row.path), row.verdict, share, f"{row.duration_s:.0f}", why)
        lines.append(f"| {' | '.join(cells)} |")
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in EXIT_CODES if v in verdicts)
    return "\n".join([*lines, "", f"{len(rows)} records: {counts}"])
