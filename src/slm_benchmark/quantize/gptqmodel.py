"""GPTQ and AWQ 4-bit variants through gptqmodel.

GPTQ: Frantar et al., arXiv:2210.17323. AWQ: Lin et al., arXiv:2306.00978.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory, atomic_write_json, read_json
from slm_benchmark.quantize.definitions import correct_definition
from slm_benchmark.quantize.manifest_4bit import BITS, SYMMETRIC, FourBitJob, write_4bit_manifest
from slm_benchmark.quantize.shapes import check_awq_rows, tensor_shapes
from slm_benchmark.records.provenance import versions


def quantize_4bit(job: FourBitJob, target: Path, threads: int) -> None:
    """Quantize the linear layers of a base model to 4 bits and write the variant with its manifest.

    Args:
        job: What to make.
        target: Folder of the variant.
        threads: CPU threads.

    Raises:
        UserError: when a group size does not fit, gptqmodel cannot quantize the architecture, or
            the result's logits are not finite.
    """
    method = job.method
    size = job.fitting_group_size()
    if method == "awq":
        check_awq_rows(job.base, job.model.id)
    began = time.monotonic()
    # On two cores or fewer gptqmodel's own choice of worker count crashes.
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(2, threads))
    import torch

    torch.set_num_threads(threads)
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if method == "gptq":
        config = QuantizeConfig(bits=BITS, group_size=size, sym=SYMMETRIC[method])
        options: dict[str, Any] = {}
    else:
        config = QuantizeConfig(
            bits=BITS,
            group_size=size,
            sym=SYMMETRIC[method],
            zero_point=True,
            quant_method=METHOD.AWQ,
            format=FORMAT.GEMM,
        )
        options = {"backend": BACKEND.AWQ_TORCH}
    # A CPU multiplies float16 matrices many times more slowly than bfloat16 ones, and gptqmodel's
    # AWQ takes no float32. What stays unquantized (embeddings, norms) is saved in this format.
    dtype = "auto" if device == "cuda" else torch.bfloat16
    correct_definition(job.base, tensor_shapes(job.base))
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job.calibration.rows]
    with atomic_directory(target) as work:
        with library_errors(job.model, job.variant):
            loaded = GPTQModel.load(
                str(job.base),
                config,
                device=device,
                dtype=dtype,
                trust_remote_code=job.model.trust_remote_code,
            )
            loaded.quantize(rows, batch_size=1, **options)
            loaded.save(str(work))
            del loaded
        _drop_traces(work)
        if job.model.trust_remote_code:
            _keep_code(job.base, work)
        kernel = check_forward(job.model, work, job.variant, job.calibration.rows[0][:32])
        libraries = versions("gptqmodel", "torch", "transformers")
        write_4bit_manifest(work, job, size, kernel, libraries, time.monotonic() - began)


@contextlib.contextmanager
def library_errors(model: Model, variant: str) -> Iterator[None]:
    """Turn whatever gptqmodel raises at an architecture that it cannot handle into one line.

    Raises:
        UserError: for any error but those of memory and disk.
    """
    try:
        yield
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:
        traceback.print_exc()
        raise UserError(
            f"gptqmodel cannot make this variant of {model.architecture}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            file=model.file,
            field="quantizations",
            value=variant,
            fix="take this variant out of the card's list and report the model",
        ) from error


def _keep_code(base: Path, work: Path) -> None:
    """Copy the model's own code, and the configuration's references to it, beside the weights."""
    for file in base.glob("*.py"):
        shutil.copyfile(file, work / file.name)
    config = read_json(work / "config.json")
    classes = read_json(base / "config.json").get("auto_map")
    if classes:
        atomic_write_json(work / "config.json", {**config, "auto_map": classes})


def _drop_traces(work: Path) -> None:
    """Remove timings and temporary paths, so that equal weights give equal files."""
    (work / "quant_log.csv").unlink(missing_ok=True)
    for name in ("config.json", "quantize_config.json"):
        config = read_json(work / name)
        for settings in (config, config.get("quantization_config", {})):
            settings.get("meta", {}).pop("offload_to_disk_path", None)
        atomic_write_json(work / name, config)


def check_forward(model: Model, folder: Path, variant: str, tokens: list[int]) -> str:
    """One forward pass of a quantized model.

    Returns:
        The class name of the quantized linear layers.

    Raises:
        UserError: when the pass fails or a logit is not finite.
    """
    import torch

    from slm_benchmark.engines.transformers import load_transformers

    with library_errors(model, variant):
        loaded = load_transformers(folder, "auto", "cpu", model.trust_remote_code)
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([tokens])).logits
    if not torch.isfinite(logits).all():
        raise UserError(
            f"the logits of {variant} are not finite",
            file=model.file,
            field="quantizations",
            value=variant,
            fix="take this variant out of the card's list and report the model",
        )
    return loaded.kernel
