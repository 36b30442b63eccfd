"""The registry: one validated card per model in models/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.architectures import unsupported
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import MODELS, relative
from slm_benchmark.common.schemas import read_config

MAX_PARAMETERS = 3_000_000_000
"""A ranked model has at most this many parameters."""


@dataclass(frozen=True)
class Model:
    """A model card, as its schema describes it."""

    id: str
    name: str
    hf_model_id: str
    revision: str | None
    parameters: int
    architecture: str
    context_length: int
    languages: list[str]
    quantizations: list[str]
    tags: list[str]
    license: str
    gated: bool
    reference: bool
    source: dict[str, Any]
    chat: bool = False
    description: str = ""
    remote_code: dict[str, Any] | None = None
    file: str = field(default="", compare=False)

    @property
    def variants(self) -> list[str]:
        """``base`` and the quantizations of the card."""
        return ["base", *self.quantizations]

    @property
    def not_applicable(self) -> dict[str, str]:
        """Variants of the card that the architecture does not allow, with the reason."""
        reasons = {v: unsupported(self.architecture, v) for v in self.quantizations}
        return {variant: reason for variant, reason in reasons.items() if reason}

    @property
    def possible_variants(self) -> list[str]:
        """Those of `variants` that the architecture allows."""
        return [variant for variant in self.variants if variant not in self.not_applicable]

    @property
    def measured(self) -> dict[str, Any]:
        """What a measurement depends on; the rest of the card may change without a rerun."""
        return {
            "id": self.id,
            "hf_model_id": self.hf_model_id,
            "revision": self.revision,
            "source": self.source,
            "chat": self.chat,
            "remote_code": self.trust_remote_code,
        }

    @property
    def trust_remote_code(self) -> bool:
        """Whether a maintainer allows the model's own code."""
        return self.remote_code is not None and self.remote_code["allowed_by"] is not None

    @property
    def runnable(self) -> bool:
        """False for a card that needs the model's own code without a maintainer's leave."""
        return self.remote_code is None or self.trust_remote_code

    @property
    def pinned(self) -> bool:
        """Whether the bytes are fixed by the card: a commit, or a package's hash."""
        if self.source["type"] == "hub":
            return self.revision is not None
        return bool(self.source["type"] == "package")

    @property
    def warnings(self) -> list[str]:
        """What a reader of the card should know and a validator does not refuse."""
        warnings = []
        if self.source["type"] == "hub" and self.revision is None:
            warnings.append(
                f"{self.file}: revision: null is not reproducible and cannot be published. "
                f"Fix: slm-benchmark pin {self.file}"
            )
        if self.source["type"] == "local":
            warnings.append(f"{self.file}: source: local files cannot be published")
        if self.remote_code and self.remote_code["allowed_by"] is None:
            warnings.append(
                f"{self.file}: remote_code: {self.remote_code['reason']}; "
                "no maintainer has allowed it, so it will not run"
            )
        for reason in dict.fromkeys(self.not_applicable.values()):
            variants = [v for v, why in self.not_applicable.items() if why == reason]
            warnings.append(
                f"{self.file}: quantizations: not_applicable: {', '.join(variants)}: {reason}. "
                "Fix: take them out of the list, or correct architecture"
            )
        return warnings


def load_model(path: Path | str) -> Model:
    """Read one card.

    Raises:
        UserError: when the card breaks its schema or one of the registry's rules.
    """
    path = Path(path)
    shown = relative(path)
    data = read_config(path, "model")
    model = Model(**data, file=shown)
    if model.id != path.stem:
        raise UserError(
            "the id differs from the file's name",
            file=shown,
            field="id",
            value=model.id,
            fix=f"write id: {path.stem}, or rename the file to {model.id}.yaml",
        )
    if model.parameters > MAX_PARAMETERS and not model.reference:
        raise UserError(
            f"over the limit of {MAX_PARAMETERS:,} parameters",
            file=shown,
            field="parameters",
            value=model.parameters,
            fix="set reference: true to carry the model unranked, or leave it out",
        )
    if model.source.get("format") == "gguf" and "dequantised from" not in model.name:
        raise UserError(
            "a base model made from a GGUF file must say so wherever it is shown",
            file=shown,
            field="name",
            value=model.name,
            fix="add '(dequantised from <type>)' to the name",
        )
    return model


def load_registry(folder: Path | str = MODELS) -> dict[str, Model]:
    """All cards by id, in alphabetical order.

    Raises:
        UserError: for the first bad card, or when two cards share an id or a name.
    """
    models: dict[str, Model] = {}
    names: dict[str, Model] = {}
    for path in sorted(Path(folder).glob("*.y*ml")):
        model = load_model(path)
        for known, key, value in ((models, "id", model.id), (names, "name", model.name)):
            if value in known:
                raise UserError(
                    f"duplicate {key}: {known[value].file} has it too",
                    file=model.file,
                    field=key,
                    value=value,
                    fix=f"give one of the two another {key}, or delete it",
                )
        models[model.id] = names[model.name] = model
    return dict(sorted(models.items()))
