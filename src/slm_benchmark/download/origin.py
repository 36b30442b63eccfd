"""Where the files of a base model come from, for messages about them."""

from __future__ import annotations

from dataclasses import dataclass

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError

FIELDS = {"hub": "hf_model_id", "package": "source.file", "local": "source.path"}
"""Type of a source → the field of a card that names it."""


@dataclass(frozen=True)
class Origin:
    """The line of a card that names the source of a model.

    Attributes:
        file: The card.
        field: The field of the card.
        value: What the field holds.
    """

    file: str
    field: str
    value: str

    @classmethod
    def of(cls, model: Model) -> Origin:
        """The origin of a model's files, from its card."""
        field = FIELDS[model.source["type"]]
        key = field.removeprefix("source.")
        return cls(model.file, field, model.hf_model_id if key == field else model.source[key])

    def refuse(self, message: str, fix: str) -> UserError:
        """An error about the source."""
        return UserError(message, file=self.file, field=self.field, value=self.value, fix=fix)
