"""FLORES+: documents of one direction, and what each contributes to chrF and BLEU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.tasks.corpus_metrics import (
    bleu,
    bleu_statistics,
    bleu_tokenizer,
    chrf,
    chrf_statistics,
)
from slm_benchmark.tasks.extra.flores.languages import LANGUAGES

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["bleu", "chrf", "documents", "process_results"]


def documents(splits: Mapping[str, Dataset], direction: str) -> dict[str, Dataset]:
    """The sentences of one direction, from the table of all languages.

    Args:
        splits: Split → rows with one ``sentence_{code}`` per language, as the reader
            ``flores_plus`` makes them.
        direction: Codes of the source and the target, such as ``eng_Latn-deu_Latn``.

    Returns:
        Split → rows of ``id``, ``source``, ``target``, the languages' English names and the code of
        the target.

    Raises:
        UserError: when the direction is not two known languages that the dataset has.
    """
    codes = direction.split("-")
    if len(codes) != 2 or codes[0] == codes[1]:
        raise _unknown(direction, direction, "write two codes, such as eng_Latn-deu_Latn")
    for code in codes:
        if code not in LANGUAGES:
            raise _unknown(direction, code, "use a code of FLORES+, such as deu_Latn")
        for split in splits.values():
            if f"sentence_{code}" not in split.column_names:
                fix = "add the language to config/datasets.yaml: flores_plus.parts"
                raise _unknown(direction, code, fix)
    source, target = codes
    return {name: _direction(split, source, target) for name, split in splits.items()}


def _direction(split: Dataset, source: str, target: str) -> Dataset:
    wanted = {"id": "id", f"sentence_{source}": "source", f"sentence_{target}": "target"}
    chosen = split.select_columns(list(wanted)).rename_columns(wanted)
    for column, value in (
        ("source_language", LANGUAGES[source]),
        ("target_language", LANGUAGES[target]),
        ("target_code", target),
    ):
        chosen = chosen.add_column(column, [value] * len(chosen))
    return chosen


def _unknown(direction: str, value: str, fix: str) -> UserError:
    return UserError(
        f"the direction {direction} cannot be translated",
        file="config/tasks.yaml",
        field="flores_200.parts",
        value=value,
        fix=fix,
    )


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, list[int]]:
    """Counts of one translation, for both metrics. An empty one counts, and scores nothing."""
    written, wanted = results[0].strip(), doc["target"]
    return {
        "chrf": chrf_statistics(written, wanted),
        "bleu": bleu_statistics(written, wanted, bleu_tokenizer(doc["target_code"])),
    }
