"""Where things lie in a checkout; the only module that knows the repository's root."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = ROOT / "workflow" / "schemas"
MODELS = ROOT / "models"
CONFIG = ROOT / "config"
CUSTOM = ROOT / "custom"
RESULTS = ROOT / "results"
DOWNLOADS = ROOT / "resources" / "downloads"


def relative(path: Path | str) -> str:
    """``path`` as it reads from the repository's root, for messages and records.

    A link inside the repository keeps its own name there.
    """
    absolute, root = os.path.abspath(path), f"{ROOT}{os.sep}"
    if absolute.startswith(root):
        return absolute[len(root) :]
    # The repository may have been reached by a link.
    resolved = Path(path).resolve()
    return resolved.relative_to(ROOT).as_posix() if resolved.is_relative_to(ROOT) else str(resolved)
