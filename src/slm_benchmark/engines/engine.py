"""A model that the harness can ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slm_benchmark.engines.settings import Settings
from slm_benchmark.records.types import EngineBlock


@dataclass(frozen=True)
class Engine:
    """A model ready to be asked by the harness.

    Attributes:
        lm: The harness's language model.
        identity: The cell schema's ``engine`` block.
        settings: How it runs the model.
    """

    lm: Any
    identity: EngineBlock
    settings: Settings

    def close(self) -> None:
        """Give the model's memory back."""
        self.lm.model.close()
