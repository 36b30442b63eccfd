"""The texts that GPTQ and AWQ see: the same rows of one pinned dataset for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest
from slm_benchmark.records.types import CalibrationBlock


@dataclass(frozen=True)
class Calibration:
    """Calibration texts as token ids.

    Attributes:
        name: Id of the dataset.
        rows: One list of token ids per text.
    """

    name: str
    rows: list[list[int]]

    def manifest(self) -> CalibrationBlock:
        """The manifest's ``calibration`` block; the hash covers the token ids."""
        return {
            "name": self.name,
            "sha256": digest(self.rows),
            "texts": len(self.rows),
            "tokens": sum(map(len, self.rows)),
        }


def load_calibration(
    dataset: Path, base: Path, texts: int, tokens: int, trust_remote_code: bool = False
) -> Calibration:
    """Join the passages of a prepared dataset into ``texts`` rows of ``tokens`` tokens each.

    Args:
        dataset: Prepared dataset with a split ``train`` whose rows have a field ``text``.
        base: Folder of the base model, whose tokenizer encodes.
        texts: Number of rows.
        tokens: Length of every row, in tokens.
        trust_remote_code: Whether the tokenizer's own code may run.

    Raises:
        UserError: when the dataset is too short.
    """
    from slm_benchmark.download.datasets import load_splits
    from slm_benchmark.download.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base, trust_remote_code)
    rows: list[list[int]] = []
    buffer: list[int] = []
    for row in load_splits(dataset)["train"]:
        buffer += tokenizer.encode(row["text"] + "\n\n", add_special_tokens=False)
        while len(buffer) >= tokens and len(rows) < texts:
            rows.append(buffer[:tokens])
            buffer = buffer[tokens:]
        if len(rows) == texts:
            return Calibration(dataset.name, rows)
    raise UserError(
        f"the calibration dataset {dataset.name} yields only {len(rows)} rows of {tokens} tokens",
        file="config/config.yaml",
        field="quantization.calibration.texts",
        value=texts,
        fix=f"ask for at most {len(rows)} texts",
    )
