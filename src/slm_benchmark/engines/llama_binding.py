"""The binding of llama.cpp: what its engine and its profiling runner share of the low-level API."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as api

from slm_benchmark.common.errors import UserError

NO_SLOT = 1
"""What llama_decode answers when the cache has no cell left."""

ALLOCATION_FAILED = -2
"""What llama_decode answers when it could not allocate memory."""

CELL_BLOCK = 256
"""llama.cpp makes the cache of a sequence a multiple of so many tokens."""

_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR of ggml.h; the bindings have no names for the levels

Log = list[tuple[int, str]]
"""What llama.cpp logged, as (level, text)."""

errors: list[str] = []
"""Errors that llama.cpp logged, outside of `listening`, since somebody last emptied this list."""


@api.llama_log_callback  # type: ignore[untyped-decorator]
def _note_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level == _LOG_ERROR:
        errors.append(text.decode(errors="replace").strip())


# Nothing goes to the terminal.
api.llama_log_set(_note_errors, ctypes.c_void_p(0))


@contextmanager
def listening() -> Iterator[Log]:
    """Give what llama.cpp logs meanwhile; who listened before does so again."""
    log: Log = []
    callback = api.llama_log_callback(
        lambda level, text, _: log.append((level, text.decode(errors="replace")))
    )
    before, data = api.llama_log_callback(), ctypes.c_void_p()
    api.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    api.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield log
    finally:
        api.llama_log_set(before, data)


def error_text(log: Log) -> str:
    """The errors of a log, in one line."""
    return "; ".join(text.strip() for level, text in log if level == _LOG_ERROR)


def load_model(file: Path, parameters: Any = None) -> tuple[Any, str]:
    """Load a GGUF file.

    Args:
        file: The file.
        parameters: llama.cpp's parameters; None = its defaults.

    Returns:
        The model's handle, and what llama.cpp logged.

    Raises:
        UserError: when llama.cpp cannot load the file.
        MemoryError: when there is no memory for its weights.
    """
    if parameters is None:
        parameters = api.llama_model_default_params()
    with listening() as log:
        api.llama_backend_init()
        model = api.llama_model_load_from_file(str(file).encode(), parameters)
    reason = error_text(log)
    if model:
        return model, "".join(text for _, text in log)
    if "allocate" in reason:
        raise MemoryError(reason)
    raise UserError(
        f"llama.cpp cannot load this file: {reason or 'no reason given'}",
        file=file,
        fix="the file is truncated or damaged; delete its folder and run again",
    )


def vocabulary_size(model: Any) -> int:
    """Tokens in a model's vocabulary."""
    return int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(model)))


def metadata_number(model: Any, key: str) -> int | None:
    """A number that a GGUF file holds under its architecture's name; None where it holds none."""

    def value(name: str) -> str:
        buffer = ctypes.create_string_buffer(64)
        api.llama_model_meta_val_str(model, name.encode(), buffer, len(buffer))
        return buffer.value.decode()

    number = value(f"{value('general.architecture')}.{key}")
    return int(number) if number.isdecimal() else None


def learned_positions(model: Any) -> int | None:
    """Positions of a model that has learned each of them; None where positions are computed.

    llama.cpp aborts the process at a token beyond the last one.
    """
    if api.llama_model_rope_type(model) != api.LLAMA_ROPE_TYPE_NONE:
        return None
    if api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model):
        return None
    return int(api.llama_model_n_ctx_train(model))


def context_parameters(cells: int, sequences: int, threads: int, forward: int) -> Any:
    """llama.cpp's parameters of a context, as all users here set them; each adds its own.

    Args:
        cells: Tokens that the cache can hold.
        sequences: Sequences that it can hold.
        threads: CPU threads.
        forward: Most tokens that are forwarded together, and in one call.
    """
    parameters = api.llama_context_default_params()
    parameters.n_ctx = cells
    parameters.n_batch = parameters.n_ubatch = forward
    parameters.n_seq_max = sequences
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.no_perf = True
    return parameters


def whole_blocks(tokens: int) -> int:
    """Cells for so many tokens, as many as llama.cpp rounds up to."""
    return -(-tokens // CELL_BLOCK) * CELL_BLOCK
