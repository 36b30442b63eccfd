"""GGUF variants on llama.cpp's low-level API, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api

from slm_benchmark.errors import EnvironmentFault, UserError
from slm_benchmark.profile.runner import Job

BATCH = 512
"""Most tokens in one decode, logical and physical: llama.cpp's own default."""

_ERROR = 4
"""ggml's log level for errors; the bindings have no name for it."""

_messages: list[str] = []


def _keep_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level == _ERROR:
        _messages.append(text.decode(errors="replace").strip())


_log = api.llama_log_callback(_keep_errors)  # must outlive its registration


class LlamaCppRunner:
    """One GGUF file, memory-mapped, with a key-value cache for one sequence."""

    def __init__(self, job: Job) -> None:
        self.device = "cpu"
        self._job = job

    def load(self) -> None:
        """Map the file and allocate the cache.

        Raises:
            UserError: when llama.cpp cannot load the file.
            EnvironmentFault: when there is no memory for the cache.
        """
        (file,) = self._job.weight_files()
        api.llama_log_set(_log, ctypes.c_void_p(0))
        api.llama_backend_init()
        model_parameters = api.llama_model_default_params()
        model_parameters.n_gpu_layers = 0
        model_parameters.load_mode = api.LLAMA_LOAD_MODE_MMAP
        self._model = api.llama_model_load_from_file(str(file).encode(), model_parameters)
        if not self._model:
            raise UserError(
                f"llama.cpp cannot load this file: {'; '.join(_messages) or 'no reason given'}",
                file=file,
                fix="the file is truncated or damaged; delete its folder and run again",
            )
        parameters = api.llama_context_default_params()
        parameters.n_ctx = self._job.prompt_tokens + self._job.output_tokens
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = self._job.threads
        parameters.no_perf = True
        self._context = api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise EnvironmentFault(
                f"no memory for a cache of {parameters.n_ctx} tokens: {'; '.join(_messages)}",
                file=file,
                fix="free memory and run again",
            )
        self._vocabulary_size = int(
            api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        )

    def reset(self) -> None:
        """Empty the cache."""
        api.llama_memory_clear(api.llama_get_memory(self._context), True)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Decode the prompt in batches of `BATCH` tokens."""
        for start in range(0, len(tokens), BATCH):
            self._decode(tokens[start : start + BATCH])

    def decode(self, token: int) -> None:
        """Decode one token."""
        self._decode([token])

    def greedy(self) -> int:
        """Argmax over the last logits."""
        logits = api.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary_size,)).argmax())

    def engine(self) -> dict[str, Any]:
        """Build and format, as llama.cpp reports them."""
        ftype = api.llama_ftype_name(api.llama_model_ftype(self._model))
        return {
            "name": "llama.cpp",
            "version": llama_cpp.__version__,
            "kernel": api.llama_print_system_info().decode().strip(" |"),
            "dtype": f"{ftype.decode() if ftype else 'unknown'}, cache f16",
            "schedule": f"prompt in decodes of up to {BATCH} tokens, then one token a decode",
        }

    def device_memory_bytes(self) -> None:
        """Nothing is taken from an accelerator."""

    def _decode(self, tokens: Sequence[int]) -> None:
        # A batch without positions and logits flags continues the cache and asks for the last
        # token's logits only.
        array = (api.llama_token * len(tokens))(*tokens)
        code = api.llama_decode(self._context, api.llama_batch_get_one(array, len(tokens)))
        if code != 0:
            raise RuntimeError(f"llama_decode answered with code {code}: {'; '.join(_messages)}")
        api.llama_synchronize(self._context)
