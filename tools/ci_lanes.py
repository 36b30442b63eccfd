"""The lanes of CI: which tests are in which, and which of them a change needs.

    BASE=main python tools/ci_lanes.py      the lanes for what changed since; without BASE all

Prints ``lanes=["quick", …]``, as a job of a workflow hands it on. The standard library only: this
runs before the set-up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MARKERS = ("model", "workflow", "browser", "sandbox", "starters")
"""Markers of tests; each has a lane of its name. What carries none is in the quick lane."""

BY_NAME = ("starters",)
"""Markers of long lanes, whose tests run only where ``-m`` names them."""

TESTS = {
    "benchmarks": "model",
    "browser": "browser",
    "engines": "model",
    "evaluation": "model",
    "judge": "model",
    "quantize": "model",
    "sandbox": "sandbox",
    "starters": "starters",
    "tasks": "model",
    "workflow": "workflow",
    "catalog/test_custom.py": "model",
    "download/test_package_readers.py": "model",
    "profiling/test_roofline.py": "model",
    "profiling/test_runners.py": "model",
    "publishing/test_verify.py": "workflow",
    "records/test_mutations.py": "workflow",
    "site/test_model_pages.py": "browser",
}
"""Folder or file of tests/ → marker of all its tests."""

FIXTURES = {
    "tiny_model": "model",
    "tiny_gguf": "model",
    "tiny_gguf_f16": "model",
    "browser": "browser",
    "site": "browser",
}
"""Fixture that takes long to make → marker of the tests elsewhere that use it."""

EVERYWHERE = (
    ".ci/*",
    ".github/workflows/*",
    "activate",
    "pyproject.toml",
    "requirements.lock",
    "src/slm_benchmark/common/*",
    "src/slm_benchmark/records/*",
    "tests/conftest.py",
    "tests/support/*",
    "tools/*",
    "workflow/schemas/*",
)
"""Patterns of paths that all lanes depend on; a ``*`` takes slashes too."""

CHANGES = {
    "static": ("*",),
    "quick": ("*",),
    "model": (
        "benchmarks/*",
        "config/*",
        "custom/*",
        "models/*",
        "src/slm_benchmark/*",
        "tests/*",
    ),
    "workflow": (
        "config/*",
        "custom/*",
        "envs/*",
        "models/*",
        "profiles/*",
        "src/slm_benchmark/*",
        "tests/publishing/*",
        "tests/records/test_mutations.py",
        "tests/workflow/*",
        "workflow/*",
    ),
    "browser": (
        "config/*",
        "mkdocs.yml",
        "models/*",
        "src/slm_benchmark/catalog/*",
        "src/slm_benchmark/leaderboard/*",
        "src/slm_benchmark/site/*",
        "src/slm_benchmark/statistics/*",
        "tests/browser/*",
        "tests/site/*",
    ),
    "sandbox": (
        "src/slm_benchmark/sandbox/*",
        "src/slm_benchmark/tasks/*",
        "tests/sandbox/*",
    ),
    "starters": (
        "models/*",
        "src/slm_benchmark/quantize/*",
        "tests/starters/*",
    ),
    "docs": (
        "*.md",
        "config/*",
        "docs/*",
        "mkdocs.yml",
        "models/*",
        "results/*",
        "src/slm_benchmark/leaderboard/*",
        "src/slm_benchmark/site/*",
        "src/slm_benchmark/workflow/*",
        "workflow/*",
    ),
}
"""Lane → patterns of the paths whose change it checks, beside those of `EVERYWHERE`."""

UNRELATED = {
    "model": (
        "src/slm_benchmark/export/*",
        "src/slm_benchmark/leaderboard/*",
        "src/slm_benchmark/publishing/*",
        "src/slm_benchmark/site/*",
        "src/slm_benchmark/workflow/*",
        "tests/browser/*",
        "tests/sandbox/*",
        "tests/starters/*",
        "tests/workflow/*",
    ),
}
"""Lane → patterns of paths that it checks nothing of, although `CHANGES` names them."""


def marker(path: str) -> str | None:
    """Marker of all tests of a file, by its path below tests/; None where each has its own."""
    return TESTS.get(path) or TESTS.get(path.partition("/")[0])


def lanes(changed: Iterable[str]) -> list[str]:
    """The lanes that check some of the paths."""
    paths = list(changed)
    return [
        lane
        for lane, patterns in CHANGES.items()
        if any(
            _matches(path, EVERYWHERE)
            or (_matches(path, patterns) and not _matches(path, UNRELATED.get(lane, ())))
            for path in paths
        )
    ]


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def changed_since(base: str, root: Path = ROOT) -> list[str]:
    """Paths that differ between the last commit and where it left ``base``, both names of a move.

    Raises:
        CalledProcessError: when git knows no such commit.
    """
    listed = subprocess.run(
        ["git", "diff", "--name-only", "--no-renames", "-z", f"{base}...HEAD", "--"],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [path for path in listed.stdout.split("\0") if path]


def main() -> int:
    """Print the lanes."""
    base = os.environ.get("BASE", "")
    # A change of nothing, such as an empty commit, still gets the lanes that take anything.
    needed = (lanes(changed_since(base)) or ["static", "quick"]) if base else list(CHANGES)
    print(f"lanes={json.dumps(needed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
