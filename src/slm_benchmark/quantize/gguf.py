"""GGUF variants through llama.cpp's converter and quantizer."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from slm_benchmark.catalog.architectures import unsupported
from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import NotApplicable, UserError
from slm_benchmark.common.files import atomic_directory
from slm_benchmark.download.model_facts import parameters
from slm_benchmark.download.weights import read_manifest, shares, weight_file, write_manifest
from slm_benchmark.quantize.converter import SCRIPT
from slm_benchmark.records.provenance import versions

NOMINAL_BITS = {"gguf-f16": 16.0, "gguf-q8_0": 8.5, "gguf-q4_k_m": 4.5}
"""Bits per weight of the main block type: Q8_0 has 32 weights and a scale in 34 bytes (8.5), Q4_K
256 weights in 144 bytes (4.5)."""

_FILE_TYPES = {"gguf-q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "gguf-q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}


def convert_to_gguf(model: Model, base: Path, converter: Path, target: Path) -> None:
    """Write the F16 GGUF of a base model to ``target``, with its manifest.

    Args:
        model: The card; its name goes into the file, where the converter would put the folder's.
        base: Folder of the base model.
        converter: Folder filled by `fetch_converter`.
        target: Folder of the variant.

    Raises:
        NotApplicable: when llama.cpp's converter does not know the architecture.
        UserError: when it fails for another reason.
    """
    if reason := unsupported(model.architecture, "gguf-f16"):
        raise NotApplicable(
            reason,
            file=model.file,
            field="architecture",
            value=model.architecture,
            fix="take the gguf variants out of quantizations, or correct the architecture",
        )
    began = time.monotonic()
    with atomic_directory(target) as work:
        file = work / f"{model.id}-f16.gguf"
        command = [sys.executable, str(converter / SCRIPT), str(base), "--outfile", str(file)]
        command += ["--outtype", "f16", "--model-name", model.name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or not file.exists():
            lines = done.stderr.strip().splitlines() or ["no output"]
            sys.stderr.write(done.stderr)
            raise UserError(
                f"llama.cpp's converter failed: {lines[-1]}",
                file=model.file,
                field="quantizations",
                fix="if llama.cpp lacks the architecture, take the gguf variants out of the list",
            )
        _finish(model, work, base, "gguf-f16", began)


def quantize_gguf(model: Model, f16: Path, target: Path, base: Path, variant: str) -> None:
    """Quantize an F16 GGUF to ``variant`` (gguf-q8_0 or gguf-q4_k_m), with its manifest.

    Args:
        model: The card.
        f16: Folder of the gguf-f16 variant.
        target: Folder of the new variant.
        base: Folder of the base model.
        variant: The variant to make.
    """
    from llama_cpp import llama_cpp

    began = time.monotonic()
    with atomic_directory(target) as work:
        file = work / f"{model.id}-{variant.removeprefix('gguf-')}.gguf"
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, _FILE_TYPES[variant])
        code = llama_cpp.llama_model_quantize(
            str(weight_file(f16)).encode(), str(file).encode(), ctypes.byref(parameters)
        )
        if code != 0:
            raise UserError(
                f"llama.cpp's quantizer answered with code {code}",
                file=weight_file(f16),
                fix="see the log; if the file is damaged, delete its folder and run again",
            )
        _finish(model, work, base, variant, began)


def tensor_bytes(file: Path) -> Counter[str]:
    """Bytes of all tensors of a GGUF file per tensor type."""
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_bytes)
    return sizes


def _finish(model: Model, work: Path, base: Path, variant: str, began: float) -> None:
    from slm_benchmark.engines.llamacpp import LlamaCpp
    from slm_benchmark.engines.settings import Settings

    file = weight_file(work)
    with LlamaCpp(file, Settings(max_length=64, threads=1)) as engine:
        engine.check_finite()
    sizes = tensor_bytes(file)
    base_manifest = read_manifest(base)
    write_manifest(
        work,
        model.id,
        variant,
        source={"base_sha256": base_manifest["sha256"]},
        method="gguf",
        nominal_bits_per_weight=NOMINAL_BITS[variant],
        effective_bits_per_weight=round(8 * sizes.total() / parameters(model, base_manifest), 6),
        tensor_types=shares(sizes),
        libraries=versions("llama-cpp-python", "gguf"),
        duration_s=round(time.monotonic() - began, 3),
    )
