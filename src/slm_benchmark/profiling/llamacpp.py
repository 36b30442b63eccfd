"""GGUF variants on llama.cpp's low-level API, on the CPU, set up as its own llama-bench is."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from slm_benchmark.engines import llama_binding as binding
from slm_benchmark.profiling.job import Job, Point, check_positions
from slm_benchmark.profiling.memory import release_mappings
from slm_benchmark.profiling.traffic import gguf_traffic
from slm_benchmark.profiling.types import RawTraffic, RunnerEngine

BATCH = 2048
"""Most tokens in one call of llama_decode."""

FORWARD = 512
"""Most tokens that it forwards together."""


class LlamaCppRunner:
    """One GGUF file, memory-mapped. Each sequence has a stream of its own in the cache."""

    def __init__(self, job: Job) -> None:
        self._job = job
        (self._file,) = job.weight_files()
        self._model: Any = None
        self._context: Any = None
        self._log = ""

    def load(self) -> None:
        """Map the file; weights that have a faster layout on this CPU are copied into it.

        Raises:
            UserError: when llama.cpp cannot load the file.
            MemoryError: when there is no memory for its weights.
        """
        parameters = api.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.load_mode = api.LLAMA_LOAD_MODE_MMAP
        self._model, self._log = binding.load_model(self._file, parameters)
        self._vocabulary_size = binding.vocabulary_size(self._model)

    def release_files(self) -> None:
        """Let go of the file's pages; those of weights that were not copied come back."""
        release_mappings([self._file])

    def prepare(self, point: Point) -> None:
        """Make a context with a cache of just this point's size, in llama.cpp's own steps.

        llama.cpp rounds the cache up itself, but lays its buffers out for just as many tokens as
        it is configured for: with 129 or 161, prompts were 6 % slower than with 128, 160 or 256.

        Raises:
            MemoryError: when there is no memory for the cache.
        """
        if self._context:
            api.llama_free(self._context)
        check_positions(point, binding.learned_positions(self._model))
        cells = point.sequences * binding.whole_blocks(point.prompt_tokens + point.output_tokens)
        parameters = binding.context_parameters(cells, point.sequences, self._job.threads, FORWARD)
        parameters.n_batch = BATCH
        parameters.swa_full = False
        with binding.listening() as log:
            self._context = api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise MemoryError(f"none for a cache of {cells} tokens: {binding.error_text(log)}")
        self._context_log = "".join(text for _, text in log)
        self._memory = api.llama_get_memory(self._context)
        self._prompt = _Batch(BATCH)
        self._step = _Batch(point.sequences)
        self._step.sequences[:] = range(point.sequences)
        self._step.outputs[:] = 1
        self._address = 0
        self.reset()

    def reset(self) -> None:
        """Empty the cache."""
        api.llama_memory_clear(self._memory, True)
        self._position = 0
        self._logits: list[NDArray[np.float32]] = []

    def prefill(self, tokens: Sequence[int]) -> None:
        """Decode the prompt of one sequence after another."""
        for sequence in range(len(self._step.tokens)):
            self._prompt.sequences[:] = sequence
            for start in range(0, len(tokens), BATCH):
                self._decode_prompt(tokens, start)
            # Kept, as the next decode overwrites it.
            self._logits.append(self._rows()[0].copy())
        self._position = len(tokens)

    def decode(self, tokens: Sequence[int]) -> None:
        """Decode one token of each sequence, all in one forward."""
        self._step.tokens[:] = tokens
        self._step.positions[:] = self._position
        self._decode(self._step, len(tokens))
        self._position += 1
        self._logits = self._rows()

    def greedy(self) -> list[int]:
        """Argmax over the last logits of each sequence."""
        return [int(row.argmax()) for row in self._logits]

    def check_finite(self) -> None:
        """See `Runner.check_finite`."""
        if not all(np.isfinite(row).all() for row in self._logits):
            raise ArithmeticError(
                f"the logits of {self._file.name} are not finite: a value overflowed in "
                f"{self._dtype()}"
            )

    def engine(self) -> RunnerEngine:
        """Build, format and layout, as llama.cpp reports them; ``kernel_detail`` in parts."""
        features = _features(api.llama_print_system_info().decode())
        layouts, buffers = _layouts(self._log), _buffers_bytes(self._log)
        repacked_bytes = buffers.get("CPU_REPACK", 0)
        repacked = (
            f"repacked {', '.join(f'{count} × {name}' for name, count in layouts.items())} "
            f"({repacked_bytes / 2**20:.1f} MiB)"
            if layouts
            else "no weights repacked"
        )
        return {
            "name": "llama.cpp",
            "version": llama_cpp.__version__,
            "kernel": f"{' '.join(features)}; {repacked}",
            "kernel_detail": {
                "features": features,
                "repacked_bytes": repacked_bytes,
                "repacked_tensors": layouts,
                "weights_bytes": buffers,
                "flash_attention": "Flash Attention enabled" in self._context_log,
            },
            "dtype": self._dtype(),
            "schedule": (
                f"prompt in forwards of up to {FORWARD} tokens, one sequence after another; "
                "then one token of each sequence a forward"
            ),
        }

    def traffic(self) -> RawTraffic:
        """See `Runner.traffic`."""
        return gguf_traffic(self._file).as_json()

    def device_memory(self) -> None:
        """Nothing is taken from an accelerator."""

    def _decode_prompt(self, tokens: Sequence[int], start: int) -> None:
        """Decode up to `BATCH` tokens of a prompt from ``start`` on."""
        batch, part = self._prompt, tokens[start : start + BATCH]
        batch.tokens[: len(part)] = part
        batch.positions[: len(part)] = range(start, start + len(part))
        batch.outputs[: len(part)] = 0
        batch.outputs[len(part) - 1] = start + len(part) == len(tokens)
        self._decode(batch, len(part))

    def _decode(self, batch: _Batch, count: int) -> None:
        batch.handle.n_tokens = count
        code = api.llama_decode(self._context, batch.handle)
        if code == binding.ALLOCATION_FAILED:
            raise MemoryError(f"llama.cpp has no memory to forward {count} tokens")
        if code != 0:
            raise RuntimeError(f"llama_decode answered with code {code}")

    def _rows(self) -> list[NDArray[np.float32]]:
        """Wait for the last decode, and give views of its logits, each of shape (vocabulary,).

        llama.cpp keeps a row for each sequence, and hardly ever moves them. To make a view takes
        longer than all else that a token needs here.
        """
        pointer = api.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        if address != self._address:
            shape = (len(self._step.tokens), self._vocabulary_size)
            self._address, self._views = address, list(np.ctypeslib.as_array(pointer, shape))
        return self._views

    def _dtype(self) -> str:
        name = api.llama_ftype_name(api.llama_model_ftype(self._model))
        return f"{name.decode() if name else 'unknown'}, cache float16"


class _Batch:
    """Tokens for llama.cpp in arrays of our own, so that filling it is no loop in Python.

    Args:
        size: Most tokens.
    """

    def __init__(self, size: int) -> None:
        self.tokens = np.zeros(size, np.int32)
        self.positions = np.zeros(size, np.int32)
        self.sequences = np.zeros(size, np.int32)
        self.outputs = np.zeros(size, np.int8)
        self._counts = np.ones(size, np.int32)
        # Each token's list of sequences is the one number of `sequences` in its place.
        offsets = np.arange(size, dtype=np.uintp) * self.sequences.itemsize
        self._lists = offsets + self.sequences.ctypes.data
        arrays: dict[str, NDArray[Any]] = {
            "token": self.tokens,
            "pos": self.positions,
            "n_seq_id": self._counts,
            "seq_id": self._lists,
            "logits": self.outputs,
        }
        kinds = dict(api.llama_batch._fields_)
        self.handle = api.llama_batch(
            **{n: ctypes.cast(array.ctypes.data, kinds[n]) for n, array in arrays.items()}
        )


def _features(system_info: str) -> list[str]:
    """What the build uses of this CPU, such as ``AVX2``: of ``AVX2 = 1``, what is not 0."""
    return re.findall(r"(\w+) = (?!0\b)\d+", system_info)


def _layouts(log: str) -> dict[str, int]:
    """Layouts that weights were copied into, such as ``q4_K_8x8``, and how many tensors have each.

    The name begins with the type of the weights in the file.
    """
    return dict(sorted(Counter(re.findall(r"repack tensor \S+ with (\w+)", log)).items()))


def _buffers_bytes(log: str) -> dict[str, int]:
    """Bytes of weights in each kind of buffer, such as ``CPU_Mapped``: the whole mapped file."""
    buffers = re.findall(r"(\S+) model buffer size = +([\d.]+) MiB", log)
    return {name: round(float(size_mib) * 2**20) for name, size_mib in buffers}
