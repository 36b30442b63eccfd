"""Where things lie in a checkout; the only module that knows the repository's root."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "workflow" / "schemas"
MODELS = ROOT / "models"
CONFIG = ROOT / "config"
CUSTOM = ROOT / "custom"
RESULTS = ROOT / "results"
DOWNLOADS = ROOT / "resources" / "downloads"


def relative(path: Path | str) -> str:
    """``path`` as it reads from the repository's root, for messages and records."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
