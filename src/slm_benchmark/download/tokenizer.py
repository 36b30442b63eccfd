"""Loading a model's tokenizer, and every way in which its files can be broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.download.context import read_configuration

_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
"""Files of a tokenizer that are JSON objects."""

_VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.json", "vocab.txt", "tekken.json", "*.tiktoken"),
)
"""Files of which a tokenizer has at least one."""

_TEXT = "The quick brown fox: 12"

_AGAIN = "fetch the tokenizer's files again, from the repository that holds the model"


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a model's folder, as Transformers loads it.

    Args:
        folder: In Transformers format.
        trust_remote_code: Whether the tokenizer's own code may run.

    Raises:
        UserError: when it cannot be loaded, or encodes nothing.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a library makes of files that are not its own
        raise _refusal(folder, error, trust_remote_code) from error
    # Without its files, Transformers makes some tokenizers up, with a vocabulary of nothing.
    if not tokenizer.encode(_TEXT, add_special_tokens=False):
        raise _refusal(folder, None, trust_remote_code)
    return tokenizer


def check_rows(tokenizer: Any, folder: Path, rows: int) -> None:
    """Refuse a tokenizer whose words go beyond a model's embeddings; added tokens may.

    Args:
        tokenizer: Of Transformers.
        folder: That of its files.
        rows: Rows of the model's embeddings.

    Raises:
        UserError: naming the last token.
    """
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder)
    if ordinary and max(ordinary) >= rows:
        raise beyond_rows(tokenizer, folder, rows, max(ordinary))


def beyond_rows(tokenizer: Any, folder: Path, rows: int, token: int) -> UserError:
    """An error about a token that the model has no embedding for."""
    return UserError(
        f"the token {tokenizer.convert_ids_to_tokens(token)!r} has number {token}, and the "
        f"model has {rows} rows of embeddings",
        file=folder / "tokenizer.json",
        field="vocabulary",
        value=len(tokenizer),
        fix="use the tokenizer that the model was trained with, or leave this token out",
    )


def _refusal(folder: Path, error: Exception | None, trust_remote_code: bool) -> UserError:
    """What is wrong with the files, in one line that names one of them."""
    for name in _JSON:
        if (folder / name).is_file():
            try:
                read_configuration(folder / name)
            except UserError as broken:
                return broken
    # A vocabulary of tokens that Python code reads may have any name.
    code = _code(folder)
    if code is None and not any(any(folder.glob(name)) for name in _VOCABULARIES):
        return UserError(
            "the file is missing, and no other holds a vocabulary",
            file=folder / "tokenizer.json",
            fix=_AGAIN,
        )
    if code is not None and not trust_remote_code:
        return UserError(
            "the tokenizer needs its own code, which the card does not allow",
            file=folder / "tokenizer_config.json",
            field="auto_map.AutoTokenizer",
            value=code,
            fix="see remote_code in docs/how-to/adding-a-model.md",
        )
    what = "it encodes a text to nothing"
    if error is not None:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
    if (folder / "tokenizer.json").is_file():
        return UserError(
            f"no tokenizer that can be loaded: {what}",
            file=folder / "tokenizer.json",
            field="model",
            fix=_AGAIN,
        )
    described = _described(folder)
    return UserError(
        f"no tokenizer that can be loaded without a tokenizer.json: {what}",
        file=folder / "tokenizer_config.json",
        field="tokenizer_class",
        value=described.get("tokenizer_class"),
        fix=_AGAIN,
    )


def _code(folder: Path) -> Any:
    """What tokenizer_config.json says of the tokenizer's own code; None where it has none."""
    classes = _described(folder).get("auto_map")
    return classes.get("AutoTokenizer") if isinstance(classes, dict) else classes


def _described(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_configuration(file) if file.is_file() else {}
