"""What rules ask of the run configuration, whatever they ask it for."""

from __future__ import annotations

from collections.abc import Mapping

from slm_benchmark.catalog.catalog import measured
from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.common.errors import require_known


class RuleValues:
    """Values for the directives of rules, by the wildcards of a rule.

    Args:
        run_config: The choices of this run.
    """

    def __init__(self, run_config: RunConfig) -> None:
        self.run_config = run_config
        self.catalogue = run_config.catalogue

    def model(self, model: str) -> Model:
        """The card of a model.

        Raises:
            UserError: for an unknown id.
        """
        require_known("model", model, self.catalogue.models, "models/")
        return self.catalogue.models[model]

    def entry(self, kind: str, key: str) -> dict[str, object]:
        """The measured part of an entry of config/{kind}s.yaml (or hardware.yaml).

        Raises:
            UserError: for an unknown id.
        """
        catalogues: dict[str, tuple[Mapping[str, Mapping[str, object]], str]] = {
            "dataset": (self.catalogue.datasets, "config/datasets.yaml"),
            "hardware": (self.catalogue.hardware, "config/hardware.yaml"),
        }
        known, file = catalogues[kind]
        require_known(kind, key, known, file)
        return measured(known[key])

    def session_variants(self, model: str) -> list[str]:
        """The planned variants of a model, which one session measures side by side."""
        self.model(model)
        return self.run_config.variants_of(model)
