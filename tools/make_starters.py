"""Collect what became of the starter models: the file behind the documentation's table.

pytest -m starters               run them; what each stage came to lies in build/starters/
python tools/make_starters.py    write benchmarks/starters.json
python tools/make_references.py  write docs/reference/starters.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.architectures import unsupported
from slm_benchmark.common.files import atomic_write_json
from slm_benchmark.common.paths import ROOT

COLLECTED = ROOT / "build" / "starters"
"""Where the tests write, a file for each model."""

TABLE = ROOT / "benchmarks" / "starters.json"

STAGES = {
    "made": "resources/models/{model}/{variant}/weights.json",
    "likelihoods": "runs/{model}/{variant}/local/starters/arc_challenge.json",
    "generation": "runs/{model}/{variant}/local/starters/gsm8k.json",
    "chat": "runs/{model}/{variant}/local/starters-chat/gsm8k.json",
    "gate": "runs/{model}/equivalence.json",
    "fidelity": "runs/{model}/{variant}/fidelity.json",
    "profile": "runs/{model}/{variant}/local/starters/performance.json",
}
"""Stage → the file that it makes."""

ONLY = {
    # The base tokenizer fills the template for all formats: one of each engine shows it.
    "chat": ("base", "gguf-f16"),
    "gate": ("gguf-f16",),
    "fidelity": ("gptq-4bit", "awq-4bit", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m"),
}
"""Stage → the formats that have it, where not all have."""


def files(card: Mapping[str, Any], variant: str) -> dict[str, str]:
    """Stage → file, of one format of a model.

    Args:
        card: The model's card.
        variant: The format.
    """
    return {
        stage: pattern.format(model=card["id"], variant=variant)
        for stage, pattern in STAGES.items()
        if variant in ONLY.get(stage, (variant,))
    }


def targets(card: Mapping[str, Any]) -> list[str]:
    """What to ask Snakemake for: every file of every format that the architecture allows."""
    wanted = [
        file
        for variant in ("base", *card["quantizations"])
        if unsupported(card["architecture"], variant) is None
        for file in files(card, variant).values()
    ]
    return list(dict.fromkeys(wanted))


def stages(root: Path, card: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Format → stage → state, and the reason where there is one, after a run.

    Args:
        root: The checkout that it ran in.
        card: The model's card.
    """
    states: dict[str, dict[str, dict[str, str]]] = {}
    for variant in ("base", *card["quantizations"]):
        reason = unsupported(card["architecture"], variant)
        states[variant] = {
            stage: {"state": "not_applicable", "reason": reason} if reason else _state(root / file)
            for stage, file in files(card, variant).items()
        }
    return states


def _state(file: Path) -> dict[str, str]:
    """The state of a stage by its file: a record has its own, weights are there or not."""
    if not file.exists():
        return {"state": "failed"}
    record = json.loads(file.read_text(encoding="utf-8"))
    state = {"state": str(record.get("state", "ok"))}
    if record.get("kind") == "equivalence":
        state = {"state": "ok" if record["passed"] else "failed"}
    return state | ({"reason": record["reason"]} if record.get("reason") else {})


def main() -> int:
    """Write the file; models that did not run keep what they have."""
    known = json.loads(TABLE.read_text(encoding="utf-8"))["models"] if TABLE.exists() else {}
    for file in COLLECTED.glob("*.json"):
        known[file.stem] = json.loads(file.read_text(encoding="utf-8"))
    atomic_write_json(TABLE, {"models": dict(sorted(known.items()))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
